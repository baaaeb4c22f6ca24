"""Sequences in llama.cpp through its C interface, its messages, and its failures."""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    from llama_cpp import llama_cpp as lib
except ImportError as missing:
    sys.exit(f"llama_cpp cannot be imported ({missing}): `pip install llama-cpp-python`, or set PYTHONPATH")
try:
    from llama_cpp import mtmd_cpp as mtmd
except (ImportError, FileNotFoundError):  # a build without its part for images
    mtmd = None

Floats = NDArray[np.float32]
ERROR_LEVEL = 4


class PeerError(Exception):
    """A command that cannot be carried out, or a call of llama.cpp that failed."""


class Log:
    """Receives llama.cpp's messages: prints them to stderr if verbose, else stores the last errors for our own."""

    def __init__(self, verbose: bool) -> None:
        self.errors: deque[str] = deque(maxlen=5)
        self.verbose = verbose
        self._callback = lib.llama_log_callback(self._take)
        of_images = (mtmd.mtmd_log_set, mtmd.mtmd_helper_log_set) if mtmd else ()
        for setter in (lib.llama_log_set, *of_images):
            setter(self._callback, ctypes.c_void_p(None))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        message = text.decode(errors="replace")
        if self.verbose:
            print(message, end="", file=sys.stderr, flush=True)
        elif level == ERROR_LEVEL:
            self.errors.append(message.strip())

    def failure(self, what: str) -> PeerError:
        """The error to raise, with what llama.cpp said last."""
        said = "; ".join(self.errors)
        self.errors.clear()
        return PeerError(f"{what}: {said}" if said else what)


class Context:
    """Sequences of one model: their memory, and decoding into it."""

    def __init__(self, model: Any, log: Log, threads: int, sequences: int, length: int) -> None:
        self.model, self.log, self.sequences, self.length = model, log, sequences, length
        params = lib.llama_context_default_params()
        params.n_ctx = sequences * length
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        self.handle = lib.llama_init_from_model(model, params)
        if not self.handle:
            raise log.failure(f"no context of {sequences} x {length} tokens")
        self.memory = lib.llama_get_memory(self.handle)
        self.batch_size = int(lib.llama_n_batch(self.handle))
        self.batch = lib.llama_batch_init(self.batch_size, 0, 1)
        self.vocab = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)))

    def close(self) -> None:
        """Free the memory."""
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.handle)

    def clear(self) -> None:
        """Forget every sequence."""
        lib.llama_memory_clear(self.memory, True)

    def prompt(self, ids: Sequence[int], start: int = 0, sequence: int = 0, every: bool = False) -> None:
        """Put ids into a sequence; logits of the last one, or of every one, are computed if the batch holds them."""
        if start + len(ids) > self.length:
            raise PeerError(f"{start + len(ids)} tokens do not fit the context of {self.length}: raise --context")
        if not all(0 <= number < self.vocab for number in ids):
            raise PeerError(f"token ids must be from 0 to {self.vocab - 1}")
        for begin in range(0, len(ids), self.batch_size):
            chunk = ids[begin : begin + self.batch_size]
            rows = [(number, start + begin + i, sequence) for i, number in enumerate(chunk)]
            last = begin + len(chunk) == len(ids)
            self.decode(rows, [every or (last and i == len(chunk) - 1) for i in range(len(chunk))])

    def decode(self, rows: Sequence[tuple[int, int, int]], wanted: Sequence[bool]) -> None:
        """Run rows of (id, position, sequence), computing logits where wanted."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (number, position, sequence) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = number, position, 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted[i]
        status = lib.llama_decode(self.handle, batch)
        if status:
            raise self.log.failure(f"llama_decode failed (status {status})")

    def logits(self, row: int = -1) -> Floats:
        """Logits of a row of the last batch, without a copy; waits until they are there."""
        pointer = lib.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise self.log.failure(f"no logits of row {row}")
        return np.ctypeslib.as_array(pointer, (self.vocab,))
