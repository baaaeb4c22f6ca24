"""Packed matrices in a cache file: mapped, checked when it is opened, shared by processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native.packed_matrix import PackedMatrix, packed_matrix
from pocketvlm.packfile import Item, PackedError, open_items, write_items

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

_FIELDS = ("bits", "group", "inputs", "outputs")
_DTYPES = {
    "codes": "uint8",
    "group_scale": "uint16",
    "group_bias": "uint16",
    "row_scale": "float32",
    "codebook": "uint8",
}


def open_packed(path: Path, runtime: Runtime) -> dict[str, PackedMatrix]:
    """All matrices of a file by name, as views of the mapped file. Raises PackedError, or OSError."""
    items = open_items(path, lambda data: runtime.checksum(np.asarray(data)))
    try:
        return {name: _matrix(name, item) for name, item in items.items()}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PackedError(f"the header is not what this version writes ({error})") from None


def write_packed(
    path: Path, runtime: Runtime, matrices: Mapping[str, PackedMatrix], model: str, origin: str, weights: str
) -> None:
    """Write matrices to a file, whole or not at all. Raises OSError."""
    items = {
        name: Item({field: getattr(matrix, field) for field in _FIELDS}, _arrays(matrix))
        for name, matrix in matrices.items()
    }
    write_items(path, lambda data: runtime.checksum(np.asarray(data)), items, model, origin, weights)


def _arrays(matrix: PackedMatrix) -> dict[str, memoryview]:
    """The arrays of a matrix by name, without those that it does not have."""
    arrays = {part: getattr(matrix, part) for part in _DTYPES}
    return {part: np.ascontiguousarray(array).data for part, array in arrays.items() if array is not None}


def _matrix(name: str, item: Item) -> PackedMatrix:
    """One matrix over the mapped bytes; whether its arrays fit each other is checked where the handle is made."""
    arrays: dict[str, NDArray[Any] | None] = dict.fromkeys(_DTYPES)
    for part, view in item.arrays.items():
        array = np.asarray(view)
        if array.dtype != _DTYPES[part]:
            raise PackedError(f"{part} of {name} has dtype {array.dtype}")
        arrays[part] = array
    return packed_matrix(*(item.fields[field] for field in _FIELDS), **arrays)  # type: ignore[arg-type]
