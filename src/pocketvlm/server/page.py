"""`Page` holds the files of the built web page in memory, compressed once."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

BUILT = Path(__file__).parent / "ui"  # `make ui` writes it, and so does an install with Node.js and a registry at hand
INDEX = "index.html"
MISSING = (
    "This installation of pocketvlm has no web page: run `make ui` in a checkout (it needs an npm registry), "
    "or install a wheel that was built with one.\n"
)
# Nothing but this server's own files runs, and an answer cannot make the browser load anything from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "media-src blob:; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file: its bytes, the same compressed, its media type and entity tag."""

    data: bytes
    compressed: bytes
    media_type: str
    etag: str


class Page:
    """The files below a folder, by their paths in it. Each is read and compressed when it is requested first."""

    def __init__(self, folder: Path = BUILT) -> None:
        self._folder = folder
        self._paths: dict[str, Path] | None = None
        self._files: dict[str, PageFile] = {}

    def get(self, name: str) -> PageFile | None:
        """The file with this path, None without one."""
        if self._paths is None:
            found = [path for path in self._folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
            self._paths = {path.relative_to(self._folder).as_posix(): path for path in found}
        if name not in self._files and name in self._paths:
            self._files[name] = _read(self._paths[name])
        return self._files.get(name)


def _read(path: Path) -> PageFile:
    data = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return PageFile(data, gzip.compress(data, 9, mtime=0), kind, f'"{hashlib.sha256(data).hexdigest()[:32]}"')
