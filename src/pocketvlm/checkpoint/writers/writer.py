"""`Writer` is the contract between tensors and the files of a checkpoint in one format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.config import ModelConfig
from pocketvlm.schemes import Role
from pocketvlm.tensors import Tensor

GGUF_SUFFIX = ".gguf"
# Bytes written, and their total.
WriteProgress = Callable[[int, int], None]


class Writer(Protocol):
    """Writes checkpoints of one format. It changes no code: what the format cannot hold exactly is refused."""

    @property
    def name(self) -> str:
        """As users write it, such as "gptq"."""

    def problem(self, name: str, role: Role, tensor: Tensor, config: ModelConfig) -> str | None:
        """Why the format cannot hold a tensor as it is, and what can be done; None if it can. Reads no values.

        config: of the model. Placeholders of schemes are enough, so this is asked before the tensor is quantized.
        """

    def check_files(
        self, checkpoint: Checkpoint, tensors: Mapping[str, Tensor], roles: Mapping[str, Role], out: Path, label: str
    ) -> None:
        """Refuse what `write` could not put into files, whatever values the quantized matrices get.

        Such are a configuration or tokenizer that the format cannot hold, small files that the source lacks, and files
        next to `out` that are in the way. The arguments are those of `write_checkpoint`; of the tensors only dense ones
        are read. Called before the work starts. Raises ConfigError, CheckpointError or OptionError.
        """

    def check(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> tuple[str, ...]:
        """What the format cannot hold of the values, or of the tensors together, each with what can be done.

        `problem` has passed all tensors. Reads scales, zero points and biases, but codes and dense weights only where
        those decide. Called before anything is written.
        """

    def nbytes(self, tensors: Mapping[str, Tensor], roles: Mapping[str, Role]) -> int:
        """About how many bytes `write` will write, for the check of free space."""

    def write(
        self,
        checkpoint: Checkpoint,
        tensors: Mapping[str, Tensor],
        roles: Mapping[str, Role],
        directory: Path,
        label: str,
        progress: WriteProgress | None = None,
    ) -> tuple[Path, ...]:
        """Write all files of a checkpoint into an existing, empty directory, and return their paths.

        checkpoint: where configuration, tokenizer, template and processor settings come from. tensors: all that the
        model expects, by the hub's names, dense or quantized; values are read one tensor at a time. label: names the
        quantization in file names ("Q4_K_M", "int4-g128"). The caller makes the directory appear under its final name
        only after all went well. Raises TensorError for values that the format cannot hold, and
        CheckpointError if a file cannot be written.
        """
