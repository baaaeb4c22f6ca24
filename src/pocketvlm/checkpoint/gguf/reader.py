"""`read_gguf` reads a GGUF file of the language model and its vision file into a `Checkpoint`."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.formats.gguf import check_types
from pocketvlm.checkpoint.gguf.files import vision_file
from pocketvlm.checkpoint.gguf.header import Header, read_header
from pocketvlm.checkpoint.gguf.names import gguf_format, hub_entries
from pocketvlm.checkpoint.gguf.settings import (
    check_text,
    check_vision,
    generation_config,
    layer_count,
    model_config,
    processor_config,
)
from pocketvlm.checkpoint.gguf.tokenizer import control_tokens, tokenizer_source
from pocketvlm.errors import CheckpointError, TensorError
from pocketvlm.fields import Fields

_TEMPLATE = "tokenizer.chat_template"


def read_gguf(path: Path, mmproj: Path | None = None) -> Checkpoint:
    """Read the headers of a language model and of its vision file.

    mmproj: the vision file; None takes one from the same folder. Without any the checkpoint has no vision tower.
    Raises ConfigError for another architecture, projector, tokenizer or type, and CheckpointError for a damaged or
    split file; every message names the file and the way out.
    """
    text = read_header(path)
    check_text(text)
    tokens = control_tokens(text)
    source = tokenizer_source(text)
    vision = _vision(text, mmproj)
    model = model_config(text, vision, dict(tokens.ids), tokens.ends)
    if tokens.size != model.text.vocab_size:
        raise TensorError(
            f"{path}: the embedding has {model.text.vocab_size} rows for {tokens.size} tokens: the file is damaged: "
            f"download or copy it again"
        )
    template = text.metadata.get(_TEMPLATE)
    if not isinstance(template, str):
        raise CheckpointError(
            f"{path}: has no chat template ({_TEMPLATE}): use a file that was converted from the original checkpoint"
        )
    files = (text,) if vision is None else (text, vision)
    entries, factors = hub_entries(
        {name: entry for file in files for name, entry in file.tensors.items()}, layer_count(text)
    )
    check_types(entries, str(path))
    missing = (
        f"there is no vision file beside {path}: download the model's mmproj file, such as "
        f"mmproj-MiniCPM-V-4.6-F16.gguf, into that folder, or give its path as mmproj"
    )
    return Checkpoint(
        path=path,
        model=model,
        processor=processor_config(vision, model, missing),
        generation=generation_config(text),
        eos_token_ids=tokens.ends,
        tokenizer=source,
        tokenizer_config=MappingProxyType(dict(tokens.roles)),
        chat_template=template,
        tensor_files=tuple(file.path for file in files),
        entries=MappingProxyType(entries),
        format=gguf_format(entries, factors, model),
    )


def _vision(text: Header, mmproj: Path | None) -> Header | None:
    if mmproj is None:
        return vision_file(text, Fields(text.metadata, str(text.path)).integer("qwen35.embedding_length"))
    vision = read_header(mmproj)
    check_vision(vision)
    return vision
