"""What may be fetched or opened on behalf of strangers."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from server.kit import EXAMPLES, running

from pocketvlm.errors import ImageError
from pocketvlm.server.addresses import in_domains, is_public
from pocketvlm.server.fetching import Fetcher
from pocketvlm.server.media import Media
from pocketvlm.server.settings import Settings

INSIDE = [
    "127.0.0.1", "127.255.255.255", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "169.254.0.1", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1",
    "192.0.2.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "192.88.99.1", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:7f00:1::", "fe80::1",
    "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "5f00::1",
    "nonsense", "", "1.2.3", "8.8.8.8%eth0",
]  # fmt: skip
OUTSIDE = ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_that_lead_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_of_the_open_internet(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/",
        "http://0/", "http://localhost/", "http://LOCALHOST./", "http://[::1]/", "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/", "http://169.254.169.254/latest/meta-data/", "http://[fe80::1%25lo]/",
        "http://127.0.0.1:22/", "https://127.0.0.1/", "http://①②⑦.0.0.1/", "http://127。0。0。1/",
        "http://user:pass@8.8.8.8/", "http://8.8.8.8@127.0.0.1/", "http://127.0.0.1\\@8.8.8.8/", "http:///a", "http://",
        "http://[::1", "http://a b/", "http://127.0.0.1:99999/", "gopher://8.8.8.8/", "http://127.0.0.1%2f@8.8.8.8/",
        "http://127.0.0.1#@8.8.8.8/", "http://127.0.0.1?@8.8.8.8/", "HTTP://127.0.0.1/", "http://\t127.0.0.1/",
    ],
)  # fmt: skip
def test_urls_that_lead_inside_are_refused_before_anything_is_sent(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "create_connection", never)
    with pytest.raises(ImageError):
        Fetcher(2.0, 1000).fetch(url, "here")


def test_domains() -> None:
    domains = ("example.com", ".Example.org")
    for host in ("example.com", "a.b.example.com", "EXAMPLE.ORG", "x.example.org."):
        assert in_domains(host, domains)
    for host in ("evilexample.com", "example.com.evil", "com", ""):
        assert not in_domains(host, domains)
    with pytest.raises(ImageError, match="allowed media domains"):
        Fetcher(2.0, 1000, domains).fetch("http://elsewhere.net/a.png", "here")


class Site(http.server.BaseHTTPRequestHandler):
    """A site with a picture, redirects, and bad manners."""

    asked: list[str]

    def do_GET(self) -> None:
        type(self).asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        elif self.path == "/large":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x" * 10_000)
        elif self.path == "/stated":
            self.send_response(200)
            self.send_header("Content-Length", "1000000000")
            self.end_headers()
        elif self.path == "/short":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x")
        elif self.path == "/packed":
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.end_headers()
        elif self.path == "/drip":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path == "/drip-headers":
            for _ in range(100):
                self.wfile.write(b"H")
                self.wfile.flush()
                time.sleep(0.05)
        elif self.path == "/picture":
            data = (EXAMPLES / "apple.png").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Silence."""


