"""The command `pocketvlm merge` writes a checkpoint with an adapter merged into its weights."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options
from pocketvlm.cli.options import ENGINE, FLAG, option

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketvlm.api.merging import MergeResult
    from pocketvlm.checkpoint.adapters.merge import MergeChanges

EPILOG = """
Examples:

  pocketvlm merge openbmb/MiniCPM-V-4.6 ./adapter MiniCPM-V-4.6-invoices
  pocketvlm merge nano ./adapter nano-half --scale 0.5
  pocketvlm quantize MiniCPM-V-4.6-invoices invoices.gguf --format gguf

The result is a checkpoint in bfloat16, which transformers and every other tool loads like the original. \
pocketvlm quantize --merge-adapter goes from base and adapter to quantized weights without it.
"""
OTHER_BASE_HELP = "Also merge an adapter that was trained on another base."
ADAPTER_HELP = "Folder or hub id of an adapter (LoRA) in PEFT's file format."


@options.takes(*options.load_options("revision", "mmproj"))
def merge(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_envvar=False, help=options.MODEL_HELP)],
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", show_envvar=False, help=ADAPTER_HELP)],
    out: Annotated[str, typer.Argument(metavar="OUT", show_envvar=False, help="The directory to make.")],
    scale: Annotated[
        float, option("--scale", "X", panel=ENGINE, help="Factor of the adapter's updates. Default: 1.")
    ] = 1.0,
    adapter_revision: Annotated[
        str | None, option("--adapter-revision", "NAME", panel=ENGINE, help="--revision of the adapter.")
    ] = None,
    allow_other_base: Annotated[bool, option("--allow-other-base", FLAG, panel=ENGINE, help=OTHER_BASE_HELP)] = False,
    as_json: Annotated[bool, options.json_option("MERGE")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Merge an adapter (LoRA) into a checkpoint.

    The paths of the files go to stdout.
    """
    from pocketvlm.api.merging import merge_adapter
    from pocketvlm.cli.progress import LongWork

    with LongWork(quiet, {"download": "downloading", "write": "writing"}) as work:
        result = merge_adapter(
            model,
            adapter,
            out,
            scale=scale,
            revision=values["revision"],
            adapter_revision=adapter_revision,
            mmproj=values["mmproj"],
            allow_other_base=allow_other_base,
            progress=work.step,
        )
    if as_json:
        import json

        print(json.dumps(result.to_dict(), ensure_ascii=False))
        return
    print("\n".join(map(str, result.paths)), flush=True)
    if not quiet:
        print("\n".join(_lines(result)), file=sys.stderr)


def _lines(result: MergeResult) -> list[str]:
    """What was done, and what a user has to know, one fact a line."""
    nbytes = sum(path.stat().st_size for path in result.paths)
    lines = [f"{len(result.paths)} files, {readable_size(nbytes)}"]
    if result.dequantized is not None:
        lines.append(
            f"the base is quantized ({result.dequantized}): its dequantized weights were merged, with their rounding "
            f"errors; the 16-bit base gives a better result"
        )
    return [*lines, *adapter_lines(result.changes)]


def adapter_lines(changes: MergeChanges) -> list[str]:
    """What merging an adapter changed, and what became of the options that it was trained with."""
    lines = [f"adapter: {_counted(changes.updated, 'matrix', 'matrices')} updated"]
    if changes.replaced:
        lines[0] += f", {_counted(changes.replaced, 'tensor', 'tensors')} replaced"
    if changes.untied:
        lines.append(
            "embedding and head are two tensors now (tie_word_embeddings is false), since the adapter changes them "
            "differently"
        )
    if changes.saved:
        lines.append(f"the checkpoint's defaults now say {_named(changes.saved)}, as the adapter was trained")
    for given, when in ((changes.left, "at run time"), (changes.for_videos, "with videos")):
        if given:
            lines.append(f"the adapter was trained with {_named(given)}: {when} give {_flags(given)}")
    return lines


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _flags(values: Mapping[str, Any]) -> str:
    """Options as the command line takes them."""
    from pocketvlm.checkpoint.adapters.options import flag

    return " ".join(flag(name, value) for name, value in values.items())
