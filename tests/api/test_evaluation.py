"""`evaluate` on nano: answers through the engine's batch path, errors that count, baselines, references."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_kit import COLOURS, colour_data, read_lines, record, write_lines

import pocketvlm
from pocketvlm import Model, OptionError
from pocketvlm.api.evaluation.requests import text_of
from pocketvlm.errors import DataError
from pocketvlm.scoring.texts import exact

SHORT: dict[str, Any] = {"max_tokens": 8}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with pocketvlm.load("nano", max_seqs=3, cache=False) as loaded:
        yield loaded


def test_the_answers_are_those_of_chat_and_the_score_is_their_mean(model: Model, tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    steps: list[tuple[str, int, int]] = []
    found = pocketvlm.evaluate(model, data, progress=lambda *step: steps.append(step), **SHORT)
    assert [sample.id for sample in found.samples] == list(COLOURS)
    for sample in found.samples:
        assert sample.answer.text == model.chat(sample.messages, temperature=0, **SHORT).text
        assert sample.score == exact(sample.answer.text or "", sample.references[0])
    assert found.score == sum(sample.score for sample in found.samples) / 5
    assert found.candidate.name == "nano"
    assert found.candidate.score.method == "wilson"
    assert found.baseline is found.difference is None
    assert steps == [("answers", done, 5) for done in range(6)]
    assert found.options == {"temperature": 0.0, **SHORT}


def test_any_of_several_references_is_right_and_records_have_metrics_of_their_own(model: Model, tmp_path: Path) -> None:
    answer = model.ask("Hello", temperature=0, **SHORT).text
    first = answer.split()[0]
    lines = [
        record("Hello", "wrong", answer.upper()),
        record("Hello", first, metric="contains", id="c"),
        record("Hello", answer[:-1] + "#", metric="anls"),
    ]
    found = pocketvlm.evaluate(model, write_lines(tmp_path / "data.jsonl", lines), **SHORT)
    scores = {sample.metric: sample.score for sample in found.samples}
    assert [sample.id for sample in found.samples] == ["1", "c", "3"]
    assert (scores["exact"], scores["contains"]) == (1, 1)
    assert 0.5 < scores["anls"] < 1
    assert found.candidate.score.method == "bootstrap"
    assert {name: score.mean for name, score in found.metrics.items()} == scores
    assert [sample.metric for sample in found.failures] == ["anls"]


def test_a_question_that_fails_scores_0_and_is_counted(model: Model, tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    (tmp_path / "green.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    found = pocketvlm.evaluate(model, data, **SHORT)
    assert [sample.answer.error is None for sample in found.samples] == [True, False, True, True, True]
    failed = found.samples[1]
    assert (failed.score, failed.answer.text) == (0, None)
    assert "green.png" in (failed.answer.error or "")
    assert (found.candidate.samples, found.candidate.errors) == (5, 1)
    assert found.failures[0] is failed or failed in found.failures
    assert found.notes[0] == "nano: 1 of 5 samples have an error and score 0"


def test_cut_answers_are_counted(model: Model, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "data.jsonl", [record("Describe a day.", "x")])
    found = pocketvlm.evaluate(model, data, max_tokens=1, ignore_eos=True)
    assert (found.candidate.cut, found.notes) == (1, ("nano: 1 of 1 answers were cut at max_tokens",))


def test_a_conversation_has_a_sample_for_each_answer_but_with_answers_only_the_last(
    model: Model, tmp_path: Path
) -> None:
    talk = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "2"},
    ]
    lines = [{"messages": talk, "id": "a"}, {"messages": talk[:3], "id": "b", "answers": ["2", "II"]}]
    found = pocketvlm.evaluate(model, write_lines(tmp_path / "data.jsonl", lines), **SHORT)
    assert [(sample.id, sample.references) for sample in found.samples] == [
        ("a", ("1",)),
        ("a/1", ("2",)),
        ("b", ("2", "II")),
    ]
    assert len(found.samples[2].messages) == 3


def test_against_an_answer_file_the_difference_is_paired(model: Model, tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    saved = write_lines(tmp_path / "other.jsonl", [{"id": colour, "answer": colour} for colour in COLOURS[:4]])
    found = pocketvlm.evaluate(model, data, against=saved, **SHORT)
    own = [sample.score for sample in found.samples]
    other = [sample.baseline_score for sample in found.samples]
    assert other == [1, 1, 1, 1, 0]
    assert found.baseline is not None
    assert (found.baseline.name, found.baseline.errors) == ("other.jsonl", 1)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx((sum(own) - 4) / 5)
    assert {sample.id for sample in found.changes} == {
        sample.id for sample, a, b in zip(found.samples, own, other, strict=True) if a != b
    }


def test_two_models_are_compared_and_the_answers_of_both_are_saved(model: Model, tmp_path: Path) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    found = pocketvlm.evaluate(model, data, against=model, answers=answers, limit=2, **SHORT)
    assert found.difference is not None
    assert (found.difference.equal, found.difference.mean) == (2, 0)
    assert found.changes == []
    both = [read_lines(path) for path in (answers, tmp_path / "answers.baseline.jsonl")]
    assert both[0] == both[1]
    assert [line.get("id") for line in both[0]] == [None, "red", "green"]


def test_a_result_is_json_ready(model: Model, tmp_path: Path) -> None:
    import json

    found = pocketvlm.evaluate(model, colour_data(tmp_path), limit=1, **SHORT).to_dict()
    assert json.loads(json.dumps(found)) == found
    assert (found["type"], found["version"], len(found["samples"])) == ("pocketvlm.evaluation", 1, 1)
    assert "messages" not in found["samples"][0]


@pytest.mark.parametrize(
    ("raw", "thinking", "text"),
    [
        ("red", False, "red"),
        ("It is round.\n</think>\n\nred", True, "red"),
        ("<think>\nround\n</think>\n\nred", False, "red"),
        ("It is", True, ""),
    ],
)
def test_reasoning_is_no_part_of_an_answer(raw: str, thinking: bool, text: str) -> None:
    assert text_of(raw, thinking) == text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (record("Where?", "a cat", metric="iou"), "data.jsonl:2: metric iou: the reference has no box"),
        (record("Where?", "x", metric="blue"), "data.jsonl:2: metric='blue' is not a metric"),
        (record("Where?", " . ", metric="contains"), "data.jsonl:2: metric contains: the reference is empty"),
        (record("Where?", "x", id=[1]), "data.jsonl:2: 'id' must be a text or a whole number, not a list"),
        (record("Where?", "x", id="red"), "data.jsonl:2: the id 'red' is that of .*data.jsonl:1 too"),
        (record("Where?", "x", image="none.png"), "data.jsonl:2: .*none.png"),
        ({"messages": [{"role": "user", "content": "a"}]}, "data.jsonl:2: .*role 'user'"),
        (record("Where?", "x") | {"answers": ["a", 2]}, "data.jsonl:2: 'answers' must be a list of texts"),
    ],
)
def test_bad_records_are_named_before_a_model_is_loaded(tmp_path: Path, line: dict[str, Any], said: str) -> None:
    data = write_lines(tmp_path / "data.jsonl", [record("Hello", "x", id="red"), line])
    with pytest.raises(DataError, match=said):
        pocketvlm.evaluate("no-such-model", data)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "exakt"}, "did you mean 'exact'"),
        ({"limit": 0}, "limit=0 is out of range"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": -1}, "temperature"),
        ({"max_slice_nums": 0}, "max_slice_nums=0"),
        ({"compare_base": True}, "compare_base needs an adapter"),
        ({"predictions": "p.jsonl"}, "leave out the model"),
        ({"against": "gone.jsonl"}, "against=gone.jsonl: cannot be read"),
        ({"adapter": "a", "compare_base": True, "against": "m"}, "leave one of them out"),
        ({"answers": "nowhere/a.jsonl"}, "there is no folder nowhere"),
    ],
)
def test_bad_options_are_refused_before_a_model_is_loaded(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        pocketvlm.evaluate("no-such-model", colour_data(tmp_path), **options)


def test_without_a_model_there_must_be_predictions(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="give a model, or predictions"):
        pocketvlm.evaluate(None, colour_data(tmp_path))
    with pytest.raises(OptionError, match="no model answers here"):
        pocketvlm.evaluate(None, colour_data(tmp_path), predictions="p.jsonl", answers="a.jsonl")


def test_records_of_an_array_and_of_several_files_have_ids(tmp_path: Path) -> None:
    import json

    array = tmp_path / "a.json"
    array.write_text(json.dumps([record("one", "1", "I"), record("two", "2", "II")]), encoding="utf-8")
    lines = write_lines(tmp_path / "b.jsonl", [record("one", "1")])
    given = write_lines(tmp_path / "p.jsonl", [{"id": "1", "answer": "1"}, {"id": 2, "answer": "II"}])
    found = pocketvlm.evaluate(None, array, predictions=given)
    assert ([sample.id for sample in found.samples], found.score) == (["1", "2"], 1)
    given = write_lines(tmp_path / "p.jsonl", [{"answer": "1"}, {"answer": "2"}, {"answer": "1"}])
    found = pocketvlm.evaluate(None, [array, lines], predictions=given)
    assert [sample.id for sample in found.samples] == [f"{array}:1", f"{array}:2", f"{lines}:1"]
