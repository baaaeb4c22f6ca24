"""Files of answers: continued after an interruption, refused where they do not fit, read from other programs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_kit import COLOURS, colour_data, read_lines, record, write_lines

import pocketvlm
from pocketvlm import InputError, Model, OptionError

SHORT: dict[str, Any] = {"max_tokens": 8}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with pocketvlm.load("nano", max_seqs=2, cache=False) as loaded:
        yield loaded


@pytest.fixture
def asked(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that the model was asked."""
    stream, found = model.stream, list[Any]()

    def listening(messages: Any, **params: Any) -> Any:
        found.append(messages)
        return stream(messages, **params)

    monkeypatch.setattr(model, "stream", listening)
    return found


def interrupt(after: int) -> Any:
    def progress(what: str, done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    return progress


def test_an_interrupted_run_continues(model: Model, tmp_path: Path, asked: list[Any]) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    whole = pocketvlm.evaluate(model, data, **SHORT)
    with pytest.raises(KeyboardInterrupt):
        pocketvlm.evaluate(model, data, answers=answers, progress=interrupt(after=2), **SHORT)
    assert [line["id"] for line in read_lines(answers)[1:]] == ["red", "green"]
    # As if the process had been killed while it wrote a line.
    with answers.open("ab") as file:
        file.write(b'{"id": "blue", "answ')
    asked.clear()
    found = pocketvlm.evaluate(model, data, answers=answers, **SHORT)
    assert len(asked) == 3
    assert [sample.answer for sample in found.samples] == [sample.answer for sample in whole.samples]
    assert [line["id"] for line in read_lines(answers)[1:]] == list(COLOURS)
    asked.clear()
    again = pocketvlm.evaluate(model, data, answers=answers, **SHORT)
    assert asked == []
    assert again.score == whole.score


def test_errors_are_answered_again(model: Model, tmp_path: Path, asked: list[Any]) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    good = (tmp_path / "blue.png").read_bytes()
    (tmp_path / "blue.png").write_bytes(good[:40])
    first = pocketvlm.evaluate(model, data, answers=answers, **SHORT)
    assert first.candidate.errors == 1
    (tmp_path / "blue.png").write_bytes(good)
    asked.clear()
    assert pocketvlm.evaluate(model, data, answers=answers, **SHORT).candidate.errors == 0
    assert len(asked) == 1
    assert pocketvlm.evaluate(None, data, predictions=answers).candidate.errors == 0


def test_a_smaller_limit_leaves_lines_in_the_file(model: Model, tmp_path: Path, asked: list[Any]) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    pocketvlm.evaluate(model, data, answers=answers, limit=3, **SHORT)
    asked.clear()
    assert len(pocketvlm.evaluate(model, data, answers=answers, limit=1, **SHORT).samples) == 1
    assert asked == []
    assert len(read_lines(answers)) == 4


def test_answers_of_another_run_are_not_mixed_in(model: Model, tmp_path: Path) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    pocketvlm.evaluate(model, data, answers=answers, limit=1, **SHORT)
    before = answers.read_bytes()
    with pytest.raises(OptionError, match=r"made with options .*\"max_tokens\": 8.* now it is .*\"max_tokens\": 9"):
        pocketvlm.evaluate(model, data, answers=answers, max_tokens=9)
    write_lines(data, [record("Another question?", "x", id="red")])
    with pytest.raises(OptionError, match=r"answers\.jsonl:2: the question of id 'red' was another one"):
        pocketvlm.evaluate(model, data, answers=answers, **SHORT)
    with pytest.raises(InputError, match=r"answers\.jsonl:2: this answers another question"):
        pocketvlm.evaluate(None, data, predictions=answers)
    assert answers.read_bytes() == before


def test_other_files_are_not_overwritten(tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    with pytest.raises(OptionError, match="has no answers of an earlier run"):
        pocketvlm.evaluate("no-such-model", data, answers=data)
    with pytest.raises(OptionError, match="is a directory"):
        pocketvlm.evaluate("no-such-model", data, answers=tmp_path)


def predicted(tmp_path: Path, lines: list[dict[str, Any]], **options: Any) -> pocketvlm.Evaluation:
    data = colour_data(tmp_path)
    return pocketvlm.evaluate(None, data, predictions=write_lines(tmp_path / "p.jsonl", lines), **options)


def test_predictions_are_scored_by_id_in_any_order(tmp_path: Path) -> None:
    found = predicted(tmp_path, [{"id": colour, "answer": colour.upper(), "more": 1} for colour in reversed(COLOURS)])
    assert (found.score, found.candidate.name, found.options) == (1, "p.jsonl", {})


def test_a_sample_without_a_prediction_is_an_error(tmp_path: Path) -> None:
    found = predicted(tmp_path, [{"id": "red", "answer": "red"}, {"id": "blue", "error": "too long"}])
    assert found.score == 0.2
    assert [sample.answer.error for sample in found.samples] == [
        *(None, "no answer in p.jsonl", "too long", "no answer in p.jsonl", "no answer in p.jsonl")
    ]


def test_predictions_without_ids_are_in_the_order_of_the_data(tmp_path: Path) -> None:
    lines = [{"answer": colour} for colour in COLOURS]
    assert predicted(tmp_path, lines).score == 1
    assert predicted(tmp_path, lines, limit=2).score == 1


def test_a_limit_leaves_predictions_out(tmp_path: Path) -> None:
    lines = [{"id": colour, "answer": colour} for colour in COLOURS]
    assert len(predicted(tmp_path, lines, limit=2).samples) == 2


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"id": "rot", "answer": "a"}], "p.jsonl:1: no sample has the id 'rot'; the first one has 'red'"),
        ([{"id": "red", "answer": "a"}] * 2, "p.jsonl:2: the id 'red' was answered before"),
        ([{"id": "red", "text": "a"}], "p.jsonl:1: 'answer' must be a text; this line has id, text"),
        ([{"id": "red", "answer": 1}], "p.jsonl:1: 'answer' must be a text"),
        ([{"id": 1.5, "answer": "a"}], "p.jsonl:1: 'id' must be a text or a whole number"),
        ([{"answer": "a"}], "its 1 lines have no 'id', and there are 5 samples"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path: Path, lines: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        predicted(tmp_path, lines)


def test_damaged_predictions_are_refused_with_their_line(tmp_path: Path) -> None:
    data, path = colour_data(tmp_path), tmp_path / "p.jsonl"
    for text, said in (
        ('{"id": 1', "p.jsonl:2: not valid JSON"),
        ("[]", "p.jsonl:2: a JSON object is wanted, not list"),
    ):
        path.write_text(f'\n{text}\n{{"id": "red", "answer": "a"}}\n', encoding="utf-8")
        with pytest.raises(InputError, match=said):
            pocketvlm.evaluate(None, data, predictions=path)
