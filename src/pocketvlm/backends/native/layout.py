"""Which kernel multiplies a quantized tensor, in which packed layout, and why; reads no values of the tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pocketvlm.packfile import round_up
from pocketvlm.tensors import Block, Floats, QuantizedTensor

GROUP_UNIT = 8  # groups have a multiple of so many inputs
_PACKED_UNITS = {5: 32, 6: 16}  # and in the containers of these bits of so many
# Wider groups are split and repeat their scale: activations are rounded with a scale for each group, and with one for
# a whole row a single large activation would cost all others their bits.
MAX_GROUP, _MIN_SPLIT = 128, 32
_MAX = 127 * 256 + 127  # the largest entry of a wide codebook
_FLOAT32 = 2.0**-23  # entries are float32 numbers: integers within their rounding are exact


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """A codebook in integers: entry = unit * integer. wide: they need 16 bits, a high and a low part of 8.

    error: the largest difference between an entry and its integer, relative to the largest entry; 0 within float32.
    """

    integers: NDArray[np.int32]
    unit: float
    error: float

    @property
    def wide(self) -> bool:
        """Whether an entry does not fit 8 bits."""
        return bool(self.integers.min() < -128 or self.integers.max() > 127)

    def packed(self) -> NDArray[np.uint8]:
        """The entries for the 4-bit kernel: [16] integers + 128, or [2, 16] high and low parts, each + 128."""
        padded = np.pad(self.integers, (0, 16 - len(self.integers)), "edge")
        if not self.wide:
            return (padded + 128).astype(np.uint8)
        high = (padded + 128) >> 8
        return np.stack([high + 128, padded - 256 * high + 128]).astype(np.uint8)


def integer_codebook(codebook: Floats) -> Codebook:
    """The codebook in the smallest integers that give its entries exactly, or rounded to 16 bits if none do."""
    return _integer_codebook(np.asarray(codebook, np.float32).tobytes())


@lru_cache(maxsize=64)
def _integer_codebook(entries: bytes) -> Codebook:
    codebook = np.frombuffer(entries, np.float32).astype(np.float64)
    whole = np.rint(codebook)
    if (whole == codebook).all() and whole.min() >= -128 and whole.max() <= 127:
        return Codebook(whole.astype(np.int32), 1.0, 0.0)
    top = np.abs(codebook).max()
    if not np.isfinite(top):
        return Codebook(np.full(len(codebook), _MAX, np.int32), 1.0, math.inf)
    steps = np.arange(1, _MAX + 1)
    scaled = codebook / top * steps[:, None]
    errors = np.abs(scaled - np.rint(scaled)).max(1) / steps
    exact = np.flatnonzero(errors <= _FLOAT32)
    best = int(exact[0]) if exact.size else _MAX - 1
    error = 0.0 if exact.size else float(errors[best])
    return Codebook(np.rint(scaled[best]).astype(np.int32), float(top / steps[best]), error)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is packed.

    bits: 4, 5, 6 or 8 for integer products with codes in that container; 16 or 32 for values as bfloat16 or float32.
    group: inputs that share a scale, 0 where an output has one scale and nothing else, and for 16 and 32 bits.
    reason: what the container does to the tensor's values, and why it was chosen.
    """

    bits: int
    group: int
    reason: str


