"""A folder or a list of images and videos, with one question about each."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pocketvlm.errors import InputError
from pocketvlm.jobs.line import Line
from pocketvlm.jobs.sources.bodies import CHAT, PICTURE_SUFFIXES, VIDEO_SUFFIXES, chat_body
from pocketvlm.jobs.sources.source import Skip

_SUFFIXES = (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)


class Pictures:
    """Files by name. Of a folder, the images and videos in it and below; their custom_ids are paths inside it.

    Of several folders, custom_ids begin with the folder.
    """

    def __init__(self, names: Sequence[str], prompt: str, system: str | None) -> None:
        """names: folders, glob patterns and files. Raises InputError where there is nothing, or no access."""
        self._prompt, self._system = prompt, system
        self._files: list[tuple[str, str]] = []  # path and custom_id
        for name in names:
            found = list(_files(name))
            if not found:
                raise InputError(f"{name}: {_nothing(name)}")
            several = len(names) > 1 and Path(name).expanduser().is_dir()
            self._files += [(path, f"{name.rstrip('/')}/{own}" if several else own) for path, own in found]

    def digest(self) -> str:
        """Of names and sizes. A file that cannot be looked at has none: its line will say why."""
        found = hashlib.sha256()
        for path, custom_id in self._files:
            try:
                size = str(Path(path).stat().st_size)
            except OSError:
                size = ""
            found.update(os.fsencode(f"{custom_id}\0{size}\n"))
        return found.hexdigest()

    def custom_ids(self) -> Iterator[tuple[int, str | None]]:
        """Paths; those of files that were given are as they were given."""
        return ((number, _text(custom_id)) for number, (_, custom_id) in enumerate(self._files, 1))

    def lines(self, skip: Skip) -> Iterator[Line]:
        """One question for each."""
        for number, (path, custom_id) in enumerate(self._files, 1):
            if not skip(number):
                body = chat_body([path], self._prompt, self._system)
                yield Line(number, _text(custom_id), CHAT, body, size=1)


def _nothing(name: str) -> str:
    """Why a name gives no files."""
    if Path(name).expanduser().is_dir():
        return f"no images or videos in this folder: their names end in {', '.join(_SUFFIXES)}"
    if glob.has_magic(name):
        return f"no file matches this pattern; it begins in {Path.cwd()}, and ** stands for any folders"
    return "there is no such file or folder"


def _files(name: str) -> Iterator[tuple[str, str]]:
    path = Path(name).expanduser()
    if path.is_dir():
        for folder, folders, names in os.walk(path, onerror=_refuse):
            folders.sort()
            for each in sorted(names):
                if each.lower().endswith(_SUFFIXES):
                    whole = Path(folder) / each
                    yield str(whole.absolute()), whole.relative_to(path).as_posix()
    elif path.is_file():
        yield str(path.absolute()), name
    else:
        for each in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207
            if not Path(each).is_dir():
                yield str(Path(each).absolute()), each


def _refuse(error: OSError) -> None:
    """A folder that cannot be read ends the job: nobody would miss its pictures in the output."""
    raise InputError(f"{error.filename}: {error.strerror}: make the folder readable, or give the others")


def _text(name: str) -> str:
    """A file name as text, whatever bytes it has."""
    return os.fsencode(name).decode("utf-8", "replace")
