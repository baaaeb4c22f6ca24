"""The light HTTP client: heads and bodies at any split, connections reused or not, and invalid HTTP."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from bench.stand_in import DONE, answer, chunk, standing_in, stream, whole

from pocketvlm.bench.load.http import Address, Client, Connection, Received
from pocketvlm.errors import OptionError


class Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def receive(*parts: bytes, lost: bool = False) -> tuple[Received, Connection]:
    """The answer that a connection makes of these parts; its clock ticks once for each look at it."""

    async def run() -> tuple[Received, Connection]:
        connection = Connection(itertools.count().__next__)
        connection.connection_made(Transport())
        future = connection.ask(b"GET")
        for part in parts:
            connection.data_received(part)
        if lost:
            connection.connection_lost(None)
        return await asyncio.wait_for(future, 5), connection

    return asyncio.run(run())


ANSWERS = {
    "chunks": (stream(chunk("a"), chunk("b" * 300), DONE), True),
    "length": (whole(429, {"error": {"message": "full"}}), True),
    "empty": (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    "after 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + whole(200, {}), True),
    "to be closed": (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nA: b\r\nC: d\r\n\r\n",
        True,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_split_gives_the_same(name: str) -> None:
    data, reused = ANSWERS[name]
    expected, _ = receive(data)
    assert expected.error == ""
    for cut in range(1, len(data)):
        received, connection = receive(data[:cut], data[cut:])
        assert (received.status, received.body, received.error) == (expected.status, expected.body, "")
        assert connection.reusable is reused
    single, _ = receive(*(data[i : i + 1] for i in range(len(data))))
    assert single.body == expected.body


def test_parts_have_the_time_at_which_they_came() -> None:
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    received, _ = receive(head, b"1\r\na\r\n", b"2\r\nb", b"c\r\n1\r\nd\r\n", b"0\r\n\r\n")
    assert received.sent == 0
    assert received.parts == [(2, b"a"), (3, b"b"), (4, b"c"), (4, b"d")]


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    received, connection = receive(b"HTTP/1.1 200 OK\r\n\r\nsome", b" text", lost=True)
    assert (received.body, received.error, connection.reusable) == (b"some text", "", False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (stream(chunk("a"), end=False), "closed before the answer was whole"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "closed before the answer was whole"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "closed before the answer was whole"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "not valid HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "not valid HTTP"),
        (b"x" * 70_000, "not valid HTTP"),
        (b"", "closed before the answer was whole"),
    ],
)
def test_what_is_not_whole_says_so(data: bytes, words: str) -> None:
    received, connection = receive(*([data] if data else []), lost=True)
    assert words in received.error
    assert not connection.reusable


def test_connections_are_used_again_and_stale_ones_replaced() -> None:
    async def run() -> None:
        async with standing_in() as server:
            client = Client(Address.parse(server.url), "the-key")
            get = client.request("GET", "/models")
            for _ in range(3):
                assert (await client.ask(get)).status == 200
            assert server.connections == 1
            client._idle[0]._transport.abort()  # as a server does to what is idle for long
            assert (await client.ask(get)).status == 200
            both = await asyncio.gather(client.ask(get), client.ask(get))
            assert [received.status for received in both] == [200, 200]
            assert server.connections == 3
            assert "Authorization: Bearer the-key\r\n" in server.heads[0]
            assert server.heads[0].startswith("GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:")
            client.close()

    asyncio.run(run())


def test_a_connection_that_the_server_drops_unanswered_is_tried_once_more_and_no_more() -> None:
    async def run() -> None:
        calls = []

        def reply(body: dict[str, Any], number: int) -> bytes:
            calls.append(number)
            return answer(body, number) if number == 0 else b""

        async with standing_in(reply) as server:
            client = Client(Address.parse(server.url))
            post = client.request("POST", "/chat/completions", b'{"max_tokens":1,"prompt":"x"}')
            assert (await client.ask(post)).error == ""
            assert "closed before" in (await client.ask(post)).error
            assert calls == [0, 1, 2]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "shown", "authority"),
    [
        ("http://localhost:8000/v1/", "http://localhost:8000/v1", "localhost:8000"),
        ("https://example.com", "https://example.com/v1", "example.com"),
        ("http://[::1]:9/api/v2", "http://[::1]:9/api/v2", "[::1]:9"),
    ],
)
def test_addresses(url: str, shown: str, authority: str) -> None:
    address = Address.parse(url)
    assert (str(address), address.authority) == (shown, authority)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://x/v1", "http://", "http://x:99999/", "http://x/ v1", "http://x/\r\nA: b", "http://x?y"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(OptionError, match="http://HOST:PORT/v1"):
        Address.parse(url)


def test_keys_cannot_carry_headers() -> None:
    with pytest.raises(OptionError, match="--api-key"):
        Client(Address.parse("http://x/v1"), "key\r\nHost: y")
