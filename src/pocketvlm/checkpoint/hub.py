"""`resolve` turns a model name into a local directory or GGUF file and downloads it from the hub if needed.

The download client is loaded only if a hub id has to be resolved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.checkpoint.files import ADAPTER_CONFIG, is_adapter, is_gguf
from pocketvlm.checkpoint.jsonfile import read_json
from pocketvlm.checkpoint.missing import missing, near_path
from pocketvlm.errors import CheckpointError, DownloadError, OptionError
from pocketvlm.fields import shown
from pocketvlm.suggest import nearest

EMBEDDED = "nano"

Progress = Callable[[int, int], None]

_SHOWN = 8
_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"(?P<id>{_PART}/{_PART})(?::(?P<tag>{_PART}))?(?:@(?P<revision>[^\s@]+))?")


@dataclass(frozen=True, slots=True)
class Pulled:
    """A checkpoint or an adapter on this machine.

    path: its directory or GGUF file. files, nbytes: the number of its files and their bytes. adapter: whether it is
    one; base: the model that it was trained on, as far as its files say.
    """

    path: Path
    files: int
    nbytes: int
    adapter: bool = False
    base: str | None = None


def embedded_directory() -> Path:
    """The checkpoint inside the package."""
    return Path(__file__).resolve().parent.parent / EMBEDDED


def resolve(
    model: str | Path,
    revision: str | None = None,
    progress: Progress | None = None,
    weights: bool = True,
    mmproj: str | Path | None = None,
) -> Path:
    """The directory of a model, or its GGUF file.

    model: "nano", a directory, a GGUF file, or a hub id "org/name" or "org/name@revision". "org/name:Q4_K_M" is the
    GGUF file of that type in a repository. What exists wins over a hub id of the same spelling. revision: branch, tag
    or commit of a hub id. progress: called with (bytes done, bytes in all) while the weights are downloaded; without it
    a bar is shown on stderr. weights: False leaves safetensors files out. mmproj: the vision file of a GGUF model;
    where it is given, none is downloaded.

    Raises CheckpointError for any other name, OptionError for a revision of "nano" or of a directory, and DownloadError
    if the download fails.
    """
    if mmproj is not None and not Path(mmproj).expanduser().is_file():
        raise CheckpointError(f"mmproj {str(mmproj)!r}: there is no such file: give the path of a GGUF vision file")
    text = str(model)
    if text == EMBEDDED:
        directory = embedded_directory()
        if not (directory / "config.json").is_file():
            raise CheckpointError(f"{directory}: the embedded checkpoint is missing: install pocketvlm again")
        return _without_revision(directory, text, revision)
    path = _path(text, "model")
    if not text:
        raise _unknown(text, False)
    if path.is_dir():
        return _without_revision(path, text, revision)
    if is_gguf(path):
        return _without_revision(path, text, revision)
    if path.exists():
        raise CheckpointError(
            f"model {text!r} is a file, but no GGUF file: give the directory that holds it and its config.json"
        )
    found = _HUB_ID.fullmatch(text)
    if found is None or isinstance(model, Path):
        raise _unknown(text, isinstance(model, Path))
    inline = found["revision"]
    if revision is not None and inline is not None and revision != inline:
        raise OptionError(f"revision={revision!r} contradicts the model {text!r}: give one of them")
    from pocketvlm.checkpoint.download import download
    from pocketvlm.checkpoint.download_errors import NotFoundError

    try:
        return download(found["id"], revision or inline, progress, weights, found["tag"], mmproj is None)
    except NotFoundError as error:
        raise DownloadError(f"model {text!r}: {_no_model(text)}, and as a hub id: {error}") from error.__cause__


def resolve_adapter(adapter: str | Path, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The folder of an adapter (LoRA) in PEFT's file format.

    adapter: a folder with adapter_config.json, or a hub id "org/name" or "org/name@revision", whose files are
    downloaded. revision and progress: as `resolve` takes them. Raises CheckpointError for any other name, OptionError
    for a revision of a folder, and DownloadError if the download fails.
    """
    text = str(adapter)
    path = _path(text, "adapter")
    wanted = "give the folder of an adapter, which holds adapter_config.json, or a hub id"
    if text == EMBEDDED and not path.exists():
        raise CheckpointError(f"adapter {text!r}: is a whole checkpoint, no adapter: give it as the model")
    if text and path.is_dir():
        if not (path / ADAPTER_CONFIG).is_file():
            inner = sorted(each.parent.name for each in path.glob(f"*/{ADAPTER_CONFIG}"))
            if inner:
                names = ", ".join(inner[:_SHOWN]) + (f" and {len(inner) - _SHOWN} more" if len(inner) > _SHOWN else "")
                raise CheckpointError(f"adapter {text!r}: the adapters are in its folders {names}: give one")
            if (path / "config.json").is_file():
                raise CheckpointError(f"adapter {text!r}: is a whole checkpoint, no adapter: give it as the model")
            raise CheckpointError(f"adapter {text!r}: has no {ADAPTER_CONFIG}: {wanted}")
        return _without_revision(path, text, revision)
    if text and path.exists():
        raise CheckpointError(f"adapter {text!r}: is a file: {wanted}")
    found = _HUB_ID.fullmatch(text)
    if found is None or found["tag"] or isinstance(adapter, Path):
        raise CheckpointError(f"adapter {text!r}: {_no_adapter(text)}: {wanted}")
    inline = found["revision"]
    if revision is not None and inline is not None and revision != inline:
        raise OptionError(f"revision={revision!r} contradicts the adapter {text!r}: give one of them")
    from pocketvlm.checkpoint.download import download_adapter
    from pocketvlm.checkpoint.download_errors import NotFoundError

    try:
        return download_adapter(found["id"], revision or inline, progress)
    except NotFoundError as error:
        raise DownloadError(f"adapter {text!r}: {_no_adapter(text)}, and as a hub id: {error}") from error.__cause__


