"""`DirectoryWriter` is what all formats of safetensors directories share: shards, index, config.json, small files."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pocketvlm.atomic import replacing, write_all
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.files import INDEX_FILE, SINGLE_FILE
from pocketvlm.checkpoint.formats.safetensors import FileArray, dense_array, write_arrays
from pocketvlm.checkpoint.writers.modules import fused_groups
from pocketvlm.checkpoint.writers.small_files import small_files
from pocketvlm.checkpoint.writers.writer import WriteProgress
from pocketvlm.config import ModelConfig
from pocketvlm.errors import CheckpointError, TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import BlockValues, DenseTensor, QuantizedTensor, StoredDtype, Tensor

MAX_SHARD = 5_000_000_000  # bytes of the arrays of a file, as on the hub
Arrays = dict[str, FileArray]
_DTYPE_NAMES: Mapping[StoredDtype, str] = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
_DENSE_BYTES: Mapping[StoredDtype, int] = {"bf16": 2, "f16": 2, "f32": 4}


class DirectoryWriter(ABC):
    """Writes a directory of safetensors files with the small files that Hugging Face's layout has.

    One tensor is in memory at a time. A format says which arrays a tensor becomes and what config.json says of them.
    """

    name: ClassVar[str]
    # What the header of the files calls their format.
    stored_format: ClassVar[str] = "pt"
    # Whether config.json names the dtype of the dense tensors.
    names_dtype: ClassVar[bool] = True
    # Whether the format is of engines that join some matrices, whose parts then need one scheme, and load only
    # quantized checkpoints in it.
    fuses: ClassVar[bool] = False

    @abstractmethod
    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None: ...

    @abstractmethod
    def matrix(self, name: str, tensor: QuantizedTensor, context: Any) -> Arrays:
        """The arrays of a quantized matrix by their names in the file. context: what `context` returned."""

    @abstractmethod
    def settings(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], context: Any) -> dict[str, Any]:
        """The sections of config.json that the format adds."""

    def context(self, quantized: Mapping[str, QuantizedTensor]) -> Any:
        """What the tensors of a checkpoint have in common. Raises TensorError if that cannot be."""
        return None

    def dense(self, name: str, tensor: DenseTensor) -> Arrays:
        """The arrays of a dense tensor by their names in the file."""
        return {name: FileArray(dense_array(tensor).dtype, tensor.shape, tensor.finite_data)}

    def check_matrix(self, tensor: QuantizedTensor) -> None:
        """Raise TensorError, which says why, for scales, zero points or biases that the format cannot hold."""
        tensor.block_scales()
        tensor.block_biases()

    def extra_files(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Files of the format's own by name, from the final config.json."""
        return {}

    def check(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> tuple[str, ...]:
        quantized = quantized_of(tensors)
        if self.fuses and not quantized:
            return (
                "no matrix is quantized: `pocketvlm quantize` makes quantized ones, and the formats bf16, f16, mlx and "
                "native hold dense ones",
            )
        found = list(_split_groups(tensors)) if self.fuses else []
        for name, tensor in quantized.items():
            try:
                self.check_matrix(tensor)
            except TensorError as error:
                found.append(f"{name}: {error}")
        if not found:
            try:
                self.context(quantized)
            except TensorError as error:
                found.append(str(error))
        return tuple(found)

    def check_files(
        self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], out: Path, label: str
    ) -> None:
        small_files(checkpoint)

    def nbytes(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> int:
        return sum(stored_bytes(tensor) for tensor in tensors.values())

    def write(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        directory: Path,
        label: str,
        progress: WriteProgress | None = None,
    ) -> tuple[Path, ...]:
        context = self.context(quantized_of(tensors))
        arrays = [
            self.dense(name, tensor) if isinstance(tensor, DenseTensor) else self.matrix(name, tensor, context)
            for name, tensor in tensors.items()
        ]
        files = small_files(checkpoint)
        config = files.pop("config.json")
        assert isinstance(config, dict)
        config |= self.settings(tensors, roles, context)
        if self.names_dtype:
            _name_dtype(config, self.dtype(tensors))
        texts = {**files, **self.extra_files(config), "config.json": config}
        return (*_write_weights(directory, arrays, {"format": self.stored_format}, progress), *_write(directory, texts))

    def dtype(self, tensors: Mapping[str, Tensor]) -> StoredDtype:
        """The dtype that most dense values are stored in."""
        counts: dict[StoredDtype, int] = {"bf16": 0}
        for tensor in tensors.values():
            if isinstance(tensor, DenseTensor):
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + math.prod(tensor.shape)
        return max(counts, key=lambda dtype: counts[dtype])


def quantized_of(tensors: Mapping[str, Tensor]) -> dict[str, QuantizedTensor]:
    """The quantized matrices among tensors."""
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, QuantizedTensor)}


