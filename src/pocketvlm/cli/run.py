"""The command `pocketvlm run` asks one question about images and videos and prints only the answer to stdout."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pocketvlm.cli import options
from pocketvlm.cli.inputs import read_images, read_prompt, read_videos
from pocketvlm.cli.options import OUTPUT, option
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.request import TextOptions
from pocketvlm.options.sampling import SamplingParams

EPILOG = """
Examples:

  pocketvlm run -i cat.jpg -p "What is this?"
  pocketvlm run nano -i a.jpg -i https://example.com/b.png "What differs?"
  pocketvlm run openbmb/MiniCPM-V-4.6 -v clip.mp4 -p "What happens?" --stack-frames 3
  pocketvlm run openbmb/MiniCPM-V-4.6 --adapter adapters/receipts -i receipt.jpg "What was bought?"
  cat page.png | pocketvlm run openbmb/MiniCPM-V-4.6 -i - -p "Read the text." --downsample-mode 4x
  echo "Hello" | pocketvlm run --output json

A single argument that cannot be the name of a model, because it has a space in it for instance, is the prompt. \
Without a prompt, stdin is read; at a terminal, without images, a chat begins.

Each option can be set as POCKETVLM_RUN_<OPTION>, e.g. POCKETVLM_RUN_MAX_TOKENS=64.
"""

# The characters of model names (directories and hub ids). A single argument with other characters is a prompt.
_MODEL_NAME = re.compile(r"[A-Za-z0-9_./~@\\:-]+")


@options.takes(
    *options.PROMPT_OPTIONS,
    *options.SAMPLING_OPTIONS,
    *options.MEDIA_OPTIONS,
    *options.ADAPTER_OPTIONS,
    *options.load_options(),
    *options.TEXT_OPTIONS,
)
def run(
    model: Annotated[str | None, options.model_argument("RUN")] = None,
    prompt_argument: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question; or use --prompt, or stdin.")
    ] = None,
    image: options.Image = None,
    video: options.Video = None,
    prompt: options.Prompt = None,
    system: options.System = None,
    output: Annotated[
        Literal["text", "json"],
        option("--output", "-o", "text|json", panel=OUTPUT, help="text streams; json is one object with figures."),
    ] = "text",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Ask one question about images and videos, or about none.

    The answer streams to stdout; one line of figures goes to stderr.
    """
    name, text = _model_and_prompt(model, prompt_argument, prompt)
    sampling, engine = options.given(values, SamplingParams), options.given(values, LoadOptions)
    finishing = options.given(values, TextOptions)
    options.check(sampling, engine)
    if text is None and not image and not video and output == "text" and _at_terminal():
        from pocketvlm.cli.chat import begin

        told = {} if system is None else {"system": system}
        begin(name, engine, {**sampling, **told, **finishing}, values, [], quiet=quiet)
        return
    adapter = options.one_adapter(engine.get("adapters"))
    question = read_prompt(text, image or [], piped=True)
    if not question.strip() and not image and not video:
        raise OptionError(_nothing_to_answer(model, prompt_argument, prompt))
    images, videos = read_images(image or []), read_videos(video or [])

    # The heavy part begins here; everything above reports typing mistakes at once.
    from pocketvlm.api import load
    from pocketvlm.cli.answer import show
    from pocketvlm.cli.terminal import Activity

    params: Any = {**sampling, **finishing, **options.processor_options(values)}
    if adapter is not None:
        params["adapter"] = adapter
    with Activity(quiet) as activity:
        activity.say(f"loading {name}")
        loaded = load(name, progress=activity.loading(name), **engine)
        activity.say(f"reading the prompt{_count(images, 'image')}{_count(videos, 'video')}")
        chunks = loaded.stream(
            question,
            images,
            videos=videos,
            system=system,
            progress=lambda _, done, total: activity.say("watching the video", done, total),
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
