"""nano on the sample clips: right in every kind of weights and precision, however the question is put."""

from __future__ import annotations

from pathlib import Path

import pytest

import pocketvlm
from pocketvlm import Model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SETTINGS = [
    ("auto", None, "auto"),
    ("auto", "exact", "auto"),
    ("bf16", "fast", "auto"),
    ("int8", None, "int8"),
    ("int4", None, "auto"),
    ("int4", None, "int8"),
]

ANSWERS: list[tuple[str, list[str], str]] = [
    (
        "penguin.mp4",
        [
            "Which way does the penguin move?",
            "In which direction does the penguin move?",
            "Where does the penguin go?",
            "Does it move left, right, up or down?",
        ],
        "right",
    ),
    ("penguin.mp4", ["What happens in this video?", "Describe the video."], "A penguin moves right."),
    ("penguin.mp4", ["What moves?"], "penguin"),
    ("penguin.mp4", ["Where is the penguin at the beginning?", "Where does the penguin start?"], "left"),
    (
        "colours.mp4",
        [
            "In which order do the colours come?",
            "List the colors in order.",
            "What is the order of the colours?",
            "Name the colours from first to last.",
        ],
        "red, blue, yellow",
    ),
    ("colours.mp4", ["Which colour comes first?", "What color is the circle at the beginning?"], "red"),
    ("colours.mp4", ["Which colour comes last?", "What is the last color?"], "yellow"),
    (
        "blinks.mp4",
        [
            "How many times does the star blink?",
            "How often does the star appear?",
            "How many times does the star flash?",
            "Count the blinks.",
        ],
        "3",
    ),
    ("blinks.mp4", ["What happens?"], "A yellow star appears 3 times."),
]
CASES = [(clip, question, answer) for clip, questions, answer in ANSWERS for question in questions]


@pytest.fixture(scope="module", params=SETTINGS, ids=lambda setting: "-".join(map(str, setting)))
def model(request: pytest.FixtureRequest) -> Model:
    weights, precision, kv_cache = request.param
    return pocketvlm.load("nano", threads=2, weights=weights, precision=precision, kv_cache_dtype=kv_cache)


@pytest.mark.parametrize(("clip", "question", "answer"), CASES)
def test_sample_clips(model: Model, clip: str, question: str, answer: str) -> None:
    assert model.ask(question, videos=[EXAMPLES / clip]).text == answer


def test_a_clip_played_backwards_moves_the_other_way() -> None:
    import av

    with av.open(str(EXAMPLES / "penguin.mp4")) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    model = pocketvlm.load("nano", threads=2)
    question = "Which way does the penguin move?"
    assert model.ask(question, videos=[frames[::10]]).text == "right"
    assert model.ask(question, videos=[frames[::-10]]).text == "left"
