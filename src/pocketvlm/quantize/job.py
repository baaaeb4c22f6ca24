"""`Job` says what a pipeline does: tensors, schemes, method, calibration and backends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.config import ModelConfig
from pocketvlm.quantize.calibration.sample import Sample
from pocketvlm.quantize.layer import Method
from pocketvlm.quantize.sites import EMBEDDING, HEAD
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a pipeline does.

    schemes: of each tensor, by name; None: dense. units: matrices that share a scheme and the schemes among which a
    `budget` (bits a weight) chooses; none without a budget. exact: a backend of exact arithmetic. usual: one as users
    run the network, for the tower. release: drops mapped pages that were read. unchanged: tensors to leave alone.
    """

    config: ModelConfig
    dense: Mapping[str, DenseTensor]
    roles: Mapping[str, Role]
    schemes: Mapping[str, str | None]
    units: Mapping[tuple[str, ...], tuple[str | None, ...]]
    budget: float | None
    method: Method
    samples: Sequence[Sample]
    exact: AnyBackend
    usual: AnyBackend
    release: Callable[[], None]
    unchanged: frozenset[str] = frozenset()

    @property
    def head(self) -> str:
        """The name of the head's matrix, which is the embedding where the two are tied."""
        return EMBEDDING if self.config.text.tie_word_embeddings else HEAD

    def head_gram(self, gram: Floats) -> Floats:
        """What the head's errors are measured with; a tied one is looked up too, where all inputs count alike."""
        if self.head == HEAD:
            return gram
        scale = np.float32(len(gram) / max(float(np.trace(gram)), 1e-20))
        mixed: Floats = gram * scale + np.eye(len(gram), dtype=np.float32)
        return mixed
