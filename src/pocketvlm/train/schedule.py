"""`Schedule` says which samples each step reads, and at which learning rate: functions of the step, without state."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Schedule:
    """The order of the data and the learning rate of each step.

    samples: number of samples. per_step: samples that all processes read in one step; the last step of an epoch reads
    what is left. epochs may be a fraction. warmup: share of the steps.
    """

    samples: int
    per_step: int
    epochs: float
    lr: float
    warmup: float
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over the data."""
        return -(-self.samples // self.per_step)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return max(1, math.ceil(self.epochs * self.steps_per_epoch - 1e-9))

    def indices(self, step: int) -> list[int]:
        """The samples of a step (from 0), in an order that differs in each epoch and depends on the seed alone."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        return [int(i) for i in order[index * self.per_step : (index + 1) * self.per_step]]

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero (Loshchilov and Hutter 2017, SGDR, equation 5)."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.lr * (step + 1) / warm
        progress = (step - warm) / max(1, self.steps - warm)
        return self.lr * 0.5 * (1 + math.cos(math.pi * progress))
