"""dataset_info.json of LLaMA-Factory: which files a dataset is, in which format, and what its columns are called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import DataError
from pocketvlm.suggest import nearest
from pocketvlm.train.data.files import kind_of, read_bytes, text_of
from pocketvlm.train.data.formats import FORMATS, Format, Layout

INFO = "dataset_info.json"

_SUFFIXES = (".json", ".jsonl", ".gz", ".parquet")
# Columns of LLaMA-Factory, by the names of this package; those of alpaca have other names there.
_COLUMNS = {
    **{name: name for name in ("messages", "images", "videos", "system", "tools", "history")},
    "prompt": "instruction",
    "query": "input",
    "response": "output",
}
_ROLE_TAGS = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "call",
    "system_tag": "system",
}
_ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")


@dataclass(frozen=True, slots=True)
class Source:
    """A data file: its format (None: by its records), the keys of its records, and how many of them are taken."""

    path: Path
    form: Format | None = None
    layout: Layout = Layout()  # noqa: RUF009 - frozen
    count: int | None = None


def find_sources(path: Path, name: str | None) -> list[Source]:
    """The data files of a path: a file, a directory with dataset_info.json or one data file, or that file itself.

    name: one entry of dataset_info.json, or several with commas between them. Raises DataError.
    """
    if path.is_dir():
        if (path / INFO).is_file():
            return _registered(path / INFO, name)
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if len(files) == 1 and name is None:
            return [Source(files[0])]
        found = ", ".join(file.name for file in files) or "none"
        raise DataError(f"{path}: the folder has no {INFO}, and its data files are {found}: give a file")
    if path.name == INFO:
        return _registered(path, name)
    if name is not None:
        raise DataError(f"name={name!r} chooses an entry of {INFO}, but {path} is a data file: leave the name out")
    return [Source(path)]


def _registered(path: Path, name: str | None) -> list[Source]:
    try:
        entries = json.loads(text_of(path, read_bytes(path)))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}): correct it") from None
    if not isinstance(entries, dict):
        raise DataError(f"{path}: must be an object with an entry for each dataset, not {kind_of(entries)}")
    known = ", ".join(entries) or "none"
    if name is None:
        if len(entries) != 1:
            raise DataError(f"{path}: it lists the datasets {known}: choose with name=NAME")
        name = next(iter(entries))
    found = []
    for each in name.split(","):
        entry = entries.get(each.strip())
        if entry is None:
            near = nearest(each.strip(), entries)
            hint = "" if near is None else f" (did you mean {near!r}?)"
            raise DataError(f"{path}: it has no dataset {each.strip()!r}{hint}: give one of {known}")
        found.append(_source(path, each.strip(), entry))
    return found


def _source(path: Path, name: str, entry: Any) -> Source:
    where = f"{path}: {name}"
    if not isinstance(entry, Mapping):
        raise DataError(f"{where} must be an object with 'file_name', not {kind_of(entry)}")
    remote = next((key for key in _ELSEWHERE if entry.get(key)), None)
    if remote is not None and not entry.get("file_name"):
        raise DataError(f"{where}: {remote}={entry[remote]!r} is not downloaded: save the data, and give 'file_name'")
    if entry.get("ranking"):
        raise DataError(f"{where}: ranking is preference data, which is not trained on: give a dataset of answers")
    file = entry.get("file_name")
    if not isinstance(file, str):
        raise DataError(f"{where}: 'file_name' is missing: give the data file, relative to {path.parent}")
    kind = entry.get("formatting", "alpaca")
    if kind not in ("alpaca", "sharegpt", "openai"):
        raise DataError(f"{where}: formatting={kind!r} is not supported: give 'alpaca', 'sharegpt' or 'openai'")
    count = entry.get("num_samples")
    if count is not None and (not isinstance(count, int) or count < 1):
        raise DataError(f"{where}: num_samples={count!r} is not supported: give a whole number of at least 1")
    whole = path.parent / file
    if not whole.is_file():
        raise DataError(f"{where}: file_name={file!r}: no such file in {path.parent}: correct it")
    return Source(whole, FORMATS["alpaca" if kind == "alpaca" else "sharegpt"], _layout(where, kind, entry), count)


def _layout(where: str, kind: str, entry: Mapping[str, Any]) -> Layout:
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    for key, value in (("columns", columns), ("tags", tags)):
        if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value.values()):
            raise DataError(f"{where}: {key!r} must be an object of strings: correct it")
    refused = next((key for key in columns if key in ("chosen", "rejected", "kto_tag", "audios")), None)
    if refused is not None:
        raise DataError(f"{where}: column {refused!r} is not trained on: give questions, answers, images and videos")
    unknown = next((key for key in columns if key not in _COLUMNS), None)
    if unknown is not None:
        raise DataError(f"{where}: column {unknown!r} is unknown: give {', '.join(_COLUMNS)}")
    usual = {"openai": ("role", "content"), "sharegpt": ("from", "value")}.get(kind, (None, None))
    names = {_COLUMNS[key]: value for key, value in columns.items()}
    if kind == "openai":
        names.setdefault("messages", "messages")
    layout = Layout(names, tags.get("role_tag", usual[0]), tags.get("content_tag", usual[1]))
    return layout.with_roles({tags[key]: role for key, role in _ROLE_TAGS.items() if key in tags})
