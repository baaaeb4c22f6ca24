"""The command `pocketvlm chat` holds a conversation about media, at a terminal or in a pipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pocketvlm.cli import options
from pocketvlm.cli.inputs import STDIN, read_images, read_videos
from pocketvlm.cli.options import ENGINE, FLAG, INPUT, option
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions, named_adapters
from pocketvlm.options.request import SAMPLING_OPTIONS, TextOptions
from pocketvlm.options.sampling import SamplingParams

_NO_ADAPTER = "default"
EPILOG = """
Examples:

  pocketvlm chat
  pocketvlm chat openbmb/MiniCPM-V-4.6 -i page.png --downsample-mode 4x
  pocketvlm chat openbmb/MiniCPM-V-4.6 --adapter adapters/receipts --adapter formal=adapters/run-3
  printf 'What is this? cat.png\\nWhich colour has it?\\n' | pocketvlm chat nano

Paths, URLs and PDF files may stand anywhere in a sentence; /help shows all commands. In a pipe each line is a message \
or a command: answers go to stdout, everything else to stderr.

Each option can be set as POCKETVLM_CHAT_<OPTION>, e.g. POCKETVLM_CHAT_MODEL=openbmb/MiniCPM-V-4.6.
"""


@options.takes(
    *options.PROMPT_OPTIONS,
    *options.SAMPLING_OPTIONS,
    *options.MEDIA_OPTIONS,
    *options.ADAPTER_OPTIONS,
    *options.load_options(),
    *options.TEXT_OPTIONS,
)
def chat(
    model: Annotated[str, options.model_argument("CHAT")] = options.DEFAULT_MODEL,
    image: Annotated[
        list[str] | None,
        option("--image", "-i", "PATH|URL", panel=INPUT, help="Image, video or PDF to begin with. Repeatable."),
    ] = None,
    video: options.Video = None,
    system: options.System = None,
    load: Annotated[
        Path | None, option("--load", "FILE", panel=INPUT, help="Go on with a conversation: OpenAI messages as JSON.")
    ] = None,
    history: Annotated[
        bool, option("--history/--no-history", FLAG, panel=ENGINE, help="Keep typed lines for the next chat.")
    ] = True,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Chat about images, videos and PDF pages.

    Type or drop their paths anywhere in a sentence. A second question about an image is quick, because it is cached.
    """
    if image and STDIN in image:
        raise OptionError("-i - does not work in a chat, which reads its lines from stdin: give a path")
    chosen = {**options.given(values, SamplingParams), **options.given(values, TextOptions)}
    if system is not None:
        chosen["system"] = system
    media = [*(image or []), *(f"video:{name}" for name in read_videos(video or []))]
    engine = options.given(values, LoadOptions)
    begin(model, engine, chosen, values, media, load, quiet=quiet, history=history)


def begin(
    model: str,
    engine: dict[str, Any],
    chosen: dict[str, Any],
    values: dict[str, Any],
    images: list[str],
    load: Path | None = None,
    *,
    quiet: bool,
    history: bool = True,
) -> None:
    """Check the arguments, then chat. An exit code other than 0 ends the command.

    engine: arguments of `load`. chosen: fields of SamplingParams, "normalize_newlines", "system". values: all
    options as they were typed, of which those of the processor are taken.
    """
    options.check({name: value for name, value in chosen.items() if name in SAMPLING_OPTIONS}, engine)
    if load is not None and not load.expanduser().is_file():
        raise OptionError(f"--load {load}: there is no such file")
    read_images(images, videos_too=True)

    # Heavy from here on: everything above has answered typing mistakes at once.
    from pocketvlm.cli.chatting.loop import chat_with

    given = {**chosen, **options.processor_options(values)}
    names = list(named_adapters(engine.get("adapters"), model))
    if _NO_ADAPTER in names:
        raise OptionError(
            f"adapter {_NO_ADAPTER!r}: in a chat, /set adapter {_NO_ADAPTER} is the model itself: give the adapter "
            f"another name with NAME=DIR"
        )
    if names:
        given["adapter"] = names[0]
    code = chat_with(model, engine, given, images, load, quiet=quiet, history=history)
    if code:
        raise typer.Exit(code)
