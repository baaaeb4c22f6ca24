"""`read_json` reads one JSON object; every error names the file and the place in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError

_DAMAGED = "the file is damaged or was cut off: download or copy it again"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises CheckpointError if the file is missing, unreadable, not UTF-8, not JSON (with line and column) or not an
    object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: the file is missing: the checkpoint is incomplete, download or copy all of its files"
        ) from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} is not UTF-8: {_DAMAGED}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    return parse_object(text, str(path))


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The object in a JSON text that came from `where`; a key that appears twice is refused. Raises CheckpointError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointError(f"{where}: the key {twice!r} appears twice: {_DAMAGED}")
        return result

    try:
        data = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise CheckpointError(f"{where}: {place}: not valid JSON ({error.msg}): {_DAMAGED}") from None
    except (ValueError, RecursionError) as error:
        # Raised for numbers of thousands of digits and for thousands of nested brackets.
        raise CheckpointError(f"{where}: not usable JSON ({error}): {_DAMAGED}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{where}: expected a JSON object, found {type(data).__name__}: {_DAMAGED}")
    return data
