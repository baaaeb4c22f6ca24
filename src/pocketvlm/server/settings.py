"""`Settings` holds the server's limits, timeouts, keys and names and checks them at once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pocketvlm.errors import OptionError
from pocketvlm.options.load import DEFAULT_MAX_SEQS, MAX_SEQS, MaxModelLen, check_adapter_name
from pocketvlm.options.option import Option, validate
from pocketvlm.options.request import NormalizeNewlines
from pocketvlm.suggest import nearest

LogFormat = Literal["json", "none"]
MIB = 1 << 20
_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", re.ASCII)
# First parts of the server's own paths: a request for one could not be told from one with the prefix.
_OWN = ("v1", "api", "ui", "docs", "health", "limits", "metrics", "version", "tokenize", "detokenize")
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?", re.ASCII)


def default_workers() -> int:
    """Threads that decode media and make prompts: as many as processors, at most 4."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


_ADDRESS, _ACCESS, _MEDIA, _LIMITS, _TIMES, _OUTPUT = (
    "Address", "Who may do what", "Media", "Limits", "Times in seconds", "Output",
)  # fmt: skip


def _text(help: str, metavar: str, group: str, default: str = "") -> Option:
    return Option(help, metavar=metavar, group=group, default=default)


def _switch(help: str, group: str) -> Option:
    return Option(help, group=group)


def _count(help: str, group: str, low: int = 1) -> Option:
    return Option(help, low=low, group=group)


def _size(help: str, group: str) -> Option:
    return Option(help, low=1, group=group, size=True)


def _seconds(help: str, group: str = _TIMES) -> Option:
    return Option(help, above=0, metavar="S", group=group)


def _is_version(value: object) -> bool:
    return isinstance(value, str) and bool(_VERSION.fullmatch(value))


