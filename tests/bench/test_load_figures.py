"""From bytes with times to figures: what a stream says at any split, and exact values under vLLM's names."""

from __future__ import annotations

import json
import math
import struct
import zlib
from base64 import b64decode
from itertools import pairwise
from typing import Any

import pytest
from bench.stand_in import DONE, chunk, usage

from pocketvlm.bench.load import plan, result_files
from pocketvlm.bench.load.figures import DETAILS, result
from pocketvlm.bench.load.http import Received
from pocketvlm.bench.load.outcomes import Outcome, read
from pocketvlm.bench.load.page import page
from pocketvlm.bench.load.prompts import Cost, Prompts, Sizes
from pocketvlm.errors import OptionError

TEXT = [chunk(""), chunk("Hel"), chunk("lo"), chunk(" you"), chunk(None, "stop"), usage(11, 4), DONE]


def received(*timed: tuple[float, bytes], sent: float = 10.0, status: int = 200, error: str = "") -> Received:
    return Received(sent, status, [(moment, data) for moment, data in timed], error)


def whole(*events: bytes) -> bytes:
    return b"".join(event + b"\n\n" for event in events)


def test_times_are_those_of_chunks_with_text() -> None:
    outcome = read(received(*((11.0 + i, whole(event)) for i, event in enumerate(TEXT))))
    assert outcome.ok
    assert (outcome.ttft, outcome.gaps, outcome.latency) == (2.0, [1.0, 1.0], 6.0)
    assert (outcome.prompt_tokens, outcome.output_tokens, outcome.counted) == (11, 4, True)
    assert outcome.text == "Hello you"


def test_any_split_reads_the_same_text() -> None:
    for ends in (b"\n", b"\r\n"):
        data = b": a comment" + ends * 2 + whole(*TEXT).replace(b"\n", ends)
        for cut in range(len(data)):
            outcome = read(received((11.0, data[:cut]), (12.0, data[cut:])))
            assert (outcome.ok, outcome.text, outcome.output_tokens) == (True, "Hello you", 4)


def test_reasoning_calls_and_completions_count_as_output() -> None:
    for choice in (
        {"delta": {"reasoning_content": "hm"}},
        {"delta": {"tool_calls": [{"index": 0}]}},
        {"text": "word"},
        {"text": ""},  # a token of /completions that is no whole character yet
    ):
        event = b"data: " + json.dumps({"choices": [{**choice, "finish_reason": None}]}).encode()
        outcome = read(received((12.0, whole(event)), (15.0, whole(chunk(None, "stop"), DONE))))
        assert (outcome.ok, outcome.ttft, outcome.latency) == (True, 2.0, 5.0)


def test_without_usage_chunks_are_counted() -> None:
    outcome = read(received((12.0, whole(*TEXT[:-2])), (13.0, whole(DONE))))
    assert (outcome.ok, outcome.counted, outcome.prompt_tokens, outcome.output_tokens) == (True, False, 0, 3)


def test_an_answer_without_text_has_the_time_of_its_end() -> None:
    outcome = read(received((12.0, whole(chunk(""))), (14.0, whole(chunk(None, "stop"), usage(3, 1), DONE))))
    assert (outcome.ok, outcome.ttft, outcome.gaps, outcome.output_tokens) == (True, 4.0, [], 1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (received((11.0, whole(*TEXT[:3]))), "the stream ended before the answer did"),
        (received((11.0, whole(*TEXT)), error="the connection was closed"), "the connection was closed"),
        (
            received((11.0, whole(TEXT[1], b'data: {"error": {"message": "out of\\n memory"}}'))),
            "in the stream: out of memory",
        ),
        (received((11.0, b'{"error": {"message": "no"}}'), status=429), "status 429: no"),
        (received((11.0, b'{"detail": [{"msg": "bad"}]}'), status=422), 'status 422: [{"msg": "bad"}]'),
        (received((11.0, b"<html>Bad\n Gateway"), status=502), "status 502: <html>Bad Gateway"),
        (received(status=500), "status 500: no text"),
        (received((11.0, b"data: {half\n\n")), "an event of the stream is not JSON: {half"),
        (received(status=0, error="cannot connect to x: refused"), "cannot connect to x: refused"),
    ],
)
def test_failures_say_what_happened(answer: Received, words: str) -> None:
    outcome = read(answer)
    assert not outcome.ok
    assert outcome.error.startswith(words)


