"""Starts `transformers serve`, also with a torchvision whose compiled part does not fit the installed PyTorch.

    python benchmarks/peers/transformers_serve.py CHECKPOINT --port 8001 --device cpu

Pictures are resized by PyTorch itself; the compiled operations that torchvision asks for when it is imported are not
used, so their names are enough.
"""

from __future__ import annotations

import sys

import torch


def main() -> None:
    """Run the server with the arguments of this process."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers.cli.transformers import main as command

    sys.argv = ["transformers", "serve", *sys.argv[1:]]
    command()


if __name__ == "__main__":
    main()
