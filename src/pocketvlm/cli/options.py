"""Options that several commands share, and what turns them into arguments of the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from pocketvlm.errors import OptionError

INPUT, SAMPLING, IMAGES, ENGINE, OUTPUT = "Input", "Sampling", "Image processing", "Engine", "Output"
DEFAULT_MODEL = "nano"

MODEL_HELP = 'Model: "nano" (built in), a directory, or a hub id such as openbmb/MiniCPM-V-4.6.'


def option(*names: str, panel: str, help: str, **more: Any) -> Any:
    """An option of a help panel; the environment variable of each stands in the command's last paragraph."""
    return typer.Option(*names, rich_help_panel=panel, help=help, show_envvar=False, **more)


def _debug(context: typer.Context, value: bool) -> bool:
    context.meta["debug"] = value
    return value


Image = Annotated[
    list[str] | None,
    option(
        "--image",
        "-i",
        panel=INPUT,
        metavar="PATH|URL|-",
        help="Image: path, URL, data URI, or - for bytes on stdin. Repeatable.",
    ),
]
Prompt = Annotated[str | None, option("--prompt", "-p", panel=INPUT, help="The question; - reads it from stdin.")]
System = Annotated[str | None, option("--system", panel=INPUT, help="System prompt.")]
Thinking = Annotated[
    bool | None,
    option("--thinking/--no-thinking", panel=INPUT, help="Let the model think first. Default: the chat template's."),
]
DownsampleMode = Annotated[
    Literal["16x", "4x"] | None,
    option("--downsample-mode", panel=IMAGES, help="16x: few tokens, fast. 4x: four times as many, fine detail."),
]
MaxSliceNums = Annotated[
    int | None, option("--max-slice-nums", panel=IMAGES, help="Most slices an image is cut into; 1 never cuts.")
]
SliceMode = Annotated[
    bool | None, option("--slice-mode/--no-slice-mode", panel=IMAGES, help="Cut large images into slices, or never.")
]
UseImageId = Annotated[
    bool | None, option("--use-image-id/--no-use-image-id", panel=IMAGES, help="Number the images in the prompt.")
]
ScaleResolution = Annotated[
    int | None, option("--scale-resolution", panel=IMAGES, help="Side in pixels of the square one view aims at.")
]
ProcessorKwargs = Annotated[
    str | None,
    option(
        "--processor-kwargs",
        panel=IMAGES,
        metavar="JSON",
        help="""The same as one JSON object, e.g. '{"downsample_mode": "4x"}'; single options win over it.""",
    ),
]
Revision = Annotated[
    str | None, option("--revision", panel=ENGINE, help="Branch, tag or commit of a model on the hub.")
]
Backend = Annotated[
    Literal["native", "torch"],
    option("--backend", panel=ENGINE, help="native: C++ on the CPU. torch: the PyTorch reference, CPU or GPU."),
]
Precision = Annotated[
    Literal["exact", "fast"],
    option("--precision", panel=ENGINE, help="exact: float32 arithmetic. fast equals exact in this version."),
]
Threads = Annotated[int | None, option("--threads", panel=ENGINE, help="CPU threads. Default: all physical cores.")]
Device = Annotated[str | None, option("--device", panel=ENGINE, help="cpu or cuda; with --backend torch only.")]
Debug = Annotated[
    bool, option("--debug", panel=OUTPUT, help="Show the traceback of an error.", callback=_debug, is_eager=True)
]
Quiet = Annotated[bool, option("--quiet", "-q", panel=OUTPUT, help="Nothing on stderr but errors.")]


def json_option(command: str) -> Any:
    """The --json option of a command."""
    return option("--json", panel=OUTPUT, help="One JSON object on stdout.", envvar=f"POCKETVLM_{command}_JSON")


def model_argument(command: str) -> Any:
    """The MODEL argument of a command, `nano` if it is left out."""
    return typer.Argument(metavar="MODEL", envvar=f"POCKETVLM_{command}_MODEL", show_envvar=False, help=MODEL_HELP)


def processor_options(kwargs: str | None, known: Sequence[str], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the processor: the JSON object of --processor-kwargs, overridden by the options that were given."""
    return {**_parse(kwargs, known), **{name: value for name, value in explicit.items() if value is not None}}


def _parse(kwargs: str | None, known: Sequence[str]) -> dict[str, Any]:
    import difflib
    import json

    if kwargs is None:
        return {}
    example = """write e.g. --processor-kwargs '{"downsample_mode": "4x"}'"""
    try:
        values = json.loads(kwargs)
    except ValueError as error:
        raise OptionError(f"--processor-kwargs: not valid JSON ({error}): {example}") from None
    if not isinstance(values, dict):
        raise OptionError(f"--processor-kwargs: a JSON object is wanted, not {kwargs.strip()[:40]}: {example}")
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise OptionError(f"--processor-kwargs: unknown option {name!r}: {hint}")
    return values
