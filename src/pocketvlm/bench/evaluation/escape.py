"""`text` makes any text safe to stand in a page."""

from __future__ import annotations

import html

MAX_LENGTH = 4000  # characters of one text
# Control characters, halves of surrogate pairs, and characters that reorder a line, with which one text could change
# how others are shown.
_UNSHOWN = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    **dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD),
    **dict.fromkeys(range(0xD800, 0xE000), 0xFFFD),
}


def text(value: object, limit: int = MAX_LENGTH) -> str:
    """A text as HTML, also for attributes in quotes; cut if it is long."""
    whole = str(value)
    shown = whole if len(whole) <= limit else f"{whole[:limit]}... ({len(whole) - limit} more characters)"
    return html.escape(shown.translate(_UNSHOWN))
