"""`evaluate` with an adapter next to its base: both are asked in one batch, each with its own answers and options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluation_kit import colour_data, read_lines
from nano_adapters import write_adapter

import pocketvlm
from pocketvlm import CheckpointError, Model, OptionError

SHORT: dict[str, Any] = {"max_tokens": 6}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "odd", strength=8.0)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with pocketvlm.load("nano", max_seqs=4, cache=False) as loaded:
        yield loaded


def test_the_adapter_is_compared_with_its_base(model: Model, adapter: Path, tmp_path: Path) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    alone = pocketvlm.evaluate(model, data, **SHORT)
    found = pocketvlm.evaluate(model, data, adapter=adapter, compare_base=True, answers=answers, **SHORT)
    assert found.baseline is not None
    assert found.difference is not None
    assert (found.candidate.name, found.baseline.name) == ("nano + odd", "nano")
    assert [sample.baseline for sample in found.samples] == [sample.answer for sample in alone.samples]
    assert any(sample.answer.text != sample.baseline.text for sample in found.samples if sample.baseline)
    assert found.difference.mean == pytest.approx(found.score - alone.score)
    assert len(found.changes) == found.difference.worse + found.difference.better > 0
    # The adapter was loaded for the evaluation alone.
    assert not model.adapters
    heads = [read_lines(path)[0] for path in (answers, tmp_path / "answers.baseline.jsonl")]
    assert heads[0].pop("adapter")
    assert heads[1].pop("adapter") is None
    assert heads[0] == heads[1]


def test_an_adapter_that_the_model_has_is_used_by_its_name(model: Model, adapter: Path, tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    by_path = pocketvlm.evaluate(model, data, adapter=f"mine={adapter}", limit=2, **SHORT)
    model.add_adapter("mine", adapter)
    try:
        by_name = pocketvlm.evaluate(model, data, adapter="mine", limit=2, **SHORT)
        assert list(model.adapters) == ["mine"]
    finally:
        model.remove_adapter("mine")
    assert by_path.candidate.name == by_name.candidate.name == "nano + mine"
    assert [sample.answer for sample in by_path.samples] == [sample.answer for sample in by_name.samples]


def test_answers_of_another_adapter_are_not_continued(model: Model, adapter: Path, tmp_path: Path) -> None:
    data, answers = colour_data(tmp_path), tmp_path / "answers.jsonl"
    pocketvlm.evaluate(model, data, adapter=adapter, answers=answers, limit=1, **SHORT)
    other = write_adapter(tmp_path / "odd", seed=1)
    with pytest.raises(OptionError, match="its answers were made with adapter "):
        pocketvlm.evaluate(model, data, adapter=other, answers=answers, limit=1, **SHORT)


def test_options_of_the_adapter_hold_for_it_alone_and_are_said(model: Model, tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    usual = model.checkpoint.processor.max_slice_nums
    adapter = write_adapter(tmp_path / "fine", options={"downsample_mode": "4x", "max_slice_nums": usual})
    found = pocketvlm.evaluate(model, data, adapter=adapter, compare_base=True, limit=1, **SHORT)
    assert "fine brings downsample_mode=4x, the base has the checkpoint's" in found.notes[0]
    both = pocketvlm.evaluate(model, data, adapter=adapter, compare_base=True, limit=1, downsample_mode="4x", **SHORT)
    assert not both.notes


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    data = colour_data(tmp_path)
    with pytest.raises((CheckpointError, OptionError), match="adapter_config"):
        pocketvlm.evaluate("nano", data, adapter=tmp_path, **SHORT)
