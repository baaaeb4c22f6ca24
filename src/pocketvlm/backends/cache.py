"""These functions find, list and remove the cached files: quantized weights and tokenizer vocabularies."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.errors import InputError, OptionError


@dataclass(frozen=True, slots=True)
class Entry:
    """One file. model, path: the name that the user gave and the directory of the checkpoint; None if it is unreadable.

    kind: the type of the weights, or "tokenizer". last_used: seconds since the epoch.
    """

    file: Path
    nbytes: int
    last_used: float
    model: str | None
    path: str | None
    kind: str | None


def directory(given: str | Path | None = None) -> Path:
    """The directory of packed files, which need not exist: "packed" in `given`, $POCKETVLM_CACHE or the user's cache.

    Raises OptionError if there is no such directory.
    """
    named = str(given or os.environ.get("POCKETVLM_CACHE", ""))
    try:
        if named:
            return Path(named).expanduser().absolute() / "packed"
        shared = os.environ.get("XDG_CACHE_HOME", "")
        # The specification of XDG_CACHE_HOME says that relative paths do not count.
        base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise OptionError("there is no home directory to store them in: set POCKETVLM_CACHE to a directory") from None
    return base / "pocketvlm" / "packed"


def entries(folder: Path) -> list[Entry]:
    """The files in a directory of packed files, most recently used first."""
    from pocketvlm.packfile import SUFFIX, PackedError, read_header

    found = []
    for file in folder.glob(f"*{SUFFIX}"):
        try:
            state = file.stat()
        except OSError:
            continue
        try:
            header = read_header(file)
            found.append(Entry(file, state.st_size, state.st_mtime, header.model, header.path, header.kind))
        except (PackedError, OSError):
            found.append(Entry(file, state.st_size, state.st_mtime, None, None, None))
    return sorted(found, key=lambda entry: (-entry.last_used, entry.file))


def clear(folder: Path, names: Sequence[str] = (), older_than: float | None = None) -> list[Entry]:
    """Remove files and leftovers of broken writes; returns the files that were removed.

    names: models, their paths, or files; none means all. older_than: only those not used for so many days. A process
    that has mapped a file can use it until it ends. Raises InputError for an unknown name.
    """
    from pocketvlm.packfile import sweep

    chosen = entries(folder)
    for name in names:
        if not any(_is_called(entry, name) for entry in chosen):
            raise InputError(f"nothing in {folder} is called {name!r}: see pocketvlm cache list")
    if names:
        chosen = [entry for entry in chosen if any(_is_called(entry, name) for name in names)]
    if older_than is not None:
        latest = time.time() - older_than * 86400
        chosen = [entry for entry in chosen if entry.last_used < latest]
    _remove(entry.file for entry in chosen)
    sweep(folder)
    return chosen


def _is_called(entry: Entry, name: str) -> bool:
    if name in (entry.model, entry.file.name, entry.file.stem):
        return True
    return str(Path(name).expanduser().resolve()) in (entry.path, str(entry.file))


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
