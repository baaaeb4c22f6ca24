"""Reads tensors from a file of `torch.save` without PyTorch, and without running what a pickle asks for."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from pocketvlm.errors import CheckpointError
from pocketvlm.tensors import DenseTensor, StoredDtype

# The types of storages that hold supported numbers: dtype of the tensor, and of the bytes.
_STORAGES: Mapping[str, tuple[StoredDtype, str]] = {
    "FloatStorage": ("f32", "<f4"),
    "HalfStorage": ("f16", "<f2"),
    "BFloat16Storage": ("bf16", "<u2"),
}
_MAX_PICKLE = 1 << 26  # bytes: names, shapes and strides of far more tensors than an adapter has
_SHARED = 4  # times that the tensors of a file may use its bytes, as tied ones do
_CONVERT = (
    "save it as adapter_model.safetensors: safetensors.torch.save_file(torch.load(FILE, weights_only=True), "
    "'adapter_model.safetensors', metadata={'format': 'pt'})"
)


@dataclass(frozen=True, slots=True)
class _StorageType:
    """A class of storages, as the pickle names it."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage of the file: its type and the name of its record."""

    kind: str
    key: str


def read_pickled(path: Path) -> dict[str, DenseTensor]:
    """The tensors of a file by key, copied into memory.

    Only the constructors of tensors are looked up; a pickle that names anything else is refused. Raises CheckpointError
    for such a file, one that is damaged or not written by `torch.save` since version 1.6, and other dtypes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(path, archive)
    except zipfile.BadZipFile:
        raise CheckpointError(f"{path}: is no file of torch.save of today, or is damaged: {_CONVERT}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read(path: Path, archive: zipfile.ZipFile) -> dict[str, DenseTensor]:
    records = {name.partition("/")[2]: info for name, info in archive.NameToInfo.items()}
    if "data.pkl" not in records:
        raise CheckpointError(f"{path}: has no data.pkl: it is no file of torch.save: {_CONVERT}")
    if "byteorder" in records and _record(path, archive, records["byteorder"], 16) != b"little":
        raise CheckpointError(f"{path}: was written by a big-endian machine: {_CONVERT}")
    text = _record(path, archive, records["data.pkl"], _MAX_PICKLE)

    room = _SHARED * path.stat().st_size

    def values(storage: _Storage) -> np.ndarray[Any, np.dtype[Any]]:
        info = records.get(f"data/{storage.key}")
        if info is None:
            raise CheckpointError(f"{path}: has no record data/{storage.key}: the file is damaged, copy it again")
        return np.frombuffer(_record(path, archive, info, path.stat().st_size), _STORAGES[storage.kind][1])

    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> DenseTensor:
        if not isinstance(storage, _Storage):
            raise CheckpointError(f"{path}: a tensor has no storage: the file is damaged, copy it again")
        data = values(storage)
        sizes = all(isinstance(each, tuple) and all(_is_size(side) for side in each) for each in (shape, strides))
        if not sizes or len(shape) != len(strides) or not _is_size(offset):
            raise CheckpointError(f"{path}: a tensor has no valid shape or strides: the file is damaged, copy it again")
        last = offset + sum((side - 1) * step for side, step in zip(shape, strides, strict=True))
        if 0 not in shape and (last >= len(data) or math.prod(shape) > len(data)):
            raise CheckpointError(f"{path}: a tensor is larger than its storage: the file is damaged, copy it again")
        nonlocal room
        room -= math.prod(shape) * data.itemsize
        if room < 0:
            raise CheckpointError(f"{path}: its tensors are several times as large as the file: {_CONVERT}")
        dtype = _STORAGES[storage.kind][0]
        if 0 in shape:
            return DenseTensor("", dtype, np.empty(shape, data.dtype), str(path))
        steps = tuple(step * data.itemsize for step in strides)
        return DenseTensor("", dtype, as_strided(data[offset:], shape, steps).copy(), str(path))

    found = _Tensors(path, text, tensor).load()
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(each, DenseTensor) for name, each in found.items()
    ):
        raise CheckpointError(f"{path}: holds no mapping of names to tensors: {_CONVERT}")
    return {name: DenseTensor(name, each.dtype, each.source, str(path)) for name, each in found.items()}


def _record(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, limit: int) -> bytes:
    """The bytes of a record, which torch.save never compresses. Raises CheckpointError."""
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > limit:
        raise CheckpointError(f"{path}: {info.filename} is compressed or too long: {_CONVERT}")
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError(f"{path}: {info.filename} cannot be read ({error}): copy the file again") from None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


class _Tensors(pickle.Unpickler):
    """An unpickler that can make mappings, numbers, texts and tensors, and looks up nothing else."""

    def __init__(self, path: Path, text: bytes, tensor: Any) -> None:
        super().__init__(io.BytesIO(text))
        self._path = path
        self._known: Mapping[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): tensor,
            ("torch._utils", "_rebuild_parameter"): lambda data, *others: data,
            **{("torch", name): _StorageType(name) for name in _STORAGES},
        }

    def load(self) -> Any:
        """The object. Raises CheckpointError for a damaged pickle."""
        try:
            return super().load()
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle fails in any way
            raise CheckpointError(
                f"{self._path}: data.pkl is damaged ({type(error).__name__}: {error}): copy the file again"
            ) from None

    def find_class(self, module: str, name: str) -> Any:
        """One of the few known constructors. Raises CheckpointError for any other."""
        if (module, name) in self._known:
            return self._known[module, name]
        kind = "tensors of another dtype" if name.endswith("Storage") else "a pickle that may run code"
        raise CheckpointError(f"{self._path}: asks for {module}.{name}, {kind}, which is not read: {_CONVERT}")

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor names."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            raise CheckpointError(f"{self._path}: names a storage in an unknown way: {_CONVERT}")
        return _Storage(pid[1].name, str(pid[2]))
