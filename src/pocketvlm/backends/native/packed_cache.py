"""The cache of a network's packed matrices while it is built: loaded from a file, or packed anew and written to it."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pocketvlm.backends.backend import CacheLocation
from pocketvlm.backends.native.layout import layout_of
from pocketvlm.backends.native.pack import pack
from pocketvlm.backends.native.packed_file import open_packed, write_packed
from pocketvlm.backends.native.packed_matrix import PackedMatrix
from pocketvlm.packfile import SUFFIX, VERSION, opened, written
from pocketvlm.tensors import BlockValues, DenseTensor, QuantizedTensor

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

# Increase this when `pack` packs the same tensor otherwise, or when the arrays in a file change.
PACKING = 5


def file_name(weights: str, fingerprint: str, tensors: Mapping[str, QuantizedTensor]) -> str:
    """The name of the file with these tensors packed: a hash over all that the packed bytes depend on."""
    plan = [(name, *_formula(tensor)) for name, tensor in sorted(tensors.items())]
    text = json.dumps([VERSION, PACKING, sys.byteorder, weights, fingerprint, plan])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() + SUFFIX


def convert(runtime: Runtime, tensor: QuantizedTensor) -> PackedMatrix | DenseTensor:
    """A quantized tensor as `pack` makes it, with bfloat16 numbers some rows at a time.

    Raises TensorError for one that is rounded from numbers of which some are not finite: kernels do not check them.
    """
    if tensor.rounded_from is not None:
        tensor.rounded_from.finite_data()
    if layout_of(tensor).bits == 16:
        return DenseTensor(tensor.name, "bf16", tensor.bfloat16())
    return pack(runtime, tensor)


def _formula(tensor: QuantizedTensor) -> list[object]:
    """What a tensor's values depend on besides the content of the checkpoint, without reading any."""
    levels = [_levels(part) for part in (tensor.scales, tensor.zero_points, tensor.biases)]
    codebook = None if tensor.codebook is None else tensor.codebook.tolist()
    dense = tensor.rounded_from and tensor.rounded_from.dtype
    factors = [float(tensor.global_scale), float(tensor.global_divisor), tensor.permutation is not None]
    return [tensor.bits, tensor.shape, str(tensor.codes.dtype), levels, codebook, dense, factors]


def _levels(part: BlockValues | None) -> list[object] | None:
    if part is None:
        return None
    codebook = None if part.codebook is None else part.codebook.tolist()
    return [part.block, str(part.values.dtype), codebook, float(part.offset), _levels(part.scale)]


def _fits(found: PackedMatrix | DenseTensor, tensor: QuantizedTensor) -> bool:
    """Whether a matrix of the file has the layout of this tensor."""
    layout = layout_of(tensor)
    if isinstance(found, DenseTensor):
        return (found.dtype, found.shape) == ({16: "bf16", 32: "f32"}.get(layout.bits), tensor.shape)
    return (found.bits, found.group, found.outputs, found.inputs) == (layout.bits, layout.group, *tensor.shape)


class PackedCache:
    """The packed matrices of one network. A bad file costs time and a CacheWarning, never an answer."""

    def __init__(
        self, runtime: Runtime, location: CacheLocation, weights: str, tensors: Mapping[str, QuantizedTensor]
    ) -> None:
        self.path = location.directory / file_name(weights, location.fingerprint, tensors)
        self._runtime, self._location, self._weights = runtime, location, weights
        self._found: dict[str, PackedMatrix | DenseTensor] = {}
        # Verifying the checksums takes as long as reading all other files, and needs no interpreter.
        self._opening = threading.Thread(target=self._open)
        self._opening.start()
        self._used: dict[str, PackedMatrix | DenseTensor] = {}
        self._packed = False

    def pack(self, tensor: QuantizedTensor) -> PackedMatrix | DenseTensor:
        """The matrix as `pack` makes it. A hit reads neither codes nor the numbers that they stand for."""
        self.wait()
        matrix = self._found.get(tensor.name)
        if matrix is None or not _fits(matrix, tensor):
            matrix = convert(self._runtime, tensor)
            self._packed = True
        self._used[tensor.name] = matrix
        return matrix

    def wait(self) -> None:
        """Wait until the file is open."""
        self._opening.join()

    def finish(self) -> str:
        """Write the file if any matrix was packed; returns what was done, in words."""
        if not self._packed:
            return f"read from {self.path}" if self._used else "none needed"
        return f"encoded, {written(self.path, f'weights of {self._location.model}', self._write)}"

    def _open(self) -> None:
        self._found = opened(self.path, lambda: open_packed(self.path, self._runtime)) or {}

    def _write(self) -> None:
        location = self._location
        write_packed(self.path, self._runtime, self._used, location.model, location.path, self._weights)