def stored_bytes(tensor: Tensor) -> int:
    """About the bytes of a tensor in any format; reads no values."""
    if isinstance(tensor, DenseTensor):
        return math.prod(tensor.shape) * _DENSE_BYTES[tensor.dtype]

    def numbers(values: BlockValues | None, bits: int | None = None) -> int:
        if values is None:
            return 0
        width = 8 * min(np.dtype(values.values.dtype).itemsize, 4)
        return math.prod(values.values.shape) * (bits if bits and width == 8 else width) // 8 + numbers(values.scale)

    parts = numbers(tensor.scales) + numbers(tensor.biases) + numbers(tensor.zero_points, tensor.bits)
    order = 4 * tensor.shape[1] if tensor.permutation is not None else 0
    return math.prod(tensor.shape) * tensor.bits // 8 + parts + order


def _split_groups(tensors: Mapping[str, Tensor]) -> list[str]:
    """Fused matrices of which some parts are quantized otherwise than the others."""
    found = []
    for fused, names in fused_groups(tensors):
        kinds = {name: _kind(tensors[name]) for name in names}
        if len(set(kinds.values())) > 1:
            listed = ", ".join(f"{name.rpartition('.')[0].rpartition('.')[2]} {kind}" for name, kind in kinds.items())
            found.append(f"{fused}: engines join its parts, which need one scheme, but have several ({listed})")
    return found


def _kind(tensor: Tensor) -> str:
    if isinstance(tensor, DenseTensor):
        return "16-bit"
    block = tensor.block if isinstance(tensor.block, int) else tensor.block[1]
    return f"{tensor.bits} bits, groups of {min(block, tensor.shape[1])}"


def _name_dtype(config: dict[str, Any], dtype: StoredDtype) -> None:
    """Say in config.json, and in its sections that say it too, which dtype the dense tensors have."""
    word = _DTYPE_NAMES[dtype]
    sections = [
        config,
        *(value for key, value in config.items() if key.endswith("_config") and isinstance(value, dict)),
    ]
    for section in sections:
        for key in ("dtype", "torch_dtype"):
            if isinstance(section, dict) and isinstance(section.get(key), str):
                section[key] = word
    if "torch_dtype" not in config:
        config["dtype"] = word


def _write_weights(
    directory: Path, tensors: list[Arrays], metadata: Mapping[str, str], progress: WriteProgress | None
) -> list[Path]:
    """The arrays in one file, or in shards with an index; those of one tensor are in one file."""
    shards: list[Arrays] = [{}]
    size = 0
    for arrays in tensors:
        own = sum(array.nbytes for array in arrays.values())
        if shards[-1] and size + own > MAX_SHARD:
            shards.append({})
            size = 0
        shards[-1] |= arrays
        size += own
    total = sum(array.nbytes for arrays in tensors for array in arrays.values())
    done = 0

    def written(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(done, total)

    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{index:05d}-of-{len(shards):05d}.safetensors" for index in range(1, len(shards) + 1)]
    paths = [directory / name for name in names]
    for path, shard in zip(paths, shards, strict=True):
        write_arrays(path, shard, metadata, written)
    if len(shards) == 1:
        return paths
    listed = {array: name for name, shard in zip(names, shards, strict=True) for array in shard}
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(listed.items()))}
    return [*paths, *_write(directory, {INDEX_FILE: index})]


def _write(directory: Path, files: Mapping[str, Any]) -> list[Path]:
    """Small files by name: JSON objects, texts or bytes."""
    paths = []
    for name, content in files.items():
        path = directory / name
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n" if isinstance(content, dict) else content
        data = text.encode() if isinstance(text, str) else text
        try:
            with replacing(path) as file:
                write_all(file, data)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None
        paths.append(path)
    return paths
