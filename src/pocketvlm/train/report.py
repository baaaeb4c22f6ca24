"""`StepReport` says what a step of training did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did. loss: mean over its loss tokens, in nats. tokens: of all processes. memory: peak bytes."""

    step: int
    steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_second: float
    memory: int
    seconds_left: float
    eval_loss: float | None = None