def layout_of(tensor: QuantizedTensor) -> Layout:
    """The layout of a tensor."""
    inputs = tensor.shape[1]
    group = common_group(tensor)
    if tensor.codebook is not None:
        book = integer_codebook(tensor.codebook)
        if tensor.bits > 4 and (book.wide or book.error):
            why = f"the entries of its {tensor.bits}-bit codebook are no 8-bit integers"
            if _fits_bfloat16(tensor, tensor.codebook):
                return Layout(16, 0, f"{why}, bfloat16 holds its values exactly")
            return Layout(16, 0, f"{why}, values are rounded to bfloat16 (at most 2^-8 of a value)")
        if not math.isfinite(book.error):
            return Layout(32, 0, "its codebook has entries that are not finite, values are float32")
    if group < inputs and group % GROUP_UNIT:
        return Layout(32, 0, f"its groups of {group} inputs are no multiple of {GROUP_UNIT}, values are float32")
    centered = tensor.zero_points is None and tensor.biases is None
    centered = centered and (tensor.codes.dtype == np.int8 or tensor.codebook is not None)
    if group >= inputs:
        unit = _PACKED_UNITS.get(tensor.bits, GROUP_UNIT)
        bits, group = _container(tensor, MAX_GROUP), min(MAX_GROUP, round_up(inputs, unit))
        if bits == 8 and tensor.scales.scale is None and centered:
            return Layout(bits, 0, _exactness(tensor))
    elif group > MAX_GROUP and math.gcd(group, MAX_GROUP) >= _MIN_SPLIT:
        group = math.gcd(group, MAX_GROUP)
    bits = _container(tensor, group)
    reason = _exactness(tensor)
    if tensor.bits < bits and tensor.bits in _PACKED_UNITS and tensor.codebook is None:
        reason += f", {tensor.bits}-bit products need groups of a multiple of {_PACKED_UNITS[tensor.bits]}"
    return Layout(bits, group, reason)


def kernel_of(tensor: QuantizedTensor) -> str:
    """Which native kernel multiplies a tensor, in which container, and why: one line for people. Reads no values."""
    layout = layout_of(tensor)
    if layout.bits > 8:
        return f"{'bfloat16' if layout.bits == 16 else 'float32'} products ({layout.reason})"
    blocks = f"groups of {layout.group}" if layout.group else "one scale a row"
    parts = [f"{tensor.bits}-bit codes", blocks]
    if tensor.zero_points is not None:
        parts.append("zero points")
    if tensor.biases is not None:
        parts.append("biases")
    if tensor.permutation is not None:
        parts.append("inputs permuted")
    return f"{layout.bits}-bit integer products ({', '.join(parts)}: {layout.reason})"


def common_group(tensor: QuantizedTensor) -> int:
    """The most neighbouring inputs of a row that share scale, zero point and bias; the row's inputs if all do."""
    inputs = tensor.shape[1]
    parts = (tensor.scales, tensor.zero_points, tensor.biases)
    return math.gcd(*(_width(part.block, inputs) for part in parts if part is not None)) or inputs


def _container(tensor: QuantizedTensor, group: int) -> int:
    """The fewest bits that hold the codes of a tensor with groups of `group` inputs."""
    if tensor.bits <= 4:
        return 4
    fitting = (bits for bits, unit in _PACKED_UNITS.items() if tensor.bits <= bits and group % unit == 0)
    return 8 if tensor.codebook is not None else next(fitting, 8)


def _exactness(tensor: QuantizedTensor) -> str:
    if tensor.codebook is None:
        return "codes as stored"
    book = integer_codebook(tensor.codebook)
    if book.error:
        return f"codebook rounded to 16 bits, by {book.error:.1e} of its largest entry"
    return f"codebook in {16 if book.wide else 8} bits, exact"


def _fits_bfloat16(tensor: QuantizedTensor, codebook: Floats) -> bool:
    """Whether entries are bfloat16 numbers and all scales powers of two, as their own codebook tells."""
    scales = tensor.scales
    if scales.codebook is None or scales.scale or scales.offset or tensor.biases or tensor.zero_points:
        return False
    factors = [*scales.codebook[np.isfinite(scales.codebook)], tensor.global_scale, tensor.global_divisor]
    short = np.ascontiguousarray(codebook, np.float32).view(np.uint32) & np.uint32(0xFFFF) == 0
    return bool((np.abs(np.frexp(factors)[0]) == 0.5).all() and short.all())


def _width(block: Block, inputs: int) -> int:
    """Inputs of a row in a block, 0 for all of them; of a flat block that straddles rows, the largest common part."""
    width = math.gcd(block, inputs) if isinstance(block, int) else block[1]
    return width if width < inputs else 0
