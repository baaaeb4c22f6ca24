"""Options that several commands share are defined here and turned into arguments of the processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer

from pocketvlm.backends import options as backend_options
from pocketvlm.cli.notices import notices
from pocketvlm.errors import OptionError
from pocketvlm.suggest import nearest

INPUT, SAMPLING, IMAGES, ENGINE, OUTPUT = "Input", "Sampling", "Image and video processing", "Engine", "Output"
DEFAULT_MODEL = "nano"
FLAG = ""

MODEL_HELP = 'Model: "nano" (built in), a directory, a GGUF file, or a hub id such as openbmb/MiniCPM-V-4.6.'


def option(*names_and_metavar: str, panel: str, help: str, **more: Any) -> Any:
    """An option: its spellings, then what stands for its value (FLAG for none); its panel in --help, and its text."""
    *names, metavar = names_and_metavar
    return typer.Option(*names, metavar=metavar, rich_help_panel=panel, help=help, show_envvar=False, **more)


def _debug(context: typer.Context, value: bool) -> bool:
    context.meta["debug"] = value
    return value


def _quiet(context: typer.Context, value: bool) -> bool:
    notices(context).quiet = value
    return value


Image = Annotated[
    list[str] | None,
    option(
        "--image",
        "-i",
        "PATH|URL|-",
        panel=INPUT,
        help="Image: path, URL, data URI, or - for bytes on stdin; video:PATH is a video in this place. Repeatable.",
    ),
]
Video = Annotated[
    list[str] | None,
    option(
        "--video",
        "-v",
        "PATH[:FPS]|URL",
        panel=INPUT,
        help="Video: path, URL, data URI, or a folder of pictures (FPS is their rate); after the images. Repeatable.",
    ),
]
Prompt = Annotated[str | None, option("--prompt", "-p", "TEXT", panel=INPUT, help="The question; - reads stdin.")]
System = Annotated[str | None, option("--system", "TEXT", panel=INPUT, help="System prompt.")]
Thinking = Annotated[
    bool | None,
    option("--thinking/--no-thinking", FLAG, panel=INPUT, help="Let the model think first."),
]
DownsampleMode = Annotated[
    Literal["16x", "4x"] | None,
    option("--downsample-mode", "16x|4x", panel=IMAGES, help="16x: few tokens, fast. 4x: four times as many."),
]
MaxSliceNums = Annotated[
    int | None,
    option(
        "--max-slice-nums",
        "N",
        panel=IMAGES,
        help="Most slices an image is cut into; 1 never cuts, the default for videos.",
    ),
]
SliceMode = Annotated[
    bool | None,
    option("--slice-mode/--no-slice-mode", FLAG, panel=IMAGES, help="Cut large images into slices."),
]
UseImageId = Annotated[
    bool | None,
    option(
        "--use-image-id/--no-use-image-id", FLAG, panel=IMAGES, help="Number the images in the prompt; off for videos."
    ),
]
ScaleResolution = Annotated[
    int | None, option("--scale-resolution", "N", panel=IMAGES, help="Side in pixels of the square one view aims at.")
]
Alpha = Annotated[
    Literal["white", "reference"] | None,
    option(
        "--alpha",
        "white|reference",
        panel=IMAGES,
        help="Transparency: white puts pictures on white, the default; reference does what transformers does.",
    ),
]
MaxNumFrames = Annotated[
    int | None,
    option("--max-num-frames", "N", panel=IMAGES, help="Most frames of a video, evenly spread. Default: 128."),
]
StackFrames = Annotated[
    int | None,
    option(
        "--stack-frames",
        "N",
        panel=IMAGES,
        help="Frames of a video a second, all but the first in one picture; 3 or 5 for fast motion. Default: 1.",
    ),
]
Fps = Annotated[
    float | None,
    option("--fps", "X", panel=IMAGES, help="Frames of a video that are taken a second. Default: 1."),
]
Start = Annotated[
    float | None, option("--start", "SECONDS", panel=IMAGES, help="Where in a video to begin. Default: 0.")
]
End = Annotated[
    float | None, option("--end", "SECONDS", panel=IMAGES, help="Where in a video to end. Default: its end.")
]
ProcessorKwargs = Annotated[
    str | None,
    option(
        "--processor-kwargs",
        "JSON",
        panel=IMAGES,
        help="""The same as one JSON object, e.g. '{"downsample_mode": "4x"}'; single options win over it.""",
    ),
]
Revision = Annotated[
    str | None, option("--revision", "NAME", panel=ENGINE, help="Branch, tag or commit of a model on the hub.")
]
Mmproj = Annotated[
    str | None,
    option(
        "--mmproj", "FILE", panel=ENGINE, help="Vision file of a GGUF model. Default: the one next to the model's file."
    ),
]
Backend = Annotated[
    backend_options.Backend,
    option(
        "--backend",
        "native|torch",
        panel=ENGINE,
        help="native: C++, CPU. torch: the reference, CPU or GPU.",
    ),
]
Weights = Annotated[
    backend_options.Weights,
    option(
        "--weights",
        "auto|int4|int8|bf16|stored",
        panel=ENGINE,
        help="int4: smallest. int8: nearer to the original. bf16, stored: as the checkpoint has them. auto: int8, of a "
        "quantized checkpoint for what it holds dense; as stored where exact.",
    ),
]
Precision = Annotated[
    backend_options.Precision | None,
    option(
        "--precision",
        "exact|fast",
        panel=ENGINE,
        help="fast: integer products, the default of native. exact: float32, weights as stored.",
    ),
]
Cache = Annotated[
    bool,
    option("--cache/--no-cache", FLAG, panel=ENGINE, help="Keep coded weights and tokenizer on disk for fast starts."),
]
Threads = Annotated[int | None, option("--threads", "N", panel=ENGINE, help="CPU threads. Default: physical cores.")]
Device = Annotated[str | None, option("--device", "NAME", panel=ENGINE, help="cpu or cuda; with --backend torch only.")]
Debug = Annotated[
    bool, option("--debug", FLAG, panel=OUTPUT, help="Show the traceback of an error.", callback=_debug, is_eager=True)
]
Quiet = Annotated[
    bool, option("--quiet", "-q", FLAG, panel=OUTPUT, help="Nothing on stderr but errors.", callback=_quiet)
]


def json_option(command: str) -> Any:
    """The --json option of a command."""
    return option("--json", FLAG, panel=OUTPUT, help="One JSON object on stdout.", envvar=f"POCKETVLM_{command}_JSON")


def model_argument(command: str) -> Any:
    """The MODEL argument of a command, `nano` if it is left out."""
    return typer.Argument(metavar="MODEL", envvar=f"POCKETVLM_{command}_MODEL", show_envvar=False, help=MODEL_HELP)


def processor_options(kwargs: str | None, known: Sequence[str], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Options for the processor: the JSON object of --processor-kwargs, overridden by the options that were given."""
    return {**_parse(kwargs, known), **{name: value for name, value in explicit.items() if value is not None}}


def _parse(kwargs: str | None, known: Sequence[str]) -> dict[str, Any]:
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
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"known are {', '.join(known)}"
            raise OptionError(f"--processor-kwargs: unknown option {name!r}: {hint}")
    return values
