"""Pictures by URL: attempts after failures that may pass, and none after others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from jobs.kit import EXAMPLES, line, read_lines, write_lines

from pocketvlm.errors import ImageError
from pocketvlm.interfaces.media import MediaSource
from pocketvlm.jobs import media
from pocketvlm.jobs.media import MediaFiles
from pocketvlm.processor.limits import MediaLimits


@contextmanager
def serving(*statuses: int) -> Iterator[tuple[str, list[str]]]:
    """A server that answers with these statuses, one a request, then with a picture; its URL, and the paths asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status = statuses[len(asked) - 1] if len(asked) <= len(statuses) else 200
            data = (EXAMPLES / "dog.png").read_bytes() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_FIRST_PAUSE", 0.0)


def read(url: str, max_retries: int = 3) -> bytes:
    cpu = threading.Semaphore(1)
    with cpu:
        return MediaFiles(Path(), MediaLimits(), max_retries, cpu, threading.Event())(MediaSource("url", url, "here"))


@pytest.mark.parametrize("statuses", [(), (503,), (429, 500, 502)])
def test_a_failure_that_may_pass_is_tried_again(statuses):
    with serving(*statuses) as (url, asked):
        assert read(f"{url}/a.png") == (EXAMPLES / "dog.png").read_bytes()
        assert len(asked) == len(statuses) + 1


@pytest.mark.parametrize(("statuses", "count"), [((404,), 1), ((503,) * 9, 4)])
def test_other_failures_and_the_last_attempt_are_errors(statuses, count):
    with serving(*statuses) as (url, asked):
        with pytest.raises(ImageError, match=f"here: the server answered {statuses[0]}"):
            read(f"{url}/a.png")
        assert len(asked) == count


def test_the_processor_is_free_while_a_thread_waits_for_the_network():
    cpu = threading.Semaphore(1)
    files = MediaFiles(Path(), MediaLimits(), 0, cpu, threading.Event())
    taken = []

    class Gate(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            taken.append(cpu.acquire(timeout=30))
            cpu.release()
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Gate)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with cpu, pytest.raises(ImageError):
        files(MediaSource("url", f"http://127.0.0.1:{server.server_port}/", "here"))
    assert taken == [True]
    assert cpu.acquire(blocking=False)
    server.shutdown()
    server.server_close()


def test_a_job_fetches_its_pictures(batch, tmp_path):
    with serving(503) as (url, _):
        parts = [{"type": "image_url", "image_url": {"url": f"{url}/a.png"}}, {"type": "text", "text": "What is this?"}]
        dead = [{"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/a.png"}}]
        write_lines(tmp_path / "in.jsonl", [line("good", parts, max_tokens=8), line("dead", dead)])
        batch("in.jsonl", "-o", "out.jsonl")
    good, dead = read_lines(tmp_path / "out.jsonl")
    assert "DOG" in good["response"]["body"]["choices"][0]["message"]["content"]
    assert dead["response"]["status_code"] == 400
    assert "cannot be fetched" in dead["response"]["body"]["error"]["message"]
