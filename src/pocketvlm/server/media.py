"""Media that a request names by URL, file or id are replaced by their data before decoding."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pocketvlm.errors import ImageError
from pocketvlm.interfaces.media import (
    MediaSource,
    as_data_uri,
    failure,
    media_parts,
    media_sources,
    part_kind,
    replaced,
    source_of,
)
from pocketvlm.server.fetching import Fetcher
from pocketvlm.server.settings import Settings

_AT_ONCE = 4

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
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, messages: Sequence[Any], get_file: GetFile) -> tuple[list[Any], float]:
        """Messages in which every image and video carries its data, and the seconds that this took.

        Raises ImageError, VideoError and OptionError, ApiError where there is no such file.
        """
        began = time.perf_counter()
        copied, places = media_parts(messages)
        kinds = [part_kind(copied[number]["content"][index]) for number, index, _ in places]
        for kind, maximum in (("image", self.settings.max_images), ("video", self.settings.max_videos)):
            if kinds.count(kind) > maximum:
                raise failure(kind, f"{kinds.count(kind)} {kind}s are more than the limit of {maximum}: send fewer")
        gate, total = asyncio.Semaphore(_AT_ONCE), 0

        async def one(number: int, index: int, where: str) -> None:
            nonlocal total
            async with gate:
                part = copied[number]["content"][index]
                try:
                    part = replaced(part, await self._uris(media_sources(part, where), get_file))
                except ImageError as error:
                    raise failure(part_kind(part), str(error)) from error.__cause__
                copied[number]["content"][index] = part
                source = source_of(part)
                total += sum(len(str(each)) for each in (source if isinstance(source, list) else [source or ""]))
                if total * 3 // 4 > self.settings.max_body_bytes:
                    maximum = self.settings.max_body_bytes
                    raise failure(
                        part_kind(part), f"{where}: the media up to here are more than the limit of {maximum} bytes"
                    )

        async with _First() as tasks:
            for number, index, where in places:
                tasks.add(one(number, index, where))
        return copied, time.perf_counter() - began

    def read(self, get_file: Callable[[str, str], bytes], source: MediaSource, owner: str) -> bytes:
        """The bytes of a source of a batch's line, by the same rules; for threads. get_file: by file id and owner.

        Raises ImageError, ApiError where there is no such file.
        """
        where, value = source.where, source.value
        scheme = "" if source.kind == "path" else value.split(":", 1)[0].lower()
        if source.kind == "file_id":
            return get_file(value, owner)
        if source.kind == "path" or scheme == "file":
            return self._local(value, where, scheme == "file")
        if scheme not in ("http", "https"):
            raise ImageError(f"{where}: {scheme}: is not supported: give https, http, data or file, or base64 text")
        self._check_fetching(where)
        return self.fetcher.fetch(value, where)

    def _check_fetching(self, where: str) -> None:
        if not self.settings.fetch_media:
            raise ImageError(f"{where}: this server fetches nothing from the network: send the data itself")

    async def fetch(self, url: str, where: str) -> bytes:
        """The bytes at an http(s) URL. Raises ImageError."""
        self._check_fetching(where)
        loop = asyncio.get_running_loop()
        try:
            # The fetcher keeps its own time; this is for name servers that do not answer.
            async with asyncio.timeout(self.settings.fetch_timeout + 2):
                return await loop.run_in_executor(self._threads, self.fetcher.fetch, url, where)
        except TimeoutError:
            raise ImageError(
                f"{where}: no complete answer from the URL within {self.settings.fetch_timeout:g} s"
            ) from None

    async def _uris(self, sources: Sequence[MediaSource], get_file: GetFile) -> list[str]:
        maximum = self.settings.max_video_frames
        if len(sources) > maximum:
            raise ImageError(
                f"{sources[0].where}: {len(sources)} frames are more than the limit of {maximum}: send fewer"
            )
        return [await self._uri(source, get_file) for source in sources]

    async def _uri(self, source: MediaSource, get_file: GetFile) -> str:
        if source.kind == "data":
            return source.value
        where, value = source.where, source.value
        if source.kind == "file_id":
            return await asyncio.to_thread(lambda: as_data_uri(get_file(value, where)))
        scheme = "" if source.kind == "path" else value.split(":", 1)[0].lower()
        loop = asyncio.get_running_loop()
        if source.kind == "path" or scheme == "file":
            data = await loop.run_in_executor(self._threads, self._local, value, where, scheme == "file")
        elif scheme in ("http", "https"):
            data = await self.fetch(value, where)
        else:
            raise ImageError(f"{where}: {scheme}: is not supported: give https, http, data or file, or base64 text")
        return await asyncio.to_thread(as_data_uri, data)

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
