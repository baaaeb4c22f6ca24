"""The command `pocketvlm serve` starts the HTTP server."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pocketvlm.cli import options
from pocketvlm.cli.notices import notices
from pocketvlm.cli.options import ENGINE, FLAG, OUTPUT, option
from pocketvlm.errors import OptionError
from pocketvlm.server.settings import Settings, read_file, read_keys

if TYPE_CHECKING:
    from pocketvlm.api import Model

EPILOG = """
Examples:

  pocketvlm serve
  pocketvlm serve openbmb/MiniCPM-V-4.6 --port 8000 --served-model-name minicpm-v
  pocketvlm serve --host 0.0.0.0 --api-key-file keys.txt --allowed-media-domains upload.wikimedia.org
  pocketvlm serve --config serve.yaml

Each option can be set as POCKETVLM_SERVE_<OPTION>, e.g. POCKETVLM_SERVE_PORT=8080, or in the file of --config by its \
name without dashes in front: `max-seqs: 8`. What is typed wins over the environment, that over the file. Sizes may be \
written as 512M or 4G. A key can also be given as POCKETVLM_API_KEY. SIGTERM and Ctrl+C let running requests end.
"""

ADDRESS, SAFETY, MEDIA, LIMITS, TIMES = "Address", "Who may do what", "Media", "Limits", "Times in seconds"
_DEFAULTS = {field.name: field.default for field in fields(Settings)}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)


def _setting(name: str, metavar: str, panel: str, help: str) -> Any:
    """The option of a setting, with its default in the help."""
    default = _DEFAULTS[name]
    if isinstance(default, bool) or default is None or default == ():
        shown = ""
    elif metavar == "SIZE" and isinstance(default, int):
        shown = f" Default: {default >> 20}M." if default >= 1 << 20 else f" Default: {default >> 10}K."
    else:
        shown = f" Default: {default:g}." if isinstance(default, float) else f" Default: {default}."
    flag = "--" + name.replace("_", "-")
    if metavar == FLAG and default is True:
        flag = f"{flag}/--no-{flag[2:]}"
    return option(flag, metavar, panel=panel, help=help + shown)


def _configure(context: typer.Context, value: str | None) -> str | None:
    """Take the settings of a file as defaults."""
    if value is not None:
        known = tuple(str(param.name) for param in context.command.params if param.name != "config")
        context.default_map = {**(context.default_map or {}), **read_file(value, known)}
    return value


def nbytes(text: str | None, flag: str) -> int | None:
    """A number of bytes, written as one or with K, M, G or T behind it. Raises OptionError."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise OptionError(f"{flag}={text} is not a size: give a number of bytes, or one such as 512M or 4G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


Size = str | None


