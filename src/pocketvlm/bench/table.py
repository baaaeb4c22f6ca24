"""`columns` aligns the columns of a text table."""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], left: int | None = None) -> list[str]:
    """One line for each row: the first cell aligned left, the others right. An empty first cell indents.

    left: index of the last column that is aligned left.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if left is None:
        left = 1 if rows[0][0] == "" else 0
    return [
        "  ".join(
            cell.ljust(w) if i <= left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
