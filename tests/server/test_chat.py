"""/v1/chat/completions and /v1/completions: a stream joined is the whole, choices, counts, and refusals by name."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from server.kit import Running, events, image, running


def text_of(response: Any) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def streamed(response: Any, index: int = 0) -> str:
    assert response.status_code == 200, response.text
    chunks = [chunk for chunk in events(response) if chunk != "[DONE]"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_the_answer_is_the_models_own(server: Running) -> None:
    expected = server.context.model.checkpoint.generation.do_sample
    assert not expected  # nano is greedy: every answer below can be compared
    response = server.chat([image("penguin.png"), {"type": "text", "text": "What is this?"}])
    assert "enguin" in text_of(response)
    body = response.json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "nano"
    assert body["choices"][0]["finish_reason"] == "stop"


def test_a_stream_joined_is_the_whole_answer(server: Running) -> None:
    content = [image("open.png"), {"type": "text", "text": "Read the text."}]
    whole, stream = server.chat(content), server.chat(content, stream=True)
    assert streamed(stream) == text_of(whole)
    found = events(stream)
    assert found[-1] == "[DONE]"
    assert found[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in found[:-1]].count("stop") == 1
    assert found[-2]["timings"]["total"] > 0
    assert len({chunk["id"] for chunk in found[:-1]}) == 1


def test_several_images_stand_in_their_order(server: Running) -> None:
    content = [image("dog.png"), image("open.png"), {"type": "text", "text": "Which is the first?"}]
    body = server.chat(content, max_tokens=4).json()
    one = server.chat([image("dog.png"), {"type": "text", "text": "Which is the first?"}], max_tokens=4).json()
    both, first = (each["usage"]["prompt_tokens_details"]["image_tokens"] for each in (body, one))
    assert both > first > 0


def test_usage_and_timings(server: Running) -> None:
    content = [image("stars.png"), {"type": "text", "text": "How many?"}]
    first = server.chat(content, mm_processor_kwargs={"use_image_id": False}).json()
    again = server.chat(content, mm_processor_kwargs={"use_image_id": False}).json()
    usage = again["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < usage["prompt_tokens_details"]["image_tokens"] < usage["prompt_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == again["timings"]["cached_tokens"] > 0
    assert again["timings"]["vision"] == 0 < first["timings"]["vision"]
    assert set(again["timings"]) == {
        "queue", "media", "resize", "preprocess", "vision", "prefill", "decode", "ttft", "total", "cached_tokens",
    }  # fmt: skip


def test_usage_in_a_stream_comes_last_and_only_when_asked(server: Running) -> None:
    with_usage = events(server.chat("hello", stream=True, stream_options={"include_usage": True}))
    assert with_usage[-2]["choices"] == []
    assert with_usage[-2]["usage"]["completion_tokens"] > 0
    assert all(chunk["usage"] is None for chunk in with_usage[:-2])
    assert not any("usage" in chunk for chunk in events(server.chat("hello", stream=True))[:-1])


def test_n_choices_share_a_prompt_and_are_sampled_alone(server: Running) -> None:
    fields = {"n": 3, "temperature": 2.0, "seed": 5, "max_tokens": 12}
    body = server.chat("hello", **fields).json()
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert len(set(texts)) > 1
    stream = server.chat("hello", stream=True, **fields)
    assert [streamed(stream, index) for index in range(3)] == texts
    alone = server.chat("hello", **{**fields, "n": 1, "seed": 6})
    assert text_of(alone) == texts[1]


def test_log_probabilities(server: Running) -> None:
    body = server.chat("hello", logprobs=True, top_logprobs=3).json()
    content = body["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in content).decode() == body["choices"][0]["message"]["content"]
    for token in content:
        values = [other["logprob"] for other in token["top_logprobs"]]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert token["logprob"] == values[0]  # greedy
    chunks = events(server.chat("hello", logprobs=True, top_logprobs=3, stream=True))[:-1]
    lists = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [token for found in lists if found for token in found["content"]] == content


def test_stop_strings_end_the_text_before_them(server: Running) -> None:
    whole = text_of(server.chat("hello"))
    cut = server.chat("hello", stop=["picture"]).json()["choices"][0]
    assert cut["message"]["content"] == whole.split("picture")[0]
    assert (cut["finish_reason"], cut["stop_reason"]) == ("stop", "picture")
    assert streamed(server.chat("hello", stop="picture", stream=True)) == whole.split("picture")[0]


def test_lengths_and_biases(server: Running) -> None:
    short = server.chat("hello", max_completion_tokens=2).json()
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 2
    ends = server.context.model.checkpoint.eos_token_ids
    biased = server.chat("hello", logit_bias={str(token): 100 for token in ends}).json()
    assert biased["usage"]["completion_tokens"] == 1
    longer = server.chat("hello", ignore_eos=True, min_tokens=20, max_tokens=20).json()
    assert longer["usage"]["completion_tokens"] == 20


def test_the_last_message_goes_on(server: Running) -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello! Show"}]
    body = {"model": "nano", "messages": messages, "continue_final_message": True}
    assert text_of(server.client.post("/v1/chat/completions", json=body)) == " me a picture."


def test_detail_and_options_of_parts(server: Running) -> None:
    def tokens(part: dict[str, Any], **fields: Any) -> int:
        body = server.chat([part, {"type": "text", "text": "?"}], max_tokens=1, **fields).json()
        return int(body["usage"]["prompt_tokens_details"]["image_tokens"])

    plain = tokens(image())
    url = image()["image_url"]["url"]
    assert tokens({"type": "image_url", "image_url": {"url": url, "detail": "high"}}) == 4 * plain
    assert tokens(image(downsample_mode="4x")) == 4 * plain
    assert tokens(image(), mm_processor_kwargs={"downsample_mode": "4x"}) == 4 * plain
    assert tokens(image(downsample_mode="16x"), mm_processor_kwargs={"downsample_mode": "4x"}) == plain
    assert tokens({"type": "image_url", "image_url": {"url": url.split(",")[1]}}) == plain  # base64 alone


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"temperature": "hot"}, "temperature", "valid number"),
        ({"temperature": -1}, "temperature", "a number from 0 to 100"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"n": 0}, "n", "greater than"),
        ({"n": 17}, "n", "limit of 16"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": -2}, "max_tokens", "-1 for no limit"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, None, "only one"),
        ({"max_tokens": 5, "min_tokens": 6}, "min_tokens", "min_tokens=6 is more than max_tokens=5"),
        ({"stop": [""]}, "stop", "stop=['']"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "xhigh"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"top_logprobs": 2}, None, "logprobs"),
        ({"logit_bias": {"x": 1}}, None, "not a token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "100"),
        ({"stop": ["a", ""]}, "stop", "non-empty"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0]", "role"),
        ({"tool_choice": "required"}, None, "needs tools"),
        ({"mm_processor_kwargs": {"zoom": 2}}, None, "zoom"),
        ({"mm_processor_kwargs": {"fps": 0}}, None, "fps=0 is out of range"),
        ({"mm_processor_kwargs": {"downsample_mode": "2x"}}, None, "16x"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, None, "json_schema"),
        ({"chat_template_kwargs": {"messages": []}}, None, "messages"),
        ({"model": "other"}, "model", "nano"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    server: Running, fields: dict[str, Any], param: str | None, says: str
) -> None:
    response = server.chat("hello", **fields)
    assert response.status_code == (404 if "model" in fields else 400), response.text
    error = response.json()["error"]
    assert says in error["message"]
    if param is not None:
        assert error["param"] is not None
        assert error["param"].startswith(param)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([{"type": "video_url", "video_url": {"url": "!!!"}}], "base64"),
        ([{"type": "image_url", "image_url": {"url": "video:/tmp/x.mp4:2"}}], "switched off"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}], "messages[0].content[0]"),
        ([{"type": "image_url", "image_url": {"url": "!!!"}}], "base64"),
        ([{"type": "image_url", "image_url": {"url": "ftp://example.com/a.png"}}], "ftp"),
        ([{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "--allowed-media-path DIR"),
        ([{"type": "image_url", "image_url": {"url": " ftp://example.com/a.png"}}], "ftp"),
        ([image(alpha="black")], "alpha='black' is not supported: give 'white' or 'reference'"),
        ([{"type": "image", "path": "/etc/passwd"}], "switched off"),
        ([{"type": "image", "image": {"a": 1}}], "dict"),
        ([{"type": "image_url", "image_url": {"file_id": "file-0"}}], "no file"),
        ([{"type": "input_audio", "input_audio": {}}], "input_audio"),
        ([3], "object"),
        (3, "content"),
        ("x" * 60_000, "cannot fit"),
        ("hello " * 4000, "context holds 2048"),
    ],
)
def test_bad_content_says_what_and_where(server: Running, content: Any, says: str) -> None:
    response = server.chat(content)
    assert response.status_code in (400, 404), response.text
    assert says in response.json()["error"]["message"]


def test_transparency_of_a_part_and_of_a_request(server: Running) -> None:
    """Equal pixels share their features: `--vision-cache` is by content."""
    logo = np.zeros((64, 64, 4), np.uint8)
    logo[20:40, 10:50, 3] = 255
    stream = io.BytesIO()
    Image.fromarray(logo).save(stream, "PNG")
    uri = f"\n data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()} "

    def answer(part: dict[str, Any] | None = None, **fields: Any) -> list[float]:
        content = [{"type": "image_url", "image_url": {"url": uri, "detail": "original"}, **(part or {})}]
        text = {"type": "text", "text": "What is this?"}
        response = server.chat([*content, text], temperature=0, max_tokens=1, logprobs=True, **fields)
        assert response.status_code == 200, response.text
        return [found["logprob"] for found in response.json()["choices"][0]["logprobs"]["content"]]

    white, dropped = answer(), answer({"alpha": "reference"})
    assert white != dropped
    assert answer(mm_processor_kwargs={"alpha": "reference"}) == dropped
    assert answer({"alpha": "white"}, mm_processor_kwargs={"alpha": "reference"}) == white


def test_request_ids_go_through(server: Running) -> None:
    given = server.client.get("/version", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    bad = server.client.get("/version", headers={"x-request-id": "a b\tc"})
    assert bad.headers["x-request-id"] != "a b\tc"
    body = server.chat("hello", request_id="mine-7").json()
    assert body["id"] == "chatcmpl-mine-7"


def test_completions_continue_text(server: Running) -> None:
    prompt = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    post = server.client.post
    body = post("/v1/completions", json={"model": "nano", "prompt": prompt}).json()
    assert body["choices"][0]["text"] == text_of(server.chat("hello"))
    ids = server.client.post("/tokenize", json={"prompt": prompt}).json()["tokens"]
    several = {"model": "nano", "prompt": [ids, ids], "n": 2, "logprobs": 1, "echo": False}
    choices = post("/v1/completions", json=several).json()["choices"]
    assert [choice["text"] for choice in choices] == [body["choices"][0]["text"]] * 4
    assert "".join(choices[0]["logprobs"]["tokens"]) == choices[0]["text"]
    echoed = post("/v1/completions", json={"model": "nano", "prompt": prompt, "echo": True, "stream": True})
    texts = [chunk["choices"][0]["text"] for chunk in events(echoed)[:-1]]
    assert "".join(texts) == prompt + body["choices"][0]["text"]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "no tokens"),
        ([], "at least one"),
        ([10**6], "vocabulary"),
        ("<|image_pad|>", "placeholders"),
        ([-1], "prompt"),
    ],
)
def test_bad_prompts(server: Running, prompt: Any, says: str) -> None:
    response = server.client.post("/v1/completions", json={"model": "nano", "prompt": prompt})
    assert response.status_code == 400
    assert says in response.json()["error"]["message"]


def test_names_lengths_and_models() -> None:
    with running(served_model_name=("small", "tiny"), max_model_len=64, default_max_tokens=5) as server:
        models = server.client.get("/v1/models").json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in models] == [("small", 64), ("tiny", 64)]
        assert "vision" in server.client.get("/v1/models/tiny").json()["capabilities"]
        assert server.client.get("/v1/models/nano").status_code == 404
        assert server.chat("hello").status_code == 404
        body = server.chat("hello", model="tiny", ignore_eos=True).json()
        assert (body["model"], body["usage"]["completion_tokens"]) == ("tiny", 5)
        full = server.chat("hello", model="tiny", ignore_eos=True, max_tokens=1000).json()
        assert full["usage"]["total_tokens"] == 64
        assert full["choices"][0]["finish_reason"] == "length"
