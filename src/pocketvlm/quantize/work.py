"""`WorkFolder` saves the finished steps of a long work, so that it resumes after the process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.atomic import TEMPORARY, replacing, write_all
from pocketvlm.checkpoint.formats.native import read_native, write_native
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.tensors import Tensor

SUFFIX = ".partial"
_SETTINGS = "settings.json"
_WRITING = "writing.json"


class WorkFolder:
    """A folder of steps. A step is finished once its JSON file exists, which is written last."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Create the folder, or resume in one that has the same settings.

        Raises OptionError for a folder of other settings and for one that another process uses.
        """
        self.path = path
        if path.is_symlink():
            raise OptionError(f"{path}: is a link: the work in progress needs a folder of its own: give another output")
        text = json.dumps(settings, indent=1, sort_keys=True, ensure_ascii=False)
        try:
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise OptionError(f"{path}: cannot be made: {error.strerror or error}: give another output") from None
        self._lock = os.open(path, os.O_RDONLY)
        try:
            self._start(text)
        except BaseException:
            os.close(self._lock)
            raise

    def _start(self, settings: str) -> None:
        if not _locked(self._lock):
            raise OptionError(f"{self.path}: another process works in it: wait for it, or give another output")
        self._claim(self.path / _SETTINGS, settings)
        for stale in self.path.glob(f".*{TEMPORARY}"):
            stale.unlink()

    def __enter__(self) -> WorkFolder:
        """The folder itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; the files stay for a later run."""
        os.close(self._lock)

    def _claim(self, file: Path, text: str) -> None:
        """Write the settings, or check that they are those of the folder. Raises OptionError."""
        if file.exists():
            if file.read_bytes() != text.encode():
                raise OptionError(
                    f"{self.path}: holds unfinished work with other settings: remove it, or give another output"
                )
        elif any(each.suffix != TEMPORARY for each in self.path.iterdir()):
            raise OptionError(
                f"{self.path}: the work in progress needs this folder, and it holds other files: move them away, or "
                f"give another output"
            )
        else:
            self._write(file, text.encode())

    def info(self, step: str) -> dict[str, Any] | None:
        """What a finished step said; None for one that is not finished. Raises CheckpointError for damaged files."""
        record = self._record(step)
        if record is None:
            return None
        found: dict[str, Any] = record["info"]
        return found

    def _record(self, step: str) -> dict[str, Any] | None:
        file = self.path / f"{step}.json"
        if not file.exists():
            return None
        with self._damage_named(file):
            found: dict[str, Any] = json.loads(file.read_bytes())
            if not {"info", "tensors"} <= found.keys():
                raise ValueError
        return found

    @contextlib.contextmanager
    def _damage_named(self, file: Path) -> Iterator[None]:
        """Turns what reading a damaged file raises into an error that names it and the way out."""
        try:
            yield
        except (OSError, EOFError, ValueError, AttributeError, CheckpointError):
            raise CheckpointError(
                f"{file}: is damaged or missing: remove the folder {self.path} and run the command again"
            ) from None

    def finish(
        self,
        step: str,
        info: Mapping[str, Any],
        tensors: Mapping[str, Tensor] | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        """Save a step. Raises CheckpointError where the disk is full."""
        if tensors:
            write_native(self.path / f"{step}.safetensors", tensors)
        try:
            for name, array in (arrays or {}).items():
                with replacing(self._array(step, name)) as file:
                    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        record = {"info": dict(info), "tensors": bool(tensors)}
        self._write(self.path / f"{step}.json", json.dumps(record).encode())

    def array(self, step: str, name: str) -> NDArray[Any]:
        """An array of a finished step. Raises CheckpointError for a damaged file."""
        with self._damage_named(file := self._array(step, name)):
            found: NDArray[Any] = np.load(file, allow_pickle=False)
        return found

    def drop_arrays(self, step: str) -> None:
        """Remove the arrays of a step, which only the next one needed."""
        for file in self.path.glob(f"{step}.*.npy"):
            file.unlink()

    def tensors(self, step: str) -> dict[str, Tensor]:
        """The tensors of a finished step, mapped and not read yet. Raises CheckpointError for a damaged file."""
        record = self._record(step)
        if record is None or not record["tensors"]:
            return {}
        with self._damage_named(file := self.path / f"{step}.safetensors"):
            return read_native(file)

    def mark_writing(self) -> None:
        """Save that all steps are finished, before the output appears: see `remove_leftover`."""
        self._write(self.path / _WRITING, b"{}")

    def remove(self) -> None:
        """Remove the folder: the work is done. Warns if that fails, because the output is complete."""
        try:
            shutil.rmtree(self.path)
        except OSError as error:
            text = f"{self.path}: cannot be removed ({error.strerror or error}); the output is complete: remove it"
            warnings.warn(text, stacklevel=2)

    def _array(self, step: str, name: str) -> Path:
        return self.path / f"{step}.{name}.npy"

    def _write(self, path: Path, data: bytes) -> None:
        try:
            with replacing(path) as file:
                write_all(file, data)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None


def remove_leftover(path: Path) -> bool:
    """Remove the folder of a run that was killed after its output had appeared; returns whether there was one.

    The caller knows that the output exists. A folder that a process uses, or whose steps are unfinished, stays.
    """
    if not (path / _WRITING).exists():
        return False
    lock = os.open(path, os.O_RDONLY)
    try:
        if not _locked(lock):
            return False
        shutil.rmtree(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be removed: {error.strerror or error}: remove it by hand") from None
    finally:
        os.close(lock)
    return True


def _locked(descriptor: int) -> bool:
    """Lock a folder; False if another process has the lock. Some network file systems have no locks: True there."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