def pull(model: str | Path, revision: str | None = None, progress: Progress | None = None) -> Pulled:
    """Resolve a model or an adapter, downloading it if needed, and measure it. Raises as `resolve` does."""
    from pocketvlm.checkpoint.download_errors import AdapterFoundError

    try:
        path = resolve(model, revision, progress)
    except AdapterFoundError:
        path = resolve_adapter(model, revision, progress)
    files: Iterable[Path] = filter(Path.is_file, path.iterdir()) if path.is_dir() else _gguf_files(path)
    sizes = [file.stat().st_size for file in files]
    if not is_adapter(path):
        return Pulled(path, len(sizes), sum(sizes))
    base = read_json(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    return Pulled(path, len(sizes), sum(sizes), True, base if isinstance(base, str) and base else None)


def is_model(model: str | Path) -> bool:
    """Whether a name is that of the embedded checkpoint, a checkpoint's directory, or a GGUF file."""
    path = Path(model).expanduser()
    return str(model) == EMBEDDED or _is_checkpoint(path)


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").is_file() or any(path.glob("*.gguf")) if path.is_dir() else is_gguf(path)


def _no_model(text: str) -> str:
    return missing(text, "directory or file", _is_checkpoint)


def _no_adapter(text: str) -> str:
    return missing(text, "folder", Path.is_dir)


def _gguf_files(path: Path) -> Iterable[Path]:
    from pocketvlm.checkpoint.reader import open_checkpoint

    return open_checkpoint(path).tensor_files


def _path(text: str, kind: str) -> Path:
    """A path that the file system can be asked about. Raises CheckpointError."""
    try:
        path = Path(text).expanduser()
        path.exists()
        return path
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{kind} {shown(text)} is no path: {reason}: give a directory or a hub id") from None


def _without_revision(path: Path, model: str, revision: str | None) -> Path:
    if revision is not None:
        raise OptionError(
            f"revision={revision!r}: {model!r} is a local directory or file, only models of the hub have revisions"
        )
    return path


def _unknown(model: str, is_path: bool) -> CheckpointError:
    """The error for a name that is neither on this machine nor a hub id."""
    local, _, tag = model.rpartition(":")
    if local and Path(local).expanduser().exists():
        return CheckpointError(
            f"model {model!r}: only names of the hub take a type such as {tag!r}, and {local} is on this machine: give "
            f"the path of a GGUF file"
        )
    choices = f'give "{EMBEDDED}" (built in), a directory, a GGUF file, or a hub id such as openbmb/MiniCPM-V-4.6'
    if is_path or model.endswith(".gguf") or model.startswith(("/", ".", "~")) or "\\" in model or model.endswith("/"):
        return CheckpointError(f"model {model!r}: {_no_model(model)}: {choices}")
    if "://" in model:
        return CheckpointError(f"model {model!r}: links are not taken: {choices}")
    if model.count("/") > 1:
        return CheckpointError(f"model {model!r}: {_no_model(model)}, and hub ids have one slash: {choices}")
    near = near_path(model, _is_checkpoint) or nearest(model, [EMBEDDED])
    return CheckpointError(f"model {model!r} is not known{f' (did you mean {near}?)' if near else ''}: {choices}")
