"""Sites: the points of a layer where several matrices read the same rows, and what scales these rows."""

from __future__ import annotations

from dataclasses import dataclass

from pocketvlm.config import TextConfig

FINAL_NORM = "model.language_model.norm.weight"
EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True, slots=True)
class Site:
    """Matrices that multiply the same rows.

    consumers: their names. norm: the zero-centred norm that makes the rows. producer: a matrix whose outputs are, times
    a factor, the rows. A site has at most one of these; dividing one by s and multiplying the consumers' columns by s
    changes nothing (AWQ, Lin et al. 2024).
    """

    consumers: tuple[str, ...]
    norm: str | None = None
    producer: str | None = None


def prefix(index: int) -> str:
    """The names of a layer's tensors begin so."""
    return f"model.language_model.layers.{index}."


def sites(config: TextConfig, index: int) -> tuple[Site, ...]:
    """The sites of a layer in the order in which rows pass them; together they have all of its matrices."""
    at = prefix(index)

    def named(module: str, *parts: str) -> tuple[str, ...]:
        return tuple(f"{at}{module}.{part}.weight" for part in parts)

    if config.layer_types[index] == "full_attention":
        inputs, output = named("self_attn", "q_proj", "k_proj", "v_proj"), named("self_attn", "o_proj")
    else:
        inputs = named("linear_attn", "in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a")
        output = named("linear_attn", "out_proj")
    return (
        Site(inputs, norm=f"{at}input_layernorm.weight"),
        Site(output),
        Site(named("mlp", "gate_proj", "up_proj"), norm=f"{at}post_attention_layernorm.weight"),
        Site(named("mlp", "down_proj"), producer=f"{at}mlp.up_proj.weight"),
    )
