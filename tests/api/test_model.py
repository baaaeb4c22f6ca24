"""load() and Model on the embedded checkpoint: one path for stream and answer, clear errors, correct usage."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pocketvlm
from pocketvlm import Model, OptionError, PromptError

WAYS: list[dict[str, Any]] = [{"backend": "native"}, {"backend": "native", "precision": "exact"}, {"backend": "torch"}]


@pytest.fixture(scope="module", params=WAYS, ids=["fast", "exact", "torch"])
def model(request: pytest.FixtureRequest) -> Model:
    return pocketvlm.load("nano", threads=2, **request.param)


def picture(width: int = 150, height: int = 170, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def question(image: Any, text: str = "What is this?") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}]


def test_streamed_equals_not_streamed(model: Model) -> None:
    for options in ({"temperature": 0}, {"temperature": 1.5, "seed": 3}):
        chunks = list(model.stream("What is this?", [picture()], max_tokens=24, **options))
        result = model.ask("What is this?", [picture()], max_tokens=24, **options)
        assert "".join(chunk.text for chunk in chunks) == result.text
        assert sum((chunk.token_ids for chunk in chunks), ()) == result.token_ids
        assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
        assert chunks[-1].usage == result.usage


def test_ask_chat_and_generate_are_one_road(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    picture().save(path)
    asked = model.ask("What is this?", [path], temperature=0, max_tokens=12)
    for messages in (
        question(str(path)),
        [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": str(path)}},
                    {"type": "text", "text": "What is this?"},
                ],
            }
        ],
    ):
        assert model.chat(messages, temperature=0, max_tokens=12).token_ids == asked.token_ids
        prompt = model.processor(messages)
        assert model.generate(prompt, temperature=0, max_tokens=12).token_ids == asked.token_ids


def test_usage_and_timings(model: Model) -> None:
    prompt = model.processor(question(picture(seed=77)))  # a prompt without any cached state
    result = model.generate(prompt, temperature=0, max_tokens=5, ignore_eos=True)
    assert result.usage.prompt_tokens == len(prompt.ids)
    assert result.usage.image_tokens == prompt.image_tokens > 0
    assert result.usage.completion_tokens == len(result.token_ids) == 5
    assert result.finish_reason == "length"
    times = result.timings
    assert min(times.load, times.vision, times.prefill, times.decode, times.ttft, times.preprocess) > 0
    assert times.ttft >= times.vision + times.prefill
    assert set(result.to_dict()) == {"text", "finish_reason", "usage", "timings"}


def test_logits_and_features_agree_with_generation(model: Model) -> None:
    prompt = model.processor(question(picture(700, 500)), downsample_mode="4x")
    logits = model.logits(prompt)
    assert logits.dtype == np.float32
    assert logits.shape == (len(prompt.ids), model.checkpoint.model.text.vocab_size)
    first = model.generate(prompt, temperature=0, max_tokens=1, ignore_eos=True, repetition_penalty=1.0)
    assert first.token_ids == (int(logits[-1].argmax()),)
    features = model.encode_images(prompt)
    assert [f.shape for f in features] == [
        (image.vision_tokens, model.checkpoint.model.text.hidden_size) for image in prompt.images
    ]


def test_two_images_in_two_turns(model: Model) -> None:
    messages = [
        *question(picture(seed=1), "first"),
        {"role": "assistant", "content": "one"},
        *question(picture(300, 90, seed=2), "second"),
    ]
    prompt = model.processor(messages)
    assert len(prompt.images) == 2
    assert len(model.encode_images(prompt)) == 2
    assert model.generate(prompt, max_tokens=3).usage.image_tokens == prompt.image_tokens


def test_stop_strings_end_before_the_match(model: Model) -> None:
    free = model.ask("Hello", temperature=0, max_tokens=40, ignore_eos=True).text
    stop = free[4:6]
    result = model.ask("Hello", temperature=0, max_tokens=40, ignore_eos=True, stop=stop)
    assert result.text == free[: free.index(stop)]
    assert result.finish_reason == "stop"


def test_closing_a_stream_frees_its_memory(model: Model) -> None:
    memory = model.engine.memory
    stream = model.stream("Hello", temperature=0, max_tokens=50, ignore_eos=True)
    next(stream)
    assert memory.used > memory.cached
    stream.close()  # type: ignore[attr-defined]
    assert memory.used == memory.cached
    model.stream("never read")
    assert memory.used == memory.cached


def test_two_streams_take_turns(model: Model) -> None:
    alone = [model.ask(text, temperature=0, max_tokens=10, ignore_eos=True).token_ids for text in ("one", "two two")]
    streams = [model.stream(text, temperature=0, max_tokens=10, ignore_eos=True) for text in ("one", "two two")]
    ids: list[list[int]] = [[], []]
    for chunks in zip(*streams, strict=True):
        for place, chunk in enumerate(chunks):
            ids[place].extend(chunk.token_ids)
    assert [tuple(row) for row in ids] == alone


def test_threads_share_one_model(model: Model) -> None:
    alone = [model.ask(f"say {i}", temperature=0, max_tokens=8, ignore_eos=True).token_ids for i in range(4)]
    found: dict[int, tuple[int, ...]] = {}

    def work(i: int) -> None:
        found[i] = model.ask(f"say {i}", temperature=0, max_tokens=8, ignore_eos=True).token_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(4)] == alone


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temprature": 1}, "did you mean 'temperature'"),
        ({"nonsense": 1}, "unknown option 'nonsense'"),
        ({"top_p": 2}, "top_p=2"),
        ({"max_slice_nums": 0}, "max_slice_nums"),
        ({"downsample_mode": "8x"}, "downsample_mode"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_bad_options_are_named(model: Model, params: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        model.ask("Hello", [picture()], **params)


def test_wrong_shapes_of_a_request(model: Model) -> None:
    with pytest.raises(pocketvlm.InputError, match="must be a list"):
        model.ask("Hello", "a.png")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="into the messages"):
        model.stream([{"role": "user", "content": "x"}], [picture()])
    with pytest.raises(OptionError, match="already processed"):
        model.generate(model.processor([{"role": "user", "content": "x"}]), downsample_mode="4x")
    with pytest.raises(PromptError):
        model.chat([])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cuda"}, "backend='cuda' is not supported: give 'native' or 'torch'"),
        ({"precision": "half"}, "precision='half' is not supported: give 'exact' or 'fast'"),
        ({"precision": "exac"}, "did you mean 'exact'"),
        (
            {"weights": "in4"},
            "weights='in4' is not supported: give 'auto', .*: did you mean 'int4'",
        ),
        ({"weights": None}, "weights=None is not supported"),
        (
            {"weights": "int4", "precision": "exact"},
            "weights='int4' contradicts precision='exact'.* weights='stored'",
        ),
        ({"weights": "int8", "precision": "exact"}, "weights='int8' contradicts precision='exact'"),
        ({"backend": "torch", "precision": "fast"}, "precision='fast' needs backend='native'"),
        ({"backend": "torch", "weights": "int8"}, "weights='int8' needs backend='native'"),
        ({"threads": 0}, "threads=0"),
        ({"device": "cuda"}, "needs backend='torch'"),
    ],
)
def test_load_refuses_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pocketvlm.load("nano", **options)


def test_backends_agree_on_nano() -> None:
    image = picture(500, 300)
    logits = []
    for backend in ("native", "torch"):
        model = pocketvlm.load("nano", backend=backend, precision="exact", threads=2)  # type: ignore[arg-type]
        logits.append(model.logits(model.processor(question(image))))
    assert np.abs(logits[0] - logits[1]).max() < 1e-3


def test_progress_and_info(model: Model) -> None:
    seen: list[tuple[str, int, int]] = []
    pocketvlm.load("nano", threads=1, progress=lambda *step: seen.append(step))
    assert seen[-1][1] == seen[-1][2] == len(seen)
    info = model.info()
    assert info["model"] == "nano"
    assert info["backend"]
    assert info["parameters"] > 1_000_000
