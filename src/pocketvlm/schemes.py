"""What the tensors of a network are for (roles), and how numbers are quantized (quantization schemes)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# embedding: rows are looked up by token id. tied_embedding: an embedding that is the head's matrix too.
# head: the matrix that makes logits. position_embedding: rows are looked up by position in the vision tower.
# matrix: a linear layer of the language model. gate: the two small matrices that drive the gates of the delta rule.
# vision_matrix: a linear layer of the vision tower and its mergers. patch_embedding: the matrix that reads pixels.
# norm: the weight of a normalisation. conv: a depthwise convolution. vector: biases and all that is left.
Role = Literal[
    "embedding",
    "tied_embedding",
    "head",
    "position_embedding",
    "matrix",
    "gate",
    "vision_matrix",
    "patch_embedding",
    "norm",
    "conv",
    "vector",
]
ROLES: tuple[Role, ...] = get_args(Role)
ARRAY_ROLES: tuple[Role, ...] = ("norm", "conv", "vector")  # never multiplied as a matrix, nor looked up

# Sixteen integers fitted to groups of 64 normal numbers whose largest lies on either end. They span 7 bits, so that
# products of unsigned bytes fit 16 bits. The error is 8.0 %, with equal steps it is 9.0 %.
INT4_CODEBOOK = (-64.0, -49.0, -39.0, -31.0, -23.0, -17.0, -11.0, -5.0, 1.0, 7.0, 12.0, 18.0, 25.0, 32.0, 41.0, 54.0)


@dataclass(frozen=True, slots=True)
class QuantizationScheme:
    """How a matrix [outputs, inputs] is quantized.

    bits: of a code. group: neighbouring inputs of an output that share a scale; None means one scale for each output.
    codebook: the value of each code before scaling; None means signed codes in equal steps around zero.
    """

    bits: int
    group: int | None = None
    codebook: tuple[float, ...] | None = None


INT8_ROWS = QuantizationScheme(8)
INT8_GROUP_32 = QuantizationScheme(8, 32)
INT8_GROUP_64 = QuantizationScheme(8, 64)
INT4_GROUP_64 = QuantizationScheme(4, 64, INT4_CODEBOOK)