def serve(
    context: typer.Context,
    model: Annotated[str, options.model_argument("SERVE")] = options.DEFAULT_MODEL,
    host: Annotated[str | None, _setting("host", "ADDRESS", ADDRESS, "Where to listen.")] = None,
    port: Annotated[int | None, _setting("port", "N", ADDRESS, "0 takes a free one.")] = None,
    served_model_name: Annotated[
        list[str] | None,
        _setting("served_model_name", "NAME", ADDRESS, "What requests call the model. Repeatable. Default: MODEL."),
    ] = None,
    ollama_version: Annotated[
        str | None, _setting("ollama_version", "X.Y.Z", ADDRESS, "What /api/version tells Ollama's clients.")
    ] = None,
    config: Annotated[
        str | None,
        option(
            "--config",
            "FILE",
            panel=ADDRESS,
            help="YAML file with any of these options.",
            callback=_configure,
            is_eager=True,
        ),
    ] = None,
    api_key_file: Annotated[
        str | None, option("--api-key-file", "FILE", panel=SAFETY, help="Keys of those who may call, one a line.")
    ] = None,
    insecure: Annotated[
        bool, _setting("insecure", FLAG, SAFETY, "Let everybody who reaches --host call without a key.")
    ] = False,
    allowed_hosts: Annotated[
        list[str] | None,
        _setting("allowed_hosts", "NAME", SAFETY, "Host names besides localhost and addresses. Repeatable."),
    ] = None,
    strict: Annotated[
        bool, _setting("strict", FLAG, SAFETY, "Refuse the fields of requests that are otherwise ignored.")
    ] = False,
    allowed_origins: Annotated[
        list[str] | None,
        _setting("allowed_origins", "URL", SAFETY, "Web pages that may call, such as https://example.com. Repeatable."),
    ] = None,
    fetch_media: Annotated[
        bool | None, _setting("fetch_media", FLAG, MEDIA, "Fetch images by URL, from public addresses only.")
    ] = None,
    allowed_media_domains: Annotated[
        list[str] | None,
        _setting("allowed_media_domains", "NAME", MEDIA, "Fetch only from these domains. Repeatable."),
    ] = None,
    allowed_media_path: Annotated[
        list[str] | None,
        _setting("allowed_media_path", "DIR", MEDIA, "Open file:// URLs below this directory. Repeatable."),
    ] = None,
    max_images: Annotated[int | None, _setting("max_images", "N", MEDIA, "Images of a request.")] = None,
    max_media_bytes: Annotated[Size, _setting("max_media_bytes", "SIZE", MEDIA, "Encoded size of an image.")] = None,
    max_pixels: Annotated[int | None, _setting("max_pixels", "N", MEDIA, "Width times height of an image.")] = None,
    max_videos: Annotated[int | None, _setting("max_videos", "N", MEDIA, "Videos of a request.")] = None,
    max_video_frames: Annotated[
        int | None, _setting("max_video_frames", "N", MEDIA, "Frames that are looked at, of all videos of a request.")
    ] = None,
    max_video_seconds: Annotated[
        float | None, _setting("max_video_seconds", "S", MEDIA, "Length of a video, or of the part that is asked for.")
    ] = None,
    max_visual_tokens: Annotated[
        int | None, _setting("max_visual_tokens", "N", MEDIA, "Tokens of all images and videos of a request.")
    ] = None,
    max_files: Annotated[int | None, _setting("max_files", "N", MEDIA, "Uploaded files that are kept.")] = None,
    max_files_bytes: Annotated[Size, _setting("max_files_bytes", "SIZE", MEDIA, "Size of all of them.")] = None,
    file_seconds: Annotated[float | None, _setting("file_seconds", "S", MEDIA, "How long they are kept.")] = None,
    media_workers: Annotated[
        int | None, _setting("media_workers", "N", MEDIA, "Threads that decode; 0: as many as processors, up to 4.")
    ] = None,
    max_model_len: Annotated[
        int | None, _setting("max_model_len", "N", LIMITS, "Tokens of prompt and answer. Default: the model's.")
    ] = None,
    max_seqs: Annotated[int | None, _setting("max_seqs", "N", LIMITS, "Answers that are made at once.")] = None,
    max_queue: Annotated[int | None, _setting("max_queue", "N", LIMITS, "Answers that may wait; then 429.")] = None,
    max_n: Annotated[int | None, _setting("max_n", "N", LIMITS, "Answers of one request.")] = None,
    default_max_tokens: Annotated[
        int | None, _setting("default_max_tokens", "N", LIMITS, "Tokens of an answer where a request does not say.")
    ] = None,
    max_body_bytes: Annotated[Size, _setting("max_body_bytes", "SIZE", LIMITS, "Size of a request.")] = None,
    max_bodies_bytes: Annotated[
        Size, _setting("max_bodies_bytes", "SIZE", LIMITS, "Size of all requests that are being read.")
    ] = None,
    max_header_bytes: Annotated[
        Size, _setting("max_header_bytes", "SIZE", LIMITS, "Size of a request's headers.")
    ] = None,
    queue_timeout: Annotated[float | None, _setting("queue_timeout", "S", TIMES, "Waiting for a place.")] = None,
    request_timeout: Annotated[float | None, _setting("request_timeout", "S", TIMES, "A whole answer.")] = None,
    fetch_timeout: Annotated[float | None, _setting("fetch_timeout", "S", TIMES, "Fetching one URL.")] = None,
    decode_timeout: Annotated[float | None, _setting("decode_timeout", "S", TIMES, "Preparing a prompt.")] = None,
    body_timeout: Annotated[float | None, _setting("body_timeout", "S", TIMES, "Receiving a request.")] = None,
    header_timeout: Annotated[float | None, _setting("header_timeout", "S", TIMES, "Receiving its headers.")] = None,
    keep_alive: Annotated[float | None, _setting("keep_alive", "S", TIMES, "An idle connection.")] = None,
    ping: Annotated[float | None, _setting("ping", "S", TIMES, "Between comments in a stream that is silent.")] = None,
    drain: Annotated[float | None, _setting("drain", "S", TIMES, "For running answers, after SIGTERM.")] = None,
    revision: options.Revision = None,
    mmproj: options.Mmproj = None,
    backend: options.Backend = "native",
    weights: options.Weights = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    device: options.Device = None,
    cache: options.Cache = True,
    memory: Annotated[
        Size, option("--memory", "SIZE", panel=ENGINE, help="For the state of answers. Default: half of the machine's.")
    ] = None,
    prefill_chunk: Annotated[
        int | None, option("--prefill-chunk", "N", panel=ENGINE, help="Tokens of prompts that one step takes (256).")
    ] = None,
    prefix_cache: Annotated[
        Size, option("--prefix-cache", "SIZE", panel=ENGINE, help="Of --memory, for prompts that begin alike.")
    ] = None,
    vision_cache: Annotated[
        Size, option("--vision-cache", "SIZE", panel=ENGINE, help="For what the model saw in images. Default: 128M.")
    ] = None,
    vision_cache_dir: Annotated[
        str | None, option("--vision-cache-dir", "DIR", panel=ENGINE, help="Keep that on disk too, for the next start.")
    ] = None,
    vision_cache_disk: Annotated[
        Size, option("--vision-cache-disk", "SIZE", panel=ENGINE, help="Most of it on disk. Default: 4G.")
    ] = None,
    runaway_guard: Annotated[
        bool | None, _setting("runaway_guard", FLAG, OUTPUT, "End answers that repeat themselves without end.")
    ] = None,
    normalize_newlines: Annotated[
        bool,
        _setting("normalize_newlines", FLAG, OUTPUT, r"Turn a literal \n into a new line, if requests do not say."),
    ] = False,
    log: Annotated[
        Literal["json", "none"] | None, _setting("log", "json|none", OUTPUT, "One line on stderr for each request.")
    ] = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Serve a model over HTTP: OpenAI's, Anthropic's and Ollama's interfaces, for many clients at once.

    It listens on this machine only, unless --host says otherwise; then a key is needed.
    """
    import os

    from pocketvlm.cli.terminal import Activity

    given = dict(locals())
    settings = _settings(given, read_keys(api_key_file, os.environ))
    try:
        from pocketvlm.server import run
        from pocketvlm.server.logs import Log
    except ImportError as error:
        raise OptionError(
            f'the server needs {error.name}, which is not installed: pip install "pocketvlm[serve]"'
        ) from None
    listener = run.bind(settings)
    with Activity(quiet) as activity:
        from pocketvlm.api import load

        activity.say(f"loading {model}")
        loaded = load(
            model,
            revision=revision,
            mmproj=mmproj,
            backend=backend,
            weights=weights,
            precision=precision,
            threads=threads,
            device=device,
            cache=cache,
            memory_limit=nbytes(memory, "--memory"),
            prefill_chunk=prefill_chunk,
            max_model_len=max_model_len,
            max_seqs=settings.max_seqs,
            prefix_cache=nbytes(prefix_cache, "--prefix-cache"),
            vision_cache=nbytes(vision_cache, "--vision-cache"),
            vision_cache_dir=vision_cache_dir,
            vision_cache_disk=nbytes(vision_cache_disk, "--vision-cache-disk"),
            progress=activity.loading(model),
        )
    requests = Log(settings.log)
    notices(context).write = requests.warning
    run.serve(loaded, settings, listener, lambda url: None if quiet else _ready(url, loaded, settings), requests)


def _settings(given: dict[str, Any], keys: tuple[str, ...]) -> Settings:
    """The server's settings out of the options that were given. Raises OptionError."""
    chosen: dict[str, Any] = {"api_keys": keys}
    for name, default in _DEFAULTS.items():
        value = given.get(name)
        if value is None:
            continue
        if isinstance(default, tuple):
            value = tuple(str(Path(text).expanduser()) if name == "allowed_media_path" else text for text in value)
        elif isinstance(value, str) and isinstance(default, int):
            value = nbytes(value, "--" + name.replace("_", "-"))
        chosen[name] = value
    return Settings(**chosen)


def _ready(url: str, model: Model, settings: Settings) -> None:
    """One line on stderr: address, model, kernels, memory, limits."""
    import sys

    from pocketvlm.cli.terminal import printable, size

    backend = model.ops.describe()
    kernels = " ".join(
        str(backend[name]).partition(" (")[0] for name in ("backend", "isa", "weights") if name in backend
    )
    text = model.checkpoint.model.text
    length = min(settings.max_model_len or text.max_position_embeddings, text.max_position_embeddings)
    memory = model.engine.memory.limit
    count = len(settings.api_keys)
    keys = f"{count} key{'s' if count > 1 else ''}" if count else "no key needed"
    threads = str(backend.get("threads", "")).partition(" (")[0]
    line = (
        f"serving {model.name} at {url}: {kernels}, {threads} threads, {size(memory)} of state, "
        f"{settings.max_seqs} answers at once of {length} tokens, {keys}; {url}/docs"
    )
    print(printable(" ".join(line.split())), file=sys.stderr, flush=True)
