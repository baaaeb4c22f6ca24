"""Quantized matrices are written to a packed file, which later processes map and share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.native.coding import Coded, coded
from pocketvlm.packfile import Item, PackedError, open_items, write_items

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

_FIELDS = ("bits", "group", "inputs", "outputs")
_DTYPES = {
    "codes": "uint8",
    "group_scale": "uint16",
    "group_minimum": "uint16",
    "row_scale": "float32",
    "table": "uint8",
}


def open_packed(path: Path, runtime: Runtime) -> dict[str, Coded]:
    """All matrices of a file by name, as views of the mapped file. Raises PackedError, or OSError."""
    items = open_items(path, lambda data: runtime.checksum(np.asarray(data)))
    try:
        return {name: _tensor(runtime, name, item) for name, item in items.items()}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PackedError(f"the header is not what this version writes ({error})") from None


def write_packed(
    path: Path, runtime: Runtime, tensors: Mapping[str, Coded], model: str, origin: str, weights: str
) -> None:
    """Write matrices to a file, whole or not at all. Raises OSError."""
    items = {
        name: Item({field: getattr(tensor, field) for field in _FIELDS}, _arrays(tensor))
        for name, tensor in tensors.items()
    }
    write_items(path, lambda data: runtime.checksum(np.asarray(data)), items, model, origin, weights)


def _arrays(tensor: Coded) -> dict[str, memoryview]:
    """The arrays of a matrix by name, without those that it does not have."""
    arrays = {part: getattr(tensor, part) for part in _DTYPES}
    return {part: np.ascontiguousarray(array).data for part, array in arrays.items() if array is not None}


def _tensor(runtime: Runtime, name: str, item: Item) -> Coded:
    """One matrix over the mapped bytes; whether its arrays fit each other is checked where the handle is made."""
    arrays: dict[str, NDArray[Any] | None] = dict.fromkeys(_DTYPES)
    for part, view in item.arrays.items():
        array = np.asarray(view)
        if array.dtype != _DTYPES[part]:
            raise PackedError(f"{part} of {name} has dtype {array.dtype}")
        arrays[part] = array
    return coded(runtime, *(item.fields[field] for field in _FIELDS), **arrays)  # type: ignore[arg-type]
