"""`read_dataset` reads data files into samples and collects every fault with its place."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from pocketvlm.errors import DataError, OptionError
from pocketvlm.train.data.files import Problem, Record, check_file, read_records
from pocketvlm.train.data.formats import Format, Layout, by_name, detect, keys_of, no_format
from pocketvlm.train.data.media import Folders
from pocketvlm.train.data.records import Conversation, read_conversation
from pocketvlm.train.data.registry import Source, find_sources
from pocketvlm.train.data.samples import Turns, samples_of
from pocketvlm.train.sample import Sample

SHOWN = 20  # problems in one message


@dataclass(slots=True)
class Dataset:
    """Samples of one or more files. format: names of their formats, with commas between them.

    problems: records that cannot be used, which are not among the samples. warnings: records that can, but are
    suspicious. records: number of records read, usable or not.
    """

    samples: list[Sample] = field(default_factory=list)
    format: str = ""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    records: int = 0

    def require_sound(self) -> None:
        """Raise DataError with the first problems if there are any, or if there is no sample."""
        refuse(self.problems)
        if not self.samples:
            raise DataError("the data has no sample: give at least one question with its answer")


def refuse(problems: Sequence[Problem]) -> None:
    """Raise DataError with the first problems and their number, if there are any."""
    if problems:
        raise DataError(listing(problems))


def listing(problems: Sequence[Problem]) -> str:
    """The first problems, one a line, and how many more there are."""
    lines = [str(problem) for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"and {len(problems) - SHOWN} more")
    return "\n".join(lines)


def read_dataset(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    name: str | None = None,
    media_dir: str | Path | None = None,
    turns: Turns = "all",
) -> Dataset:
    """Read data files: their samples, and the faults of single records.

    paths: files, or directories with a dataset_info.json. format: "auto" (by the keys of the records), "messages",
    "sharegpt", "alpaca", "query-response" or "prompt-completion". name: entry of dataset_info.json. media_dir: where
    relative paths of media begin; without it, in the folder of the data file, then in the current one. turns: "last"
    learns only the last answer of each conversation. Raises DataError where a file cannot be read at all (missing,
    empty, not JSON, an unknown format, several formats), OptionError for an option.
    """
    form = by_name(format)
    _check_turns(turns)
    found = Dataset()
    formats: list[str] = []
    seen: dict[bytes, str] = {}
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for source in find_sources(Path(path).expanduser(), name):
            used = _read(source, form or source.form, _folders(source.path, media_dir), turns, found, seen)
            formats += [used.name] if used.name not in formats else []
    found.format = ", ".join(formats)
    return found


def check_sources(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str = "auto",
    name: str | None = None,
    media_dir: str | Path | None = None,
    turns: Turns = "all",
) -> None:
    """Raise the errors of `read_dataset` that need no record: of options, and of files that are missing."""
    by_name(format)
    _check_turns(turns)
    for path in [paths] if isinstance(paths, str | Path) else paths:
        for source in find_sources(Path(path).expanduser(), name):
            _folders(source.path, media_dir)
            check_file(source.path)


def _check_turns(turns: str) -> None:
    if turns not in get_args(Turns):
        raise OptionError(f"turns={turns!r} is not supported: give 'all' or 'last'")


def _folders(path: Path, media_dir: str | Path | None) -> Folders:
    if media_dir is None:
        return Folders((path.parent.absolute(), Path.cwd()))
    folder = Path(media_dir).expanduser()
    if not folder.is_dir():
        raise DataError(f"media_dir={str(media_dir)!r} is no folder: give the folder that paths in the data begin in")
    return Folders((folder.absolute(),))


def _read(
    source: Source, form: Format | None, folders: Folders, turns: Turns, found: Dataset, seen: dict[bytes, str]
) -> Format:
    """Add the records of a file to the dataset; returns their format."""
    records = read_records(source.path)
    problems = list(records.problems)
    chosen = records.records if source.count is None else records.records[: source.count]
    found.records += len(chosen) + len(records.problems)
    if not chosen:
        refuse(records.problems)
    form = form or _format(chosen, source.path)
    for record in chosen:
        try:
            _check_format(record, form, source.layout)
            talk = read_conversation(record.data, form, source.layout, folders)
            found.samples += samples_of(talk, record.place, form.strict, turns)
        except DataError as error:
            problems.append(Problem(record.place, str(error), record.number))
            continue
        digest = _digest(talk)
        if digest in seen:
            text = f"the same conversation as {seen[digest]}: remove one of them"
            found.warnings.append(Problem(record.place, text, record.number))
        seen.setdefault(digest, record.place)
    found.problems += sorted(problems, key=lambda problem: problem.number)
    return form


def _format(records: Sequence[Record], path: Path) -> Format:
    """The one format of all records that have a known one. Raises DataError."""
    counts: Counter[str] = Counter()
    forms: dict[str, tuple[Format, Record]] = {}
    for record in records:
        try:
            form = detect(record.data)
        except DataError as error:
            raise DataError(f"{record.place}: {error}") from None
        if form is not None:
            counts[form.name] += 1
            forms.setdefault(form.name, (form, record))
    if not counts:
        raise DataError(f"{path}: {no_format([record.data for record in records])}")
    if len(counts) > 1:
        parts = [f"{name} (first at {forms[name][1].place})" for name in counts]
        raise DataError(f"{path}: records of several formats: {' and '.join(parts)}: give each format its own file")
    return forms[next(iter(counts))][0]


def _check_format(record: Record, form: Format, layout: Layout) -> None:
    """Raise DataError for a record that has not the keys of its file's format."""
    if layout.columns or detect(record.data) is not None:
        return
    raise DataError(f"the keys are {keys_of(record.data)}; {form.title} needs {form.needs}")


def _digest(talk: Conversation) -> bytes:
    text = json.dumps([talk.messages, talk.tools], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
