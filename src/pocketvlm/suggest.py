"""The known name that a misspelt one is nearest to, for error messages."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, or None where none is similar."""
    from difflib import get_close_matches  # only errors need it, so no start pays for it

    return next(iter(get_close_matches(name, list(known), 1)), None)
