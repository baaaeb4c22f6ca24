"""`GgufWriter` writes a checkpoint as a GGUF file of the language model and a vision file (mmproj)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.gguf.names import file_name, is_text
from pocketvlm.checkpoint.writers.gguf import matrices
from pocketvlm.checkpoint.writers.gguf.container import Item, has_content, padded, write_gguf
from pocketvlm.checkpoint.writers.gguf.dense import dense_item, dense_kind
from pocketvlm.checkpoint.writers.gguf.metadata import (
    FILE_TYPES,
    check_model,
    model_name,
    text_metadata,
    vision_metadata,
)
from pocketvlm.checkpoint.writers.gguf.order import column_blocks, stored_rows
from pocketvlm.checkpoint.writers.gguf.vocabulary import tokenizer_metadata
from pocketvlm.checkpoint.writers.writer import GGUF_SUFFIX, WriteProgress
from pocketvlm.config import ModelConfig, TextConfig
from pocketvlm.errors import OptionError, TensorError
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

_MULTIPLIED: tuple[Role, ...] = ("matrix", "gate", "embedding", "tied_embedding", "head", "vision_matrix")
_SCALE = ".scale"
# Labels that say bits and groups, which GGUF files do not have in their names.
_OF_CODES = re.compile(r"int\d+(-g\d+)?(-\w+)?")


class GgufWriter:
    """Writes `<Model>-<label>.gguf` and, for a model with a vision tower, `mmproj-<Model>-<type>.gguf`.

    A label of bits and groups, such as "int4-g64", becomes the type of most values. Matrices that are not quantized
    have the type that the label names (F32, F16, BF16), else their own in the text file and F16 in the vision file;
    BF16 takes the place of F16 for values beyond its range. Norms, biases, convolutions and positions are F32.
    """

    name = "gguf"

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        if isinstance(tensor, DenseTensor):
            return None
        if role not in _MULTIPLIED:
            return "GGUF files have quantized matrices alone: leave the tensor dense"
        if reason := matrices.problem(tensor):
            return reason
        try:
            column_blocks(name, tensor, config.text)
        except TensorError as error:
            return str(error)
        return None

    def check_files(
        self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], out: Path, label: str
    ) -> None:
        check_model(checkpoint)
        tokenizer_metadata(checkpoint)
        vision = None if out.suffix != GGUF_SUFFIX else _vision_file(checkpoint, tensors, roles, out.parent, label)
        if vision is None or not (vision.path.exists() or vision.path.is_symlink()):
            return
        # What will be quantized has no values yet, so that nothing can be compared.
        planned = any(
            role == "vision_matrix" and isinstance(tensors[name], QuantizedTensor) for name, role in roles.items()
        )
        if planned or not vision.is_written():
            raise OptionError(
                f"{vision.path}: exists already and is not known to be the vision file of {out.name}: choose another "
                f"folder for {out.name}, or move it away if no other model needs it"
            )

    def check(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> tuple[str, ...]:
        found = []
        for tensor in tensors.values():
            if isinstance(tensor, QuantizedTensor):
                try:
                    matrices.as_blocks(tensor)
                except TensorError as error:
                    found.append(str(error))
        return tuple(found)

    def nbytes(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> int:
        total = 1 << 24  # the vocabulary and all headers
        for name, tensor in tensors.items():
            count = int(np.prod(tensor.shape))
            if isinstance(tensor, QuantizedTensor):
                total += matrices.estimated_nbytes(tensor)
            else:
                total += padded(count * (2 if roles[name] in (*_MULTIPLIED, "patch_embedding") else 4))
        return total

    def write(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        directory: Path,
        label: str,
        progress: WriteProgress | None = None,
    ) -> tuple[Path, ...]:
        check_model(checkpoint)
        name = model_name(checkpoint.path)
        label = _type_label(label)
        text = _items(tensors, roles, label, checkpoint.model.text, of_text=True)
        files = []
        if text:
            named = _community_label(main_kind(text)) if _OF_CODES.fullmatch(label) else label
            known = named if named in FILE_TYPES else main_kind(text)
            pairs = text_metadata(checkpoint, name, known, _parameters(text))
            files.append(_File(directory / f"{name}-{named}.gguf", pairs, text))
        if (vision := _vision_file(checkpoint, tensors, roles, directory, label)) is not None:
            files.append(vision)
        total, done = sum(item.nbytes for file in files for item in file.items), 0

        def written(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for file in files:
            write_gguf(file.path, file.pairs, file.items, written)
        return tuple(file.path for file in files)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    pairs: dict[str, Any]
    items: list[Item]

    def is_written(self) -> bool:
        """Whether the file exists with exactly this content."""
        return has_content(self.path, self.pairs, self.items)


def _vision_file(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], directory: Path, label: str
) -> _File | None:
    """The vision file; None for a model without a vision tower."""
    items = _items(tensors, roles, _type_label(label), checkpoint.model.text, of_text=False)
    if not items:
        return None
    name, kind = model_name(checkpoint.path), main_kind(items)
    pairs = vision_metadata(checkpoint, name, kind, _parameters(items))
    return _File(directory / f"mmproj-{name}-{kind}.gguf", pairs, items)


def _type_label(label: str) -> str:
    return label.upper() if label.upper() in FILE_TYPES else label


def main_kind(items: list[Item]) -> str:
    """The type of most values in the layers' matrices of a file."""
    counts: Counter[str] = Counter()
    for item in items:
        if len(item.shape) == 2 and "blk." in item.name:
            counts[item.kind] += int(np.prod(item.shape))
    return max(counts, key=counts.__getitem__) if counts else "F32"


def _community_label(kind: str) -> str:
    """What files are called whose matrices have mostly this type: K-quants are mixtures."""
    return f"{kind}_M" if kind in ("Q3_K", "Q4_K", "Q5_K") else kind


def _parameters(items: list[Item]) -> int:
    return sum(int(np.prod(item.shape)) for item in items)


def _items(
    tensors: Mapping[str, Tensor], roles: Mapping[str, Role], label: str, text: TextConfig, of_text: bool
) -> list[Item]:
    """The tensors of one file. Raises TensorError for one that no type holds, before anything is written."""
    found = []
    for name, tensor in tensors.items():
        if is_text(name) is not of_text:
            continue
        if isinstance(tensor, DenseTensor):
            found.append(dense_item(name, tensor, dense_kind(name, roles[name], tensor, label), text))
        else:
            found += _quantized_items(name, tensor, roles[name], text)
    return found


def _quantized_items(name: str, tensor: QuantizedTensor, role: Role, text: TextConfig) -> Iterator[Item]:
    """A matrix, and its factor where it has one."""
    if role not in _MULTIPLIED:
        raise TensorError(f"{tensor.label}: GGUF files have quantized matrices alone: leave the tensor dense")
    blocks = matrices.as_blocks(column_blocks(name, tensor, text))
    order = stored_rows(name, text)

    def rows() -> Iterator[NDArray[Any]]:
        return blocks.rows(order)

    stored = file_name(name)
    yield Item(stored, blocks.kind, tensor.shape, blocks.nbytes, rows)
    if blocks.factor != 1:
        factor = np.array([blocks.factor], np.float32)
        yield Item(stored.removesuffix(".weight") + _SCALE, "F32", (1,), 4, lambda: [factor])
