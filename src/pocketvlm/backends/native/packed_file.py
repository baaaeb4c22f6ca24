"""Packed matrices in a cache file: mapped, checked when it is opened, shared by processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native.packed_matrix import ARRAYS, NUMBERS, PackedMatrix, packed_matrix
from pocketvlm.errors import TensorError
from pocketvlm.packfile import Item, PackedError, open_items, write_items
from pocketvlm.tensors import DenseTensor

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

_DENSE = "values"  # the one array of a matrix that is multiplied as bfloat16 or float32


def open_packed(path: Path, runtime: Runtime) -> dict[str, PackedMatrix | DenseTensor]:
    """All matrices of a file by name, as views of the mapped file. Raises PackedError, or OSError."""
    items = open_items(path, lambda data: runtime.checksum(np.asarray(data)))
    try:
        return {name: _matrix(name, item) for name, item in items.items()}
    except (KeyError, TypeError, ValueError, OverflowError, TensorError) as error:
        raise PackedError(f"the header is not what this version writes ({error})") from None


def write_packed(
    path: Path,
    runtime: Runtime,
    matrices: Mapping[str, PackedMatrix | DenseTensor],
    model: str,
    origin: str,
    weights: str,
) -> None:
    """Write matrices to a file, whole or not at all. Raises OSError."""
    items = {name: _item(matrix) for name, matrix in matrices.items()}
    write_items(path, lambda data: runtime.checksum(np.asarray(data)), items, model, origin, weights)


def _item(matrix: PackedMatrix | DenseTensor) -> Item:
    if isinstance(matrix, DenseTensor):
        return Item({"dtype": matrix.dtype}, {_DENSE: np.ascontiguousarray(matrix.data).data})
    arrays = {part: np.ascontiguousarray(array).data for part, array in matrix.arrays().items()}
    return Item({field: getattr(matrix, field) for field in NUMBERS}, arrays)


def _matrix(name: str, item: Item) -> PackedMatrix | DenseTensor:
    """One matrix over the mapped bytes; whether its arrays fit each other is checked where the handle is made."""
    arrays: dict[str, NDArray[Any] | None] = dict.fromkeys(ARRAYS)
    for part, view in item.arrays.items():
        array = np.asarray(view)
        if part == _DENSE:
            return DenseTensor(name, item.fields["dtype"], array)
        if array.dtype not in ARRAYS[part]:
            raise PackedError(f"{part} of {name} has dtype {array.dtype}")
        arrays[part] = array
    return packed_matrix(**{field: item.fields[field] for field in NUMBERS}, **arrays)  # type: ignore[arg-type]
