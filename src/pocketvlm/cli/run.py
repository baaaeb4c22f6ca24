"""The command `pocketvlm run` asks one question about images and videos and prints only the answer to stdout."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pocketvlm.cli import options
from pocketvlm.cli.inputs import read_images, read_prompt, read_videos
from pocketvlm.cli.options import FLAG, OUTPUT, SAMPLING, option
from pocketvlm.errors import OptionError

EPILOG = """
Examples:

  pocketvlm run -i cat.jpg -p "What is this?"
  pocketvlm run nano -i a.jpg -i https://example.com/b.png "What differs?"
  pocketvlm run openbmb/MiniCPM-V-4.6 -v clip.mp4 -p "What happens?" --stack-frames 3
  cat page.png | pocketvlm run openbmb/MiniCPM-V-4.6 -i - -p "Read the text." --downsample-mode 4x
  echo "Hello" | pocketvlm run --output json

A single argument that cannot be the name of a model, because it has a space in it for instance, is the prompt. \
Without a prompt, stdin is read; at a terminal, without images, a chat begins.

Each option can be set as POCKETVLM_RUN_<OPTION>, e.g. POCKETVLM_RUN_MAX_TOKENS=64.
"""

# What names of models are made of: directories and hub ids. Anything else, in the only argument, is a prompt.
_MODEL_NAME = re.compile(r"[A-Za-z0-9_./~@\\:-]+")


def run(
    model: Annotated[str | None, options.model_argument("RUN")] = None,
    prompt_argument: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question; or use --prompt, or stdin.")
    ] = None,
    image: options.Image = None,
    video: options.Video = None,
    prompt: options.Prompt = None,
    system: options.System = None,
    thinking: options.Thinking = None,
    max_tokens: Annotated[
        int | None, option("--max-tokens", "N", panel=SAMPLING, help="Most tokens to generate. Default: 1024.")
    ] = None,
    min_tokens: Annotated[
        int | None, option("--min-tokens", "N", panel=SAMPLING, help="No end before this many tokens.")
    ] = None,
    temperature: Annotated[
        float | None,
        option("--temperature", "X", panel=SAMPLING, help="0 is greedy. Default: the checkpoint's."),
    ] = None,
    top_p: Annotated[float | None, option("--top-p", "X", panel=SAMPLING, help="Nucleus sampling; 1 is off.")] = None,
    top_k: Annotated[int | None, option("--top-k", "N", panel=SAMPLING, help="Most candidates; 0 is off.")] = None,
    min_p: Annotated[
        float | None, option("--min-p", "X", panel=SAMPLING, help="Least probability, relative to the best; 0 is off.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, option("--repetition-penalty", "X", panel=SAMPLING, help="Over prompt and answer; 1 is off.")
    ] = None,
    presence_penalty: Annotated[
        float | None, option("--presence-penalty", "X", panel=SAMPLING, help="Over the answer, -2 to 2; 0 is off.")
    ] = None,
    frequency_penalty: Annotated[
        float | None,
        option("--frequency-penalty", "X", panel=SAMPLING, help="Over the answer, -2 to 2; 0 is off."),
    ] = None,
    seed: Annotated[int | None, option("--seed", "N", panel=SAMPLING, help="Makes sampling repeatable.")] = None,
    stop: Annotated[
        list[str] | None, option("--stop", "TEXT", panel=SAMPLING, help="End the answer before this text. Repeatable.")
    ] = None,
    stop_token_id: Annotated[
        list[int] | None, option("--stop-token-id", "ID", panel=SAMPLING, help="End at this token id. Repeatable.")
    ] = None,
    ignore_eos: Annotated[
        bool, option("--ignore-eos", FLAG, panel=SAMPLING, help="Go on after the end token, to --max-tokens.")
    ] = False,
    downsample_mode: options.DownsampleMode = None,
    max_slice_nums: options.MaxSliceNums = None,
    slice_mode: options.SliceMode = None,
    use_image_id: options.UseImageId = None,
    scale_resolution: options.ScaleResolution = None,
    alpha: options.Alpha = None,
    max_num_frames: options.MaxNumFrames = None,
    stack_frames: options.StackFrames = None,
    fps: options.Fps = None,
    start: options.Start = None,
    end: options.End = None,
    processor_kwargs: options.ProcessorKwargs = None,
    revision: options.Revision = None,
    mmproj: options.Mmproj = None,
    backend: options.Backend = "native",
    weights: options.Weights = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    device: options.Device = None,
    cache: options.Cache = True,
    output: Annotated[
        Literal["text", "json"],
        option("--output", "-o", "text|json", panel=OUTPUT, help="text streams; json is one object with figures."),
    ] = "text",
    normalize_newlines: Annotated[
        bool,
        option(
            "--normalize-newlines",
            FLAG,
            panel=OUTPUT,
            help=r"Turn a literal \n in the answer into a new line, outside code and formulas.",
        ),
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Ask one question about images and videos, or about none.

    The answer streams to stdout; one line of figures goes to stderr.
    """
    name, text = _model_and_prompt(model, prompt_argument, prompt)
    sampling = {
        "max_tokens": max_tokens,
        "min_tokens": min_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
        "stop": tuple(stop) if stop else None,
        "stop_token_ids": tuple(stop_token_id) if stop_token_id else None,
        "ignore_eos": ignore_eos or None,
    }
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
        "start": start,
        "end": end,
        "enable_thinking": thinking,
    }
    given: dict[str, Any] = {option: value for option, value in sampling.items() if value is not None}
    _check(given, name=backend, threads=threads, device=device, weights=weights, precision=precision)
    if text is None and not image and not video and output == "text" and _at_terminal():
        from pocketvlm.cli.chat import begin

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
        more = {"system": system, "normalize_newlines": normalize_newlines or None}
        given |= {option: value for option, value in more.items() if value is not None}
        begin(name, engine, given, picked, processor_kwargs, [], quiet=quiet)
        return
    question = read_prompt(text, image or [], piped=True)
    if not question.strip() and not image and not video:
        raise OptionError(_nothing_to_answer(model, prompt_argument, prompt))
    images, videos = read_images(image or []), read_videos(video or [])

    # Heavy from here on: everything above has answered typing mistakes at once.
    from pocketvlm import api
    from pocketvlm.cli.answer import show
    from pocketvlm.cli.terminal import Activity

    params = {**given, **options.processor_options(processor_kwargs, api.PROCESSOR_OPTIONS, picked)}
    with Activity(quiet) as activity:
        activity.say(f"loading {name}")
        loaded = api.load(
            name,
            revision=revision,
            mmproj=mmproj,
            backend=backend,
            weights=weights,
            precision=precision,
            threads=threads,
            device=device,
            cache=cache,
            progress=activity.loading(name),
        )
        activity.say(f"reading the prompt{_count(images, 'image')}{_count(videos, 'video')}")
        chunks = loaded.stream(
            question,
            images,
            videos=videos,
            system=system,
            progress=lambda _, done, total: activity.say("watching the video", done, total),
            normalize_newlines=normalize_newlines,
            **params,
        )
        show(chunks, name, output, quiet, activity)


