"""Messages: both spellings of images, tool calls, and complaints that name message, part and key."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from pocketvlm.errors import OptionError, PromptError
from pocketvlm.processor.messages import read_messages, read_tools


def user(*parts):
    return [{"role": "user", "content": list(parts)}]


def nested(depth):
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("part", "source", "options", "is_base64"),
    [
        ({"type": "image", "image": "a.png"}, "a.png", {}, False),
        ({"type": "image", "url": "http://h/a.png"}, "http://h/a.png", {}, False),
        ({"type": "image", "path": "a.png", "image": None}, "a.png", {}, False),
        ({"type": "image", "base64": "QUJD"}, "QUJD", {}, True),
        ({"type": "image", "image": b"x", "max_slice_nums": 1, "slice_mode": None}, b"x", {"max_slice_nums": 1}, False),
        ({"type": "image_url", "image_url": "u"}, "u", {}, False),
        ({"type": "image_url", "image_url": {"url": "u"}}, "u", {}, False),
        ({"type": "image_url", "image_url": {"url": "u", "detail": "auto"}}, "u", {}, False),
        ({"type": "image_url", "image_url": {"url": "u", "detail": "original"}}, "u", {}, False),
        ({"type": "image_url", "image_url": {"url": "u", "detail": "low"}}, "u", {"downsample_mode": "16x"}, False),
        ({"type": "image_url", "image_url": "u", "detail": "high"}, "u", {"downsample_mode": "4x"}, False),
        (
            {"type": "image_url", "image_url": {"url": "u", "detail": "high"}, "downsample_mode": "4x"},
            "u",
            {"downsample_mode": "4x"},
            False,
        ),
    ],
)
def test_images_in_every_spelling(part, source, options, is_base64):
    conversation = read_messages(user({"type": "text", "text": "a"}, part, {"type": "text", "text": "b"}))
    assert conversation.messages == user(
        {"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}
    )
    (image,) = conversation.images
    assert (image.source, image.options, image.base64) == (source, options, is_base64)
    assert image.where == "messages[0].content[1]"


def test_images_keep_their_order_over_turns():
    images = [{"type": "image", "image": str(number)} for number in range(4)]
    messages = [
        {"role": "user", "content": [images[0], {"type": "text", "text": "x"}, images[1]]},
        {"role": "assistant", "content": "y"},
        {"role": "tool", "content": [images[2]]},
        {"role": "user", "content": (images[3],)},
    ]
    conversation = read_messages(messages)
    assert [image.source for image in conversation.images] == ["0", "1", "2", "3"]
    assert [image.where for image in conversation.images][2:] == ["messages[2].content[0]", "messages[3].content[0]"]


def test_messages_are_copied_and_cleaned():
    original = {"role": "assistant", "content": None, "refusal": None, "name": "x", "thinking": "hm", "annotations": []}
    read = read_messages([MappingProxyType(original)]).messages
    assert read == [{"role": "assistant", "name": "x", "reasoning_content": "hm", "thinking": "hm", "annotations": []}]
    assert original["content"] is None


def test_tool_calls_get_their_arguments_parsed():
    calls = [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"], "b": null}'}},
        {"function": {"name": "g", "arguments": " "}},
        {"name": "h", "arguments": {"x": 1.5}},
        {"name": "i"},
    ]
    (message,) = read_messages([{"role": "assistant", "tool_calls": calls}]).messages
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "f", "arguments": {"a": [1, "é"], "b": None}},
        {"name": "g", "arguments": {}},
        {"name": "h", "arguments": {"x": 1.5}},
        {"name": "i", "arguments": {}},
    ]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hi", ["messages must be a list", "str"]),
        ({"role": "user"}, ["messages must be a list", "dict"]),
        (None, ["messages is missing", "a list of"]),
        ([], ["messages is empty"]),
        (["hi"], ["messages[0]", "must be an object", "str"]),
        ([{"content": "x"}], ["messages[0]", "'role' is missing", "system, user, assistant, tool"]),
        ([{"role": "user", "content": "x"}, {"role": "owner", "content": "x"}], ["messages[1]", "'owner'"]),
        ([{"role": ["user"], "content": "x"}], ["messages[0]", "role=['user']"]),
        ([{"role": "user"}], ["messages[0]", "needs 'content'"]),
        ([{"role": "system", "content": None}], ["messages[0]", "needs 'content'"]),
        ([{"role": "user", "content": 5}], ["messages[0].content", "int"]),
        ([{"role": "user", "content": b"x"}], ["messages[0].content", "bytes"]),
        ([{"role": "user", "content": {"type": "text"}}], ["messages[0].content", "dict"]),
        (user("hi"), ["messages[0].content[0]", "{'type': 'text', 'text': ...}"]),
        (
            user({"text": "x"}),
            ["messages[0].content[0]", "'type' is missing", "'text', 'image', 'image_url', 'video' or 'video_url'"],
        ),
        (user({"type": "input_audio"}), ["messages[0].content[0]", "'input_audio'"]),
        (user({"type": "text"}), ["messages[0].content[0]", "'text' is missing", "{'type': 'text', 'text': ...}"]),
        (user({"type": "text", "text": ["x"]}), ["'text' must be a string", "list"]),
        (user({"type": "text", "text": "x", "bold": True}), ["unknown key 'bold'"]),
        (user({"type": "image"}), ["messages[0].content[0]", "exactly one of image, url, path, base64", "none"]),
        (user({"type": "image", "image": "a", "url": "b"}), ["found 'image' and 'url'"]),
        (user({"type": "image", "base64": b"QUJD"}), ["'base64' must be a string", "bytes"]),
        (user({"type": "image_url"}), ["'image_url' is missing", "'url' string"]),
        (user({"type": "image_url", "image_url": {}}), ["content[0].image_url", "'url' is missing"]),
        (user({"type": "image_url", "image_url": {"detail": "low"}}), ["'url' is missing"]),
        (user({"type": "image_url", "image_url": {"href": "u"}}), ["image_url", "unknown key 'href'"]),
        (user({"type": "image_url", "image_url": {"url": 3}}), ["'url' string"]),
        (
            user({"type": "video"}),
            ["messages[0].content[0]", "a video part", "exactly one of video, url, path, base64"],
        ),
        (user({"type": "video_url", "video_url": {"href": "u"}}), ["video_url", "unknown key 'href'"]),
        ([{"role": "assistant", "tool_calls": {"name": "f"}}], ["messages[0].tool_calls", "list"]),
        ([{"role": "assistant", "tool_calls": ["f"]}], ["messages[0].tool_calls[0]", "str"]),
        ([{"role": "assistant", "tool_calls": [{"function": {}}]}], ["tool_calls[0]", "'name'"]),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}],
            ["messages[0].tool_calls[0].function.arguments is not JSON"],
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
            ["arguments must be an object", "list"],
        ),
        (
            [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 100_000}]}],
            ["arguments is not JSON", "recursion"],
        ),
        ([{"role": "user", "content": "x", "extra": nested(102)}], ["messages[0].extra", "deeper than 100"]),
        ([{"role": "assistant", "reasoning": 3}], ["messages[0]", "reasoning_content must be a string"]),
        ([{"role": "user", "content": "x", "extra": {"a": [object()]}}], ["messages[0].extra.a[0]", "object"]),
    ],
)
def test_complaints_name_the_place(messages, words):
    with pytest.raises(PromptError) as caught:
        read_messages(messages)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "image", "image": "a", "max_slices": 3}, ["'max_slices'", "max_slice_nums"]),
        ({"type": "image", "image": "a", "patch_size": 3}, ["'patch_size'"]),
        ({"type": "image_url", "image_url": {"url": "u", "detail": "ultra"}}, ["detail='ultra'", "'low', 'high'"]),
        ({"type": "image_url", "image_url": {"url": "u", "detail": ["low"]}}, ["detail=['low']", "'low', 'high'"]),
        (
            {"type": "image_url", "image_url": {"url": "u", "detail": "low"}, "downsample_mode": "4x"},
            ["detail='low'", "downsample_mode='4x'", "only one"],
        ),
    ],
)
def test_image_options_are_checked(part, words):
    with pytest.raises(OptionError) as caught:
        read_messages(user(part))
    assert "messages[0].content[0]" in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_tools():
    assert read_tools(None) is None
    assert read_tools([]) is None
    tool = {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": (True, None)}}}
    (read,) = read_tools([MappingProxyType(tool)])
    assert read == {"type": "function", "function": {"name": "f", "parameters": {"b": 1, "a": [True, None]}}}
    assert list(read["function"]["parameters"]) == ["b", "a"]
    for bad, words in (
        ("f", "list of objects"),
        ([print], r"tools\[0\] .* builtin"),
        ([{"f": print}], r"tools\[0\]\.f"),
    ):
        with pytest.raises(PromptError, match=words):
            read_tools(bad)


def test_videos_are_read_like_images():
    parts = [
        {"type": "video", "video": ["a.png", "b.png"], "fps": 2, "stack_frames": None},
        {"type": "video_url", "video_url": {"url": "u", "detail": "high"}, "max_num_frames": 3, "max_slice_nums": 2},
        {"type": "image", "image": "i"},
    ]
    read = read_messages(user(*parts))
    assert read.messages[0]["content"] == [{"type": "video"}, {"type": "video"}, {"type": "image"}]
    assert [part.source for part in read.videos] == [["a.png", "b.png"], "u"]
    assert [part.source for part in read.images] == ["i"]
    assert read.videos[0].options == {"fps": 2}
    assert read.videos[1].options == {"downsample_mode": "4x", "max_num_frames": 3, "max_slice_nums": 2}
    with pytest.raises(OptionError, match=r"'fps' is not an image option"):
        read_messages(user({"type": "image", "image": "i", "fps": 2}))
    with pytest.raises(OptionError, match=r"'speed' is not a video option: give one of max_num_frames"):
        read_messages(user({"type": "video", "video": "i", "speed": 2}))