@contextmanager
def site() -> Iterator[tuple[int, list[str]]]:
    kind = type("OneSite", (Site,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as found:
        found.daemon_threads = True
        found.block_on_close = False
        found.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
        yield found.server_port, kind.asked  # type: ignore[attr-defined]
        found.shutdown()


class Names:
    """A name server under the test's control; 127.0.0.1 counts as public for it, other loopback addresses do not."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names
        self.asked: list[str] = []

    def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        found = self.names.get(host.split(".", maxsplit=1)[0], [])
        return [found.pop(0)] if len(found) > 1 else list(found)

    @staticmethod
    def allowed(address: str) -> bool:
        return address == "127.0.0.1"

    def fetcher(self, timeout: float = 5.0, max_bytes: int = 50_000, domains: tuple[str, ...] = ()) -> Fetcher:
        return Fetcher(timeout, max_bytes, domains, self.resolve, self.allowed)


def test_a_picture_is_fetched_and_redirects_are_followed() -> None:
    with site() as (port, asked):
        names = Names(good=["127.0.0.1"])
        picture = (EXAMPLES / "apple.png").read_bytes()
        assert names.fetcher().fetch(f"http://good.test:{port}/picture", "here") == picture
        assert names.fetcher().fetch(f"http://good.test:{port}/to//picture", "here") == picture
        assert asked == ["/picture", "/to//picture", "/picture"]


def test_each_redirect_is_checked_again() -> None:
    with site() as (port, asked):
        names = Names(good=["127.0.0.1"], inner=["127.0.0.2"])
        for target in (
            f"http://inner.test:{port}/picture",
            "http://169.254.169.254/",
            "file:///etc/passwd",
            "ftp://good.test/",
        ):
            with pytest.raises(ImageError, match=r"public internet|only http"):
                names.fetcher().fetch(f"http://good.test:{port}/to/{target}", "here")
        assert all(path.startswith("/to/") for path in asked)
        elsewhere = f"http://good.test:{port}/to/http://other.test:{port}/picture"
        with pytest.raises(ImageError, match="allowed media domains"):
            names.fetcher(domains=("good.test",)).fetch(elsewhere, "here")


def test_the_address_that_was_checked_is_the_one_that_is_used() -> None:
    """The name means a public address when it is checked, and an inner one when it is asked for again."""
    with site() as (port, asked):
        names = Names(turning=["127.0.0.1", "127.0.0.2", "127.0.0.2"])
        assert names.fetcher().fetch(f"http://turning.test:{port}/picture", "here")
        assert names.asked == ["turning.test"]
        names = Names(turning=["127.0.0.1", "127.0.0.2"])
        with pytest.raises(ImageError, match="public internet"):
            names.fetcher().fetch(f"http://turning.test:{port}/to//picture", "here")
        assert asked == ["/picture", "/to//picture"]


def test_an_answer_with_one_inner_address_is_refused_whole() -> None:
    fetcher = Fetcher(2.0, 1000, (), lambda host, port: ["127.0.0.1", "127.0.0.2"], Names.allowed)
    with pytest.raises(ImageError, match="public internet"):
        fetcher.fetch("http://both.test/", "here")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("large", "limit of 50000"), ("stated", "limit of 50000"), ("short", "closed after 1 of|cannot be fetched"),
        ("packed", "compressed"), ("drip", "within 0.4 s"), ("drip-headers", "within 0.4 s"), ("loop", "redirects"),
        ("nothing", "answered 404"),
    ],
)  # fmt: skip
def test_bad_sites(path: str, says: str) -> None:
    with site() as (port, _):
        began = time.monotonic()
        with pytest.raises(ImageError, match=says):
            Names(good=["127.0.0.1"]).fetcher(timeout=0.4 if "drip" in path else 5.0).fetch(
                f"http://good.test:{port}/{path}", "here"
            )
        assert time.monotonic() - began < 4  # a site that drips would take 5


def test_images_by_url_and_by_path(tmp_path: Path) -> None:
    inside = tmp_path / "media"
    inside.mkdir()
    (inside / "apple.png").write_bytes((EXAMPLES / "apple.png").read_bytes())
    (tmp_path / "secret.png").write_bytes((EXAMPLES / "dog.png").read_bytes())
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    names = Names(good=["127.0.0.1"], inner=["127.0.0.2"])

    def media(settings: Settings) -> Media:
        return Media(settings, names.fetcher())

    with site() as (port, _), running(media=media, allowed_media_path=(str(inside),)) as server:

        def ask(url: str) -> tuple[int, str]:
            part = {"type": "image_url", "image_url": {"url": url}}
            response = server.chat([part, {"type": "text", "text": "What is this?"}])
            return response.status_code, response.text

        for url in (
            f"http://good.test:{port}/picture",
            f"file://{inside}/apple.png",
            f"file://localhost{inside}/apple.png",
        ):
            status, text = ask(url)
            assert status == 200
            assert "pple" in text
        assert server.chat([{"type": "image", "path": str(inside / "apple.png")}]).status_code == 200
        for url in (
            f"http://inner.test:{port}/picture",
            f"file://{tmp_path}/secret.png",
            f"file://{inside}/../secret.png",
            f"file://{inside}/%2e%2e/secret.png",
            f"file://{inside}/link.png",
            f"file://other{inside}/apple.png",
            f"file://{inside}/nothing.png",
            f"file://{inside}",
            "file:///dev/zero",
            "file:///etc/passwd%00",
            "/etc/passwd",
        ):
            status, text = ask(url)
            assert status == 400, url
            assert "messages[0].content[0]" in text


def test_fetching_can_be_switched_off() -> None:
    with running(fetch_media=False) as server:
        response = server.chat([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}])
        assert response.status_code == 400
        assert "fetches nothing" in response.text
