"""`LLM`: a script that was written for vLLM's class, with another import."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

import pocketvlm
from pocketvlm import LLM, InputError, OptionError, PromptError, SamplingParams


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(
        model="nano",
        trust_remote_code=True,
        gpu_memory_utilization=0.9,
        max_model_len=2000,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 1, "video": 1},
        mm_processor_kwargs={"max_slice_nums": 1},
        seed=7,
        cache=False,
    )


def talk(text: str, images: int = 0) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": Image.new("RGB", (900, 600), "red")} for _ in range(images)]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_chat_answers_one_conversation_and_several(llm: LLM) -> None:
    params = SamplingParams(temperature=0.0, top_k=-1, max_tokens=6, stop="\n\n\n")
    (one,) = llm.chat(talk("What is this?", 1), params, use_tqdm=False)
    assert one.finished
    assert one.prompt.startswith("<|im_start|>")
    several = llm.chat([talk("Hello"), talk("What is this?", 1), talk("Why?")], sampling_params=params)
    assert [output.request_id for output in several] == ["0", "1", "2"]
    assert several[1].outputs[0] == one.outputs[0]
    assert several[1].prompt_token_ids == one.prompt_token_ids
    model = pocketvlm.load("nano", cache=False)
    asked = model.chat(talk("What is this?", 1), temperature=0, max_tokens=6, max_slice_nums=1)
    assert one.outputs[0].text == asked.text
    assert one.outputs[0].token_ids == asked.token_ids


def test_each_conversation_may_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=count, ignore_eos=True) for count in (2, 3)]
    outputs = llm.chat([talk("a"), talk("b")], params)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [2, 3]
    assert [output.outputs[0].finish_reason for output in outputs] == ["length", "length"]
    again = llm.chat([talk("a"), talk("b")], params)
    assert [output.outputs for output in again] == [output.outputs for output in outputs], "the seed is the LLM's"
    with pytest.raises(InputError, match="1 conversations but 2 sampling_params"):
        llm.chat(talk("a"), params)


def test_the_last_message_can_be_continued(llm: LLM) -> None:
    messages = [*talk("Count"), {"role": "assistant", "content": "one, two,"}]
    (output,) = llm.chat(messages, SamplingParams(max_tokens=2), continue_final_message=True)
    assert output.prompt.endswith("one, two,")


@pytest.mark.parametrize(("given", "used"), [("bfloat16", "bf16"), ("int8_per_token_head", "int8"), ("f32", "f32")])
def test_the_kv_cache_has_the_names_of_vllm(given: str, used: str) -> None:
    llm = LLM(model="nano", cache=False, kv_cache_dtype=given)
    assert llm.llm_engine.ops.scheme.kv_cache == used


def test_refusals_name_what_is_wrong(llm: LLM) -> None:
    with pytest.raises(InputError, match=r"2 images are more than limit_mm_per_prompt=\{'image': 1\}"):
        llm.chat(talk("a", 2))
    frames = {"type": "video", "video": [Image.new("RGB", (60, 40), "red")] * 2}
    with pytest.raises(InputError, match=r"2 videos are more than limit_mm_per_prompt=\{'video': 1\}"):
        llm.chat([{"role": "user", "content": [frames, frames]}])
    with pytest.raises(PromptError):
        llm.chat([[]])
    with pytest.raises(InputError, match="a conversation or a list of them"):
        llm.chat("Hello")  # type: ignore[arg-type]
    for arguments, message in (
        ({"dtype": "int7"}, "dtype='int7' is not supported: give one of auto, bfloat16"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size=2"),
        ({"speculative_model": "x"}, "speculative_model='x' is not supported: leave it out"),
    ):
        with pytest.raises(OptionError, match=message):
            LLM(**arguments)
