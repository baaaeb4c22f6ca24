"""Muon for the matrices: momentum whose update is made orthogonal; it learns from fewer samples than Adam here."""

from __future__ import annotations

import torch
import torch.distributed as dist
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

    def __init__(
        self,
        matrices: list[Tensor],
        lr: float,
        world: int = 1,
        rank: int = 0,
        momentum: float = 0.95,
        decay: float = 0.01,
    ) -> None:
        """Of several processes (world) with equal gradients each does the iteration for its share."""
        self.world, self.rank = world, rank
        shapes: dict[tuple[int, ...], list[Tensor]] = {}
        for matrix in matrices:
            shapes.setdefault(tuple(matrix.shape), []).append(matrix)
        defaults = {"lr": lr, "momentum": momentum, "decay": decay}
        super().__init__([{"params": same} for same in shapes.values()], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        turn, plan = 0, []
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            own, updates = [], []
            for p in live:
                state = self.state[p]
                if "speed" not in state:
                    state["speed"] = torch.zeros_like(p)
                state["speed"].lerp_(p.grad, 1 - group["momentum"])
                turn += 1
                if turn % self.world == self.rank:
                    own.append(p)
                    updates.append(p.grad.lerp(state["speed"], group["momentum"]))
            done = dict(zip(own, orthogonalise(torch.stack(updates)), strict=True)) if own else {}
            plan += [(group, p, done.get(p)) for p in live]
        ready = [torch.zeros_like(p) if update is None else update for _, p, update in plan]
        if self.world > 1:
            flat = torch.cat([update.flatten() for update in ready])
            dist.all_reduce(flat)
            parts = flat.split([p.numel() for _, p, _ in plan])
            ready = [part.view_as(p) for (_, p, _), part in zip(plan, parts, strict=True)]
        for (group, p, _), update in zip(plan, ready, strict=True):
            scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            p.mul_(1 - group["lr"] * group["decay"]).add_(update, alpha=-group["lr"] * scale)
