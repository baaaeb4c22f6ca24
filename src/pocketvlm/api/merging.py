"""`merge_adapter` writes a checkpoint with an adapter (LoRA) merged into its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pocketvlm.api.converting import Unmapping
from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.adapters.base import difference, other_base
from pocketvlm.checkpoint.adapters.merge import MergeChanges, Merged, merge
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.files import is_adapter
from pocketvlm.checkpoint.hub import is_model, resolve, resolve_adapter
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.output import check_free, write_checkpoint
from pocketvlm.checkpoint.writers.registry import find_writer
from pocketvlm.checkpoint.writers.writer import GGUF_SUFFIX
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.model import expected_tensors, tensor_roles

Progress = Callable[[str, int, int], None]
_FORMAT = "bf16"


@dataclass(frozen=True, slots=True)
class MergeResult:
    """The outcome of `merge_adapter`.

    paths: the files that were written. dequantized: the quantization of the base, whose dequantized weights were
    merged; None for a dense base. changes: what was merged, and what became of the adapter's options.
    """

    paths: tuple[Path, ...]
    dequantized: str | None
    changes: MergeChanges

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {"paths": [str(path) for path in self.paths], "dequantized": self.dequantized, **asdict(self.changes)}


def merge_adapter(
    model: str | Path,
    adapter: str | Path,
    out: str | Path,
    *,
    scale: float = 1.0,
    revision: str | None = None,
    adapter_revision: str | None = None,
    mmproj: str | Path | None = None,
    allow_other_base: bool = False,
    progress: Progress | None = None,
) -> MergeResult:
    """Merge an adapter into a checkpoint and write it as bfloat16 safetensors: W + scale * alpha / r * B A.

    model: "nano", a directory, a GGUF file or a hub id, in any format that is read; quantized weights are dequantized
    first. adapter: a folder in PEFT's file format or a hub id. out: the directory to make, which appears whole or not
    at all. scale: how much of the updates, with 1 for all; tensors that the adapter replaces have no scale. revision,
    mmproj: of the model, as `load` takes them. adapter_revision: of the adapter. allow_other_base: also merge an
    adapter that was trained on another base. progress(stage, done, total) is called with "download" and "write", and
    bytes.

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
    check_order(model, adapter)
    download = progress and partial(progress, "download")
    folder = resolve_adapter(adapter, adapter_revision, download)  # before the model, whose download may take an hour
    checkpoint = open_checkpoint(resolve(model, revision, download, mmproj=mmproj), mmproj=mmproj)
    merged = with_adapter(checkpoint, folder, scale=scale, allow_other_base=allow_other_base)
    made = merged.checkpoint
    tensors, roles = made.tensors(expected_tensors(made.model)), tensor_roles(made.model)
    written = Unmapping(made.tensor_files, progress and partial(progress, "write"))
    paths = write_checkpoint(find_writer(_FORMAT), made, tensors, roles, target, _FORMAT, written)
    return MergeResult(paths, checkpoint.quantization, merged.changes)


def check_order(model: str | Path, adapter: str | Path) -> None:
    """Raise OptionError if a folder of an adapter is given as the model, and perhaps the model as the adapter."""
    if not is_adapter(Path(model).expanduser()):
        return
    if is_model(adapter):
        raise OptionError(
            f"model {str(model)!r} is an adapter and adapter {str(adapter)!r} a model: the two are swapped: give the "
            f"model first"
        )
    raise OptionError(f"model {str(model)!r} is an adapter: give its base as the model")


def with_adapter(
    checkpoint: Checkpoint, adapter: str | Path, *, scale: float = 1.0, allow_other_base: bool = False
) -> Merged:
    """A checkpoint whose tensors have an adapter merged into them; they are computed when they are read.

    The arguments are those of `merge_adapter`. Raises as it does.
    """
    expected = expected_tensors(checkpoint.model)
    base = checkpoint.tensors(expected)
    found = read_adapter(adapter, expected, base=base)
    kind = None if allow_other_base else difference(found.base, base)
    if kind is not None:
        raise CheckpointError(
            f"{adapter}: was trained on another base than {checkpoint.path}{other_base(found, kind)}, or allow another "
            f"base (--allow-other-base)"
        )
    return merge(checkpoint, found, scale)
