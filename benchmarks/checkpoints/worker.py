"""Holds one checkpoint in pocketvlm in a process of its own and measures what JSON lines ask for.

    python benchmarks/checkpoints/worker.py CHECKPOINT --precision fast --threads 2

Lines are as those of benchmarks/peers/llama_cpp_worker.py; seconds are wall time.

    {"do": "values"}                        digests of the quantized matrices' values, as exact arithmetic takes them
    {"do": "image"}                         answers one question about an image of 448 x 448
    {"do": "memory"}                        resident bytes now and at most
    {"do": "prefill", "ids": [...]}         seconds from ids to the first token
    {"do": "decode", "depth": 32, "tokens": 32}     seconds a token
    {"do": "vision"}                        seconds for the features of a view
    {"do": "image_prompt", "views": 1, "text": 24}  seconds from a prepared prompt of views to the first token
    {"do": "logits", "ids": [...]}          saves float32 logits [ids, vocab], answers the path
    {"do": "features"}                      saves the features of a view, answers the path
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:1] = [str(ROOT), str(ROOT / "peers")]

import numpy as np  # noqa: E402
from comparison.ours import Ours, image_prompt  # noqa: E402
from inputs import VIEW, random_image  # noqa: E402

import pocketvlm  # noqa: E402
from checkpoints.digests import digest  # noqa: E402
from pocketvlm.checkpoint.reader import open_checkpoint  # noqa: E402
from pocketvlm.model import expected_tensors  # noqa: E402
from pocketvlm.tensors import QuantizedTensor  # noqa: E402

Answer = dict[str, Any]


class Worker:
    """The checkpoint and the commands; a model is loaded when a command needs one."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._model: pocketvlm.Model | None = None
        self._saved = 0

    def answer(self, command: dict[str, Any]) -> Answer:
        """Carry out one command."""
        names = ("values", "image", "memory", "prefill", "decode", "vision", "image_prompt", "logits", "features")
        commands: dict[str, Callable[..., Answer]] = {name: getattr(self, name) for name in names}
        return commands[command.pop("do")](**command)

    def values(self, dtypes: dict[str, str]) -> Answer:
        """Digests of matrices by name, rounded to the given dtypes. Reads the whole checkpoint."""
        checkpoint = open_checkpoint(self._options.checkpoint)
        tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
        found = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}
        return {
            "others": sorted(found.keys() ^ dtypes.keys()),
            "digests": {
                name: digest(found[name].dequantize().astype(dtypes[name])) for name in found if name in dtypes
            },
        }

    def image(self) -> Answer:
        """Answer one question, as a user of the package gets it."""
        pixels = random_image(VIEW, VIEW, 0)
        result = self.model.ask("What is this?", images=[pixels], temperature=0, max_tokens=4, ignore_eos=True)
        return {"tokens": result.usage.completion_tokens}

    def memory(self) -> Answer:
        """Resident memory of this process; pages of mapped files are counted in `file`."""
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines)
        fields = {"bytes": "VmRSS", "peak": "VmHWM", "anonymous": "RssAnon", "file": "RssFile"}
        return {name: int(sizes[field].split()[0]) * 1024 for name, field in fields.items()}

    def prefill(self, ids: list[int]) -> Answer:
        """Seconds from ids to the first token."""
        return {"seconds": self.ours.prefill(len(ids))}

    def decode(self, depth: int, tokens: int) -> Answer:
        """Seconds a token."""
        return {"seconds": self.ours.decode(depth, tokens)}

    def vision(self) -> Answer:
        """Seconds for a view."""
        return {"seconds": self.ours.vision("16x")}

    def image_prompt(self, views: int, text: int) -> Answer:
        """Seconds from a prompt of views and `text` ids to the first token."""
        return {"seconds": self.ours.first_token(image_prompt(self.ours.config, views, text))}

    def logits(self, ids: list[int]) -> Answer:
        """Save logits [ids, vocab]."""
        return self._save(self.ours.logits(ids))

    def features(self) -> Answer:
        """Save the features of a view."""
        return self._save(self.ours.features("16x", 0))

    @property
    def model(self) -> pocketvlm.Model:
        """The loaded checkpoint."""
        if self._model is None:
            options = self._options
            precision, threads = options.precision, options.threads
            self._model = pocketvlm.load(
                options.checkpoint, precision=precision, threads=threads, cache=not options.no_cache
            )
        return self._model

    @property
    def ours(self) -> Ours:
        """Its engine."""
        return Ours(self.model.engine, self.model.checkpoint.model)

    def _save(self, values: np.ndarray[Any, Any]) -> Answer:
        self._saved += 1
        path = self._options.scratch / f"{os.getpid()}-{self._saved}.npy"
        np.save(path, values)
        return {"path": str(path)}


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--precision", choices=["fast", "exact"], default="fast")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write packed weights")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder for saved arrays")
    worker = Worker(parser.parse_args())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except (pocketvlm.PocketVLMError, TypeError, ValueError, KeyError) as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
