"""Rows become questions and answers become columns, with the names of `ray.data.llm`; no Ray is needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano_adapters import write_adapter

import pocketvlm
from pocketvlm.errors import PocketVLMError
from pocketvlm.interfaces.errors import ApiError
from pocketvlm.ray import PocketVLMEngineProcessorConfig
from pocketvlm.ray.processor import After, Before
from pocketvlm.ray.rows import ERROR, OUTPUTS, failed_columns, plain, question_of
from pocketvlm.ray.worker import Answering, has_url

PENGUIN = Path(__file__).parents[2] / "examples" / "penguin.png"
GREEDY = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def answering() -> Iterator[Answering]:
    found = Answering("nano", {"threads": 1}, None)
    yield found
    found.close()


def test_a_picture_with_a_prompt_is_a_question_about_it(answering: Answering) -> None:
    found = answering.answer({"prompt": "What is this?", "image": str(PENGUIN), "sampling_params": GREEDY})
    with pocketvlm.load("nano", threads=1) as model:
        expected = model.ask("What is this?", [PENGUIN], temperature=0, max_tokens=12)
    assert found["generated_text"] == expected.text
    assert found["generated_tokens"] == list(expected.token_ids)
    assert found["num_input_tokens"] == expected.usage.prompt_tokens == len(found["prompt_token_ids"])
    assert found[ERROR] == ""
    assert set(OUTPUTS) - {"request_id", "batch_uuid"} <= set(found)


def test_pictures_come_as_paths_bytes_and_arrays_with_the_same_answer(answering: Answering) -> None:
    from PIL import Image

    picture = np.asarray(Image.open(PENGUIN).convert("RGB"))
    answers = {
        answering.answer({"prompt": "What is this?", "image": image, "sampling_params": GREEDY})["generated_text"]
        for image in (str(PENGUIN), PENGUIN.read_bytes(), picture, [str(PENGUIN)], np.array([str(PENGUIN)], object))
    }
    assert len(answers) == 1


def test_messages_a_prompt_alone_and_ids_are_three_kinds_of_prompts(answering: Answering) -> None:
    messages = np.array([{"role": "user", "content": "Hello", "name": None}], dtype=object)
    chat = answering.answer({"messages": messages, "sampling_params": GREEDY})
    raw = answering.answer({"prompt": "Hello", "sampling_params": GREEDY})
    ids = answering.answer({"tokenized_prompt": np.array(raw["prompt_token_ids"]), "sampling_params": GREEDY})
    assert len(chat["prompt_token_ids"]) > len(raw["prompt_token_ids"])
    assert ids["generated_tokens"] == raw["generated_tokens"]


def test_an_answer_has_the_form_that_its_row_asks_for(answering: Answering) -> None:
    row = {
        "prompt": "Which animal is this?",
        "image": str(PENGUIN),
        "sampling_params": {**GREEDY, "structured_outputs": {"choice": ["cat", "penguin"]}},
    }
    assert answering.answer(row)["generated_text"] in ("cat", "penguin")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({}, "messages, prompt or tokenized_prompt"),
        ({"prompt": 3}, "int"),
        ({"prompt": "x", "image": "/nowhere.png"}, "/nowhere.png"),
        ({"prompt": "x", "sampling_params": {"temprature": 1}}, "temperature"),
        ({"prompt": "x", "sampling_params": {"n": 2}}, "n=2"),
        ({"prompt": "x", "sampling_params": {"structured_outputs": {"xml": "x"}}}, "json_schema|json"),
        ({"prompt": "x", "sampling_params": [1]}, "mapping"),
        ({"prompt": "x", "multimodal_data": {"image": ["a"]}}, "column image"),
        ({"prompt": "x", "model": "other"}, "other"),
        ({"messages": [{"role": "user", "content": "x"}], "image": "a.png"}, "messages and column image"),
        ({"prompt": "x", "mm_processor_kwargs": {"max_slices": 2}}, "max_slice"),
        ({"tokenized_prompt": [10**9]}, "vocabulary"),
    ],
)
def test_a_wrong_row_is_named(answering: Answering, row: dict[str, Any], named: str) -> None:
    with pytest.raises((PocketVLMError, ApiError)) as caught:
        answering.answer(row)
    message = caught.value.message if isinstance(caught.value, ApiError) else str(caught.value)
    assert any(each in message for each in named.split("|")), message


def test_column_model_names_an_adapter_of_a_folder(tmp_path: Path) -> None:
    write_adapter(tmp_path / "one", 1)
    answering = Answering("nano", {"threads": 1}, adapter_dir=str(tmp_path))
    row = {"messages": [{"role": "user", "content": "Hello"}], "sampling_params": GREEDY}
    with pocketvlm.load("nano", threads=1, adapters={"one": tmp_path / "one"}) as model:
        base, expected = (model.ask("Hello", adapter=name, temperature=0, max_tokens=12).text for name in (None, "one"))
    assert base != expected
    for model_name, text in ((None, base), ("one", expected), ("nano", base), ("one", expected)):
        assert answering.answer({**row, "model": model_name})["generated_text"] == text
    for wrong in ("two", "../one", "..", 3):
        with pytest.raises(PocketVLMError, match=str(wrong) if wrong != 3 else "int"):
            answering.answer({**row, "model": wrong})
    answering.close()


def test_failed_rows_have_values_of_the_same_types() -> None:
    failed = failed_columns("no such file")
    assert failed[ERROR] == "no such file"
    assert failed["generated_text"] == ""
    assert failed["generated_tokens"] == []


def test_keys_that_a_table_added_are_dropped() -> None:
    row = {"content": np.array([{"type": "text", "text": "a", "image_url": None}], dtype=object), "n": np.int64(3)}
    assert plain(row) == {"content": [{"type": "text", "text": "a"}], "n": 3}
    assert question_of({"prompt": "x", "sampling_params": {"seed": np.int64(4)}}).sampling == {"seed": 4}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"concurency": 2}, "concurrency"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"concurrency": (3, 2)}, "(3, 2)"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"num_cpus": 0}, "num_cpus=0"),
        ({"tokenize_stage": False}, "tokenize_stage"),
        ({"engine_kwargs": {"model": "other"}}, "other"),
        ({"engine_kwargs": {"thread": 1}}, "did you mean 'threads'"),
        ({"engine_kwargs": {"memory_limit": "1MB"}}, "memory_limit='1MB'"),
        ({"max_concurrent_batches": 0}, "max_concurrent_batches=0"),
        ({"max_pending_requests": 0}, "max_pending_requests=0"),
        ({"bind_cores": 1}, "bind_cores=1"),
    ],
)
def test_a_wrong_configuration_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(PocketVLMError, match=r".") as caught:
        PocketVLMEngineProcessorConfig("nano", **fields)
    assert named in str(caught.value)


def test_a_model_that_no_node_can_have_is_refused_at_once() -> None:
    with pytest.raises(PocketVLMError, match="model_source='nanoo' is not known: give 'nano'"):
        PocketVLMEngineProcessorConfig("nanoo")
    assert PocketVLMEngineProcessorConfig("/only/on/other/nodes").model_source == "/only/on/other/nodes"


def test_fields_of_other_engines_that_change_no_row_are_accepted() -> None:
    config = PocketVLMEngineProcessorConfig("nano", chat_template_stage=True, log_engine_metrics=False, num_cpus=2)
    assert config.engine_kwargs["threads"] == 2


def test_an_actor_gets_enough_tasks_for_its_engine_and_no_more() -> None:
    tasks = [
        PocketVLMEngineProcessorConfig("nano", batch_size=size, **more).max_concurrent_batches
        for size, more in (
            (32, {}),
            (10, {}),
            (10, {"max_pending_requests": 5}),
            (1, {"engine_kwargs": {"max_seqs": 4}}),
        )
    ]
    assert tasks == [2, 3, 2, 6]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda row: row["none"], "failed, row id=3: KeyError: 'none'"),
        (lambda row: None, "returned NoneType, row id=3: return a dictionary of columns"),
    ],
)
def test_a_function_that_fails_is_named_with_its_row(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"preprocess {message}"):
        Before(function, None)({"id": 3})
    packed = Before(lambda row: {"prompt": "x"}, None)({"id": 3})
    with pytest.raises(ValueError, match=f"postprocess {message}"):
        After(function, True)(packed)


def test_rows_that_wait_for_the_network_are_known() -> None:
    part = {"type": "image", "image": "https://example.org/a.png"}
    assert has_url([{"role": "user", "content": [part]}])
    assert not has_url([{"role": "user", "content": [{"type": "image", "image": "/a.png"}]}])