def outcome(start: float, ttft: float, gaps: list[float], prompt: int = 10, tokens: int | None = None) -> Outcome:
    count = len(gaps) + 1 if tokens is None else tokens
    return Outcome(start, True, "", ttft, ttft + sum(gaps), gaps, prompt, count, True)


def test_exact_figures() -> None:
    load = plan.Load(
        "http://x/v1", num_prompts=4, goodput={"ttft": 201.0, "tpot": 101.0}, percentiles=(50.0, 99.9), request_rate=2.0
    )
    outcomes = [
        outcome(0.0, 0.1, [0.1, 0.1]),
        outcome(0.5, 0.3, [0.2, 0.4]),
        outcome(1.0, 0.2, [], prompt=5),
        Outcome(1.5, error="status 500: no"),
    ]
    found = result(load, "m", 2, outcomes, 4.0, 0.5)
    exact = {
        "completed": 3, "failed": 1, "total_input_tokens": 25, "total_output_tokens": 7, "duration": 4.0,
        "request_throughput": 0.75, "output_throughput": 1.75, "total_token_throughput": 8.0,
        "request_goodput": 0.5, "max_concurrency": 2, "request_rate": 2.0, "num_prompts": 4, "model_id": "m",
        "mean_ttft_ms": 200.0, "median_ttft_ms": 200.0, "p50_ttft_ms": 200.0, "std_ttft_ms": 100 * math.sqrt(2 / 3),
        "mean_tpot_ms": 200.0, "median_itl_ms": 150.0, "p99.9_itl_ms": 399.4, "median_e2el_ms": 300.0,
        "max_output_tokens_per_s": 4.0, "max_concurrent_requests": 2, "input_lens": [10, 10, 5, 0],
        "first_errors": ["status 500: no"], "output_tokens_counted_by": "usage", "client_cpu_seconds": 0.5,
    }  # fmt: skip
    assert {name: pytest.approx(value) for name, value in exact.items()} == {name: found[name] for name in exact}
    assert json.loads(json.dumps(found)) == found
    text = page(load, [found])
    assert "TTFT, time to first token" in text
    assert "failed: status 500: no" in text


def test_the_names_are_those_of_vllm() -> None:
    kinds = ["mean", "median", "std", "p99"]
    timed = {f"{kind}_{metric}_ms" for kind in kinds for metric in ("ttft", "tpot", "itl", "e2el")}
    counted = {
        "date", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate", "burstiness",
        "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens",
        "request_throughput", "request_goodput", "output_throughput", "total_token_throughput",
        "max_output_tokens_per_s", "max_concurrent_requests",
    }  # fmt: skip
    ours = {"url", "endpoint", "seed", "output_tokens_counted_by", "client_cpu_seconds", "first_errors"}
    found = result(plan.Load("http://x/v1"), "m", None, [outcome(0, 1, [1.0])], 1.0, 0.0)
    assert set(found) == timed | counted | ours | set(DETAILS)
    assert found["request_rate"] == "inf"
    assert found["request_goodput"] is None


def test_nothing_answered_is_no_crash() -> None:
    found = result(plan.Load("http://x/v1", goodput={"e2el": 1.0}), "m", None, [Outcome(0.0, error="no")], 1.0, 0.0)
    assert (found["completed"], found["failed"], found["mean_ttft_ms"], found["request_goodput"]) == (0, 1, 0.0, 0.0)
    assert "failed: no" in page(plan.Load("http://x/v1"), [found])


