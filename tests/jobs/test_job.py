"""Whole jobs on nano: answers, errors of lines, order, and the server's bodies."""

from __future__ import annotations

import json

import pytest
from jobs.kit import CHAT, EXAMPLES, line, question, read_lines, timeless, write_lines

import pocketvlm
from pocketvlm.interfaces.responder import Responder


def test_each_line_gets_the_answer_that_it_gets_alone(batch, tmp_path):
    lines = [
        line("picture", question("penguin.png")),
        line("text", "hello", n=2, seed=3, temperature=1),
        {"custom_id": "responses", "url": "/v1/responses", "body": {"input": "hello", "max_output_tokens": 4}},
        line("completion", url="/v1/completions", prompt="hello"),
        line("message", url="/v1/messages"),
    ]
    for each in lines[2:4]:
        each["body"].pop("messages", None)
        each["body"]["temperature"] = 0
    write_lines(tmp_path / "in.jsonl", lines)
    outcome = batch("in.jsonl", "-o", "out.jsonl")
    assert outcome.code == 0
    assert outcome.out == ""
    assert outcome.err.startswith("out.jsonl: 5 lines in ")
    found = read_lines(tmp_path / "out.jsonl")
    assert [each["custom_id"] for each in found] == [each["custom_id"] for each in lines]
    assert len({each["id"] for each in found}) == len(lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.job"]
    with pocketvlm.load("nano", threads=1) as model:
        responder = Responder(model, read_media=lambda source: (EXAMPLES / source.value).read_bytes(), paths=True)
        for given, each in zip(lines, found, strict=True):
            assert list(each) == ["id", "custom_id", "response", "error"]
            response = each["response"]
            alone = responder.answer(given["url"], given["body"], response["request_id"])
            assert response["status_code"] == alone.status == 200
            assert timeless(response["body"]) == timeless(alone.body)
        responder.close()


BAD = {
    "not JSON": ("{", "invalid_json_line", "line 2: this is not valid JSON"),
    "no object": ("[1]", "invalid_json_line", "line 2: a JSON object is wanted, not list"),
    "deep": ("[" * 100_000, "invalid_json_line", "line 2: "),
    "no id": ({"url": CHAT, "body": {}}, "missing_custom_id", "line 2: custom_id must be a string"),
    "other url": (line("x", url="/v1/embeddings"), "invalid_url", "line 2: url='/v1/embeddings' is not supported"),
    "other method": ({**line("x"), "method": "GET"}, "invalid_method", "line 2: method='GET' is not supported"),
    "no body": ({"custom_id": "x", "url": CHAT}, "invalid_body", "line 2: body must be a JSON object"),
    "same id": (line("first"), "duplicate_custom_id", "line 2: an earlier line has custom_id='first' too"),
}
REFUSED = {
    "missing file": (line("x", question("nothing.png")), "nothing.png': there is no such file"),
    "a device": (line("x", question("../" * 20 + "dev/null")), "/dev/null': not a regular file"),
    "a path without a dot": (line("x", question("/dev/null")), "'/dev/null': not a regular file"),
    "a path of base64 letters": (line("x", question("/etc/shadows")), "'/etc/shadows': there is no such file"),
    "no picture": (line("x", question("README.md")), "messages[0].content[0]: "),
    "file id": (line("x", [{"type": "image", "file_id": "file-1"}]), "file_id='file-1' is a file of a server"),
    "scheme": (line("x", [{"type": "image_url", "image_url": {"url": "ftp://x/a.png"}}]), "ftp: is not supported"),
    "field": (line("x", modalities=["audio"]), "modalities: this field is not supported"),
    "model": (line("x", model="other"), "model 'other' not found"),
    "too long": (line("x", "word " * 40_000), "cannot fit"),
}


def test_a_refused_line_has_its_error_and_the_others_their_answers(batch, tmp_path):
    lines = [line("first"), *({**each, "custom_id": name} for name, (each, _) in REFUSED.items()), line("last")]
    write_lines(tmp_path / "refused.jsonl", lines)
    assert batch("refused.jsonl", "-o", "out.jsonl").err.startswith(
        f"out.jsonl: {len(lines)} lines, {len(REFUSED)} failed in "
    )
    first, *refused, last = read_lines(tmp_path / "out.jsonl")
    assert first["response"]["status_code"] == last["response"]["status_code"] == 200
    for each in refused:
        assert each["error"] is None
        assert each["response"]["status_code"] in (400, 404)
        assert REFUSED[each["custom_id"]][1] in each["response"]["body"]["error"]["message"]


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_is_no_request_is_an_error_of_its_own(tmp_path, name):
    from pocketvlm.jobs.sources.jsonl import JsonLines
    from pocketvlm.jobs.sources.source import survey

    bad, code, message = BAD[name]
    source = JsonLines(write_lines(tmp_path / "in.jsonl", [line("first"), bad, line("last")]))
    found = survey(source)
    first, wrong, last = map(found.check, source.lines(lambda _: False))
    assert (found.count, found.last) == (3, 3)
    assert first.problem is None
    assert last.problem is None
    assert wrong.problem is not None
    assert wrong.problem.code == code
    assert wrong.problem.message.startswith(message)
    assert "\n" not in wrong.problem.message


def test_lines_can_be_in_the_order_in_which_they_were_finished(batch, tmp_path, monkeypatch):
    """That is the order of the journal, whatever it is."""
    from pocketvlm.jobs.journal import Journal

    appended = []
    append = Journal.append
    monkeypatch.setattr(Journal, "append", lambda self, *given: (appended.append(given[0]), append(self, *given)))
    write_lines(tmp_path / "in.jsonl", [line("long", max_tokens=60), "{", line("short")])
    assert batch("in.jsonl", "-o", "out.jsonl", "--order", "finished", "-q").err == ""
    found = [int(each["id"][-8:], 16) for each in read_lines(tmp_path / "out.jsonl")]
    assert found == appended
    assert sorted(found) == [1, 2, 3]


def test_names_of_the_model_that_lines_may_use(batch, tmp_path):
    write_lines(tmp_path / "in.jsonl", [line("a", model="gpt-4o-mini"), line("b", model="nano"), line("c")])
    batch("in.jsonl", "-o", "out.jsonl", "--served-model-name", "gpt-4o-mini")
    models = [each["response"]["body"]["model"] for each in read_lines(tmp_path / "out.jsonl")]
    assert models == ["gpt-4o-mini", "nano", "nano"]


def test_options_are_defaults_of_bodies(batch, tmp_path):
    lines = [line("own"), line("default"), line("message", url="/v1/messages"), line("both")]
    del lines[1]["body"]["max_tokens"]
    del lines[3]["body"]["max_tokens"]
    lines[3]["body"]["max_completion_tokens"] = 3
    write_lines(tmp_path / "in.jsonl", lines)
    batch("in.jsonl", "-o", "out.jsonl", "--max-tokens", "2", "--seed", "1")
    own, default, message, both = read_lines(tmp_path / "out.jsonl")
    assert own["response"]["body"]["usage"]["completion_tokens"] == 4
    assert default["response"]["body"]["usage"]["completion_tokens"] == 2
    assert both["response"]["body"]["usage"]["completion_tokens"] == 3
    assert message["error"]["code"] == "option_not_supported"
    assert message["error"]["message"] == "line 3: bodies of /v1/messages have no seed: leave that option out"


def test_json_has_the_figures(batch, tmp_path):
    write_lines(tmp_path / "in.jsonl", [line("a", question("dog.png")), "{"])
    found = json.loads(batch("in.jsonl", "-o", "out.jsonl", "--json", "-q").out)
    assert {name: found[name] for name in ("lines", "before", "answered", "failed", "images")} == {
        "lines": 2, "before": 0, "answered": 1, "failed": 1, "images": 1,
    }  # fmt: skip
    assert set(found["stages"]) == {"read", "image decoding", "resize", "vision", "prefill", "decode"}
    assert all(found["stages"][stage] > 0 for stage in ("vision", "prefill", "decode"))


def test_equal_pictures_are_encoded_once(batch, tmp_path, monkeypatch):
    from pocketvlm.engine.vision import Vision

    encoded = []
    encode = Vision.encode
    monkeypatch.setattr(Vision, "encode", lambda self, due: (encoded.extend(due), encode(self, due))[1])
    write_lines(tmp_path / "in.jsonl", [line(str(number), question("dog.png")) for number in range(12)])
    batch("in.jsonl", "-o", "out.jsonl", "--concurrency", "2")
    with pocketvlm.load("nano", threads=1) as model:
        part = {"type": "image", "path": str(EXAMPLES / "dog.png")}
        views = len(model.processor([{"role": "user", "content": [part]}]).views)
    assert 0 < len(encoded) <= 2 * views
