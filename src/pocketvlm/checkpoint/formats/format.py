"""`Format` is the contract between a checkpoint and the file format of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from pocketvlm.checkpoint.formats.safetensors import SUPPORTED, TensorEntry, map_arrays, map_tensors
from pocketvlm.errors import TensorError
from pocketvlm.tensors import DenseTensor, LazyArray, QuantizedTensor, Tensor

Shape = tuple[int, ...]
Entries = Mapping[str, TensorEntry]
Settings = Mapping[str, Any]

_SHOWN = 8
_QUANTIZED_SUFFIXES = frozenset(
    {"qweight", "qzeros", "g_idx", "scales", "biases", "weight_packed", "weight_scale", "absmax", "SCB"}
)


@dataclass(frozen=True, slots=True, eq=False)
class StoredArray:
    """One array of a file as a read-only view of the mapped file.

    dtype: as the file writes it, such as "I32" or "F8_E4M3". data: bfloat16 as its bits in uint16, 8-bit floats as
    theirs in uint8, all else as it is, little-endian.
    """

    dtype: str
    data: NDArray[Any]


Parts = Mapping[str, StoredArray]


class Format(Protocol):
    """How the weights of one checkpoint are stored. Formats know no model: they are told which tensors are expected."""

    def describe(self) -> str | None:
        """Method and kinds of codes by name ("AWQ", "GGUF Q4_K + Q6_K"); None where every tensor is dense."""

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        """The expected tensors in the order of `expected`, dense or quantized; values are read when they are used.

        entries: what the files hold, by the hub's names. expected: the shape of every tensor that the model needs.
        where: names the checkpoint in errors. sparse: see `map_tensors`. Raises one TensorError that lists all tensors
        that are missing, unexpected, or of another shape or dtype.
        """


class ModuleFormat(ABC):
    """A format that replaces `<module>.weight` by several arrays, and leaves all other tensors dense.

    A module is quantized where the file holds its `marker`, whatever the settings say: published lists of quantized
    modules are often wrong. `is_quantized` is for formats that no one array marks.
    """

    # What follows "<module>." in the names of all arrays of a quantized matrix; a bias belongs to the dense tensors.
    suffixes: ClassVar[frozenset[str]]
    marker: ClassVar[str]
    # Arrays that may be there and change nothing here, such as scales of activations.
    unused: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def describe(self) -> str | None: ...

    def is_quantized(self, parts: Mapping[str, TensorEntry]) -> bool:
        """Whether these arrays of a module, by suffix, hold a quantized matrix."""
        return self.marker in parts

    @abstractmethod
    def matrix(self, name: str, shape: Shape, parts: Parts) -> QuantizedTensor | DenseTensor:
        """The tensor `name` of this shape from its arrays by suffix; what needs computation is lazy.

        Raises TensorError, naming tensor and value, for parts that are missing or do not fit the shape.
        """

    def dense(self, name: str, tensor: DenseTensor) -> DenseTensor:
        """A dense tensor as the model wants it; for formats that transpose or shift some of them."""
        return tensor

    def dense_shape(self, name: str, shape: Shape) -> Shape:
        """The shape that the format stores a dense tensor in that the model expects as `shape`."""
        return shape

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        found = {name: self._parts(name, entries) for name in expected if name.endswith(".weight")}
        modules = {name: parts for name, parts in found.items() if self.is_quantized(parts)}
        quantized = [entry for parts in modules.values() for entry in parts.values()]
        arrays = dict(zip(quantized, map_arrays(quantized, sparse), strict=True))
        used = {entry.name for entry in quantized}
        others = {
            name: entry
            for name, entry in entries.items()
            if entry.name not in used and name.rpartition(".")[2] not in self.unused
        }
        shapes = {name: self.dense_shape(name, shape) for name, shape in expected.items() if name not in modules}
        dense = dense_tensors(others, shapes, where, sparse)

        def tensor(name: str, shape: Shape) -> Tensor:
            if name not in modules:
                return self.dense(name, dense[name])
            origin = " and ".join(dict.fromkeys(str(entry.file) for entry in modules[name].values()))
            parts = {suffix: StoredArray(entry.dtype, arrays[entry]) for suffix, entry in modules[name].items()}
            try:
                return replace(self.matrix(name, shape, parts), origin=origin)
            except TensorError as error:
                raise TensorError(f"{origin}: {error}") from None

        return {name: tensor(name, shape) for name, shape in expected.items()}

    def _parts(self, name: str, entries: Entries) -> dict[str, TensorEntry]:
        module = name.removesuffix("weight")
        return {suffix: entries[module + suffix] for suffix in self.suffixes if module + suffix in entries}


def lazy(shape: Shape, dtype: DTypeLike, read: Callable[[], NDArray[Any]]) -> LazyArray:
    """An array that `read` makes when its values are used."""
    return LazyArray(shape, np.dtype(dtype), read)


def dense_tensors(entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, DenseTensor]:
    """The dense tensor for each expected name, in the order of `expected`, as views of the mapped files.

    Raises one TensorError that counts and lists all missing, unexpected and mis-shaped tensors and those with a dtype
    that is not loaded.
    """
    other = any(entry.dtype not in SUPPORTED for name, entry in entries.items() if name in expected)
    packed = any(name not in expected and name.rpartition(".")[2] in _QUANTIZED_SUFFIXES for name in entries)
    way_out = (
        "these are quantized weights that the quantization settings in config.json do not describe: copy "
        "config.json from where the weights came from, or use the 16-bit checkpoint"
        if other or packed
        else "config.json and the weights do not belong together, or the weights are another model's"
    )
    check_tensors(entries, expected, where, sorted(SUPPORTED), way_out)
    wanted = {name: entries[name] for name in expected}
    views = map_tensors(wanted.values(), sparse)
    return {name: replace(view, name=name) for name, view in zip(wanted, views, strict=True)}


def check_tensors(
    entries: Entries,
    expected: Mapping[str, Shape],
    where: str,
    supported: Sequence[str],
    way_out: str,
    source: str = "config.json",
) -> None:
    """Raise one TensorError that counts and lists all missing, unexpected and mis-shaped tensors, if there are any.

    Of several files it names that of each tensor. supported: the dtypes that are loaded; tensors of others are listed
    too. way_out: why that may be and what to do. source: what the expected shapes come from.
    """
    several = len({entry.file for entry in entries.values()}) > 1

    def label(entry: TensorEntry) -> str:
        return f"{entry.name} in {entry.file.name}" if several else entry.name

    missing = [name for name in expected if name not in entries]
    unexpected = [label(entry) for name, entry in entries.items() if name not in expected]
    shaped = [
        f"{label(entry)} {list(entry.shape)} instead of {list(expected[name])}"
        for name, entry in entries.items()
        if name in expected and entry.shape != tuple(expected[name])
    ]
    unsupported = [
        f"{label(entry)} ({entry.dtype})"
        for name, entry in entries.items()
        if name in expected and entry.dtype not in supported
    ]
    lines = [
        _line(missing, "missing"),
        _line(unexpected, "unexpected"),
        _line(shaped, f"of another shape than {source} asks for"),
        _line(unsupported, f"of a dtype that is not loaded (only {', '.join(supported)} are)"),
    ]
    if any(lines):
        raise TensorError("\n  ".join([f"{where}: the tensors do not fit: {way_out}", *filter(None, lines)]))


class DenseFormat:
    """Every tensor is dense: the layout of the original checkpoint."""

    def describe(self) -> None:
        return None

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        return dict(dense_tensors(entries, expected, where, sparse))


def _line(names: list[str], what: str) -> str:
    """`3 missing: a, b, c`, cut after some names; empty if there are none."""
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:_SHOWN])}{more}"