def test_arrivals_follow_the_rate() -> None:
    assert plan.Load("u", num_prompts=3).arrivals(0) == [0.0, 0.0, 0.0]
    for burstiness in (0.5, 1.0, 50.0):
        dues = plan.Load("u", num_prompts=4000, request_rate=10.0, burstiness=burstiness).arrivals(1)
        gaps = [b - a for a, b in pairwise(dues)]
        mean = sum(gaps) / len(gaps)
        variation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) / mean
        assert mean == pytest.approx(0.1, rel=0.1)
        assert variation == pytest.approx(burstiness**-0.5, rel=0.1)
        assert dues[0] == 0.0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: plan.Load("u", num_prompts=0), "--num-prompts 0"),
        (lambda: plan.Load("u", request_rate=0.0), "--request-rate 0"),
        (lambda: plan.Load("u", request_rate=math.nan), "--request-rate nan"),
        (lambda: plan.Load("u", burstiness=0.0), "--burstiness 0"),
        (lambda: plan.Load("u", sizes=Sizes(spread=1.0)), "--random-range-ratio 1"),
        (lambda: plan.Load("u", sizes=Sizes(images=1), endpoint="completions"), "--endpoint chat"),
        (lambda: plan.Load("u", sizes=Sizes(width=9000)), "--image-size 9000x448"),
        (lambda: plan.concurrencies("1,x"), "--max-concurrency 1,x"),
        (lambda: plan.concurrencies("0"), "--max-concurrency 0"),
        (lambda: plan.size("448"), "--image-size 448"),
        (lambda: plan.objectives(["itl:5"]), "--goodput itl:5"),
        (lambda: plan.objectives(["ttft:-5"]), "--goodput ttft:-5"),
        (lambda: plan.metrics("ttft,tps"), "--percentile-metrics tps"),
        (lambda: plan.percentiles("101"), "--metric-percentiles 101"),
    ],
)
def test_wrong_options_are_named(make: Any, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        make()
    assert words in str(caught.value)


def test_option_texts() -> None:
    assert plan.concurrencies("1, 4,16") == (1, 4, 16)
    assert plan.concurrencies(None) == (None,)
    assert plan.objectives(["ttft:500 tpot:50", "e2el:1.5"]) == {"ttft": 500.0, "tpot": 50.0, "e2el": 1.5}
    assert plan.percentiles("50,99.9") == (50.0, 99.9)
    assert plan.size("640x480") == (640, 480)


def test_prompts_have_the_length_that_was_paid_for() -> None:
    cost = Cost.of((10, 32), (30, 72))
    assert (cost.word, cost.around) == (2.0, 12.0)
    prompts = Prompts("chat", {"model": "m"}, seed=3)
    texts = [prompts.asked(Sizes(input_len=50, prefix_len=20), cost).body["messages"][0]["content"] for _ in range(5)]
    assert {len(text.split()) for text in texts} == {10 + 25}
    assert len({tuple(text.split()[:10]) for text in texts}) == 1
    assert len({tuple(text.split()[10:15]) for text in texts}) == 5
    again = Prompts("chat", {"model": "m"}, seed=3).asked(Sizes(input_len=50, prefix_len=20), cost)
    assert again.body["messages"][0]["content"] == texts[0]
    spread = {prompts.length(100, 0.5) for _ in range(2000)}
    assert (min(spread), max(spread)) == (50, 150)


def test_pictures_are_png_files_of_that_size() -> None:
    prompts = Prompts("chat", {}, seed=0)
    asked = prompts.asked(Sizes(images=2, width=37, height=21), Cost())
    *pictures, text = asked.body["messages"][0]["content"]
    assert text["type"] == "text"
    assert pictures[0] != pictures[1]
    data = b64decode(pictures[0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
    from io import BytesIO

    from PIL import Image

    image = Image.open(BytesIO(data))
    image.load()
    assert (image.size, image.mode) == ((37, 21), "RGB")
    assert len(image.getcolors(1000) or ()) == 5 * 3
    assert zlib.crc32(data[12:29]) == struct.unpack(">I", data[29:33])[0]


def test_files_are_named_as_vllm_names_them(tmp_path: Any) -> None:
    load = plan.Load("http://x/v1")
    runs = [result(load, "org/m", limit, [outcome(0, 1, [1.0])], 1.0, 0.0) for limit in (1, None)]
    first, second = result_files.write(runs, tmp_path / "new", detailed=False)
    assert first.name == f"openai-chat-infqps-concurrency1-m-{runs[0]['date']}.json"
    assert second.name == f"openai-chat-infqps-m-{runs[1]['date']}.json"
    assert "ttfts" not in json.loads(first.read_text())
    result_files.write_one(runs, tmp_path / "all.json", detailed=True)
    assert [run["ttfts"] for run in json.loads((tmp_path / "all.json").read_text())["runs"]] == [[1], [1]]
