"""`Checkpoint` is what the files of a model say; its tensors load on demand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.checkpoint.fingerprint import fingerprint
from pocketvlm.checkpoint.formats.format import Format
from pocketvlm.checkpoint.formats.registry import settings_files
from pocketvlm.checkpoint.formats.safetensors import TensorEntry
from pocketvlm.config import GenerationConfig, ModelConfig, ProcessorConfig
from pocketvlm.tensors import Tensor
from pocketvlm.types import TokenizerSource


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Everything the files of a checkpoint say, except the values of its tensors.

    path: the directory, or the GGUF file of the language model. model, processor, generation: its configurations.
    eos_token_ids: where generation ends. tokenizer: the content of tokenizer.json. tokenizer_config: that of
    tokenizer_config.json. chat_template: Jinja source. tensor_files: the weight files. entries: the tensors by the
    hub's names, without those never used. format: how the weights are stored.
    """

    path: Path
    model: ModelConfig
    processor: ProcessorConfig
    generation: GenerationConfig
    eos_token_ids: tuple[int, ...]
    tokenizer: TokenizerSource
    tokenizer_config: Mapping[str, Any]
    chat_template: str
    tensor_files: tuple[Path, ...]
    entries: Mapping[str, TensorEntry]
    format: Format

    @property
    def quantization(self) -> str | None:
        """The format of its quantized matrices, by name; None means that all tensors are dense."""
        return self.format.describe()

    @property
    def fingerprint(self) -> str:
        """Identifies the content of the weight files, and the settings that say what quantized ones mean."""
        settings = settings_files(self.path) if self.quantization else ()
        return fingerprint((*self.tensor_files, *settings))

    @property
    def parameters(self) -> int:
        """Number of stored values; a tied head counts once."""
        return sum(entry.parameters for entry in self.entries.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(entry.nbytes for entry in self.entries.values())

    @property
    def dtypes(self) -> dict[str, int]:
        """Number of values by the dtype they are stored in ("BF16", "F32", ...), most first."""
        counts: dict[str, int] = {}
        for entry in self.entries.values():
            counts[entry.dtype] = counts.get(entry.dtype, 0) + entry.parameters
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def tensors(self, expected: Mapping[str, tuple[int, ...]], sparse: bool = False) -> dict[str, Tensor]:
        """The tensors a model expects, by name, as read-only memory-mapped views in the order of `expected`.

        expected: name -> shape of every tensor, names as on the hub. Raises TensorError that lists all missing,
        unexpected and mis-shaped tensors, and CheckpointError if a file changed since. sparse: see `map_tensors`.
        """
        return self.format.tensors(self.entries, expected, str(self.path), sparse)
