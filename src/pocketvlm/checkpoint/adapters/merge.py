"""`merge` gives a checkpoint whose tensors have an adapter's changes in them; each is computed when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.adapters import Adapter, Update
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.format import Entries, Format, Shape
from pocketvlm.checkpoint.names import EMBEDDING, HEAD
from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError, TensorError
from pocketvlm.tensors import (
    DenseTensor,
    LazyArray,
    StoredDtype,
    Tensor,
    all_finite,
    bfloat16_to_float32,
    float32_to_bfloat16,
)

_CHUNK = 1 << 23  # values that are merged at once
_NUMPY: Mapping[StoredDtype, Any] = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
# Options of an image that a checkpoint's processor settings hold, and those of them that do not apply to videos.
_SAVED = ("downsample_mode", "max_slice_nums", "slice_mode", "use_image_id", "scale_resolution")
_OF_IMAGES = {"max_slice_nums": 1, "use_image_id": False}


@dataclass(frozen=True, slots=True)
class MergeChanges:
    """What merging an adapter changed, and what became of the options that it was trained with.

    updated: number of matrices with a low-rank update. replaced: number of tensors that the adapter replaces. untied:
    whether the head, which was the embedding, became a tensor of its own. saved: options that the checkpoint's own
    settings now hold. left: options that only a request can give. for_videos: options that requests with videos must
    give too, because they have defaults of their own.
    """

    updated: int
    replaced: int
    untied: bool
    saved: Mapping[str, Any]
    left: Mapping[str, Any]
    for_videos: Mapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """A checkpoint with an adapter's changes. digest: of the adapter's values."""

    checkpoint: Checkpoint
    digest: str
    changes: MergeChanges


def merge(checkpoint: Checkpoint, adapter: Adapter, scale: float = 1.0) -> Merged:
    """The checkpoint with W + scale * update in the place of W, rounded once to the dtype of W, as replacements are.

    Quantized matrices that change become float32. A tied head that changes in another way than the embedding is untied.
    The adapter's options go into the processor's settings where these say the same. Raises OptionError for a scale that
    is no number or 0, for another one than 1 with tensors that are replaced, and for a mode that the checkpoint lacks.
    """
    if not (isinstance(scale, int | float) and math.isfinite(scale) and scale):
        raise OptionError(f"scale={scale!r} is out of range: give a number that is not 0, such as 1")
    if scale != 1 and adapter.replacements:
        raise OptionError(
            f"scale={scale:g}: {adapter.source} replaces {len(adapter.replacements)} tensors, such as "
            f"{next(iter(adapter.replacements))}, which have no scale: give 1"
        )
    model = checkpoint.model
    untied = model.text.tie_word_embeddings and not _alike(adapter)
    if untied:
        model = replace(model, text=replace(model.text, tie_word_embeddings=False))
    options = dict(adapter.options)
    saved = {name: options.pop(name) for name in _SAVED if name in options}
    mode = saved.get("downsample_mode")
    if mode is not None:
        if model.downsample_modes and mode not in model.downsample_modes:
            raise OptionError(
                f"{adapter.source}: downsample_mode={mode!r} is not supported by this checkpoint, whose vision tower "
                f"was made for {model.downsample_modes[0]} alone: give the adapter's own base"
            )
        model = replace(model, downsample_mode=mode)
    known = {field.name for field in fields(ProcessorConfig)}
    processor = replace(checkpoint.processor, **{name: value for name, value in saved.items() if name in known})
    for_videos = {name: saved[name] for name, usual in _OF_IMAGES.items() if saved.get(name, usual) != usual}
    format = MergedFormat(checkpoint.format, adapter, float(scale), checkpoint.model.text.tie_word_embeddings)
    merged = replace(checkpoint, model=model, processor=processor, format=format)
    changes = MergeChanges(len(adapter.updates), len(adapter.replacements), untied, saved, options, for_videos)
    return Merged(merged, adapter.digest(), changes)


def _alike(adapter: Adapter) -> bool:
    """Whether an adapter changes embedding and head in the same way, or neither."""
    changed = [adapter.updates.get(name) for name in (EMBEDDING, HEAD)]
    replaced = [adapter.replacements.get(name) for name in (EMBEDDING, HEAD)]
    return _same_update(*changed) and _same_tensor(*replaced)


def _same_update(first: Update | None, second: Update | None) -> bool:
    if first is None or second is None:
        return first is second
    return first is second or (
        first.scale == second.scale and np.array_equal(first.a, second.a) and np.array_equal(first.b, second.b)
    )


def _same_tensor(first: DenseTensor | None, second: DenseTensor | None) -> bool:
    if first is None or second is None:
        return first is second
    return first.dtype == second.dtype and np.array_equal(first.data, second.data)


@dataclass(frozen=True, slots=True, eq=False)
class MergedFormat:
    """The format of a checkpoint whose tensors an adapter changes. tied: whether the files hold no head of its own."""

    inner: Format
    adapter: Adapter
    scale: float
    tied: bool

    def describe(self) -> str | None:
        """The quantization of the files."""
        return self.inner.describe()

    def tensors(self, entries: Entries, expected: Mapping[str, Shape], where: str, sparse: bool) -> dict[str, Tensor]:
        """The expected tensors with the adapter's changes; see `Format`."""
        own = {name: shape for name, shape in expected.items() if not (self.tied and name == HEAD)}
        found: Mapping[str, Tensor] = self.inner.tensors(entries, own, where, sparse)

        def tensor(name: str) -> Tensor:
            stored = found[EMBEDDING if self.tied and name == HEAD else name]
            replaced, update = self.adapter.replacements.get(name), self.adapter.updates.get(name)
            base = replace(stored, name=name) if replaced is None else replaced
            if replaced is None and update is None:
                return base
            dtype: StoredDtype = stored.dtype if isinstance(stored, DenseTensor) else "f32"
            return merged_tensor(base, update, self.scale, dtype)

        return {name: tensor(name) for name in expected}


def merged_tensor(base: Tensor, update: Update | None, scale: float, dtype: StoredDtype) -> DenseTensor:
    """base + scale * update, computed in float32 whenever it is read, and rounded once to `dtype`.

    update: None only changes the dtype. Raises TensorError, when it is read, for values that the dtype cannot hold.
    """
    if update is None and isinstance(base, DenseTensor) and base.dtype == dtype:
        return base
    shape = base.shape

    def read() -> NDArray[Any]:
        old: NDArray[Any] = base.finite_data() if isinstance(base, DenseTensor) else base.dequantize()
        is_bfloat16 = isinstance(base, DenseTensor) and base.dtype == "bf16"
        rows = old.reshape(shape[0], -1)
        made = np.empty(rows.shape, _NUMPY[dtype])
        step = max(_CHUNK // rows.shape[1], 1)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            values = bfloat16_to_float32(rows[part]) if is_bfloat16 else rows[part].astype(np.float32)
            with np.errstate(over="ignore", invalid="ignore"):
                if update is not None:
                    values += (update.b[part] @ update.a) * np.float32(scale * update.scale)
                made[part] = float32_to_bfloat16(values) if dtype == "bf16" else values
        if not all_finite(made, dtype):
            raise TensorError(
                f"{base.name}: the merged values are larger than {dtype} holds: give a smaller scale, or train the "
                f"adapter again with a lower learning rate"
            )
        return made.reshape(shape)

    return DenseTensor(base.name, dtype, LazyArray(shape, np.dtype(_NUMPY[dtype]), read), base.origin)