def _at_terminal() -> bool:
    """Whether a person sits at both ends."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _count(media: Sequence[object], kind: str) -> str:
    return f" and {len(media)} {kind}{'s' if len(media) > 1 else ''}" if media else ""


def _model_and_prompt(model: str | None, argument: str | None, prompt: str | None) -> tuple[str, str | None]:
    """Model and prompt out of at most two arguments and --prompt."""
    default = os.environ.get("POCKETVLM_RUN_MODEL") or options.DEFAULT_MODEL
    if model is not None and argument is None and prompt is None and not _can_be_model(model):
        return default, model
    if argument is not None and prompt is not None:
        raise OptionError(f"the prompt is given twice, as {argument!r} and with --prompt: give it once")
    return model or default, argument if prompt is None else prompt


def _nothing_to_answer(model: str | None, argument: str | None, prompt: str | None) -> str:
    if model is not None and argument is None and prompt is None:
        return f"there is no prompt for the model {model!r}: add one in quotes; a single word as prompt needs -p"
    return 'there is nothing to answer: give a prompt and images, as in pocketvlm run -i cat.jpg "What is this?"'


def _can_be_model(text: str) -> bool:
    try:
        return (bool(_MODEL_NAME.fullmatch(text)) and text != "-") or Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):
        return False


def _check(sampling: Mapping[str, Any], **engine: Any) -> None:
    """Refuse bad values before anything is loaded; `load` and the engine check again."""
    from pocketvlm import backends
    from pocketvlm.types import SamplingParams

    SamplingParams(**sampling)
    backends.check(**engine)