def _is_prefix(value: object) -> bool:
    if value == "":
        return True
    return isinstance(value, str) and bool(_PREFIX.fullmatch(value)) and value.split("/")[1] not in _OWN


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a server except those of the model. Sizes are bytes, times seconds; `docs/server.md` explains.

    api_keys: who may use it, empty for everybody. ollama_version: clients refuse servers whose version is too old for
    them; the default is the first with OpenAI's responses and Anthropic's messages.
    """

    host: Annotated[str, _text("Where to listen.", "ADDRESS", _ADDRESS)] = "127.0.0.1"
    port: Annotated[int, Option("0 takes a free one.", low=0, high=65535, group=_ADDRESS)] = 8000
    root_path: Annotated[
        str,
        Option(
            "Path at which a proxy offers this server; the proxy may remove it from requests or not.",
            check=_is_prefix,
            wanted="a path such as /vision that is none of the server's own",
            metavar="PATH",
            group=_ADDRESS,
        ),
    ] = ""
    ui: Annotated[bool, _switch("Show the web page to browsers at /.", _ADDRESS)] = True
    served_model_name: Annotated[
        tuple[str, ...], _text("What requests call the model; the first is shown.", "NAME", _ADDRESS, default="MODEL")
    ] = ()
    ollama_version: Annotated[
        str,
        Option(
            "What /api/version tells Ollama's clients.",
            check=_is_version,
            wanted="three numbers such as 0.14.0",
            metavar="X.Y.Z",
            group=_ADDRESS,
        ),
    ] = "0.14.0"
    api_keys: tuple[str, ...] = ()
    insecure: Annotated[bool, _switch("Let everybody who reaches --host call without a key.", _ACCESS)] = False
    allowed_hosts: Annotated[
        tuple[str, ...], _text("Host names besides localhost and addresses.", "NAME", _ACCESS)
    ] = ()
    adapter_dir: Annotated[
        str | None, _text("Load adapters by request from below this directory only.", "DIR", _ACCESS, default="none")
    ] = None
    allow_adapter_loading: Annotated[
        bool, _switch("Let requests load adapters from --adapter-dir, and unload adapters.", _ACCESS)
    ] = False
    strict: Annotated[bool, _switch("Refuse the fields of requests that are otherwise ignored.", _ACCESS)] = False
    allowed_origins: Annotated[
        tuple[str, ...], _text("Web pages that may call, such as https://example.com.", "URL", _ACCESS)
    ] = ()
    fetch_media: Annotated[bool, _switch("Fetch images by URL, from public addresses only.", _MEDIA)] = True
    allowed_media_domains: Annotated[tuple[str, ...], _text("Fetch only from these domains.", "NAME", _MEDIA)] = ()
    allowed_media_path: Annotated[tuple[str, ...], _text("Open file:// URLs below this directory.", "DIR", _MEDIA)] = ()
    max_images: Annotated[int, _count("Images of a request.", _MEDIA)] = 64
    max_media_bytes: Annotated[int, _size("Encoded size of an image.", _MEDIA)] = 32 * MIB
    max_pixels: Annotated[int, _count("Width times height of an image.", _MEDIA)] = 50_000_000
    max_videos: Annotated[int, _count("Videos of a request.", _MEDIA)] = 4
    max_video_frames: Annotated[int, _count("Frames that are looked at, of all videos of a request.", _MEDIA)] = 512
    max_video_seconds: Annotated[float, _seconds("Length of a video, or of the part that is asked for.", _MEDIA)] = (
        3600.0
    )
    max_visual_tokens: Annotated[int, _count("Tokens of all images and videos of a request.", _MEDIA)] = 16_384
    max_files: Annotated[int, _count("Maximum number of uploaded files.", _MEDIA)] = 1000
    max_files_bytes: Annotated[int, _size("Size of all uploaded files.", _MEDIA)] = 512 * MIB
    file_seconds: Annotated[float, _seconds("Lifetime of an uploaded file.", _MEDIA)] = 24 * 3600.0
    data_dir: Annotated[
        str,
        _text("Directory for uploaded files and batches, which then survive restarts.", "DIR", _MEDIA, "nowhere"),
    ] = ""
    max_batch_bytes: Annotated[int, _size("Size of a batch's input file.", _MEDIA)] = 1024 * MIB
    max_batches_bytes: Annotated[int, _size("Size of all files of batches.", _MEDIA)] = 16 * 1024 * MIB
    batch_file_seconds: Annotated[
        int, Option("Lifetime of a file of batches, in seconds.", low=1, metavar="S", group=_MEDIA)
    ] = 30 * 24 * 3600
    media_workers: Annotated[int, _count("Threads that decode; 0: as many as processors, up to 4.", _MEDIA, low=0)] = 0
    max_model_len: MaxModelLen = None
    max_seqs: Annotated[int, MAX_SEQS] = DEFAULT_MAX_SEQS
    max_queue: Annotated[int, _count("Answers that may wait; then 429.", _LIMITS, low=0)] = 64
    max_n: Annotated[int, _count("Answers of one request.", _LIMITS)] = 16
    max_adapters: Annotated[int, _count("Adapters that are loaded at the same time.", _LIMITS)] = 32
    default_max_tokens: Annotated[int, _count("Tokens of an answer where a request does not say.", _LIMITS)] = 4096
    max_body_bytes: Annotated[int, _size("Size of a request.", _LIMITS)] = 64 * MIB
    max_bodies_bytes: Annotated[int, _size("Size of all requests that are being read.", _LIMITS)] = 512 * MIB
    max_header_bytes: Annotated[int, _size("Size of a request's headers.", _LIMITS)] = 64 << 10
    queue_timeout: Annotated[float, _seconds("Waiting for a place.")] = 120.0
    request_timeout: Annotated[float, _seconds("A whole answer.")] = 1800.0
    fetch_timeout: Annotated[float, _seconds("Fetching one URL.")] = 20.0
    decode_timeout: Annotated[float, _seconds("Preparing a prompt.")] = 30.0
    body_timeout: Annotated[float, _seconds("Receiving a request.")] = 60.0
    header_timeout: Annotated[float, _seconds("Receiving a request's headers.")] = 20.0
    keep_alive: Annotated[float, _seconds("An idle connection.")] = 75.0
    ping: Annotated[float, _seconds("Between comments in a stream that is silent.")] = 10.0
    drain: Annotated[float, Option("For running answers, after SIGTERM.", low=0, metavar="S", group=_TIMES)] = 30.0
    runaway_guard: Annotated[bool, _switch("End answers that repeat themselves without end.", _OUTPUT)] = True
    normalize_newlines: NormalizeNewlines = False
    log: Annotated[LogFormat, _text("One line on stderr for each request.", "", _OUTPUT)] = "json"

    def __post_init__(self) -> None:
        """Refuse values out of range, and addresses that strangers reach without a key."""
        validate(self, lambda each: each.flag)
        for path in self.allowed_media_path:
            if not Path(path).is_dir():
                raise OptionError(f"--allowed-media-path={path}: no such directory")
        if self.allow_adapter_loading and self.adapter_dir is None:
            raise OptionError("--allow-adapter-loading: name the directory with the adapters by --adapter-dir")
        if self.adapter_dir is not None and not self.allow_adapter_loading:
            raise OptionError(
                f"--adapter-dir={self.adapter_dir}: add --allow-adapter-loading to let requests load adapters from "
                "there; --adapter loads one at the start"
            )
        if self.adapter_dir is not None and not Path(self.adapter_dir).is_dir():
            raise OptionError(f"--adapter-dir={self.adapter_dir}: no such directory")
        for key in self.api_keys:
            if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
                raise OptionError("an API key needs at least 8 printable ASCII characters without blanks")
        if not (self.local or self.api_keys or self.insecure):
            raise OptionError(
                f"--host={self.host} can be reached from other machines: set a key with --api-key-file or "
                "POCKETVLM_API_KEY, or say --insecure to let everybody in"
            )

    def check_adapters(self, names: Collection[str], model_names: Collection[str]) -> None:
        """Raise OptionError for adapters that are too many, or for a name that none may have."""
        if len(names) > self.max_adapters:
            raise OptionError(f"{len(names)} adapters are more than --max-adapters={self.max_adapters}: raise it")
        for name in names:
            check_adapter_name(name, model_names)

    @property
    def local(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def workers(self) -> int:
        """Threads that decode media and make prompts."""
        return self.media_workers or default_workers()


def read_keys(path: str | Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Keys from a file (one a line; # begins a comment line) and from POCKETVLM_API_KEY, separated by commas."""
    keys: list[str] = []
    if path is not None:
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"--api-key-file={path}: cannot be read: {error}") from None
        keys += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if not keys:
            raise OptionError(f"--api-key-file={path}: there is no key in it, one a line")
    keys += [key.strip() for key in environment.get("POCKETVLM_API_KEY", "").split(",") if key.strip()]
    return tuple(dict.fromkeys(keys))


def read_file(path: str | Path, known: tuple[str, ...]) -> dict[str, Any]:
    """Settings of a YAML file: flags without their dashes, `max-seqs: 8` or `max_seqs: 8`. Raises OptionError."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"--config={path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise OptionError(f"--config={path}: not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise OptionError(f"--config={path}: a mapping of flags to values is wanted, not {type(content).__name__}")
    read = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near.replace('_', '-')!r}?" if near else "see pocketvlm serve --help"
            raise OptionError(f"--config={path}: unknown setting {key!r}: {hint}")
        read[name] = value
    return read
