"""The command `pocketvlm chat` holds a conversation about media, at a terminal or in a pipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pocketvlm.cli import options
from pocketvlm.cli.inputs import STDIN, read_images, read_videos
from pocketvlm.cli.options import ENGINE, FLAG, INPUT, SAMPLING, option
from pocketvlm.errors import OptionError

EPILOG = """
Examples:

  pocketvlm chat
  pocketvlm chat openbmb/MiniCPM-V-4.6 -i page.png --downsample-mode 4x
  printf 'What is this? cat.png\\nWhich colour has it?\\n' | pocketvlm chat nano

Paths, URLs and PDF files may stand anywhere in a sentence; /help shows all commands. In a pipe each line is a message \
or a command: answers go to stdout, everything else to stderr.

Each option can be set as POCKETVLM_CHAT_<OPTION>, e.g. POCKETVLM_CHAT_MODEL=openbmb/MiniCPM-V-4.6.
"""


def chat(
    model: Annotated[str, options.model_argument("CHAT")] = options.DEFAULT_MODEL,
    image: Annotated[
        list[str] | None,
        option("--image", "-i", "PATH|URL", panel=INPUT, help="Picture, video or PDF to begin with. Repeatable."),
    ] = None,
    video: options.Video = None,
    system: options.System = None,
    load: Annotated[
        Path | None, option("--load", "FILE", panel=INPUT, help="Go on with a conversation: OpenAI messages as JSON.")
    ] = None,
    thinking: options.Thinking = None,
    max_tokens: Annotated[
        int | None, option("--max-tokens", "N", panel=SAMPLING, help="Most tokens of an answer. Default: 1024.")
    ] = None,
    temperature: Annotated[
        float | None, option("--temperature", "X", panel=SAMPLING, help="0 is greedy. Default: the checkpoint's.")
    ] = None,
    top_p: Annotated[float | None, option("--top-p", "X", panel=SAMPLING, help="Nucleus sampling; 1 is off.")] = None,
    top_k: Annotated[int | None, option("--top-k", "N", panel=SAMPLING, help="Most candidates; 0 is off.")] = None,
    seed: Annotated[int | None, option("--seed", "N", panel=SAMPLING, help="Makes answers repeatable.")] = None,
    downsample_mode: options.DownsampleMode = None,
    max_slice_nums: options.MaxSliceNums = None,
    slice_mode: options.SliceMode = None,
    use_image_id: options.UseImageId = None,
    scale_resolution: options.ScaleResolution = None,
    alpha: options.Alpha = None,
    max_num_frames: options.MaxNumFrames = None,
    stack_frames: options.StackFrames = None,
    fps: options.Fps = None,
    processor_kwargs: options.ProcessorKwargs = None,
    revision: options.Revision = None,
    mmproj: options.Mmproj = None,
    backend: options.Backend = "native",
    weights: options.Weights = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    device: options.Device = None,
    cache: options.Cache = True,
    history: Annotated[
        bool, option("--history/--no-history", FLAG, panel=ENGINE, help="Keep typed lines for the next chat.")
    ] = True,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Chat about pictures, videos and PDF pages.

    Type or drop their paths anywhere in a sentence. The second question about a picture is quick: it is not read again.
    """
    if image and STDIN in image:
        raise OptionError("-i - does not work in a chat, which reads its lines from stdin: give a path")
    sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
    picked = {
        "downsample_mode": downsample_mode,
        "max_slice_nums": max_slice_nums,
        "slice_mode": slice_mode,
        "use_image_id": use_image_id,
        "scale_resolution": scale_resolution,
        "alpha": alpha,
        "max_num_frames": max_num_frames,
        "stack_frames": stack_frames,
        "fps": fps,
        "enable_thinking": thinking,
    }
    engine = {
        "revision": revision,
        "mmproj": mmproj,
        "backend": backend,
        "weights": weights,
        "precision": precision,
        "threads": threads,
        "device": device,
        "cache": cache,
    }
    given = {name: value for name, value in {**sampling, "system": system}.items() if value is not None}
    media = [*(image or []), *(f"video:{name}" for name in read_videos(video or []))]
    begin(model, engine, given, picked, processor_kwargs, media, load, quiet=quiet, history=history)


def begin(
    model: str,
    engine: dict[str, Any],
    given: dict[str, Any],
    picked: dict[str, Any],
    processor_kwargs: str | None,
    images: list[str],
    load: Path | None = None,
    *,
    quiet: bool,
    history: bool = True,
) -> None:
    """Check what was typed, then chat. Its exit code, if it is not 0, ends the command.

    engine: arguments of `load`. given: fields of SamplingParams, and "system". picked: options of the processor.
    """
    from pocketvlm import backends
    from pocketvlm.types import SamplingParams

    SamplingParams(**{name: value for name, value in given.items() if name in SamplingParams.__dataclass_fields__})
    backends.check(**{("name" if key == "backend" else key): engine[key] for key in _CHECKED})
    if load is not None and not load.expanduser().is_file():
        raise OptionError(f"--load {load}: there is no such file")
    read_images(images, videos_too=True)

    # Heavy from here on: everything above has answered typing mistakes at once.
    from pocketvlm import api
    from pocketvlm.cli.chatting.loop import chat_with

    chosen = options.processor_options(processor_kwargs, api.PROCESSOR_OPTIONS, picked)
    code = chat_with(model, engine, {**given, **chosen}, images, load, quiet=quiet, history=history)
    if code:
        raise typer.Exit(code)


_CHECKED = ("backend", "threads", "device", "weights", "precision")
