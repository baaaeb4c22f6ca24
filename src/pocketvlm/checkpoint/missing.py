"""`missing` says that a path does not exist, and `near_path` finds the existing path that it is most like."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pocketvlm.suggest import nearest

Accept = Callable[[Path], bool]


def missing(text: str, kind: str, accept: Accept) -> str:
    """ "There is no such `kind`", with a question for a path of nearly the same spelling that `accept` takes."""
    near = near_path(text, accept)
    return f"there is no such {kind}{f' (did you mean {near}?)' if near else ''}"


def near_path(text: str, accept: Accept) -> Path | None:
    """The accepted path that a path is most like; None where none is similar."""
    return _near(Path(text).expanduser(), accept) if text.strip() else None


def _near(path: Path, accept: Accept) -> Path | None:
    """The accepted path whose last part, or whose parts, are most like those of a path."""
    try:
        if accept(path):
            return path
        parent = path.parent
        if parent == path:
            return None
        if not parent.is_dir():
            found = _near(parent, Path.is_dir)
            return None if found is None else _near(found / path.name, accept)
        names = [each.name for each in parent.iterdir() if accept(each)]
    except (OSError, ValueError):  # not readable, too long, a zero byte
        return None
    near = nearest(path.name, names)
    return None if near is None else parent / near
