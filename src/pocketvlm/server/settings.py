"""`Settings` holds the server's limits, timeouts, keys and names and checks them at once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from pocketvlm.errors import OptionError
from pocketvlm.suggest import nearest

LogFormat = Literal["json", "none"]
MIB = 1 << 20
_VERSION = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.]+)?", re.ASCII)


def default_workers() -> int:
    """Threads that decode media and make prompts: as many as processors, at most 4."""
    return max(1, min(4, len(os.sched_getaffinity(0))))


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of a server except those of the model. Sizes are bytes, times seconds; `docs/server.md` explains.

    host, port: where it listens (port 0: a free one). api_keys: who may use it, empty for everybody. insecure: listen
    on other addresses than loopback without a key. served_model_name: names that requests may use, the first is shown.
    max_seqs: sequences that run at the same time. max_queue: sequences that may wait for a place. strict: refuse the
    fields of requests that would otherwise be ignored. ollama_version: what /api/version says; clients refuse servers
    whose version is too old for them. The default is the first with OpenAI's responses and Anthropic's messages.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    insecure: bool = False
    served_model_name: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_model_len: int | None = None
    default_max_tokens: int = 4096
    max_seqs: int = 16
    max_queue: int = 64
    max_n: int = 16
    queue_timeout: float = 120.0
    request_timeout: float = 1800.0
    fetch_timeout: float = 20.0
    decode_timeout: float = 30.0
    body_timeout: float = 60.0
    header_timeout: float = 20.0
    keep_alive: float = 75.0
    ping: float = 10.0
    drain: float = 30.0
    max_body_bytes: int = 64 * MIB
    max_bodies_bytes: int = 512 * MIB
    max_header_bytes: int = 64 << 10
    max_media_bytes: int = 32 * MIB
    max_pixels: int = 50_000_000
    max_images: int = 64
    max_visual_tokens: int = 16_384
    max_videos: int = 4
    max_video_frames: int = 512
    max_video_seconds: float = 3600.0
    max_files_bytes: int = 512 * MIB
    max_files: int = 1000
    file_seconds: float = 24 * 3600.0
    allowed_media_path: tuple[str, ...] = ()
    allowed_media_domains: tuple[str, ...] = ()
    fetch_media: bool = True
    media_workers: int = 0
    strict: bool = False
    ollama_version: str = "0.14.0"
    runaway_guard: bool = True
    normalize_newlines: bool = False
    log: LogFormat = "json"

    def __post_init__(self) -> None:
        """Refuse values out of range, and addresses that strangers reach without a key."""
        positive = (
            "max_seqs", "max_n", "default_max_tokens", "max_body_bytes", "max_bodies_bytes", "max_header_bytes",
            "max_media_bytes", "max_pixels", "max_images", "max_visual_tokens", "max_files", "max_files_bytes",
            "max_videos", "max_video_frames", "max_video_seconds",
            "queue_timeout", "request_timeout", "fetch_timeout", "decode_timeout", "body_timeout", "header_timeout",
            "keep_alive", "ping", "file_seconds",
        )  # fmt: skip
        checks = [(name, getattr(self, name) > 0, "a number above 0") for name in positive]
        checks += [
            ("port", 0 <= self.port <= 65535, "0 to 65535"),
            ("max_model_len", self.max_model_len is None or self.max_model_len > 0, "a number above 0"),
            ("max_queue", self.max_queue >= 0, "0 or more"),
            ("drain", self.drain >= 0, "0 or more seconds"),
            ("media_workers", self.media_workers >= 0, "0 (as many as processors) or more"),
            ("ollama_version", bool(_VERSION.fullmatch(self.ollama_version)), "three numbers such as 0.14.0"),
            ("log", self.log in ("json", "none"), "json or none"),
        ]
        for name, good, wanted in checks:
            if not good:
                raise OptionError(f"{flag(name)}={getattr(self, name)!r} is out of range: give {wanted}")
        for path in self.allowed_media_path:
            if not Path(path).is_dir():
                raise OptionError(f"--allowed-media-path={path}: no such directory")
        for key in self.api_keys:
            if len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key:
                raise OptionError("an API key needs at least 8 printable ASCII characters without blanks")
        if not (self.local or self.api_keys or self.insecure):
            raise OptionError(
                f"--host={self.host} can be reached from other machines: set a key with --api-key-file or "
                "POCKETVLM_API_KEY, or say --insecure to let everybody in"
            )

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


NAMES = tuple(field.name for field in fields(Settings))


def flag(name: str) -> str:
    """The command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


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
