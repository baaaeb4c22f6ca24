"""Adapters in Python: names, the option `adapter` of each call, options as defaults, adding and removing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano_adapters import RANK, TARGETS, write_adapter

import pocketvlm
from pocketvlm import LLM, LoRARequest, Model, SamplingParams
from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.errors import CheckpointError, OptionError, PocketVLMError
from pocketvlm.model import expected_tensors
from pocketvlm.options.load import named_adapters

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGE = EXAMPLES / "unicorn_large.jpg"
SHORT: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
OPTIONS = {"max_slice_nums": 1, "downsample_mode": "4x", "max_num_frames": 2, "unknown": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("adapters")
    write_adapter(found / "first", 1)
    write_adapter(found / "second", 2, options=OPTIONS)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[Model]:
    with pocketvlm.load("nano", threads=1, adapters=[folder / "first", folder / "second"]) as found:
        yield found


def test_every_call_takes_an_adapter(model: Model) -> None:
    text, messages = "hello", [{"role": "user", "content": "hello"}]
    expected = [model.ask(text, adapter=name, **SHORT).text for name in (None, "first", "second")]
    assert len(set(expected)) == 3
    questions = [{"text": text, "adapter": name} for name in (None, "first", "second")]
    assert [result.text for result in model.ask(questions, **SHORT)] == expected
    assert [result.text for result in model.ask(iter(questions), **SHORT)] == expected
    assert [result.text for result in model.ask([text, text], adapter="first", **SHORT)] == [expected[1]] * 2
    prompt = model.processor(messages)
    for name, said in zip((None, "first", "second"), expected, strict=True):
        assert model.chat(messages, adapter=name, **SHORT).text == said
        assert model.generate(prompt, adapter=name, **SHORT).text == said
        assert "".join(chunk.text for chunk in model.stream(text, adapter=name, **SHORT)) == said
        assert "".join(delta.text for delta in model.deltas(prompt, adapter=name, **SHORT)) == said
        assert asyncio.run(model.aask(text, adapter=name, **SHORT)).text == said
        assert asyncio.run(model.achat(messages, adapter=name, **SHORT)).text == said


def test_options_of_an_adapter_are_defaults_under_those_of_a_request(model: Model) -> None:
    def prompt_of(name: str | None, **options: Any) -> int:
        return model.ask("hello", images=[LARGE], adapter=name, max_tokens=1, **options).usage.prompt_tokens

    own = {"max_slice_nums": 1, "downsample_mode": "4x"}
    plain, whole = prompt_of(None), prompt_of("second")
    assert prompt_of("first") == plain != whole == prompt_of(None, **own)
    assert prompt_of("second", max_slice_nums=None) == whole
    other = {"max_slice_nums": 9, "downsample_mode": "16x"}
    assert prompt_of("second", **other) == prompt_of(None, **other)
    part = {"type": "image", "image": str(LARGE), **other}
    talk = [{"role": "user", "content": [part, {"type": "text", "text": "hello"}]}]
    assert model.chat(talk, adapter="second", max_tokens=1).usage.prompt_tokens == prompt_of(None, **other)
    assert model.adapters["second"].options == {name: OPTIONS[name] for name in (*own, "max_num_frames")}


def test_thinking_is_an_option_of_an_adapter_too(tmp_path: Path) -> None:
    thinking = write_adapter(tmp_path / "thinking", 1, options={"enable_thinking": True})
    with pocketvlm.load("nano", threads=1, adapters=[thinking]) as model:

        def opened(**options: Any) -> int:
            return model.ask("hello", max_tokens=1, **options).usage.prompt_tokens

        assert opened(adapter="thinking") == opened(enable_thinking=True) != opened()
        assert opened(adapter="thinking", enable_thinking=False) == opened()
        assert opened(adapter="thinking", template_kwargs={"enable_thinking": False}) == opened()


def test_adapters_come_and_go(folder: Path) -> None:
    with pocketvlm.load("nano", threads=1) as model:
        assert dict(model.adapters) == {}
        with pytest.raises(OptionError, match=r"adapter='x' is not loaded: loaded are none"):
            model.ask("hello", adapter="x")
        info = model.add_adapter("x", folder / "first")
        assert model.adapters["x"] is info
        first = model.ask("hello", adapter="x", **SHORT).text
        with pytest.raises(OptionError, match="adapter 'x' is loaded already"):
            model.add_adapter("x", folder / "second")
        model.add_adapter("x", folder / "second", replace=True)
        assert model.ask("hello", adapter="x", **SHORT).text != first
        with pytest.raises(CheckpointError, match="there is no such folder"):
            model.add_adapter("x", folder / "third", replace=True)
        assert model.adapters["x"].source == str(folder / "second")
        for name in ("", "  ", "a\nb", "x" * 300):
            with pytest.raises(OptionError, match="printable characters"):
                model.add_adapter(name, folder / "first")
        model.remove_adapter("x")
        assert not model.adapters
        with pytest.raises(OptionError, match=r"adapter='x' is not loaded"):
            model.remove_adapter("x")
        model.add_adapter("x", folder / "first")
        assert model.ask("hello", adapter="x", **SHORT).text == first
        with pytest.raises(OptionError, match="did you mean 'x'"):
            model.ask("hello", adapter="xx")


def test_a_stream_ends_with_the_adapter_that_it_began_with(folder: Path) -> None:
    with pocketvlm.load("nano", threads=1, adapters=[folder / "first"]) as model:
        expected = model.ask("hello", adapter="first", **SHORT).text
        stream = model.stream("hello", adapter="first", **SHORT)
        said = next(stream).text
        model.remove_adapter("first")
        assert said + "".join(chunk.text for chunk in stream) == expected
        with pytest.raises(OptionError, match="not loaded"):
            model.stream("hello", adapter="first")


def test_logits_and_features_are_those_of_an_adapter(model: Model) -> None:
    prompt = model.processor([{"role": "user", "content": "hello"}])
    plain, first = model.logits(prompt), model.logits(prompt, adapter="first")
    assert plain.shape == first.shape
    assert np.abs(plain - first).max() > 0.1
    np.testing.assert_array_equal(plain, model.logits(prompt))
    seen = model.processor([{"role": "user", "content": [{"type": "image", "image": str(LARGE)}]}])
    # These adapters change the text alone.
    for one, other in zip(model.encode_images(seen), model.encode_images(seen, adapter="first"), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(OptionError, match="not loaded"):
        model.logits(prompt, adapter="third")
    with pytest.raises(OptionError, match="not loaded"):
        model.encode_images(seen, adapter="third")


def test_what_an_adapter_changes_is_told(model: Model, folder: Path) -> None:
    info = model.adapters["first"]
    assert info.updates == {"text": {"out_proj": 2, "o_proj": 2, "down_proj": 4}}
    assert (info.matrices, info.ranks, info.replaced, info.source) == (8, (RANK,), (), str(folder / "first"))
    assert info.matrices == len(TARGETS[:2]) * 2 + 4
    assert info.digest != model.adapters["second"].digest
    assert model.info()["adapters"] == [each.to_dict() for each in model.adapters.values()]
    json.dumps(model.info()["adapters"])


def test_names_of_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "odd=name").mkdir()
    monkeypatch.chdir(tmp_path)
    assert named_adapters(None) == {}
    assert named_adapters({"x": "a"}) == {"x": "a"}
    assert named_adapters(["a", "x=a/b", Path("a/b"), "odd=name"]) == {
        "a": "a", "x": "a/b", "b": Path("a/b"), "odd=name": "odd=name",
    }  # fmt: skip
    assert named_adapters(["org/name@main", "y=org/name"]) == {"name": "org/name@main", "y": "org/name"}
    with pytest.raises(OptionError, match=r"adapter 'b' is given twice, as 'a/b' and 'c/b'"):
        named_adapters(["a/b", "c/b"])
    for wrong in ("=a", "x="):
        with pytest.raises(OptionError, match="give NAME=DIR"):
            named_adapters([wrong])


@pytest.mark.parametrize("name", ["nano", "nano:latest", "", "  ", "a\nb", "a\x1b[1m", "x" * 201, None, 7])
def test_names_that_no_adapter_may_have_are_refused_everywhere(model: Model, folder: Path, name: Any) -> None:
    known = list(model.adapters)
    message = "has the name of the model" if str(name).startswith("nano") else "give a name of 1 to 200 printable"
    for replace_it in (False, True):
        with pytest.raises(OptionError, match=message):
            model.add_adapter(name, folder / "first", replace=replace_it)
    assert list(model.adapters) == known
    if isinstance(name, str):
        with pytest.raises(OptionError, match=message):
            pocketvlm.load("nano", adapters={name: folder / "first"})


def test_the_name_of_a_directory_is_its_last_part(tmp_path: Path, folder: Path) -> None:
    copy = tmp_path / "small"
    copy.symlink_to(embedded_directory())
    for name in (str(copy), "nano"):  # the target of the link is what requests call it
        with pytest.raises(OptionError, match="has the name of the model"):
            pocketvlm.load(copy, adapters={name: folder / "first"})


@pytest.mark.parametrize("adapters", ["first", 5, [5], {"x": 5}, {5: "x"}, [""]])
def test_adapters_of_another_type_are_refused(adapters: Any) -> None:
    with pytest.raises(OptionError, match=r"adapters=.* is not supported: give directories"):
        pocketvlm.load("nano", adapters=adapters)


def test_a_missing_adapter_is_refused_before_the_model_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adapter .*nothing.*: there is no such folder"):
        pocketvlm.load("no such model", adapters=[tmp_path / "nothing"])


def test_options_that_the_checkpoint_does_not_support_are_refused(tmp_path: Path) -> None:
    wrong = write_adapter(tmp_path / "wrong", 1, options={"scale_resolution": 10})
    with pytest.raises(OptionError, match=r"adapter 'wrong', its options: scale_resolution=10 is out of range"):
        pocketvlm.load("nano", adapters=[wrong])


def test_an_adapter_object_is_checked_as_files_are(model: Model, folder: Path) -> None:
    shapes = expected_tensors(model.checkpoint.model)
    adapter = read_adapter(folder / "first", shapes)
    for options, message in (
        ({"enable_thinking": "yes"}, "enable_thinking='yes' is not supported"),
        ({"max_slice_nums": 0}, "max_slice_nums=0 is out of range"),
    ):
        with pytest.raises(PocketVLMError, match=rf"adapter 'x'.*{message}"):
            model.add_adapter("x", replace(adapter, options=options))
    wrong = next(iter(adapter.updates))
    update = replace(adapter.updates[wrong], a=np.ones((RANK, 3), np.float32))
    with pytest.raises(OptionError, match="use the adapter with its own base"):
        model.add_adapter("x", replace(adapter, updates={wrong: update}))
    assert list(model.adapters) == ["first", "second"]
    model.add_adapter("x", replace(adapter, options={"max_slice_nums": 3}))
    assert model.adapters["x"].options == {"max_slice_nums": 3}
    model.remove_adapter("x")


def test_scripts_for_vllm_name_an_adapter_as_there(folder: Path) -> None:
    talk = [{"role": "user", "content": "hello"}]
    params = SamplingParams(temperature=0, max_tokens=8)
    llm = LLM("nano", threads=1, enable_lora=True, max_loras=2, max_lora_rank=16)
    first, second = (LoRARequest(name, 1, str(folder / name)) for name in ("first", "second"))
    texts = [llm.chat(talk, params, lora_request=request)[0].outputs[0].text for request in (None, first, second)]
    assert len(set(texts)) == 3
    assert list(llm.llm_engine.adapters) == ["first", "second"]
    mixed = llm.chat([talk] * 3, params, lora_request=[None, first, second])
    assert [output.outputs[0].text for output in mixed] == texts
    with pytest.raises(OptionError, match="3 conversations but 1 lora_request"):
        llm.chat([talk] * 3, params, lora_request=[first])
    llm.llm_engine.close()
