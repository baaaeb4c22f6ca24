"""`convert_model` changes the format of a checkpoint without changing its codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.safetensors import leave
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.output import check_free, write_checkpoint
from pocketvlm.checkpoint.writers.registry import find_writer
from pocketvlm.checkpoint.writers.writer import GGUF_SUFFIX
from pocketvlm.errors import OptionError
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.tensors import QuantizedTensor, Tensor

# Bytes after which pages of the source are unmapped: else the whole source would count as resident.
_UNMAPPED_EVERY = 1 << 28

Progress = Callable[[str, int, int], None]


def convert_model(
    model: str | Path,
    out: str | Path,
    *,
    format: str,
    revision: str | None = None,
    mmproj: str | Path | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Write a checkpoint in another format, and return the paths of its files.

    Quantized matrices retain their codes, scales and zero points exactly; what the format cannot hold so is refused
    before anything is written. "bf16" and "f16" write all values dequantized. In MLX files norms are stored as 1 +
    weight, rounded to the norm's own type, as mlx-vlm does it.

    model: "nano", a directory, a GGUF file or a hub id, in any format that is read. out: the directory to make, or a
    file that ends in .gguf. format: "gguf", "awq", "gptq", "mlx", "compressed-tensors", "native", "bf16" or "f16".
    revision: as `load` takes it. mmproj: the vision file of a GGUF model. progress(stage, done, total) is called with
    "download" and "write", and bytes. Raises OptionError, CheckpointError.
    """
    writer, target = find_writer(format), Path(out).expanduser()
    if target.suffix == GGUF_SUFFIX and format != "gguf":
        raise OptionError(f"{target}: format {format} is a directory: give a name that does not end in {GGUF_SUFFIX}")
    check_free(target)
    path = resolve(model, revision, progress and partial(progress, "download"), mmproj=mmproj)
    checkpoint = open_checkpoint(path, mmproj=mmproj)
    tensors = checkpoint.tensors(expected_tensors(checkpoint.model))
    roles = tensor_roles(checkpoint.model)
    written = Unmapping(checkpoint.tensor_files, progress and partial(progress, "write"))
    return write_checkpoint(writer, checkpoint, tensors, roles, target, label_of(checkpoint, tensors), written)


class Unmapping:
    """Progress of writing that unmaps the pages of the source from time to time."""

    def __init__(self, files: Sequence[Path], progress: Callable[[int, int], None] | None) -> None:
        self._files = files
        self._progress = progress
        self._before = 0

    def __call__(self, done: int, total: int) -> None:
        """done, total: bytes."""
        if done - self._before >= _UNMAPPED_EVERY or done == total:
            leave(self._files)
            self._before = done
        if self._progress is not None:
            self._progress(done, total)


def label_of(checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> str:
    """What file names call the quantization of a checkpoint: that of most values ("Q4_K_M" of a GGUF file's name)."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        if isinstance(tensor, QuantizedTensor):
            block = tensor.block if isinstance(tensor.block, int) else tensor.block[1]
            group = f"-g{block}" if block < tensor.shape[1] else ""
            counts[f"int{tensor.bits}{group}"] += tensor.shape[0] * tensor.shape[1]
    if not counts:
        counts.update({dtype.lower(): count for dtype, count in checkpoint.dtypes.items()})
    return max(counts, key=counts.__getitem__, default="bf16")
