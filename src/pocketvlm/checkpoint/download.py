"""Downloads go into the cache that all tools share, and resume where a download broke off.

The only module of this floor that touches the network. The download client (huggingface_hub) finds revisions, owns the
cache, and honours HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. But it discards the incomplete file
of an interrupted process. So this module fetches the weights itself, into a partial file that survives, and moves
complete files into the client's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from pocketvlm.checkpoint.download_errors import AdapterFoundError, explained
from pocketvlm.checkpoint.files import (
    ADAPTER_CONFIG,
    ADAPTER_OPTIONS,
    ADAPTER_PICKLE,
    ADAPTER_WEIGHTS,
    GIVE_ADAPTER,
    is_adapter,
    weight_names,
)
from pocketvlm.errors import CheckpointError, DownloadError

# Everything but the weights, at the top of the repository only.
SMALL = ["*.json", "*.jinja"]
IGNORED = ["*/*"]
# Of an adapter: PEFT's settings first, ours after them; and its weights, the format that is preferred first.
_ADAPTER_SMALL = [ADAPTER_CONFIG, ADAPTER_OPTIONS]
_WEIGHT_NAMES = (ADAPTER_WEIGHTS, ADAPTER_PICKLE)
_NEEDED = ("config.json", "tokenizer.json")
_GGUF = "*.gguf"
_CLIENT = "pocketvlm"

Progress = Callable[[int, int], None]


class _Bar(Protocol):
    """The interface that a download needs of a progress bar."""

    def update(self, n: int) -> object: ...

    def close(self) -> object: ...


class _Hook:
    """A bar that reports to a function."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def update(self, n: int) -> None:
        self.done += n
        self.progress(self.done, self.total)

    def close(self) -> None:
        """Does nothing."""


@contextmanager
def _without_notice() -> Iterator[None]:
    """Without the library's warning that no file matches, as in repositories that hold GGUF files alone."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("No files matched")

    logger = logging.getLogger("huggingface_hub._snapshot_download")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def download(
    repo_id: str,
    revision: str | None = None,
    progress: Progress | None = None,
    weights: bool = True,
    tag: str | None = None,
    vision: bool = True,
) -> Path:
    """The directory in the cache with a checkpoint of the hub; missing files are downloaded.

    Given a tag, or a repository without safetensors files, returns the GGUF file of that type instead (None: Q4_K_M);
    its vision file is next to it unless `vision` is False. weights: False leaves out safetensors files.

    Raises DownloadError: one line that says what failed and what to do; CheckpointError for a tag without a file;
    AdapterFoundError for the repository of an adapter.
    """
    from huggingface_hub import snapshot_download

    try:
        with _without_notice():
            found = snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=SMALL,
                ignore_patterns=IGNORED,
                library_name=_CLIENT,
                tqdm_class=_silent_bar(),
            )
        directory = Path(found)
        adapter = AdapterFoundError(f"{repo_id} is an adapter, no model: {GIVE_ADAPTER}")
        if is_adapter(directory) and not (directory / _NEEDED[0]).is_file():
            raise adapter
        if tag is None and _fetch_safetensors(repo_id, directory, progress, weights):
            if weights and is_adapter(directory):
                raise adapter
            return directory
        return _fetch_gguf(repo_id, directory, progress, tag, vision)
    except Exception as error:
        known = None if isinstance(error, CheckpointError) else explained(error, repo_id, revision)
        if known is None:
            raise
        raise known from error


def download_adapter(repo_id: str, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The directory in the cache with an adapter of the hub; missing files are downloaded.

    Raises DownloadError, one line that says what failed and what to do, also for a repository without an adapter.
    """
    from huggingface_hub import errors, snapshot_download

    try:
        with _without_notice():
            found = snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=_ADAPTER_SMALL,
                ignore_patterns=IGNORED,
                library_name=_CLIENT,
                tqdm_class=_silent_bar(),
            )
        directory = Path(found)
        if not (directory / ADAPTER_CONFIG).is_file():
            raise DownloadError(f"{repo_id} has no {ADAPTER_CONFIG}: it is no adapter in PEFT's file format")
        if any((directory / name).exists() for name in _WEIGHT_NAMES):
            return directory
        for name in _WEIGHT_NAMES:
            try:
                _fetch_files(repo_id, directory, [name], progress)
                return directory
            except errors.EntryNotFoundError as error:
                if isinstance(error, errors.LocalEntryNotFoundError):
                    raise
        raise DownloadError(f"{repo_id} has neither {' nor '.join(_WEIGHT_NAMES)}: the adapter there is incomplete")
    except Exception as error:
        known = None if isinstance(error, CheckpointError) else explained(error, repo_id, revision)
        if known is None:
            raise
        raise known from error


