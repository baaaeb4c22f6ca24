"""Turns what the user calls a model into a directory on this machine, downloading it from the hub where needed.

The only module of this floor that touches the network. The download client is imported when a hub id is really
resolved; it honours HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE. It goes on after a dropped
connection, and keeps finished files when the process ends; the file that was under way then starts again.
"""

from __future__ import annotations

import errno
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pocketvlm.errors import CheckpointError, DownloadError, OptionError

EMBEDDED = "nano"

# What a checkpoint needs: files at the top of the repository only.
ALLOWED = ["*.json", "*.jinja", "*.safetensors"]
IGNORED = ["*/*", "consolidated*", "*.gguf", "*.bin", "*.onnx"]

Progress = Callable[[int, int], None]

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"(?P<id>{_PART}/{_PART})(?:@(?P<revision>[^\s@]+))?")


@dataclass(frozen=True, slots=True)
class Pulled:
    """A checkpoint on this machine: its directory, the number of its files and their bytes."""

    path: Path
    files: int
    nbytes: int


def embedded_directory() -> Path:
    """The checkpoint inside the package."""
    return Path(__file__).resolve().parent.parent / EMBEDDED


def resolve(model: str | Path, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The directory of a model.

    model: "nano", a directory, or a hub id "org/name" or "org/name@revision". An existing directory wins over a hub id
    of the same spelling. revision: branch, tag or commit of a hub id. progress: called with (bytes done, bytes in all)
    while downloading, from several threads; without it the client shows its own bar on stderr.

    Raises CheckpointError for a name that is none of these, OptionError for a revision of something that has none, and
    DownloadError if the hub cannot deliver.
    """
    text = str(model)
    if text == EMBEDDED:
        directory = embedded_directory()
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: the embedded checkpoint is missing: install pocketvlm again")
        return _without_revision(directory, text, revision)
    path = Path(text).expanduser()
    if not text:
        raise _unknown(text, False)
    if path.is_dir():
        return _without_revision(path, text, revision)
    if path.exists():
        raise CheckpointError(f"model {text!r} is a file: give the directory that holds it and its config.json")
    found = _HUB_ID.fullmatch(text)
    if found is None or isinstance(model, Path):
        raise _unknown(text, isinstance(model, Path))
    inline = found["revision"]
    if revision is not None and inline is not None and revision != inline:
        raise OptionError(f"revision={revision!r} contradicts the model {text!r}: give one of them")
    return _download(found["id"], revision or inline, progress)


def pull(model: str | Path, revision: str | None = None, progress: Progress | None = None) -> Pulled:
    """Resolve a model, downloading it if needed, and measure it. Raises as `resolve` does."""
    path = resolve(model, revision, progress)
    sizes = [file.stat().st_size for file in path.iterdir() if file.is_file()]
    return Pulled(path, len(sizes), sum(sizes))


def _without_revision(path: Path, model: str, revision: str | None) -> Path:
    if revision is not None:
        raise OptionError(
            f"revision={revision!r}: {model!r} is a local directory, only models of the hub have revisions"
        )
    return path


def _unknown(model: str, is_path: bool) -> CheckpointError:
    """The error for a name that is neither on this machine nor a hub id."""
    choices = f'give "{EMBEDDED}" (built in), a directory, or a hub id such as openbmb/MiniCPM-V-4.6'
    if is_path or model.startswith(("/", ".", "~")) or "\\" in model or model.endswith("/"):
        return CheckpointError(f"model {model!r}: there is no such directory: {choices}")
    if "://" in model:
        return CheckpointError(f"model {model!r}: links are not taken: {choices}")
    if model.count("/") > 1:
        return CheckpointError(f"model {model!r}: there is no such directory, and hub ids have one slash: {choices}")
    return CheckpointError(f"model {model!r} is not known: {choices}")


def _download(repo_id: str, revision: str | None, progress: Progress | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                allow_patterns=ALLOWED,
                ignore_patterns=IGNORED,
                library_name="pocketvlm",
                tqdm_class=None if progress is None else _reporting_bar(progress),
            )
        )
    except Exception as error:
        message = _explain(error, repo_id, revision)
        if message is None:
            raise
        raise DownloadError(message) from error


def _explain(error: Exception, repo_id: str, revision: str | None) -> str | None:
    """One line for a failure of the download client: what, why, way out; None for a bug rather than a failure."""
    from huggingface_hub import constants, errors

    endpoint, cache = constants.ENDPOINT, constants.HF_HUB_CACHE
    name = repo_id if revision is None else f"{repo_id}@{revision}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo_id} is gated: accept its terms at {endpoint}/{repo_id}, then set HF_TOKEN to your token or run "
            f"`hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{repo_id} is not on {endpoint}, or is private: check the spelling, or set HF_TOKEN to a token that may "
            f"read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: see {endpoint}/{repo_id}/refs for branches and tags"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        if constants.HF_HUB_OFFLINE:
            return (
                f"{name} is not complete in the cache {cache} and HF_HUB_OFFLINE is set: run `pocketvlm pull {name}` "
                f"with a network, or give the path of a directory"
            )
        return _unreachable(name, endpoint, cache)
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code if error.response is not None else "no answer"
        hint = "check HF_TOKEN" if status in {401, 403} else "wait and try again, or set HF_ENDPOINT to a mirror"
        return f"{endpoint} refused {name} (HTTP {status}): {hint}"
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} is not a valid hub id: give org/name or org/name@revision"
    # The HTTP client differs between versions of huggingface_hub, and none of its classes is ours to import.
    if type(error).__module__.split(".")[0] in {"httpx", "httpx2", "httpcore", "requests", "urllib3"}:
        return _unreachable(name, endpoint, cache)
    if isinstance(error, OSError):
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return f"{name}: the disk is full at {cache}: make room, or set HF_HOME to another disk"
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            return f"{name}: cannot write to {cache}: allow it, or set HF_HOME to a directory of yours"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return f"{name}: the download failed ({reason}): run it again, finished files are kept"
    return None


def _unreachable(name: str, endpoint: str, cache: str) -> str:
    return (
        f"{endpoint} cannot be reached and {name} is not complete in the cache {cache}: check the network, set "
        f"HF_ENDPOINT to a mirror, or give the path of a directory"
    )


def _reporting_bar(progress: Progress) -> type[Any]:
    """A tqdm class that draws nothing and reports bytes; several bars of one download report their largest values."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    done = total = 0

    def report(self: Any) -> None:
        nonlocal done, total
        if self.unit == "B":
            done, total = max(done, int(self.n)), max(total, int(self.total or 0))
            progress(done, total)

    def start(self: Any, *args: Any, **options: Any) -> None:
        options.pop("name", None)
        tqdm.__init__(self, *args, **{**options, "disable": False, "file": io.StringIO()})

    def update(self: Any, n: float | None = 1) -> None:
        self.n += n or 0
        report(self)

    def refresh(self: Any, *args: Any, **options: Any) -> bool:
        report(self)
        return True

    hooks = {"__init__": start, "update": update, "refresh": refresh, "display": lambda self, *args, **options: True}
    return type("ReportingBar", (tqdm,), hooks)
