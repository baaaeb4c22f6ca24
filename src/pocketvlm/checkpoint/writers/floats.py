"""`SmallFloats` is the common form of matrices whose codes are 4- or 8-bit floating-point numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.formats.codebooks import e2m1, e4m3, e8m0
from pocketvlm.errors import TensorError
from pocketvlm.tensors import Floats, QuantizedTensor, load

MX_GROUP, NV_GROUP = 32, 16
# Kind -> the codebook of its codes and of its scales, and the inputs that share a scale.
_KINDS = {
    "mxfp4": (e2m1, e8m0, MX_GROUP),
    "mxfp8": (e4m3, e8m0, MX_GROUP),
    "nvfp4": (e2m1, e4m3, NV_GROUP),
}
_ONE = {4: 2, 8: 0x38}  # the code of 1.0 in e2m1 and e4m3


@dataclass(frozen=True, slots=True, eq=False)
class SmallFloats:
    """value = float * scale / divisor. kind: "mxfp4", "mxfp8" or "nvfp4". recode: the scale code int16 of each stored
    one, -1 for those that the kind lacks. divisor: of the whole matrix, a float32 number; 1 but for nvfp4.
    """

    tensor: QuantizedTensor
    kind: str
    recode: NDArray[np.int16]
    divisor: float

    def codes(self) -> NDArray[np.uint8]:
        """The floats' bits uint8 [outputs, inputs]."""
        codes: NDArray[np.uint8] = self.tensor.load_codes()
        return codes

    def scales(self) -> NDArray[np.uint8]:
        """The scales' bits uint8 [outputs, groups]. Raises TensorError for one that the kind lacks."""
        stored = load(self.tensor.scales.values)
        found = self.recode[stored]
        if found.size and found.min() < 0:
            first = int(stored[found < 0][0])
            raise TensorError(f"a scale has the code {first}, whose number {self.kind} has no code for")
        codes: NDArray[np.uint8] = found.astype(np.uint8)
        return codes


def small_floats(tensor: QuantizedTensor) -> SmallFloats:
    """The form of a matrix. Raises TensorError, which says why, for one of another kind. Reads no values."""
    factor = _codebook_factor(tensor)
    scales, block = tensor.scales, tensor.block
    if tensor.zero_points is not None or tensor.biases is not None or tensor.permutation is not None:
        raise TensorError("it has zero points, biases or an order of inputs, which small floats have not")
    numbers = scales.codebook
    if numbers is None or scales.scale is not None or scales.offset or isinstance(block, int) or block[0] != 1:
        raise TensorError("its scales are no 8-bit powers of two or floats of groups of inputs")
    for kind, (codebook, scale_codebook, group) in _KINDS.items():
        if group != block[1] or len(codebook()) != 2**tensor.bits:
            continue
        divisor = 1.0
        if kind == "nvfp4":
            divisor = _divisor(tensor)
        elif _is_power_of_two(whole := tensor.global_scale / tensor.global_divisor):
            factor *= whole
        else:
            raise TensorError(f"its global factor {whole:.6g} is no power of two, and {kind} has no global scale")
        return SmallFloats(tensor, kind, _recoded(numbers, factor, scale_codebook()), divisor)
    raise TensorError(f"floats of {tensor.bits} bits in groups of {block[1]} are no MX or NV format")


def is_float8(tensor: QuantizedTensor) -> bool:
    """Whether the codes are 8-bit floats (E4M3) with scales of any blocks. Reads no values."""
    if tensor.codebook is None or tensor.bits != 8 or not np.array_equal(tensor.codebook, e4m3(), equal_nan=True):
        return False
    plain = tensor.zero_points is None and tensor.biases is None and tensor.permutation is None
    return plain and not isinstance(tensor.block, int)


def without_divisor(floats: SmallFloats) -> SmallFloats:
    """The same with divisor 1. Raises TensorError where that takes other scales than the kind has."""
    if floats.divisor == 1.0:
        return floats
    numbers = floats.tensor.scales.codebook
    assert numbers is not None
    factor = _codebook_factor(floats.tensor) / floats.divisor
    if not _is_power_of_two(factor):
        raise TensorError(f"MLX files have no global scale, and the matrix has one, 1 / {floats.divisor:.6g}")
    return SmallFloats(floats.tensor, floats.kind, _recoded(numbers, factor, _KINDS[floats.kind][1]()), 1.0)


def _codebook_factor(tensor: QuantizedTensor) -> float:
    """The power of two that the codebook is multiplied by, relative to that of the floats."""
    codebook = tensor.codebook
    if codebook is None or tensor.bits not in _ONE:
        raise TensorError("its codes are no floating-point numbers")
    factor = float(codebook[_ONE[tensor.bits]])
    table = e2m1() if tensor.bits == 4 else e4m3()
    if not _is_power_of_two(factor) or not np.array_equal(codebook, table * np.float32(factor), equal_nan=True):
        raise TensorError("its codebook has other numbers than E2M1 and E4M3 floats")
    return factor


def _divisor(tensor: QuantizedTensor) -> float:
    if not _is_power_of_two(tensor.global_scale):
        raise TensorError(
            f"its global scale {tensor.global_scale:.9g} multiplies, and no exact number divides by as much"
        )
    divisor = tensor.global_divisor / tensor.global_scale
    if float(np.float32(divisor)) != divisor:
        raise TensorError(f"its global divisor {divisor!r} is no float32 number")
    return divisor


def _is_power_of_two(number: float) -> bool:
    return number > 0 and math.frexp(number)[0] == 0.5


def _recoded(numbers: Floats, factor: float, target: Floats) -> NDArray[Any]:
    """The code in the target's table of each number times the factor; -1 for those that it lacks."""
    codes: dict[float, int] = {}
    for code, number in enumerate(target.tolist()):
        codes.setdefault(number, code)  # of -0 and 0 the latter
    wanted = [number * factor for number in numbers.tolist()]
    return np.array([codes.get(number, -1) for number in wanted], np.int16)