def _fetch_safetensors(repo_id: str, directory: Path, progress: Progress | None, weights: bool) -> bool:
    """Download the weights into a snapshot directory that has the small files; False if the repository has none."""
    from huggingface_hub import errors

    if not weights:
        # If small files are missing and no GGUF file replaces them, the reader of the directory raises the error.
        return all((directory / name).is_file() for name in _NEEDED) or not _has_gguf(repo_id, directory)
    try:
        _fetch_files(repo_id, directory, weight_names(directory), progress)
    except Exception as error:
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            return not _has_gguf(repo_id, directory)
        # Offline: a snapshot without config.json is one of GGUF files.
        if any(directory.glob(_GGUF)) and not (directory / "config.json").is_file():
            return False
        raise
    return True


def _fetch_gguf(repo_id: str, directory: Path, progress: Progress | None, tag: str | None, vision: bool) -> Path:
    """Download a GGUF file and its vision file into a snapshot directory; returns the path of the first."""
    from pocketvlm.checkpoint.gguf.files import DEFAULT_TAG, choose_names

    local = [path.name for path in directory.glob(_GGUF)]
    try:
        text, projector = choose_names(local, tag or DEFAULT_TAG, repo_id)
    except CheckpointError:
        text, projector = "", None
    if not text or (vision and projector is None):
        try:
            text, projector = choose_names(_names(repo_id, directory), tag, repo_id)
        except CheckpointError:
            raise
        except Exception:
            if not text:  # otherwise the repository may have no vision file
                raise
    _fetch_files(repo_id, directory, [text] if projector is None or not vision else [text, projector], progress)
    return directory / text


def _names(repo_id: str, directory: Path) -> list[str]:
    """The files of a repository at the commit of a snapshot directory."""
    from huggingface_hub import HfApi

    return HfApi(library_name=_CLIENT).list_repo_files(repo_id, revision=directory.name)


def _has_gguf(repo_id: str, directory: Path) -> bool:
    return any(directory.glob(_GGUF)) or any(name.endswith(".gguf") for name in _names(repo_id, directory))


def _fetch_files(repo_id: str, directory: Path, names: list[str], progress: Progress | None) -> None:
    """Download those large files that a snapshot directory lacks."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    commit = directory.name
    missing = [name for name in names if not (directory / name).exists()]
    if not missing:
        return
    urls = [hf_hub_url(repo_id, name, revision=commit) for name in missing]
    found = [get_hf_file_metadata(url, library_name=_CLIENT) for url in urls]
    label = missing[0] if len(missing) == 1 else f"{len(missing)} files"
    bar = _bar(progress, sum(item.size or 0 for item in found), label)
    try:
        for name, url, item in zip(missing, urls, found, strict=True):
            if item.etag is not None and re.fullmatch(r"[\w-]+", item.etag) and item.size is not None:
                _fetch_blob(directory.parent.parent / "blobs" / item.etag, url, item.size, bar)
            # With the blob in the cache this only links it into the snapshot.
            hf_hub_download(repo_id, name, revision=commit, library_name=_CLIENT)
    finally:
        bar.close()


def _fetch_blob(blob: Path, url: str, size: int, bar: _Bar) -> None:
    """Download one file of the cache through a partial file next to it, which survives this process.

    url is the hub's own URL. Each attempt follows its redirect to a new signed, short-lived URL, to which the HTTP
    client does not send the token.
    """
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    blob.parent.mkdir(parents=True, exist_ok=True)
    path = blob.with_name(f"{blob.name}.partial")
    with _locked(path) as partial:
        if blob.exists():
            # Another process was faster; the open file is its complete file, or an empty one.
            path.unlink(missing_ok=True)
            bar.update(size)
            return
        have = os.fstat(partial.fileno()).st_size
        if have > size:
            have = partial.truncate(0)
        partial.seek(have)
        bar.update(have)
        if have < size:
            headers = build_hf_headers(library_name=_CLIENT)
            http_get(url, partial, resume_size=have, headers=headers, expected_size=size, _tqdm_bar=cast(Any, bar))
        partial.flush()
        if not _intact(partial, blob.name):
            partial.truncate(0)
            raise DownloadError(f"{url}: the file arrived damaged (its checksum differs): run the command again")
        path.replace(blob)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading and writing, creates it if missing, and locks it against other processes."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield cast(BinaryIO, file)


def _intact(file: BinaryIO, etag: str) -> bool:
    """Whether a file has the SHA-256 that the hub gives as the etag of large files; True for other etags."""
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return True
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 22):
        digest.update(chunk)
    return digest.hexdigest() == etag


def _bar(progress: Progress | None, total: int, label: str) -> _Bar:
    """The caller's hook, or a bar on stderr if stderr is a terminal and HF_HUB_DISABLE_PROGRESS_BARS is not set."""
    if progress is not None:
        return _Hook(progress, total)
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    bar: _Bar = cast(Any, tqdm)(total=total, unit="B", unit_scale=True, desc=label, disable=None)
    return bar


def _silent_bar() -> type[Any]:
    """A tqdm class that draws nothing: the small files take no time, and the weights have a bar of their own."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    def start(self: Any, *args: Any, **options: Any) -> None:
        options.pop("name", None)
        tqdm.__init__(self, *args, **{**options, "disable": True})

    return type("SilentBar", (tqdm,), {"__init__": start})
