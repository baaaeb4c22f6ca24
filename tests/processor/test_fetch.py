"""URLs against a stand-in server on this machine: redirects, sizes, slowness, lies and refusals."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from processor_kit import noise

from pocketvlm.errors import ImageError
from pocketvlm.processor.limits import MediaLimits
from pocketvlm.processor.media import load_image

PICTURE = noise(20, 10)
_stream = io.BytesIO()
PICTURE.save(_stream, "PNG")
PNG = _stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """One behaviour per path."""

    seen: list[tuple[str, str | None]] = []  # noqa: RUF012

    def log_message(self, *arguments: object) -> None:
        """Be quiet."""

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("User-Agent")))
        where, _, count = self.path.strip("/").partition("/")
        if where == "hop":
            target = f"/hop/{int(count) - 1}" if count != "1" else "/picture.png"
            self.answer(302, length=0, Location=target)
        elif where == "loop":
            self.answer(302, length=0, Location="/loop")
        elif where in ("to_file", "to_ftp", "to_data"):
            target = {"to_file": "file:///etc/hostname", "to_ftp": "ftp://127.0.0.1/x", "to_data": "data:,x"}[where]
            self.answer(301, length=0, Location=target)
        elif where == "endless":
            self.answer(200)
            try:
                while True:
                    self.wfile.write(bytes(1 << 16))
            except OSError:
                return
        elif where == "huge":
            self.answer(200, PNG, length=1 << 40)
        elif where == "short":
            self.answer(200, PNG[:-20], length=len(PNG))
        elif where == "mute":
            time.sleep(2)
        elif where == "drip":
            self.answer(200, length=len(PNG))
            try:
                for byte in PNG:
                    self.wfile.write(bytes([byte]))
                    time.sleep(0.05)
            except OSError:
                return
        elif where == "page":
            self.answer(200, b"<html>no</html>", Content_Type="text/html")
        elif where == "nothing":
            self.answer(200, length=0)
        elif where == "broken":
            self.wfile.write(b"SSH-2.0-nonsense\r\n\r\n")
        elif "picture" in where or "%20" in where:
            self.answer(200, PNG, length=len(PNG), Content_Type="image/png")
        else:
            self.answer(404, b"gone")


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.mark.parametrize("path", ["/picture.png", "/hop/1", "/hop/5", "/a b é.png?q=ü&r=%20#part", "/picture%2Fx"])
def test_pictures_arrive(base, path):
    assert np.array_equal(np.asarray(load_image(base + path)), np.asarray(PICTURE))


def test_request_is_plain(base):
    Handler.seen.clear()
    load_image(base.replace("http", "HTTP") + "/a b é.png?q=ü&r=%20#part")
    assert Handler.seen == [("/a%20b%20%C3%A9.png?q=%C3%BC&r=%20", "pocketvlm")]


@pytest.mark.parametrize(
    ("path", "limits", "words"),
    [
        ("/missing.png", {}, "answered 404"),
        ("/hop/6", {}, "more than 5 redirects"),
        ("/hop/1", {"max_redirects": 0}, "more than 0 redirects"),
        ("/loop", {}, "more than 5 redirects"),
        ("/to_file", {}, "not http or https"),
        ("/to_ftp", {}, "not http or https"),
        ("/to_data", {}, "not http or https"),
        ("/endless", {"max_bytes": 300_000}, "limit of 300000"),
        ("/huge", {}, "1099511627776 bytes are more than the limit of 67108864"),
        ("/short", {}, f"closed after {len(PNG) - 20} of {len(PNG)} bytes"),
        ("/page", {}, "sent as text/html"),
        ("/nothing", {}, "empty"),
        ("/broken", {}, "cannot be fetched"),
    ],
)
def test_failures_name_the_url_and_the_reason(base, path, limits, words):
    with pytest.raises(ImageError) as caught:
        load_image(base + path, MediaLimits(**limits))
    assert words in str(caught.value)
    assert base + path in str(caught.value)


@pytest.mark.parametrize("path", ["/mute", "/drip"])
def test_slow_servers_meet_the_deadline(base, path):
    began = time.monotonic()
    with pytest.raises(ImageError, match=r"within 0\.3 s.*raise timeout"):
        load_image(base + path, MediaLimits(timeout=0.3))
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/x.png", "cannot be fetched"),
        ("http://", "no host"),
        ("http:///x.png", "no host"),
        ("http://[::1/x.png", "not a valid URL"),
        ("http://host:99999/x.png", "not a valid URL"),
        ("http://" + "a" * 70 + ".example/x", "not a valid URL"),
        ("https://user:secret@127.0.0.1/x.png", "user name or password"),
    ],
)
def test_urls_that_cannot_be_fetched(url, words):
    with pytest.raises(ImageError) as caught:
        load_image(url, MediaLimits(timeout=2))
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
