"""Each command of the command line has one light module in this package."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with these arguments (None: those of the process) and return its exit code."""
    try:
        from pocketvlm.cli.app import start
    except KeyboardInterrupt:
        return 130
    return start(argv)
