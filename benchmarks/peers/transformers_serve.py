"""Starts `transformers serve`, also with a torchvision whose compiled part does not fit the installed PyTorch.

    python benchmarks/peers/transformers_serve.py CHECKPOINT --port 8001 --device cpu

PyTorch itself resizes images. torchvision requires the names of its compiled operations when it is imported, but they
are not used, so empty definitions suffice.
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
