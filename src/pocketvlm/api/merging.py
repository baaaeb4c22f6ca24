"""`merge_adapter` writes a checkpoint with an adapter (LoRA) merged into its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pocketvlm.api.converting import Unmapping
from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.adapters.merge import Merged, merge
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.output import check_free, write_checkpoint
from pocketvlm.checkpoint.writers.registry import find_writer
from pocketvlm.checkpoint.writers.writer import GGUF_SUFFIX
from pocketvlm.errors import OptionError
from pocketvlm.model import expected_tensors, tensor_roles

Progress = Callable[[str, int, int], None]
_FORMAT = "bf16"


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The outcome of `merge_adapter`.

    paths: the files that were written. dequantized: the quantization of the base, whose dequantized weights were
    merged; None for a dense base. updated: number of matrices with a low-rank update. replaced: number of tensors that
    the adapter replaces. untied: whether the head, which was the embedding, became a tensor of its own. saved: the
    adapter's options that the checkpoint's settings now hold. left: those that only a request can give. for_videos:
    those that requests with videos must give too, because they have defaults of their own.
    """

    paths: tuple[Path, ...]
    dequantized: str | None
    updated: int
    replaced: int
    untied: bool
    saved: Mapping[str, Any]
    left: Mapping[str, Any]
    for_videos: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {**asdict(self), "paths": [str(path) for path in self.paths]}


def merge_adapter(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    *,
    scale: float = 1.0,
    revision: str | None = None,
    adapter_revision: str | None = None,
    mmproj: str | Path | None = None,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge an adapter into a checkpoint and write it as bfloat16 safetensors: W + scale * alpha / r * B A.

    model: "nano", a directory, a GGUF file or a hub id, in any format that is read; quantized weights are dequantized
    first. adapter: a folder in PEFT's file format or a hub id. out: the directory to make, which appears whole or not
    at all. scale: how much of the updates, with 1 for all; tensors that the adapter replaces have no scale. revision,
    mmproj: of the model, as `load` takes them. adapter_revision: of the adapter. progress(stage, done, total) is called
    with "download" and "write", and bytes.

    Values are computed in float32 and rounded once. Raises OptionError and CheckpointError before the work starts, and
    TensorError for values that are not finite.
    """
    target = Path(out).expanduser()
    if target.suffix == GGUF_SUFFIX:
        raise OptionError(
            f"{target}: a merged checkpoint is a directory: give a name that does not end in {GGUF_SUFFIX}, or use "
            f"`pocketvlm quantize --merge-adapter`"
        )
    check_free(target)
    download = progress and partial(progress, "download")
    checkpoint = open_checkpoint(resolve(model, revision, download, mmproj=mmproj), mmproj=mmproj)
    merged = with_adapter(checkpoint, adapter, scale=scale, revision=adapter_revision, progress=download)
    made = merged.checkpoint
    tensors, roles = made.tensors(expected_tensors(made.model)), tensor_roles(made.model)
    written = Unmapping(made.tensor_files, progress and partial(progress, "write"))
    paths = write_checkpoint(find_writer(_FORMAT), made, tensors, roles, target, _FORMAT, written)
    return MergeResult(paths, checkpoint.quantization, **merged.facts())


def with_adapter(
    checkpoint: Checkpoint,
    adapter: str | Path,
    *,
    scale: float = 1.0,
    revision: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """A checkpoint whose tensors have an adapter merged into them; they are computed when they are read.

    The arguments are those of `merge_adapter`. Raises as it does.
    """
    expected = expected_tensors(checkpoint.model)
    base = checkpoint.tensors(expected)
    return merge(checkpoint, read_adapter(adapter, expected, revision=revision, base=base, progress=progress), scale)
