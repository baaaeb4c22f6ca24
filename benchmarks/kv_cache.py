"""Errors of logits with keys and values in bfloat16 and int8 against float32: the released shape, and nano's pictures.

python benchmarks/kv_cache.py [--tokens N] [--threads N]: first with weights as stored and float32 arithmetic, so that
nothing else rounds, then with the default arithmetic, whose own rounding random weights enlarge. Needs 8 GB of memory.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pocketvlm
from pocketvlm.backends import native
from pocketvlm.backends.options import choose
from pocketvlm.bench.shape import random_tensors, released_config
from pocketvlm.engine import Engine
from pocketvlm.model import MiniCPMV, tensor_roles
from pocketvlm.options.load import KVCacheDtype
from pocketvlm.quantize import quantized
from pocketvlm.types import Prompt

TYPES: tuple[KVCacheDtype, ...] = ("f32", "bf16", "int8")
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
QUESTION = "Describe this image."


def engines(model: MiniCPMV) -> Iterator[Engine]:
    """An engine on the same weights for each type of the cache."""
    for kind in TYPES:
        other = copy(model)
        other.backend = model.backend.with_scheme(replace(model.backend.scheme, kv_cache=kind))
        yield Engine(other, 1 << 30)


def compare(model: MiniCPMV, prompts: list[Prompt], what: str) -> None:
    """Print the errors of all rows of logits, and how often the best token is the same."""
    exact: list[NDArray[np.float32]] = []
    for kind, engine in zip(TYPES, engines(model), strict=True):
        logits = [engine.prompt_logits(prompt) for prompt in prompts]
        if kind == "f32":
            exact = logits
            continue
        a, b = np.concatenate(exact), np.concatenate(logits)
        error = np.linalg.norm(a - b, axis=1) / np.linalg.norm(a, axis=1)
        same = (a.argmax(-1) == b.argmax(-1)).mean()
        print(f"{what}, {kind}: mean error {error.mean():.2e}, last row {error[-1]:.2e}, same best token {same:.1%}")


def released(tokens: int, threads: int, precision: str) -> None:
    """The released shape with random weights."""
    scheme, config = choose("native", precision=precision), released_config()
    tensors = quantized(random_tensors(config), tensor_roles(config), scheme)
    ids = np.random.default_rng(1).integers(0, 240_000, tokens).astype(np.int32)
    model = MiniCPMV(config, native.create(threads, scheme=scheme), tensors)
    compare(model, [Prompt(ids, (), (), "")], f"released shape, {precision}, {tokens} tokens")


def nano(threads: int, precision: str) -> None:
    """The embedded model: logits of its sample pictures' prompts, and its answers."""
    pictures = sorted(EXAMPLES.glob("*.png"))
    model = pocketvlm.load("nano", threads=threads, precision=precision)
    prompts = [model.processor([{"role": "user", "content": [
        {"type": "image", "image": str(path)}, {"type": "text", "text": QUESTION}]}]) for path in pictures]  # fmt: skip
    compare(model.engine.model, prompts, f"nano, {precision}, {len(prompts)} pictures")
    if precision == "exact":
        return
    answers = {
        kind: [loaded.ask(QUESTION, [str(path)], temperature=0).text for path in pictures]
        for kind in TYPES
        for loaded in [pocketvlm.load("nano", threads=threads, kv_cache_dtype=kind)]
    }
    for kind in TYPES[1:]:
        same = sum(a == b for a, b in zip(answers["f32"], answers[kind], strict=True))
        print(f"nano, {kind}: {same} of {len(pictures)} answers as with f32")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    for precision in ("exact", "fast"):
        nano(given.threads, precision)
        released(given.tokens, given.threads, precision)


if __name__ == "__main__":
    main()
