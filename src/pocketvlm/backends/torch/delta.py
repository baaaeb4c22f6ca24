"""The gated delta rule is computed token by token and in chunks with matrix products (docs/model.md 3.5)."""

from __future__ import annotations

import torch

Tensor = torch.Tensor

CHUNK = 64


def recurrent_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One step a token. q, k [T, heads, dk], v [T, heads, dv], beta, decay [T, heads], state [heads, dk, dv]."""
    out = torch.empty_like(v)
    for t in range(q.shape[0]):
        state = state * decay[t].exp()[:, None, None]
        delta = beta[t][:, None] * (v[t] - torch.einsum("hkv,hk->hv", state, k[t]))
        state = state + k[t][:, :, None] * delta[:, None, :]
        out[t] = torch.einsum("hkv,hk->hv", state, q[t])
    return out, state


def chunked_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same in chunks of 64 tokens: one triangular solve and a few matrix products each."""
    out = torch.empty_like(v)
    for begin in range(0, q.shape[0], CHUNK):
        part = slice(begin, begin + CHUNK)
        qc, kc, vc = (x[part].transpose(0, 1) for x in (q, k, v))
        bc, total = beta[part].T[..., None], decay[part].T.cumsum(-1)
        size = qc.shape[1]
        lower = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
        ratio = (total[:, :, None] - total[:, None, :]).masked_fill(~lower, float("-inf")).exp()
        inner = (bc * kc) @ kc.transpose(1, 2) * ratio
        cumulative = total.exp()[..., None]
        rhs = bc * (vc - cumulative * (kc @ state))
        solved = torch.linalg.solve_triangular(
            inner.tril(-1) + torch.eye(size, device=q.device), rhs, upper=False, unitriangular=True
        )
        result = cumulative * (qc @ state) + (qc @ kc.transpose(1, 2) * ratio) @ solved
        out[part] = result.transpose(0, 1)
        last = total[:, -1:]
        state = state * last.exp()[..., None] + ((last - total).exp()[..., None] * kc).transpose(1, 2) @ solved
    return out, state
