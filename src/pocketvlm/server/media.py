"""Media that a request names by URL, file or id are replaced by their data before decoding."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pocketvlm.errors import ImageError, OptionError, VideoError
from pocketvlm.processor.frames import rated
from pocketvlm.server.fetching import Fetcher
from pocketvlm.server.settings import Settings

_AT_ONCE = 4

_TYPES = ("image", "image_url", "video", "video_url")
_SOURCES = ("image", "video", "image_url", "video_url", "url", "path")

GetFile = Callable[[str, str], bytes]  # file id, place in the request -> content; raises ApiError


class Media:
    """Gets media by the server's rules. Fetching has threads of its own, so slow sites hold up nothing else."""

    def __init__(self, settings: Settings, fetcher: Fetcher | None = None) -> None:
        self.settings = settings
        self.fetcher = fetcher or Fetcher(
            settings.fetch_timeout, settings.max_media_bytes, settings.allowed_media_domains
        )
        self._roots = [Path(path).resolve() for path in settings.allowed_media_path]
        self._threads = ThreadPoolExecutor(8, "fetch")

    def close(self) -> None:
        """Let go of the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, messages: Sequence[Any], get_file: GetFile) -> tuple[list[Any], float]:
        """Messages in which every image and video carries its data, and the seconds that this took.

        Raises ImageError, VideoError and OptionError, ApiError where there is no such file.
        """
        began = time.perf_counter()
        parts: list[tuple[int, int, str]] = []
        kinds = {"image": 0, "video": 0}
        copied = [
            {**message, "content": list(message["content"])} if _has_parts(message) else message for message in messages
        ]
        for number, message in enumerate(copied):
            if _has_parts(message):
                for index, part in enumerate(message["content"]):
                    if isinstance(part, Mapping) and part.get("type") in _TYPES:
                        message["content"][index] = named = _by_name(part)
                        parts.append((number, index, f"messages[{number}].content[{index}]"))
                        kinds[_kind(named)] += 1
        for kind, most in (("image", self.settings.max_images), ("video", self.settings.max_videos)):
            if kinds[kind] > most:
                raise _failure(kind, f"{kinds[kind]} {kind}s are more than the limit of {most}: send fewer")
        gate, total = asyncio.Semaphore(_AT_ONCE), 0

        async def one(number: int, index: int, where: str) -> None:
            nonlocal total
            async with gate:
                part = copied[number]["content"][index]
                try:
                    part = await self._part(part, where, get_file)
                except ImageError as error:
                    raise _failure(_kind(part), str(error)) from error.__cause__
                copied[number]["content"][index] = part
                source = _source(part)
                total += sum(len(str(each)) for each in (source if isinstance(source, list) else [source or ""]))
                if total * 3 // 4 > self.settings.max_body_bytes:
                    most = self.settings.max_body_bytes
                    raise _failure(
                        _kind(part), f"{where}: the media up to here are more than the limit of {most} bytes"
                    )

        async with _First() as tasks:
            for number, index, where in parts:
                tasks.add(one(number, index, where))
        return copied, time.perf_counter() - began

    async def _part(self, part: Mapping[str, Any], where: str, get_file: GetFile) -> dict[str, Any]:
        """The part with data instead of whatever it named."""
        changed, kind = dict(part), _kind(part)
        by_url, keys = f"{kind}_url", (kind, "url", "path")
        inner = part.get(by_url)
        file_id = changed.pop("file_id", None)
        if isinstance(inner, Mapping) and inner.get("file_id") is not None:
            file_id = inner["file_id"]
        if file_id is not None:
            if not isinstance(file_id, str):
                raise ImageError(f"{where}: file_id must be a string")
            for key in (*keys, "base64"):
                if changed.get(key) is not None:
                    raise ImageError(f"{where}: give file_id or {key}, not both")
            uri = await asyncio.to_thread(lambda: _data_uri(get_file(file_id, where)))
            if by_url in changed:
                rest = {key: value for key, value in dict(inner or {}).items() if key not in ("file_id", "url")}
                return {**changed, by_url: {**rest, "url": uri}}
            return {**changed, kind: uri}
        source = _source(part)
        if kind == "video" and isinstance(source, list) and all(isinstance(each, str) for each in source):
            if len(source) > self.settings.max_video_frames:
                most = self.settings.max_video_frames
                raise ImageError(f"{where}: {len(source)} frames are more than the limit of {most}: send fewer")
            return {**changed, kind: [await self._uri(each, where, path=False) for each in source]}
        if not isinstance(source, str):
            return changed  # the processor says what is wrong with it
        uri = await self._uri(source, where, path=isinstance(part.get("path"), str))
        if by_url in changed:
            changed[by_url] = {**inner, "url": uri} if isinstance(inner, Mapping) else uri
        else:
            changed = {key: value for key, value in changed.items() if key not in keys}
            changed[kind] = uri
        return changed

    async def _uri(self, source: str, where: str, path: bool) -> str:
        source = source if path else source.strip()
        scheme = source.split(":", 1)[0].lower() if ":" in source[:16] else ""
        loop = asyncio.get_running_loop()
        if path or scheme == "file":
            data = await loop.run_in_executor(self._threads, self._local, source, where, scheme == "file")
        elif scheme == "data":
            return source
        elif scheme in ("http", "https"):
            if not self.settings.fetch_media:
                raise ImageError(f"{where}: this server fetches nothing from the network: send the data itself")
            try:
                # The fetcher keeps its own time; this is for name servers that do not answer.
                async with asyncio.timeout(self.settings.fetch_timeout + 2):
                    data = await loop.run_in_executor(self._threads, self.fetcher.fetch, source, where)
            except TimeoutError:
                raise ImageError(
                    f"{where}: no complete answer from the URL within {self.settings.fetch_timeout:g} s"
                ) from None
        elif scheme:
            raise ImageError(f"{where}: {scheme}: is not supported: give https, http, data or file, or base64 text")
        else:
            return f"data:;base64,{source}"
        return await asyncio.to_thread(_data_uri, data)

    def _local(self, source: str, where: str, is_uri: bool) -> bytes:
        """A file below one of the allowed directories. Says nothing about files elsewhere, not even that they exist."""
        text = source
        refused = ImageError(f"{where}: this file is not below an allowed media path")
        if not self._roots:
            raise ImageError(
                f"{where}: reading local files is switched off here: send it as a data URI, or start the server with "
                "--allowed-media-path DIR"
            )
        if is_uri:
            parts = urlsplit(source)
            if parts.netloc not in ("", "localhost"):
                raise ImageError(f"{where}: a file: URI on another host cannot be opened")
            text = unquote(parts.path)
        try:
            path = Path(text).resolve()
            if not any(path.is_relative_to(root) for root in self._roots):
                raise refused
            if not path.is_file():
                raise ImageError(f"{where}: no such file below the allowed media path")
            limit = self.settings.max_media_bytes
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, ImageError):
                raise
            raise refused from None
        if len(data) > limit:
            raise ImageError(f"{where}: more than the limit of {limit} bytes")
        return data


class _First:
    """Tasks that run together; the first failure is raised as it is, and the others are cancelled."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def add(self, work: Any) -> None:
        self._tasks.append(asyncio.ensure_future(work))

    async def __aenter__(self) -> _First:
        return self

    async def __aexit__(self, *failure: object) -> None:
        try:
            await asyncio.gather(*self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()


def _has_parts(message: Any) -> bool:
    return isinstance(message, Mapping) and isinstance(message.get("content"), list)


def _kind(part: Mapping[str, Any]) -> str:
    return str(part["type"]).removesuffix("_url")


def _failure(kind: str, text: str) -> ImageError | VideoError:
    return VideoError(text) if kind == "video" else ImageError(text)


def _by_name(part: Mapping[str, Any]) -> dict[str, Any]:
    """The part; where its source is `video:PATH[:fps]`, a video part with that path, and the rate as its fps."""
    if not names_video(part):
        return dict(part)
    path, fps = rated(_source(part))
    rest = {key: value for key, value in part.items() if key not in ("type", *_SOURCES)}
    inner = part.get(str(part["type"]))
    if isinstance(inner, Mapping) and inner.get("detail") is not None:
        rest.setdefault("detail", inner["detail"])
    if fps is not None:
        rest.setdefault("fps", fps)
    named = path if path[:5].lower() in ("data:", "file:", "http:", "https") else Path(path).absolute().as_uri()
    return {**rest, "type": "video_url", "video_url": {"url": named}}


def names_video(part: Mapping[str, Any]) -> bool:
    """Whether the source of a part is `video:PATH[:fps]`."""
    source = _source(part)
    return isinstance(source, str) and source[:6].lower() == "video:"


def _source(part: Mapping[str, Any]) -> Any:
    kind = part.get("type")
    if kind in ("image_url", "video_url"):
        value = part.get(str(kind))
        return value.get("url") if isinstance(value, Mapping) else value
    given = [part[key] for key in (str(kind), "url", "path") if part.get(key) is not None]
    return given[0] if len(given) == 1 and part.get("base64") is None else None


def _data_uri(data: bytes) -> str:
    return "data:;base64," + base64.b64encode(data).decode("ascii")


def check_options(options: Mapping[str, Any], where: str, known: Sequence[str]) -> dict[str, Any]:
    """Options for all images and videos of a request, checked by name. Raises OptionError."""
    for name in options:
        if name not in known:
            raise OptionError(f"{where}.{name}: not an image or video option: give one of {', '.join(known)}")
    return {name: value for name, value in options.items() if value is not None}
