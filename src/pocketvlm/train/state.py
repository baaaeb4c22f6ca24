"""`RunFolder` holds an unfinished run: its settings, its log, and checkpoints that appear whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from pocketvlm.atomic import replacing, write_all
from pocketvlm.errors import CheckpointError, OptionError

SUFFIX = ".partial"
_SETTINGS, _LOG = "settings.json", "log.jsonl"
_STEP = re.compile(r"step-(\d{8})$")
_MISSING = object()
# Settings whose values are digests.
_WORDS = {"model": "the checkpoint", "data": "the training data", "eval": "the evaluation data"}


class RunFolder:
    """The folder OUT.partial of a run. Only the main process writes it.

    settings.json: what the result depends on. log.jsonl: one line a step or evaluation. step-N: the state after N
    steps. A folder of a checkpoint is written under a hidden name and renamed when the disk has all of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def log(self) -> Path:
        """The file of the log."""
        return self.path / _LOG

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        if not self.path.is_dir():
            return []
        return sorted(int(found[1]) for each in self.path.iterdir() if (found := _STEP.match(each.name)))

    def checkpoint(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.path / f"step-{step:08d}"

    @property
    def removable(self) -> bool:
        """Whether there is no folder, an empty one, or one of a run."""
        if not self.path.is_dir():
            return not self.path.exists()
        return (self.path / _SETTINGS).is_file() or not any(self.path.iterdir())

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Make the folder; one of a run without a checkpoint is removed. Raises OptionError if it cannot be made."""
        made = False
        try:
            if self.removable and not self.steps():
                self.remove()
            self.path.mkdir()
            made = True
            with replacing(self.path / _SETTINGS) as file:
                write_all(file, json.dumps(settings, indent=1).encode() + b"\n")
        except OSError as error:
            if made:
                self.remove()
            raise OptionError(f"{self.path}: cannot be made: {error.strerror or error}: choose another OUT") from None

    def check(self, settings: Mapping[str, Any], later: Container[str] = ()) -> None:
        """Raise OptionError, naming setting and values, unless the run in the folder has these settings.

        later: settings of the run that may be missing, because they are checked another time.
        """
        try:
            found = json.loads((self.path / _SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OptionError(
                f"resume=True: {self.path} is no interrupted run ({error}): remove it, or leave the option out"
            ) from None
        for name in dict.fromkeys((*settings, *(each for each in found if each not in later))):
            before, now = found.get(name, _MISSING), settings.get(name, _MISSING)
            if before == now:
                continue
            if name in _WORDS:
                differs = f"{_WORDS[name]} differs from that with which the run in {self.path} began"
            else:
                said, given = (
                    f"without {name}" if each is _MISSING else f"with {name}={each!r}" for each in (before, now)
                )
                differs = f"the run in {self.path} began {said}, and this one is {given}"
            raise OptionError(f"resume=True: {differs}: give the same again, or remove {self.path.name} to begin anew")

    def save(self, step: int, write: Callable[[Path], None], retained: frozenset[int] = frozenset()) -> Path:
        """Write a checkpoint with `write(folder)`, and remove all others but the one before and `retained`.

        Raises CheckpointError where the disk is full or cannot be written; earlier checkpoints stay.
        """
        target, temporary = self.checkpoint(step), self.path / f".step-{step:08d}.tmp"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            write(temporary)
            _flush(temporary)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            _sync(self.path)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as RuntimeError
            shutil.rmtree(temporary, ignore_errors=True)
            full = "No space left on device" if "unexpected pos" in str(error) else error
            reason = getattr(error, "strerror", None) or full
            raise CheckpointError(f"{target}: cannot be written: {reason}: {self._way_on()}") from None
        for other in self.steps()[:-2]:
            if other not in retained:
                shutil.rmtree(self.checkpoint(other), ignore_errors=True)
        return target

    def truncate_log(self, step: int) -> None:
        """Remove the log's lines of steps after `step`, which will run again, and a line that a crash cut off."""
        if not self.log.exists():
            return
        lines = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    lines.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        with replacing(self.log) as file:
            write_all(file, "".join(f"{line}\n" for line in lines).encode())

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add a line to the log. Raises CheckpointError where the disk is full."""
        try:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            reason = error.strerror or error
            raise CheckpointError(f"{self.log}: cannot be written: {reason}: {self._way_on()}") from None

    def _way_on(self) -> str:
        """What to do after a write that failed."""
        steps = self.steps()
        return f"make room; resume=True continues after step {steps[-1]}" if steps else "make room, and begin again"

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Bring the content of all files of a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
