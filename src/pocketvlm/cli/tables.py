"""`show_table` prints rows as a table: with lines and colours at a terminal, else as aligned columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pocketvlm.bench.table import columns
from pocketvlm.cli.terminal import is_terminal, printable


def show_table(rows: Sequence[Sequence[str]], left: int) -> None:
    """Print rows to stdout, the first being the heading. left: how many columns are aligned left."""
    safe = [[printable(" ".join(cell.split())) for cell in row] for row in rows]
    if not is_terminal(sys.stdout):
        print("\n".join(columns(safe, left - 1)))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, heading in enumerate(safe[0]):
        # Texts wrap, numbers do not.
        aligned = index < left
        table.add_column(Text(heading), justify="left" if aligned else "right", no_wrap=not aligned, overflow="fold")
    for row in safe[1:]:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
