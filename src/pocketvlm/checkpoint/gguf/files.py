"""Finds GGUF files in a folder: the language model, and the vision file (mmproj) that belongs to it.

Files are known by their content, because those of Ollama have no names that say anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pocketvlm.checkpoint.files import is_gguf
from pocketvlm.checkpoint.gguf.header import Header, read_architecture, read_header
from pocketvlm.checkpoint.gguf.settings import TEXT, VISION, check_vision
from pocketvlm.errors import CheckpointError, ConfigError

SUFFIX = ".gguf"
DEFAULT_TAG = "Q4_K_M"
_PART = re.compile(r".*-(\d{5})-of-\d{5}\.gguf", re.IGNORECASE)
_SHOWN = 6
# general.file_type of the types of vision files, the best first.
_FILE_TYPES = (1, 32, 0)
_TYPE_NAMES = ("F16", "BF16", "F32")


def text_file(directory: Path) -> Path | None:
    """The language model in a folder; None where there is no GGUF file.

    Of several, that of type Q4_K_M is taken. Raises CheckpointError where it is not clear which one is meant.
    """
    files = _architectures(directory)
    if not files:
        return None
    texts = [path for path, architecture in files.items() if architecture == TEXT]
    texts = texts or [path for path, architecture in files.items() if architecture != VISION]
    if not texts:
        raise CheckpointError(
            f"{directory}: holds only vision files ({_listed([*files])}): add the GGUF file of the model"
        )
    named = [path for path in texts if has_tag(path.name, DEFAULT_TAG)]
    found = named if len(named) == 1 else texts
    if len(found) > 1 and not _PART.fullmatch(found[0].name):
        raise CheckpointError(
            f"{directory}: holds several GGUF models ({_listed(found)}): give the path of one of them"
        )
    return found[0]


def vision_file(text: Header, width: int) -> Header | None:
    """The vision file beside a language model of this width, in 16 bits if there is one; None where there is none.

    Raises ConfigError where the only one is of another model.
    """
    others: list[Header] = []
    fitting: list[Header] = []
    for path, architecture in _architectures(text.path.parent).items():
        if architecture != VISION:
            continue
        header = read_header(path)
        try:
            check_vision(header)
        except ConfigError:
            others.append(header)
            continue
        fitting.append(header)
    fitting = [header for header in fitting if header.metadata.get("clip.vision.projection_dim") == width] or fitting
    if fitting:
        return min(fitting, key=_preference)
    # In a folder of Ollama's blobs those of other models are no mistake.
    if others and text.path.suffix == SUFFIX:
        check_vision(others[0])
    return None


def _architectures(directory: Path) -> dict[Path, str]:
    """The GGUF files of a folder and what each is for. Raises CheckpointError for a damaged one.

    Blobs without a name of their own are left out where they are damaged: they may be downloads of another model.
    """
    found = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and is_gguf(path):
            try:
                found[path] = read_architecture(path)
            except CheckpointError:
                if path.suffix == SUFFIX:
                    raise
    return found


def _preference(header: Header) -> int:
    kind = header.metadata.get("general.file_type")
    return _FILE_TYPES.index(kind) if kind in _FILE_TYPES else len(_FILE_TYPES)


def choose_names(names: Sequence[str], tag: str | None, where: str) -> tuple[str, str | None]:
    """Of the files of a repository, those to download: the language model with a tag, and its vision file if any.

    tag: such as "Q8_0"; None takes Q4_K_M, or the only model. Raises CheckpointError where there is no such file, or
    where it is split.
    """
    files = sorted(name for name in names if name.lower().endswith(SUFFIX) and "/" not in name)
    visions = [name for name in files if "mmproj" in name.lower()]
    texts = [name for name in files if name not in visions]
    found = [name for name in texts if has_tag(name, tag or DEFAULT_TAG)]
    if tag is None and not found and len(texts) == 1:
        found = texts
    if not texts:
        way_out = "use another repository" if tag is None else f"leave out :{tag}, or use a repository of GGUF files"
        raise CheckpointError(f"{where}: holds no GGUF file of a language model: {way_out}")
    if not found:
        raise CheckpointError(
            f"{where}: no GGUF file of type {tag or DEFAULT_TAG}: name another type, as in org/name:Q8_0 (files: "
            f"{_listed([Path(name) for name in texts])})"
        )
    if _PART.fullmatch(found[0]):
        raise CheckpointError(
            f"{where}: {found[0]} is part of a split GGUF file, which are not read: choose a type in one file"
        )
    best = [name for kind in _TYPE_NAMES for name in visions if has_tag(name, kind)]
    return found[0], next(iter([*best, *visions]), None)


def has_tag(name: str, tag: str) -> bool:
    """Whether a file name ends in a type, such as "model-Q4_K_M.gguf", or has it before the number of a part."""
    stem = re.sub(r"(-\d{5}-of-\d{5})?\.gguf$", "", name, flags=re.IGNORECASE)
    return re.fullmatch(rf"(.*[-._])?{re.escape(tag)}", stem, re.IGNORECASE) is not None


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(path.name for path in files[:_SHOWN]) + more
