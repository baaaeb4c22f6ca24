"""`write_checkpoint` checks tensors, disk and name, and writes a checkpoint that appears whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import filecmp
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from pocketvlm.atomic import TEMPORARY
from pocketvlm.bytesize import readable_size
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.writers.writer import GGUF_SUFFIX, WriteProgress, Writer
from pocketvlm.config import ModelConfig
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.schemes import Role
from pocketvlm.tensors import Tensor

_SHOWN = 4  # names that have one reason, and reasons
_MARGIN = 1 << 24  # bytes for small files and headers


def write_checkpoint(
    writer: Writer,
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    out: Path,
    label: str,
    progress: WriteProgress | None = None,
) -> tuple[Path, ...]:
    """Write a checkpoint to `out`, a directory that must not exist yet, and return the paths of its files.

    out: if it ends in .gguf, the first file that the writer returns gets this name, and the others are put into the
    same folder. The files are written into a hidden folder next to `out`, which is renamed at the end and removed after
    an error; one that a killed process left is removed. The other arguments are those of `Writer.write`.

    Raises OptionError, before anything is written, for a path that exists or cannot be made, for tensors that the
    format cannot hold, and for too little space; CheckpointError if a file cannot be written.
    """
    check_free(out)
    check_tensors(writer, checkpoint.model, tensors, roles)
    writer.check_files(checkpoint, tensors, roles, out, label)
    check_space(out, writer.nbytes(tensors, roles))
    with new_folder(out) as folder:
        paths = writer.write(checkpoint, tensors, roles, folder, label, progress)
        try:
            return _publish(folder, paths, out)
        except OSError as error:
            raise CheckpointError(f"{out}: cannot be made: {error.strerror or error}") from None


def check_free(out: Path) -> None:
    """Raise OptionError unless `out` is a new name in a folder that exists and can be written."""
    try:
        taken = out.exists() or out.is_symlink()
    except OSError as error:  # such as a name that is too long
        raise OptionError(f"{out}: cannot be a name: {error.strerror or error}: give another one") from None
    if taken:
        raise OptionError(f"{out}: exists already: give a name that does not, or remove it first")
    if not out.parent.is_dir():
        raise OptionError(f"{out}: there is no folder {out.parent}: make it first")
    if not os.access(out.parent, os.W_OK):
        raise OptionError(f"{out}: nothing can be written in the folder {out.parent}: choose another")


def check_tensors(
    writer: Writer,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    roles: Mapping[str, Role],
    values: bool = True,
    unfit: Mapping[str, str] | None = None,
) -> None:
    """Raise one OptionError that lists all tensors that the format cannot hold, by their reasons.

    values: False reads none, as for the placeholders of schemes. unfit: reasons known before, by the tensor's name.
    """
    reasons: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        reason = (unfit or {}).get(name) or writer.problem(name, roles[name], tensor, config)
        if reason is not None:
            reasons.setdefault(reason, []).append(name)
    if reasons:
        count = sum(map(len, reasons.values()))
        lines = [f"{_names(names)}: {reason}" for reason, names in reasons.items()]
        more = f"; and {len(lines) - _SHOWN} more reasons" if len(lines) > _SHOWN else ""
        raise OptionError(
            f"format={writer.name!r} cannot hold {count} of {len(tensors)} tensors as they are: "
            f"{'; '.join(lines[:_SHOWN])}{more}"
        )
    if values and (lines := list(writer.check(tensors, roles))):
        others = _names([line.partition(": ")[0] for line in lines[1:]])
        also = f"; the like for {others}" if others else ""
        raise OptionError(f"format={writer.name!r} cannot hold the checkpoint as it is: {lines[0]}{also}")


def check_space(out: Path, nbytes: int) -> None:
    """Raise OptionError unless the disk of `out` has room for so many bytes."""
    free = shutil.disk_usage(out.parent).free
    if free < nbytes + _MARGIN:
        raise OptionError(
            f"{out}: about {readable_size(nbytes)} are needed, and only {readable_size(free)} are free: make room, or "
            f"choose a folder on another disk"
        )


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A new folder next to `out`, locked while it is used and removed at the end."""
    _remove_stale(out)
    folder = out.with_name(f".{out.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        folder.mkdir()
    except OSError as error:
        raise OptionError(f"{out}: nothing can be written in the folder {out.parent}: {error.strerror}") from None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(out: Path) -> None:
    """Remove folders that processes left for the same name when they were killed."""
    for folder in out.parent.iterdir():
        if not folder.name.startswith(f".{out.name}.") or folder.suffix != TEMPORARY:
            continue
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _publish(folder: Path, paths: tuple[Path, ...], out: Path) -> tuple[Path, ...]:
    """Give the files their final names in one step, or a few where a GGUF file and its mmproj stand side by side."""
    if out.suffix != GGUF_SUFFIX:
        folder.rename(out)
        return tuple(out / path.relative_to(folder) for path in paths)
    final = [out, *(out.with_name(path.name) for path in paths[1:])]
    for path, target in reversed(list(zip(paths, final, strict=True))):
        # One vision file serves all quantizations of a model in its folder.
        if target != out and target.is_file() and filecmp.cmp(path, target, shallow=False):
            continue
        check_free(target)
        path.rename(target)
    return tuple(final)
