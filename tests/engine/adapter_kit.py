"""What the tests of adapters share: random adapters, and networks whose weights have them merged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from oracle import Oracle, make_network

from pocketvlm.adapters import Adapter, Update
from pocketvlm.backends.backend import AnyBackend
from pocketvlm.config import ModelConfig
from pocketvlm.engine import Request
from pocketvlm.model import MiniCPMV, expected_tensors, tensor_roles
from pocketvlm.tensors import DenseTensor

EMBEDDING, HEAD = "model.language_model.embed_tokens.weight", "lm_head.weight"
TOWER, MERGER = "model.vision_tower.", "model.merger."
PARTS = {
    "layers": ("model.language_model.layers.",),
    "head": (HEAD,),
    "embedding": (EMBEDDING,),
    "tower": (TOWER,),
    "merger": (MERGER,),
    "all": ("",),
}


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that an adapter may name, a tied head included."""
    return {**expected_tensors(config), HEAD: (config.text.vocab_size, config.text.hidden_size)}


def matrices(config: ModelConfig, part: str = "all") -> list[str]:
    """The matrices of a part that take updates."""
    roles = {**tensor_roles(config), HEAD: "head"}
    plain = ("norm", "vector", "conv", "position_embedding")
    return [name for name, role in roles.items() if role not in plain and name.startswith(PARTS[part])]


def random_adapter(oracle: Oracle, seed: int, rank: int = 1, part: str = "all", scale: float = 0.5) -> Adapter:
    """Updates of every matrix of a part, as large as the weights."""
    random, made = np.random.default_rng(seed), {}
    for name in matrices(oracle.config, part):
        outputs, *rest = shapes(oracle.config)[name]
        inputs = int(np.prod(rest))
        size = 0.1 if name == EMBEDDING else 1.0
        a, b = (random.standard_normal(shape).astype(np.float32) for shape in ((rank, inputs), (outputs, rank)))
        made[name] = Update(a / np.float32(inputs**0.5), b * np.float32(size), scale)
    return Adapter(made)


def replacing(oracle: Oracle, seed: int, names: Iterable[str]) -> Adapter:
    """An adapter that replaces tensors by random ones of the same scale."""
    random, made = np.random.default_rng(seed), {}
    for name in names:
        old = oracle.tensors[EMBEDDING if name == HEAD else name].float32()
        values = old + 0.3 * old.std() * random.standard_normal(old.shape)
        made[name] = DenseTensor(name, "f32", values.astype(np.float32))
    return Adapter({}, made)


def merged_network(oracle: Oracle, ops: AnyBackend, adapter: Adapter) -> MiniCPMV:
    """The network with an adapter merged into its weights: its head is then no longer tied."""
    tensors = {HEAD: DenseTensor(HEAD, "f32", oracle.tensors[EMBEDDING].float32()), **oracle.tensors}
    tensors |= adapter.replacements
    for name, update in adapter.updates.items():
        old = tensors[name].float32()
        values = old + (np.float32(update.scale) * update.b @ update.a).reshape(old.shape)
        tensors[name] = DenseTensor(name, "f32", values.astype(np.float32))
    config = replace(oracle.config, text=replace(oracle.config.text, tie_word_embeddings=False))
    return make_network(Oracle(oracle.model, config, tensors), ops)


def adapted(request: Request, adapter: str | None) -> Request:
    return replace(request, adapter=adapter)
