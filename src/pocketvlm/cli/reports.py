"""Report files of `quantize` and `compare`: checked before the work, written after it."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import OptionError

if TYPE_CHECKING:
    from pocketvlm.api.comparison import Comparison

HELP = "Write the report to this JSON file, and a plot to the PNG file of the same name (needs matplotlib)."


def check(path: str | None, quiet: bool, out: str | None = None) -> Path | None:
    """The path of a report that can be written. Says on stderr if there will be no plot.

    out: what the command writes besides. Raises OptionError, also for files that are no reports: none is overwritten.
    """
    if path is None:
        return None
    from pocketvlm.bench.comparison import plot

    target = Path(path).expanduser()
    if target.is_dir():
        raise OptionError(f"--report={path}: is a directory: give a file in it, such as {target / 'report.json'}")
    if target.suffix.lower() == ".png":
        raise OptionError(f"--report={path}: the report is a JSON file: give {target.with_suffix('.json')}")
    if out is not None:
        made = Path(out).expanduser().resolve()
        if made in (target.resolve(), *target.resolve().parents):
            raise OptionError(f"--report={path}: is in {out}, which this command makes: give a path outside of it")
    earlier = target.exists() and _is_report(target)
    for file in (target, plot_file(target)):
        try:
            if file.exists() and not earlier:
                raise OptionError(
                    f"--report={path}: {file} exists and is of no earlier report: remove it, or give another path"
                )
            if file.exists():
                with file.open("ab"):
                    pass
            else:
                with tempfile.TemporaryFile(dir=file.parent):
                    pass
        except OSError as error:
            raise OptionError(
                f"--report={path}: {file} cannot be written: {error.strerror or error}: give another path"
            ) from None
    reason = plot.problem()
    if reason is not None and not quiet:
        print(f"note: {reason}; the report has its JSON file alone", file=sys.stderr, flush=True)
    return target


def _is_report(path: Path) -> bool:
    """Whether a file begins as a report does."""
    with path.open("rb") as file:
        head = file.read(64).decode("utf-8", "replace")
    return bool(re.match(r'\{\s*"type": "pocketvlm\.', head))


def plot_file(path: Path) -> Path:
    """The file of a report's plot."""
    return path.with_suffix(".png")


def write(path: Path, content: dict[str, Any], comparison: Comparison) -> list[Path]:
    """Write the report and, if matplotlib is there, its plot; return the files."""
    from pocketvlm.bench.comparison import plot

    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if plot.problem() is not None:
        return [path]
    plot.draw(comparison, plot_file(path))
    return [path, plot_file(path)]
