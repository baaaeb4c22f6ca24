"""Muon for the matrices: momentum whose update is made orthogonal; it learns from fewer samples than Adam here."""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """Push the singular values of every matrix of a stack towards one (quintic Newton-Schulz iteration)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = stack.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).to(stack.dtype)


class Muon(torch.optim.Optimizer):
    """One parameter group per matrix shape, so that equal matrices are handled in one batched product."""

    def __init__(self, matrices: list[Tensor], lr: float, momentum: float = 0.95, decay: float = 0.01) -> None:
        shapes: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            shapes.setdefault(tuple(matrix.shape), []).append(matrix)
        defaults = {"lr": lr, "momentum": momentum, "decay": decay}
        super().__init__([{"params": same} for same in shapes.values()], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if not live:
                continue
            updates = []
            for p in live:
                state = self.state[p]
                if "speed" not in state:
                    state["speed"] = torch.zeros_like(p)
                state["speed"].lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(state["speed"], group["momentum"]))
            rows, cols = live[0].shape
            scale = max(1.0, rows / cols) ** 0.5
            for p, update in zip(live, orthogonalise(torch.stack(updates)), strict=True):
                p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)
