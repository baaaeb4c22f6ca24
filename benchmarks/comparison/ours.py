"""Times our engine on random weights."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from inputs import PATCH, VIEW, random_ids, random_patches, view_tokens
from numpy.typing import NDArray

from pocketvlm.backends import native
from pocketvlm.backends.native import NativeBackend
from pocketvlm.backends.native.matrices import Matrix, Tied
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.backends.options import choose
from pocketvlm.config import ModelConfig
from pocketvlm.engine import Engine, Request
from pocketvlm.engine.memory import page_bytes, slot_bytes
from pocketvlm.model import MiniCPMV, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.tensors import DenseTensor
from pocketvlm.types import Prompt, SamplingParams, View

Floats = NDArray[np.float32]
SIDE = VIEW // PATCH
BATCH_DEPTH = 32


def clock(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def text_prompt(ids: list[int]) -> Prompt:
    """A prompt of ids alone."""
    return Prompt(np.array(ids, np.int32), (), (), "")


def view(mode: str, seed: int = 0, start: int = 0) -> View:
    """A random view of 448x448 whose features stand at `start`."""
    return View(random_patches(seed), SIDE, SIDE, mode, start, view_tokens(mode), digest="")  # type: ignore[arg-type]


def image_prompt(config: ModelConfig, views: int, text: int, mode: str = "16x") -> Prompt:
    """Views, each between two ids, and other ids before and after them: `text` ids in all."""
    words = random_ids(text)
    before = (text - 2 * views) // 3
    ids, rest = words[:before], words[before:]
    made = []
    for seed in range(views):
        ids.append(rest.pop())
        made.append(view(mode, seed, len(ids)))
        ids += [config.image_token_id] * made[-1].tokens
        ids.append(rest.pop())
    return Prompt(np.array(ids + rest, np.int32), tuple(made), (), "")


class Ours:
    """One engine: weights of one type on one instruction set."""

    def __init__(self, engine: Engine, config: ModelConfig) -> None:
        self.engine, self.config = engine, config

    @classmethod
    def of(
        cls, config: ModelConfig, tensors: Mapping[str, DenseTensor], threads: int, weights: str, precision: str
    ) -> Ours:
        """The engine of dense tensors, with weights of a type."""
        scheme = choose("native", weights, precision)
        ops = native.create(threads, scheme=scheme)
        return cls(Engine(MiniCPMV(config, ops, quantized(tensors, tensor_roles(config), scheme))), config)

    def on(self, isa: str) -> Ours:
        """The same weights on another instruction set: the packed layout is the same for all."""
        other, model = copy.copy(self), copy.copy(self.engine.model)
        model.backend = native.create(self.ops._native.threads, isa, scheme=self.ops.scheme)
        other.engine = Engine(model)
        return other

    @property
    def ops(self) -> NativeBackend:
        """The backend."""
        return self.engine.model.backend  # type: ignore[return-value]

    def logits(self, ids: list[int]) -> Floats:
        """Logits [ids, vocab]."""
        return self.engine.prompt_logits(text_prompt(ids))

    def features(self, mode: str, seed: int) -> Floats:
        """Features of a random view."""
        return self.engine.runner.encode((view(mode, seed),))[0]  # type: ignore[return-value]

    def first_token(self, prompt: Prompt) -> float:
        """Seconds from a processed prompt to its first token, images included."""

        def work() -> None:
            number = self._start(prompt, 1)
            while not self.engine.step():
                pass
            self.engine.release(number)

        return clock(work)

    def prefill(self, tokens: int) -> float:
        """Seconds from ids to the first token."""
        return self.first_token(text_prompt(random_ids(tokens)))

    def decode(self, depth: int, tokens: int) -> float:
        """Seconds a token after a prompt of `depth` ids."""
        return self._steps([text_prompt(random_ids(depth))], tokens)

    def batch(self, sequences: int, tokens: int) -> float:
        """Seconds a token of sequences that decode together."""
        return self._steps([text_prompt(random_ids(BATCH_DEPTH, i)) for i in range(sequences)], tokens) / sequences

    def vision(self, mode: str) -> float:
        """Seconds for the features of a view."""
        views = (view(mode),)
        return clock(lambda: self.engine.runner.encode(views))

    def _start(self, prompt: Prompt, tokens: int) -> int:
        return self.engine.add(Request(prompt, SamplingParams(temperature=0, max_tokens=tokens)))

    def _steps(self, prompts: list[Prompt], tokens: int) -> float:
        # Prompts are prefilled in several steps, while the first sequences decode already: leave room for their tokens.
        numbers = [self._start(prompt, tokens + 4 * len(prompts)) for prompt in prompts]
        while len(self.engine.step()) < len(prompts):
            pass
        spent = clock(lambda: [self.engine.step() for _ in range(tokens)])
        for number in numbers:
            self.engine.release(number)
        return spent / tokens

    def token_bytes(self, depth: int) -> int:
        """Bytes that a token has to read: every matrix of the language model, its state, and keys and values."""
        config, weights = self.config.text, self.engine.model.weights
        matrices = _nbytes(weights.layers) + _nbytes(weights.norm) + _nbytes(weights.embed_tokens)
        state = slot_bytes(config, self.ops.state_dtype.itemsize)
        return matrices + state + depth * page_bytes(config, 1, self.ops.scheme.kv_cache)


def _nbytes(value: Any) -> int:
    """Bytes that are read to multiply with a weight, or with all in a record of them."""
    if isinstance(value, Tied):
        return value.packed.nbytes
    if isinstance(value, PackedMatrix):
        return value.nbytes
    if isinstance(value, Matrix):
        return int(value.data.nbytes)
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, tuple | list):
        return sum(_nbytes(part) for part in value)
    if value is None:
        return 0
    return sum(_nbytes(getattr(value, field.name)) for field in dataclasses.fields(value))


class Bandwidth:
    """Measures the memory bandwidth of this machine anew at each call."""

    def __init__(self, ops: NativeBackend, mebibytes: int = 512) -> None:
        self._ops = ops
        self._data = np.random.default_rng(0).standard_normal(mebibytes << 18, dtype=np.float32)

    def __call__(self, tries: int = 6) -> float:
        """Bytes a second, the best of several tries."""
        best = min(clock(lambda: self._ops._native.read_memory(self._data)) for _ in range(tries))
        return self._data.nbytes / best
