"""`WRITERS` lists the formats that checkpoints are written in, by name."""

from __future__ import annotations

from collections.abc import Mapping

from pocketvlm.checkpoint.writers.awq import AWQWriter
from pocketvlm.checkpoint.writers.compressed_tensors import CompressedTensorsWriter
from pocketvlm.checkpoint.writers.dense import BFloat16Writer, Float16Writer
from pocketvlm.checkpoint.writers.gguf.writer import GgufWriter
from pocketvlm.checkpoint.writers.gptq import GPTQWriter
from pocketvlm.checkpoint.writers.mlx import MLXWriter
from pocketvlm.checkpoint.writers.native import NativeWriter
from pocketvlm.checkpoint.writers.writer import Writer
from pocketvlm.errors import OptionError
from pocketvlm.suggest import nearest

WRITERS: Mapping[str, Writer] = {
    writer.name: writer
    for writer in (
        NativeWriter(),
        GgufWriter(),
        AWQWriter(),
        GPTQWriter(),
        MLXWriter(),
        CompressedTensorsWriter(),
        BFloat16Writer(),
        Float16Writer(),
    )
}


def find_writer(format: str) -> Writer:
    """The writer of a format. Raises OptionError, listing all, for a name that is none."""
    if format in WRITERS:
        return WRITERS[format]
    near = nearest(format, tuple(WRITERS))
    hint = f"did you mean {near}? " if near else ""
    raise OptionError(f"format={format!r}: no such format: {hint}there are {', '.join(WRITERS)}")
