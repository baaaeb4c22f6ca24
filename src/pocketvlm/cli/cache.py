"""The command `pocketvlm cache` lists and removes cached weights and tokenizers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options
from pocketvlm.cli.options import INPUT, option
from pocketvlm.errors import OptionError

if TYPE_CHECKING:
    from pocketvlm.backends.cache import Entry

LIST_EPILOG = """
Examples:

  pocketvlm cache list
  pocketvlm cache list --json
"""
CLEAR_EPILOG = """
Examples:

  pocketvlm cache clear
  pocketvlm cache clear --older-than 30
  pocketvlm cache clear openbmb/MiniCPM-V-4.6

A name is a model as it was given to run, the directory of its checkpoint, or a file; without names all files are \
removed. The next start with that model makes its files again. Checkpoints themselves are not touched.
"""
PATH_EPILOG = """
Examples:

  pocketvlm cache path
  du -sh "$(pocketvlm cache path)"

The directory is "packed" in $POCKETVLM_CACHE, else in $XDG_CACHE_HOME/pocketvlm, else in ~/.cache/pocketvlm. Models \
under 64 MB are not cached, nor is anything with run --no-cache.
"""


app = typer.Typer()


def _environment(name: str) -> dict[str, str]:
    return {"auto_envvar_prefix": f"POCKETVLM_CACHE_{name}"}


@app.callback(invoke_without_command=True)
def _root(ctx: typer.Context) -> None:
    """List or remove the cache files for fast starts: quantized weights and tokenizers."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command("list", epilog=LIST_EPILOG, context_settings=_environment("LIST"))
def show(
    as_json: Annotated[bool, options.json_option("CACHE_LIST")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """List the cache files: model, kind (type of weights, or tokenizer), size, last use and file, latest use first."""
    from pocketvlm.backends.cache import directory, entries

    folder = directory()
    found = entries(folder)
    if as_json:
        _print_json(folder, found)
    elif found:
        print(_table(found))
    elif not quiet:
        print(f"nothing is cached in {folder}", file=sys.stderr)


@app.command(epilog=CLEAR_EPILOG, context_settings=_environment("CLEAR"))
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Only the files of this model or directory, or this file. Repeatable."),
    ] = None,
    older_than: Annotated[
        float | None,
        option("--older-than", "DAYS", panel=INPUT, help="Only files that were not used for so many days."),
    ] = None,
    as_json: Annotated[bool, options.json_option("CACHE_CLEAR")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Remove the cache files, or some of them."""
    from pocketvlm.backends import cache

    if older_than is not None and not older_than >= 0:
        raise OptionError(f"--older-than={older_than} is out of range: give a number of days, 0 or more")
    folder = cache.directory()
    removed = cache.clear(folder, names or (), older_than)
    if as_json:
        _print_json(folder, removed)
    if not quiet:
        files = "1 file" if len(removed) == 1 else f"{len(removed)} files"
        print(f"removed {files}, {readable_size(sum(entry.nbytes for entry in removed))}", file=sys.stderr)


@app.command(epilog=PATH_EPILOG, context_settings=_environment("PATH"))
def path(debug: options.Debug = False) -> None:
    """Print the directory of the cache, whether it exists or not."""
    from pocketvlm.backends.cache import directory

    print(directory())


def _print_json(folder: Path, found: list[Entry]) -> None:
    import json

    print(json.dumps({"directory": str(folder), "files": [_facts(entry) for entry in found]}, ensure_ascii=False))


def _facts(entry: Entry) -> dict[str, object]:
    return {
        "model": entry.model,
        "path": entry.path,
        "kind": entry.kind,
        "bytes": entry.nbytes,
        "last_used": entry.last_used,
        "file": str(entry.file),
    }


def _table(found: list[Entry]) -> str:
    import time

    from pocketvlm.cli.terminal import printable

    rows = [("model", "kind", "size", "last used", "file")]
    for entry in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used))
        rows.append(
            (entry.model or "(unreadable)", entry.kind or "-", readable_size(entry.nbytes), used, entry.file.name)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(map(printable, lines))
