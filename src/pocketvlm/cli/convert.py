"""The command `pocketvlm convert` writes a checkpoint in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options
from pocketvlm.cli.options import OUTPUT, option

EPILOG = """
Examples:

  pocketvlm convert MiniCPM-V-4.6-Q4_K_M.gguf native --format native
  pocketvlm convert openbmb/MiniCPM-V-4.6 MiniCPM-V-4.6-BF16.gguf --format gguf
  pocketvlm convert ./awq dense --format bf16

Codes, scales and zero points are not changed. A format that cannot hold a tensor as it is refuses it by name: \
bf16 and f16 take the rounded values of any checkpoint, and pocketvlm quantize makes new codes from a 16-bit one.
"""


@options.takes(*options.load_options("revision", "mmproj"))
def convert(
    model: Annotated[str, typer.Argument(metavar="IN", show_envvar=False, help=options.MODEL_HELP)],
    out: Annotated[
        str, typer.Argument(metavar="OUT", show_envvar=False, help="The directory to make, or a file FILE.gguf.")
    ],
    format: Annotated[
        Literal["gguf", "awq", "gptq", "mlx", "compressed-tensors", "native", "bf16", "f16"],
        option(
            *("--format", "gguf|awq|gptq|mlx|compressed-tensors|native|bf16|f16"),
            panel=OUTPUT,
            help="Format of the files; bf16 and f16 are dense safetensors.",
        ),
    ],
    as_json: Annotated[bool, options.json_option("CONVERT")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Write a checkpoint in another format without changing a code.

    The paths of the files go to stdout.
    """
    from pocketvlm.api.converting import convert_model
    from pocketvlm.cli.progress import LongWork

    with LongWork(quiet, {"download": "downloading", "write": "writing"}) as work:
        paths = convert_model(
            model, out, format=format, revision=values["revision"], mmproj=values["mmproj"], progress=work.step
        )
    _say(out, paths, as_json, quiet)


def _say(out: str, paths: tuple[Path, ...], as_json: bool, quiet: bool) -> None:
    nbytes = sum(path.stat().st_size for path in paths)
    if as_json:
        import json

        content: dict[str, Any] = {"out": out, "files": [str(path) for path in paths], "bytes": nbytes}
        print(json.dumps(content, ensure_ascii=False))
        return
    print("\n".join(map(str, paths)), flush=True)
    if not quiet:
        import sys

        print(f"{len(paths)} files, {readable_size(nbytes)}", file=sys.stderr)
