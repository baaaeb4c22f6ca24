"""What the server says about itself: metrics, the line of a request, tokens of a prompt, and its description."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server.kit import Running, image, running

from pocketvlm.server.metrics import CONTENT_TYPE


def metrics(server: Running) -> dict[str, float]:
    response = server.client.get("/metrics")
    assert response.headers["content-type"] == CONTENT_TYPE
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_metrics_count_what_happened() -> None:
    with running() as server:
        before = metrics(server)
        body = server.chat([image(), {"type": "text", "text": "What is this?"}]).json()
        server.chat("hello", max_tokens=1)
        server.chat("hello", top_p=0)
        server.idle()
        after = metrics(server)

        def grown(name: str) -> float:
            return after[name] - before.get(name, 0.0)

        assert grown("pocketvlm_requests_total{route=/v1/chat/completions,status=200}") == 2
        assert grown("pocketvlm_requests_total{route=/v1/chat/completions,status=400}") == 1
        assert grown("pocketvlm_finished_total{reason=stop}") == 1
        assert grown("pocketvlm_finished_total{reason=length}") == 1
        assert grown("pocketvlm_completion_tokens_total") == body["usage"]["completion_tokens"] + 1
        assert grown("pocketvlm_image_tokens_total") == body["usage"]["prompt_tokens_details"]["image_tokens"]
        assert grown("pocketvlm_ttft_seconds_count") == 2
        assert grown("pocketvlm_inter_token_seconds_count") == body["usage"]["completion_tokens"] - 1
        assert after["pocketvlm_running"] == after["pocketvlm_waiting"] == 0
        assert grown("pocketvlm_engine_generated_tokens") == body["usage"]["completion_tokens"] + 1


def test_routes_that_do_not_exist_are_one_label(server: Running) -> None:
    for number in range(3):
        server.client.get(f"/made-up-{number}")
    found = metrics(server)
    assert found["pocketvlm_requests_total{route=other,status=404}"] >= 3
    assert not any("made-up" in name for name in found)


def test_the_line_of_a_request_has_figures_and_no_content(server: Running) -> None:
    secret = "the-secret-word"
    response = server.chat([image(), {"type": "text", "text": secret}], user="somebody")
    line = server.line(response.headers["x-request-id"])
    usage = response.json()["usage"]
    assert line["prompt_tokens"] == usage["prompt_tokens"]
    assert line["completion_tokens"] == usage["completion_tokens"]
    assert line["image_tokens"] == usage["prompt_tokens_details"]["image_tokens"]
    assert line["user"] == "somebody"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
    assert 0 < line["ttft"] <= line["seconds"]
    answer = response.json()["choices"][0]["message"]["content"]
    assert secret not in json.dumps(line)
    assert answer not in json.dumps(line)


def test_log_can_be_off() -> None:
    import io

    from pocketvlm.server.logs import Log, Record

    stream = io.StringIO()
    Log("none", stream).request(Record("1", "GET", "/"), 0.0)
    assert stream.getvalue() == ""
    Log("json", stream).request(Record("1", "GET", "/\n\x1b[31m"), 0.0)
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_tokens_are_those_of_the_prompt(server: Running) -> None:
    post = server.client.post
    messages = [{"role": "user", "content": [image(), {"type": "text", "text": "What is this?"}]}]
    counted = post("/tokenize", json={"messages": messages, "return_token_strs": True}).json()
    usage = server.chat(messages[0]["content"], max_tokens=1).json()["usage"]
    assert counted["count"] == len(counted["tokens"]) == usage["prompt_tokens"]
    assert counted["visual_tokens"] == usage["prompt_tokens_details"]["image_tokens"]
    assert counted["images"][0]["vision_tokens"] == counted["visual_tokens"]
    assert counted["images"][0]["downsample_mode"] == "16x"
    four = post("/tokenize", json={"messages": messages, "mm_processor_kwargs": {"downsample_mode": "4x"}}).json()
    assert four["visual_tokens"] == 4 * counted["visual_tokens"]
    text = "Grüße, \n<|im_start|> 你好"
    ids = post("/tokenize", json={"prompt": text}).json()["tokens"]
    assert post("/detokenize", json={"tokens": ids}).json()["prompt"] == text
    for body in ({}, {"prompt": "x", "messages": messages}, {"model": "other", "prompt": "x"}):
        assert post("/tokenize", json=body).status_code in (400, 404)


def test_the_description_names_every_field(server: Running) -> None:
    described: dict[str, Any] = server.client.get("/openapi.json").json()
    fields = described["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "tools", "response_format", "mm_processor_kwargs", "chat_template_kwargs", "seed"} <= set(
        fields
    )
    assert described["components"]["schemas"]["ChatRequest"]["additionalProperties"] is True
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], (path, method)


def test_the_page_of_the_description_loads_nothing_from_elsewhere(server: Running) -> None:
    page = server.client.get("/docs")
    assert page.status_code == 200
    assert "openapi.json" in page.text
    assert "//" not in page.text.replace("// ", "")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/chat/completions"), ("DELETE", "/health"), ("GET", "/x")])
def test_wrong_ways_in_have_our_error_form(server: Running, method: str, path: str) -> None:
    response = server.client.request(method, path)
    assert response.status_code in (404, 405)
    assert "/docs" in response.json()["error"]["message"]
