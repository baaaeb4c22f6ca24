"""Measures the error of fast arithmetic in every format on a few layers, with llama.cpp's on the same GGUF file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from process import Worker

from checkpoints.make import Format
from checkpoints.measure import (
    CHECKED_TOKENS,
    LLAMA_LIMIT,
    OWN_WORKER,
    PEER_WORKER,
    DifferentError,
    Setup,
    array,
    check_values,
    error,
    say,
)
from checkpoints.source import SMALL_VOCABULARY

FIRST_WORD, RESERVED = 300, 100  # ids of ordinary tokens begin and end


@dataclass(frozen=True)
class Errors:
    """Relative errors of the logits against exact arithmetic on the same file; llama: None where it cannot read it."""

    title: str
    ours: float
    llama: float | None


def measured_errors(kind: Format, setup: Setup) -> Errors:
    """Check the values of every matrix, then take the errors. Raises DifferentError if results are not equal."""
    path = setup.small / kind.key
    checkpoint = next(path.glob("model-*.gguf"), path)
    common = ["--threads", str(setup.threads), "--scratch", str(setup.scratch)]
    last = SMALL_VOCABULARY - RESERVED
    ids = np.random.default_rng(7).integers(FIRST_WORD, last, CHECKED_TOKENS).tolist()

    def worker(precision: str) -> Worker:
        return Worker(OWN_WORKER, [str(checkpoint), "--precision", precision, "--no-cache", *common])

    matrices = check_values(path, worker)
    with worker("exact") as ours:
        exact = array(ours("logits", ids=ids))
    with worker("fast") as ours:
        found = error(array(ours("logits", ids=ids)), exact)
    theirs = None
    if checkpoint.is_file():
        with Worker(PEER_WORKER, ["--text", str(checkpoint), *common], setup.llama_packages) as peer:
            theirs = error(array(peer("logits", ids=ids, all=True)), exact)
        if not theirs <= LLAMA_LIMIT:
            raise DifferentError(f"{kind.title}: llama.cpp and exact arithmetic differ by {theirs:.2f}")
    say(f"{kind.title}: {matrices} matrices are equal; errors: ours {found:.4f}, llama.cpp {theirs or 'none'}")
    return Errors(kind.title, found, theirs)
