"""Media that a request names come from the reader that is given, and from nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from server.bodies.parts import DATA, URI
from server.kit import EXAMPLES

import pocketvlm
from pocketvlm.errors import ImageError, VideoError
from pocketvlm.interfaces.media import MediaSource, with_data
from pocketvlm.interfaces.responder import Responder

BYTES = b"\x00picture\xff"
READ = "data:;base64," + base64.b64encode(BYTES).decode()


def read(part: dict[str, Any]) -> tuple[dict[str, Any], list[MediaSource]]:
    """A part with its data, and what the reader was asked for."""
    asked: list[MediaSource] = []

    def reader(source: MediaSource) -> bytes:
        asked.append(source)
        return BYTES

    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "x"}, part]}]
    before = repr(messages)
    found = with_data(messages, reader)
    assert repr(messages) == before
    return found[1]["content"][1], asked


@pytest.mark.parametrize(
    ("part", "kind", "value", "becomes"),
    [
        ({"type": "image_url", "image_url": {"url": " https://a/b.png ", "detail": "low"}}, "url", "https://a/b.png",
         {"type": "image_url", "image_url": {"url": READ, "detail": "low"}}),
        ({"type": "image_url", "image_url": "file:///b.png"}, "url", "file:///b.png",
         {"type": "image_url", "image_url": READ}),
        ({"type": "image", "path": " b.png", "alpha": "white"}, "path", " b.png",
         {"type": "image", "image": READ, "alpha": "white"}),
        ({"type": "image", "file_id": "file-1"}, "file_id", "file-1", {"type": "image", "image": READ}),
        ({"type": "video_url", "video_url": {"file_id": "file-1"}, "fps": 2}, "file_id", "file-1",
         {"type": "video_url", "video_url": {"url": READ}, "fps": 2}),
        ({"type": "image", "url": "video:https://a/b.mp4", "fps": 3}, "url", "https://a/b.mp4",
         {"type": "video_url", "video_url": {"url": READ}, "fps": 3}),
    ],
)  # fmt: skip
def test_what_is_named_is_read(part: dict[str, Any], kind: str, value: str, becomes: dict[str, Any]) -> None:
    found, asked = read(part)
    assert found == becomes
    assert [(source.kind, source.value, source.where) for source in asked] == [(kind, value, "messages[1].content[1]")]


@pytest.mark.parametrize(
    ("part", "becomes"),
    [
        ({"type": "image", "image": URI}, {"type": "image", "image": URI}),
        ({"type": "image_url", "image_url": {"url": f" {DATA} "}},
         {"type": "image_url", "image_url": {"url": f"data:;base64,{DATA}"}}),
        ({"type": "image", "base64": DATA}, {"type": "image", "base64": DATA}),
        ({"type": "image", "image": [URI]}, {"type": "image", "image": [URI]}),
        ({"type": "image", "image": 5}, {"type": "image", "image": 5}),
        ({"type": "image", "file_id": None}, {"type": "image"}),
    ],
)  # fmt: skip
def test_data_is_not_read(part: dict[str, Any], becomes: dict[str, Any]) -> None:
    assert read(part) == (becomes, [])


def test_frames_are_read_one_by_one() -> None:
    found, asked = read({"type": "video", "video": ["https://a/1.png", URI, "https://a/2.png"], "start": 1})
    assert found == {"type": "video", "video": [READ, URI, READ], "start": 1}
    assert [source.value for source in asked] == ["https://a/1.png", "https://a/2.png"]


@pytest.mark.parametrize(
    ("part", "error", "says"),
    [
        (
            {"type": "image", "image": URI, "file_id": "f"},
            ImageError,
            "give file_id or image, not both",
        ),
        (
            {"type": "video", "video": URI, "file_id": "f"},
            VideoError,
            "give file_id or video, not both",
        ),
        ({"type": "image", "file_id": 1}, ImageError, "file_id must be a string"),
    ],
)
def test_sources_that_contradict_each_other(part: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=rf"^messages\[1\]\.content\[1\]: {says}"):
        read(part)


def chat(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}], "max_tokens": 5}


def test_a_responder_reads_with_the_reader_that_it_was_given() -> None:
    def reader(source: MediaSource) -> bytes:
        if source.kind == "file_id":
            raise ImageError(f"{source.where}: no upload {source.value}")
        return (EXAMPLES / Path(source.value).name).read_bytes()

    with pocketvlm.load("nano", threads=1) as model:
        responder = Responder(model, read_media=reader)
        path = "/v1/chat/completions"
        found = [
            responder.answer(path, chat({"type": "image", "url": url})).body
            for url in (URI, "https://example.com/apple.png", "s3://bucket/apple.png")
        ]
        assert found[0]["usage"]["prompt_tokens_details"]["image_tokens"] > 0
        assert found[0]["choices"] == found[1]["choices"] == found[2]["choices"]
        body = {"max_tokens": 5, "messages": [
            {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "file-7"}}]}
        ]}  # fmt: skip
        refused = responder.answer("/v1/messages", {**body, "system": "x"})
        assert (refused.status, refused.body["error"]["message"]) == (400, "messages[0].content[0]: no upload file-7")


@pytest.mark.parametrize("source", [{"path": str(EXAMPLES / "apple.png")}, {"url": "http://127.0.0.1:1/a.png"}])
def test_without_a_reader_nothing_is_opened(responder: Responder, source: dict[str, str]) -> None:
    found = responder.answer("/v1/chat/completions", chat({"type": "image", **source}))
    assert found.status == 400
    error = found.body["error"]
    assert (error["param"], error["code"]) == ("messages[0].content[0]", "invalid_image")
    assert "nothing but data is read here" in error["message"]
