"""A streamed Markdown text is split into finished blocks and one open block, which is redrawn."""

from __future__ import annotations

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def split_blocks(text: str) -> tuple[str, str]:
    """Splits text into finished blocks, which later text cannot change, and the open last block.

    Blocks are separated by blank lines outside of fenced code; a block that continues with indented lines stays open.
    """
    lines = text.split("\n")
    fence = ""
    cut = 0
    at = 0
    blank = False
    for line in lines:
        if blank and line[:1].strip():
            cut = at
        match = _FENCE.match(line)
        if match is not None and not fence:
            fence = match[1]
        elif match is not None and match[1].startswith(fence) and not line.strip(" `~"):
            fence = ""
        blank = not line.strip() and not fence
        at += len(line) + 1
    return text[:cut], text[cut:]
