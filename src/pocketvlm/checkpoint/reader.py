"""`open_checkpoint` reads a checkpoint of either layout: a directory of Hugging Face's, or a GGUF file."""

from __future__ import annotations

from pathlib import Path

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.files import INDEX_FILE, SINGLE_FILE
from pocketvlm.checkpoint.gguf.files import text_file
from pocketvlm.checkpoint.gguf.reader import read_gguf
from pocketvlm.checkpoint.huggingface import read_checkpoint
from pocketvlm.errors import OptionError


def open_checkpoint(path: Path, weights: bool = True, mmproj: str | Path | None = None) -> Checkpoint:
    """Read the configurations and the tensor headers of a directory or a GGUF file.

    A directory with a GGUF file and no safetensors files is read as the GGUF file. weights: False looks at no
    safetensors file. mmproj: the vision file of a GGUF file; None takes the one in the same folder. Raises
    CheckpointError, and OptionError for an mmproj where nothing needs one.
    """
    file = path if path.is_file() else None
    if path.is_dir() and not any((path / name).is_file() for name in (SINGLE_FILE, INDEX_FILE)):
        small = not weights and (path / "config.json").is_file() and (path / "tokenizer.json").is_file()
        file = None if small else text_file(path)
    if file is not None:
        return read_gguf(file, None if mmproj is None else Path(mmproj).expanduser())
    if mmproj is not None:
        raise OptionError(f"mmproj={str(mmproj)!r}: {path} is no GGUF model, and has its vision tower in itself")
    return read_checkpoint(path, weights)
