"""llama.cpp's mixtures of block types: which type each matrix of the language model gets for Q4_K_M and the like.

The rules are those of `llama-quant.cpp` for the architecture qwen35 without experts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pocketvlm.config import TextConfig
from pocketvlm.schemes import Role

# A mixture and the type that most of its matrices have.
MIXTURES: Mapping[str, str] = {
    "Q4_0": "Q4_0",
    "Q4_1": "Q4_1",
    "Q5_0": "Q5_0",
    "Q5_1": "Q5_1",
    "Q8_0": "Q8_0",
    "Q4_K_S": "Q4_K",
    "Q4_K_M": "Q4_K",
    "Q5_K_S": "Q5_K",
    "Q5_K_M": "Q5_K",
    "Q6_K": "Q6_K",
    "IQ4_NL": "IQ4_NL",
}
# The type for rows that are no whole number of super-blocks.
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_SUPER_BLOCK, _BLOCK = 256, 32
_LAYER = re.compile(r"model\.language_model\.layers\.(\d+)\.(.+)\.weight")


def mixture_type(
    mixture: str, name: str, role: Role, shape: tuple[int, ...], text: TextConfig, importance: bool
) -> str | None:
    """The block type of a matrix, such as "Q6_K"; None: it stays in 16 bits, because no block divides its rows.

    name: the hub's. importance: whether an importance matrix is used; llama.cpp then chooses differently in places.
    """
    kind = MIXTURES[mixture]
    if role in ("head", "tied_embedding"):
        return _fitting(_head_type(kind, shape[-1]), shape[-1])
    found = _LAYER.fullmatch(name)
    if found is not None:
        number, layers = int(found[1]), len(text.layer_types)
        match found[2]:
            case "self_attn.v_proj" | "linear_attn.in_proj_qkv":
                kind = _value_type(mixture, kind, number, layers, text)
            case "mlp.down_proj":
                kind = _down_type(mixture, kind, number, layers, importance)
    return _fitting(kind, shape[-1])


def _head_type(kind: str, width: int) -> str:
    """The matrix that makes logits gets six or eight bits."""
    if width % (_SUPER_BLOCK if kind.endswith("_K") else _BLOCK):
        return "Q8_0"
    return kind if kind == "Q8_0" else "Q6_K"


def _value_type(mixture: str, kind: str, number: int, layers: int, text: TextConfig) -> str:
    """Of the matrices that make values."""
    if mixture in ("Q4_K_M", "Q5_K_M") and _more_bits(number, layers):
        return "Q6_K"
    if mixture == "Q4_K_S" and number < 4:
        return "Q5_K"
    if mixture == "IQ4_NL" and text.num_attention_heads // text.num_key_value_heads >= 4:
        return "Q5_K"
    return kind


def _down_type(mixture: str, kind: str, number: int, layers: int, importance: bool) -> str:
    """Of the second matrix of the MLP."""
    first = number < layers // 8
    if mixture in ("Q4_K_M", "Q5_K_M") and _more_bits(number, layers):
        return "Q6_K"
    if first and (mixture == "Q4_K_S" or (mixture == "IQ4_NL" and not importance)):
        return "Q5_K"
    if first and importance and mixture in ("Q4_0", "Q5_0"):
        return kind.replace("_0", "_1")
    return kind


def _more_bits(number: int, layers: int) -> bool:
    """The first and last eighths of the layers, and every third layer between them."""
    return number < layers // 8 or number >= 7 * layers // 8 or (number - layers // 8) % 3 == 2


def _fitting(kind: str, width: int) -> str | None:
    """The type itself, or the one that takes its place in rows of this width."""
    if kind.endswith("_K") and width % _SUPER_BLOCK:
        kind = _FALLBACK[kind]
    return None if width % _BLOCK else kind
