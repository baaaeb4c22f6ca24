"""Which replica a request prefers, and how many replicas there are; no Ray is needed but for the router."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvlm.errors import OptionError
from pocketvlm.ray.affinity import affinity_key
from pocketvlm.ray.autoscaling import wanted_replicas
from pocketvlm.ray.options import AppOptions


def key(body: Any) -> str:
    return affinity_key(json.dumps(body).encode())


def chat(*messages: tuple[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in messages], **more}


def picture(url: str, text: str) -> list[dict[str, Any]]:
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]


def test_questions_about_one_image_have_one_key() -> None:
    first = key(chat(("user", picture("data:a", "What?"))))
    assert first
    assert first == key(chat(("user", picture("data:a", "Where?")), temperature=0.5))
    assert first == key(chat(("user", picture("data:a", "What?")), ("assistant", "x"), ("user", "And?")))
    assert first != key(chat(("user", picture("data:b", "What?"))))


def test_later_turns_of_a_conversation_have_the_key_of_the_first() -> None:
    first = key(chat(("system", "s"), ("user", "Hello")))
    assert first == key(chat(("system", "s"), ("user", "Hello"), ("assistant", "Hi"), ("user", "More")))
    assert first != key(chat(("system", "s"), ("user", "Hello!")))


@pytest.mark.parametrize(
    "body",
    [
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:a"}]}]},
        chat(("user", [{"type": "image", "source": {"type": "base64", "data": "a"}}])),
        {"model": "m", "prompt": "x", "images": ["a", "b"]},
        {"prompt": "Once upon"},
        {"input": "Hello"},
    ],
)
def test_bodies_of_every_interface_have_keys(body: dict[str, Any]) -> None:
    assert len(key(body)) == 32


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text(), st.lists).map(lambda v: json.dumps(v).encode()))
def test_any_bytes_have_a_key_or_none(body: bytes) -> None:
    assert len(affinity_key(body)) in (0, 32)


def test_deep_bodies_have_no_key() -> None:
    assert affinity_key(b"[" * 100_000) == ""


def test_few_keys_move_when_a_replica_comes() -> None:
    rank = pytest.importorskip("pocketvlm.ray.router").rank
    two, three = ["a", "b"], ["a", "b", "c"]
    keys = [str(number) for number in range(600)]
    moved = [each for each in keys if rank(each, two)[0] != rank(each, three)[0]]
    assert all(rank(each, three)[0] == "c" for each in moved)
    assert 120 < len(moved) < 280
    assert rank("x", two) == rank("x", list(reversed(two)))


@pytest.mark.parametrize(
    ("waiting", "requests", "wanted"), [(0, 0, 0), (0, 3, 1), (1, 0, 1), (4096, 1, 1), (4097, 1, 2), (40960, 9, 10)]
)
def test_replicas_follow_the_tokens_that_wait(waiting: float, requests: float, wanted: int) -> None:
    assert wanted_replicas(waiting, requests, 4096) == wanted


def test_arguments_of_a_command_line_are_read() -> None:
    options = AppOptions.of(
        {"model": "nano", "replicas": "[1, 3]", "num_cpus": "2", "engine_kwargs": '{"weights": "int4"}'}
    )
    assert options.pool == (1, 3)
    assert options.num_cpus == 2
    assert options.engine_kwargs == {"weights": "int4"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"modell": "nano"}, "did you mean model"),
        ({"replicas": "many"}, "replicas='many': give a number"),
        ({"num_cpus": "two"}, "num_cpus='two': give a number"),
        ({"bind_cores": "no"}, "bind_cores='no': give true or false"),
        ({"adapters": "one=/folder"}, "adapters='one=/folder': give names and values, as JSON"),
        ({"engine_kwargs": '{"thread": 2}'}, "did you mean 'threads'"),
        ({"model": "nanoo"}, "model='nanoo' is not known"),
        ({"replicas": "[3, 1]"}, "replicas=[3, 1]"),
        ({"replicas": 0}, "replicas=0"),
        ({"num_cpus": "0"}, "num_cpus=0"),
        ({"max_adapters": "0"}, "max_adapters=0"),
        ({"settings": "[1]"}, "settings=[1]"),
        ({"model": ""}, "model=''"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError) as caught:
        AppOptions.of(arguments)
    assert named in str(caught.value)
