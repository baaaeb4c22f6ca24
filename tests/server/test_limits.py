"""Too much and too slow: headers, bodies, media, files, broken requests. None is a 500, nothing stays behind."""

from __future__ import annotations

import http.client
import io
import socket
import zlib
from typing import Any

import PIL.Image
import pytest
from server.kit import Running, image, picture, running, until
from server.wire import chat_body, everything, post, wire


def test_large_bodies_are_refused_before_and_while_they_come() -> None:
    with running(max_body_bytes=10_000) as server:
        assert server.chat("x" * 20_000).status_code == 413
        with wire(server) as connection:  # nothing is read of a body that says it is too large
            connection.sendall(
                post(b"", "Expect: 100-continue").replace(b"Content-Length: 0", b"Content-Length: 99999")
            )
            assert everything(connection).startswith(b"HTTP/1.1 413")
        with wire(server) as connection:
            head = post(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
            connection.sendall(head + (b"1000\r\n" + b"x" * 4096 + b"\r\n") * 4)
            assert b"413" in everything(connection)[:20]
        assert server.chat("hello").status_code == 200


def test_all_bodies_together_have_a_limit() -> None:
    with running(max_body_bytes=10_000, max_bodies_bytes=12_000) as server:
        with wire(server) as connection:
            connection.sendall(post(b"x" * 9000)[:-1])
            until(lambda: server.context.body_bytes > 8000)
            refused = server.chat("x" * 5000)
            assert refused.status_code == 429
            assert refused.headers["retry-after"]
        until(lambda: server.context.body_bytes == 0)
        assert server.chat("x" * 5000, max_tokens=1).status_code in (200, 400)


def test_slow_bodies_and_slow_headers_are_cut_off() -> None:
    with running(body_timeout=0.3, header_timeout=0.3) as server:
        with wire(server) as connection:
            connection.sendall(post(chat_body())[:-5])
            assert b"408" in everything(connection)[:20]
        for begun in (b"", b"GET /health HTTP/1.1\r\nHost: x"):
            with wire(server) as connection:
                connection.sendall(begun)
                assert b"408" in everything(connection)[:20]
        with wire(server) as connection:  # the second request of a connection too
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /he")
            assert everything(connection).count(b"HTTP/1.1") == 2


def test_huge_headers() -> None:
    with running(max_header_bytes=5000) as server:
        for head in (
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 6000 + b"\r\n\r\n",
            b"GET /" + b"x" * 6000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 2000,
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000,
        ):
            with wire(server) as connection:
                connection.sendall(head)
                assert b"431" in everything(connection)[:20]
        assert server.client.get("/health", headers={"X": "x" * 4000}).status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"", b"\x00\x01\x02", b"GET / HTTP/9.9\r\n\r\n", b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nx",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)  # fmt: skip
def test_broken_requests_and_truncated_uploads(server: Running, sent: bytes) -> None:
    with wire(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert b" 500 " not in everything(connection)[:20]
    assert server.client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 5000, b'{"model": NaN}',
        b'{"model": 1e999}', b'{"model": "\\ud800"}',
        b'{"model": "nano", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "nano", "messages": ' + b"9" * 5000 + b"}",
        b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "model": "nano", "seed": '
        + b"9" * 400 + b"}",
    ],
)  # fmt: skip
def test_bad_json(server: Running, body: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses", "/api/chat", "/tokenize"):
        response = server.client.post(path, content=body)
        assert response.status_code in (200, 400), response.text
        if response.status_code == 400:
            assert response.json()["error"]


def test_bombs_and_crowds() -> None:
    flat = PIL.Image.new("L", (4000, 4000))
    stream = io.BytesIO()
    flat.save(stream, "PNG")
    bomb = stream.getvalue()
    with running(max_pixels=1_000_000, max_images=2, max_media_bytes=50_000, max_visual_tokens=200) as server:

        def refused(content: Any, says: str, **fields: Any) -> None:
            response = server.chat(content, **fields)
            assert response.status_code == 400, response.text
            assert says in response.json()["error"]["message"]

        import base64

        refused([{"type": "image", "base64": base64.b64encode(bomb).decode()}], "16000000 pixels")
        refused([image()] * 3, "3 images")
        noise = base64.b64encode(zlib.compress(b"x") + bytes(60_000)).decode()
        refused([{"type": "image", "base64": noise}], "limit of 50000")
        refused([image()], "visual tokens", mm_processor_kwargs={"downsample_mode": "4x", "scale_resolution": 896})
        truncated = picture()[:-800]
        refused([{"type": "image_url", "image_url": {"url": truncated}}], "damaged")
        assert server.chat([image(), {"type": "text", "text": "?"}], max_tokens=1).status_code == 200


def test_files_have_limits() -> None:
    with running(max_files=2, max_media_bytes=5000, max_files_bytes=8000) as server:
        upload = server.client.post
        assert upload("/v1/files", files={"file": ("a", b"x" * 6000)}).status_code == 413
        assert upload("/v1/files", files={"file": ("a", b"")}).status_code == 400
        assert upload("/v1/files", data={"purpose": "vision"}).status_code == 400
        assert upload("/v1/files", files={"file": ("a", b"x" * 5000)}).status_code == 200
        assert upload("/v1/files", files={"file": ("a", b"x" * 5000)}).status_code == 413
        assert upload("/v1/files", files={"file": ("../../b", b"x" * 1000)}).json()["filename"] == "../../b"
        assert upload("/v1/files", files={"file": ("a", b"x")}).status_code == 429
        directory = server.context.files._directory
        assert directory is not None
        assert len(list(directory.iterdir())) == 2
        number = server.client.get("/v1/files").json()["data"][0]["id"]
        server.context.database.execute("UPDATE files SET expires = 1")
        assert server.client.get(f"/v1/files/{number}").status_code == 404
        assert not list(directory.iterdir())
    assert not directory.exists()


def test_small_pieces_leave_at_once() -> None:
    """Without this a token waits up to 40 ms for the client's acknowledgement of the one before."""
    with running() as server, wire(server) as client:
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        (connection,) = server.server.server_state.connections
        transport: Any = connection.transport
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_many_idle_connections_change_nothing(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    idle = []
    for _ in range(200):
        connection = http.client.HTTPConnection(host, int(port), 20)
        connection.request("GET", "/health")
        connection.getresponse().read()
        idle.append(connection)
    assert server.chat("hello").status_code == 200
    for connection in idle:
        connection.request("GET", "/health")
        assert connection.getresponse().read()
        connection.close()
