"""A stand-in for the hub on 127.0.0.1: enough of its API for snapshot_download, and its ways to fail."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repository:
    """One repository: revision name -> commit, commit -> files. `gate`: an error code that every call gets."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gate: str | None = None

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Add a commit under the given branch or tag names."""
        digest = hashlib.sha1(json.dumps([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits[digest] = files
        self.refs.update(dict.fromkeys((*refs, digest), digest))
        return digest


class StandInHub:
    """The server. requests: (method, path, Range header) in order.

    break_after: the next download of a file longer than this is cut off after so many bytes; with `stall`, it hangs
    there instead. failing: answer every request with this status. failing_file: answer the download of this file with
    status 500. damaged: flip a byte of each large file on its way. Large files have a SHA-256 as etag, as on the hub.
    redirect: large files lie on another host, as on the hub; storage_tokens: what that host was told of the user.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.tokens: set[str | None] = set()
        self.break_after: int | None = None
        self.failing: int | None = None
        self.failing_file: str | None = None
        self.damaged = False
        self.redirect = False
        self.stored: dict[str, bytes] = {}
        self.storage_tokens: set[str | None] = set()
        self.stall = False
        self.closed = threading.Event()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        port = self._server.server_address[1]
        self.endpoint, self.storage = f"http://127.0.0.1:{port}", f"http://localhost:{port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def repository(self, name: str, files: dict[str, bytes]) -> Repository:
        """A new repository with one commit on main."""
        self.repositories[name] = Repository()
        self.repositories[name].commit(files, "main")
        return self.repositories[name]

    def downloads(self) -> list[str]:
        """Names of the files whose bytes were asked for since the last call."""
        names = [path.rsplit("/", 1)[1] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]
        self.requests.clear()
        return sorted(names)

    def close(self) -> None:
        """Stop answering; later connections are refused."""
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandInHub

    def log_message(self, *args: Any) -> None:
        """Be quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        self.hub.tokens.add(self.headers.get("Authorization"))
        if self.hub.failing is not None:
            return self.send(self.hub.failing, b"", {}, body)
        parts = path.strip("/").split("/")
        if parts[0] == "storage":
            self.hub.storage_tokens.add(self.headers.get("Authorization"))
            return self.send_range(self.hub.stored[parts[1]], {}, body)
        if parts[:2] == ["api", "models"] and len(parts) >= 6 and parts[4] in {"revision", "tree"}:
            name, kind, revision, file = "/".join(parts[2:4]), parts[4], "/".join(parts[5:]), None
        elif len(parts) >= 5 and parts[2] == "resolve":
            name, kind, revision, file = "/".join(parts[:2]), "resolve", parts[3], "/".join(parts[4:])
        else:
            return self.refuse(404, "EntryNotFound", body)
        repository = self.hub.repositories.get(name)
        if repository is None:
            return self.refuse(404, "RepoNotFound", body)
        if repository.gate is not None:
            return self.refuse(403, repository.gate, body)
        commit = repository.refs.get(revision)
        if commit is None:
            return self.refuse(404, "RevisionNotFound", body)
        files = repository.commits[commit]
        if kind == "resolve":
            if body and file == self.hub.failing_file:
                return self.send(500, b"", {}, body)
            if file not in files:
                return self.refuse(404, "EntryNotFound", body)
            return self.send_file(files[file], file.endswith((".safetensors", ".gguf")), commit, body)
        tree = [
            {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        info = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]}
        data = json.dumps(tree if kind == "tree" else info).encode()
        return self.send(200, data, {"Content-Type": "application/json"}, body)

    def refuse(self, status: int, code: str, body: bool) -> None:
        self.send(status, b"{}", {"X-Error-Code": code, "Content-Type": "application/json"}, body)

    def send_file(self, data: bytes, large: bool, commit: str, body: bool) -> None:
        digest = (hashlib.sha256 if large else hashlib.sha1)(data).hexdigest()
        if large and self.hub.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        headers = {
            "ETag": f'"{digest}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if large and self.hub.redirect:
            self.hub.stored[digest] = data
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(data))}
            return self.send(302, b"", {**headers, "Location": f"{self.hub.storage}/storage/{digest}"}, body)
        return self.send_range(data, headers, body)

    def send_range(self, data: bytes, headers: dict[str, str], body: bool) -> None:
        asked = self.headers.get("Range")
        if asked is None:
            return self.send(200, data, headers, body)
        start = int(asked.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return self.send(206, data[start:], headers, body)

    def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not body:
            return
        cut = self.hub.break_after
        if cut is not None and len(data) > cut and not self.path.startswith("/api/"):
            self.hub.break_after = None
            self.wfile.write(data[:cut])
            self.wfile.flush()
            if self.hub.stall:
                self.hub.closed.wait()
            self.close_connection = True
            return
        self.wfile.write(data)
