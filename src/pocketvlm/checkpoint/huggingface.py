"""`read_checkpoint` reads a directory in Hugging Face's layout into a `Checkpoint`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.files import GIVE_ADAPTER, find_files, is_adapter
from pocketvlm.checkpoint.formats.registry import find_format
from pocketvlm.checkpoint.formats.safetensors import TensorEntry, read_entries
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.checkpoint.names import EMBEDDING, HEAD, canonical_entries
from pocketvlm.checkpoint.npu import refuse_npu_package
from pocketvlm.config import GenerationConfig, ModelConfig, ProcessorConfig
from pocketvlm.errors import CheckpointError, TensorError
from pocketvlm.types import TokenizerSource

_COMPARE_CHUNK = 1 << 22
_HEAD_MODULE = HEAD.removesuffix("weight")


def read_checkpoint(directory: Path, weights: bool = True) -> Checkpoint:
    """Read the configurations and the tensor headers of a directory.

    weights: False looks at no weight file; entries and tensor_files are then empty.

    The ids that end generation are those of generation_config.json if it names any; otherwise those of config.json and
    the tokenizer's own eos token. Raises ConfigError for another architecture, or a value or quantization that
    is not supported, and CheckpointError for a missing or damaged file; every message names the file and the way out.
    """
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: is not a directory: give the directory that holds config.json")
    refuse_npu_package(directory)
    if is_adapter(directory) and (weights or not (directory / "config.json").is_file()):
        raise CheckpointError(f"{directory}: is an adapter, no model: {GIVE_ADAPTER}")
    config = read_json(directory / "config.json")
    model = ModelConfig.from_dict(config, str(directory / "config.json"))
    generation_file = directory / "generation_config.json"
    generation = (
        GenerationConfig.from_dict(read_json(generation_file), str(generation_file))
        if generation_file.exists()
        else GenerationConfig()
    )
    tokenizer_file = directory / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise CheckpointError(
            f"{tokenizer_file}: the file is missing: download or copy all files of the checkpoint; no other tokenizer "
            f"format is read"
        )
    tokenizer_config = read_json(directory / "tokenizer_config.json")
    found = canonical_entries(read_entries(directory), str(directory)) if weights else {}
    entries = _resolve_tied_head(found, model, directory)
    return Checkpoint(
        path=directory,
        model=model,
        processor=_processor(directory),
        generation=generation,
        eos_token_ids=generation.eos_token_ids
        or tuple(dict.fromkeys((*model.eos_token_ids, *_tokenizer_eos(tokenizer_file, tokenizer_config)))),
        tokenizer=TokenizerSource.of_file(tokenizer_file),
        tokenizer_config=MappingProxyType(tokenizer_config),
        chat_template=_chat_template(directory, tokenizer_config),
        tensor_files=find_files(directory) if weights else (),
        entries=MappingProxyType(entries),
        format=find_format(directory, config, entries),
    )


def _processor(directory: Path) -> ProcessorConfig:
    path, in_section, settings = processor_section(directory)
    return ProcessorConfig.from_dict(settings, f"{path}: image_processor" if in_section else str(path))


def processor_section(directory: Path) -> tuple[Path, bool, dict[str, Any]]:
    """The file of image settings, whether they are a section of it, and the settings.

    They are the section image_processor of processor_config.json as newer tools save it, else preprocessor_config.json.
    """
    combined = directory / "processor_config.json"
    if combined.exists():
        section = read_json(combined).get("image_processor")
        if isinstance(section, dict):
            return combined, True, section
    plain = directory / "preprocessor_config.json"
    return plain, False, read_json(plain)


def _chat_template(directory: Path, tokenizer_config: Mapping[str, Any]) -> str:
    """The default template: chat_template.jinja, chat_template.json or tokenizer_config.json, in this order."""
    jinja = directory / "chat_template.jinja"
    if jinja.exists():
        try:
            return jinja.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{jinja}: cannot be read: {error}: download or copy it again") from None
    source = directory / "tokenizer_config.json"
    template = tokenizer_config.get("chat_template")
    if (directory / "chat_template.json").exists():
        source = directory / "chat_template.json"
        template = read_json(source).get("chat_template")
    if isinstance(template, list):
        named = [
            item.get("template") for item in template if isinstance(item, Mapping) and item.get("name") == "default"
        ]
        template = named[-1] if named else None
    if not isinstance(template, str):
        raise CheckpointError(
            f"{directory}: no chat template: neither chat_template.jinja nor a text under chat_template in "
            f"{source.name}: copy chat_template.jinja from the original checkpoint"
        )
    return template


def _tokenizer_eos(tokenizer_file: Path, tokenizer_config: Mapping[str, Any]) -> tuple[int, ...]:
    """The id of tokenizer_config's eos_token, looked up by name in tokenizer.json; nothing if it has none."""
    token = tokenizer_config.get("eos_token")
    text = token.get("content") if isinstance(token, Mapping) else token
    if text is None:
        return ()
    added = read_json(tokenizer_file).get("added_tokens")
    for item in added if isinstance(added, list) else ():
        if isinstance(item, Mapping) and item.get("content") == text and isinstance(item.get("id"), int):
            return (item["id"],)
    raise CheckpointError(
        f"{tokenizer_file}: eos_token {text!r} of tokenizer_config.json is not among its added_tokens: the two files "
        f"do not belong together"
    )


def _resolve_tied_head(entries: dict[str, TensorEntry], model: ModelConfig, directory: Path) -> dict[str, TensorEntry]:
    """With a tied head keep one of the two tensors; refuse tensors that differ: the reference does not tie those."""
    if not model.text.tie_word_embeddings:
        return entries
    dense = (HEAD, f"{_HEAD_MODULE}bias")
    parts = [entry.name for name, entry in entries.items() if name.startswith(_HEAD_MODULE) and name not in dense]
    if parts:
        raise TensorError(
            f"{directory}: {parts[0]!r} is of a quantized output matrix, but config.json ties that to the embedding: "
            f"set tie_word_embeddings to false in config.json and its text_config, or delete the tensors of lm_head"
        )
    if HEAD not in entries:
        return entries
    head = entries.pop(HEAD)
    embedding = entries.setdefault(EMBEDDING, head)
    same_form = (head.dtype, head.shape) == (embedding.dtype, embedding.shape)
    if head is not embedding and not (same_form and all(a == b for a, b in _chunks(head, embedding))):
        raise TensorError(
            f"{directory}: {head.name!r} differs from {embedding.name!r} although config.json ties them: set "
            f"tie_word_embeddings to false in config.json and its text_config, or delete {head.name!r}"
        )
    return entries


def _chunks(*entries: TensorEntry) -> Iterator[tuple[bytes, ...]]:
    """The bytes of tensors of equal size in chunks, one tuple for each chunk, independent of their dtypes."""
    maps = [np.memmap(entry.file, np.uint8, "r", entry.start, (entry.nbytes,)) for entry in entries if entry.nbytes]
    for start in range(0, entries[0].nbytes, _COMPARE_CHUNK):
        yield tuple(data[start : start + _COMPARE_CHUNK].tobytes() for data in maps)
