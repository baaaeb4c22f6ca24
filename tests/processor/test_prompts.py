"""Whole prompts: ids and pixels identical to transformers' processor, views at their places, options, refusals."""

from __future__ import annotations

import base64
import contextlib
import io
import random
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processor_kit import PREPROCESSOR, SETTINGS, TEMPLATE, noise, write_tokenizer

from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import CheckpointError, ImageError, InputError, OptionError, PromptError
from pocketvlm.options.media import ImageOptions
from pocketvlm.processor import ChatTemplate, MediaLimits, Processor, Tokenizer, pack_pixel_values, plan_image

KEYS = st.one_of(
    st.sampled_from(["type", "text", "image", "url", "image_url", "detail", "function", "name", "arguments", "path"]),
    st.text(max_size=3),
)


def question(*images, text="What is in the image?"):
    return [
        {
            "role": "user",
            "content": [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}],
        }
    ]


def check_views(processor, prompt):
    """Placeholders of each view are consecutive, inside its markers, and all placeholders belong to a view."""
    special = processor.tokenizer.special
    ids = prompt.ids.tolist()
    assert prompt.ids.dtype == np.int32
    assert prompt.ids.ndim == 1
    seen = 0
    for view in prompt.views:
        assert ids[view.start : view.start + view.tokens] == [special.image] * view.tokens
        around = (ids[view.start - 1], ids[view.start + view.tokens])
        assert around in ((special.image_start, special.image_end), (special.slice_start, special.slice_end))
        seen += view.tokens
    assert ids.count(special.image) == seen == prompt.image_tokens == sum(info.vision_tokens for info in prompt.images)


def compare(ours, theirs, messages, template_options=None, **options):
    wanted = theirs.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        processor_kwargs={**options, "return_tensors": "np"},
        **(template_options or {}),
    )
    prompt = ours(messages, alpha="reference", **options, **(template_options or {}))
    assert prompt.ids.tolist() == wanted["input_ids"][0].tolist()
    check_views(ours, prompt)
    if prompt.views:
        pixels, sizes = pack_pixel_values(prompt.views)
        assert np.array_equal(pixels, wanted["pixel_values"])
        assert np.array_equal(sizes, wanted["target_sizes"])
    else:
        assert "pixel_values" not in wanted
    text = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **(template_options or {}))
    assert prompt.text == text
    return prompt


@pytest.mark.parametrize("mode", ["16x", "4x"])
@pytest.mark.parametrize("maximum", [1, 9, 36])
@pytest.mark.parametrize("size", [(448, 448), (640, 480), (1084, 820), (100, 2000), (30, 30)], ids=str)
def test_one_image(ours, theirs, size, maximum, mode):
    prompt = compare(ours, theirs, question(noise(*size)), downsample_mode=mode, max_slice_nums=maximum)
    info = plan_image(*size, ImageOptions(max_slice_nums=maximum, downsample_mode=mode))
    assert prompt.images == (info,)


def test_random_conversations(ours, theirs):
    generator = random.Random(7)
    words = ["the", "image", "shows", "a", "red", "square.", "What's", "<b>x</b>?", "12345", "\n\n", "", "été", "中文"]
    words += ["नमस्ते", "🙂", "e\u0301", "\t"]
    for round_ in range(40):
        messages = []
        for turn in range(generator.randint(1, 4)):
            parts = []
            for _ in range(generator.randint(1, 3)):
                if generator.random() < 0.4:
                    size = generator.randint(1, 700), generator.randint(1, 700)
                    parts.append({"type": "image", "image": noise(*size, seed=round_)})
                else:
                    text = " ".join(generator.choices(words, k=generator.randint(0, 9)))
                    parts.append({"type": "text", "text": text})
            messages.append({"role": "user", "content": parts})
            if turn or generator.random() < 0.5:
                said = generator.choice(["ok", "<think>\na\n</think>\n\nb", "", " <tool_call> "])
                messages.append({"role": "assistant", "content": said})
        options = {"use_image_id": generator.random() < 0.5, "downsample_mode": generator.choice(["16x", "4x"])}
        template_options = {"enable_thinking": generator.random() < 0.5}
        # transformers writes into the messages it is given.
        compare(ours, theirs, [dict(message) for message in messages], template_options, **options)


def test_more_than_ten_images(ours, theirs):
    compare(ours, theirs, question(*(noise(30 + n, 40) for n in range(12))), max_slice_nums=1)


def test_thinking_and_tools(ours, theirs):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": [1]}}}],
        },
        {"role": "tool", "content": "r"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": "<é>"}}]
    compare(ours, theirs, messages, {"tools": tools, "enable_thinking": True})


def test_a_path_and_a_data_uri_are_loaded_as_transformers_does(ours, theirs, tmp_path):
    image = noise(90, 60).convert("RGBA")
    image.putalpha(90)
    path = tmp_path / "a.png"
    image.save(path)
    uri = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    sources = (str(path), uri, image)
    prompts = [compare(ours, theirs, question(source)) for source in sources]
    assert prompts[0].views[0].digest == prompts[1].views[0].digest != prompts[2].views[0].digest
    white = {ours(question(source)).views[0].digest for source in sources}
    assert white == {prompts[2].views[0].digest}
    spelled = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "x"}]
    assert ours([{"role": "user", "content": spelled}], alpha="reference").views[0].digest == prompts[0].views[0].digest
    encoded = {"type": "image", "base64": base64.b64encode(path.read_bytes()).decode()}
    assert (
        ours([{"role": "user", "content": [{**encoded, "alpha": "reference"}]}]).views[0].digest
        == prompts[0].views[0].digest
    )


def test_options_of_request_and_part(ours):
    image = noise(640, 480)
    parts = [
        {"type": "image", "image": image},
        {"type": "image", "image": image, "max_slice_nums": 1, "downsample_mode": "4x"},
        {"type": "image", "image": image, "slice_mode": False, "use_image_id": True, "scale_resolution": 224},
        {"type": "text", "text": "x"},
    ]
    prompt = ours([{"role": "user", "content": parts}], use_image_id=False, max_slice_nums=9)
    check_views(ours, prompt)
    assert [info.downsample_mode for info in prompt.images] == ["16x", "4x", "16x"]
    assert [info.grid for info in prompt.images] == [(1, 2), None, None]
    assert [info.vision_tokens for info in prompt.images] == [203, 252, 15]
    assert [info.tokens for info in prompt.images] == [209, 254, 20]
    assert [view.downsample_mode for view in prompt.views] == ["16x", "16x", "16x", "4x", "16x"]
    tag = ours.tokenizer.control_ids["<image_id>"]
    (place,) = np.flatnonzero(prompt.ids == tag)
    # The third image has number 2 although the others show no number.
    assert ours.tokenizer.decode([int(prompt.ids[place + 1])]) == "2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"downsample_mode": "2x"}, ["downsample_mode='2x'", "'16x' or '4x'"]),
        ({"max_slice_nums": 0}, ["max_slice_nums=0"]),
        ({"enable_thinking": "yes"}, ["enable_thinking='yes'"]),
        ({"template_kwargs": {"enable_thinking": 1}}, ["enable_thinking=1"]),
        ({"template_kwargs": {"messages": []}}, ["'messages'", "own argument"]),
        ({"template_kwargs": {"enable_thinking": True}, "enable_thinking": True}, ["own argument"]),
    ],
)
def test_bad_options_are_refused_even_without_images(ours, options, words):
    with pytest.raises(OptionError) as caught:
        ours([{"role": "user", "content": "x"}], **options)
    assert all(word in str(caught.value) for word in words)


def test_enable_thinking_may_come_with_the_template_arguments(ours):
    messages = [{"role": "user", "content": "x"}]
    assert ours(messages, template_kwargs={"enable_thinking": True}).text == ours(messages, enable_thinking=True).text
    assert ours(messages, enable_thinking=True).text != ours(messages).text


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(["user", "system", "assistant", "tool", "text", "image", "image_url", "data:,", "low", "4x"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)  # fmt: skip
MESSAGE = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "assistant", "tool"])},
        optional={"content": JSON, "tool_calls": JSON, "reasoning": JSON, "extra": JSON},
    ),
)


@settings(max_examples=400, deadline=None)
@given(messages=st.one_of(JSON, st.lists(MESSAGE, max_size=3)), tools=st.one_of(st.none(), JSON), variables=JSON)
def test_any_request_gives_a_prompt_or_one_of_our_errors(ours, messages, tools, variables):
    with contextlib.suppress(InputError, OptionError):
        check_views(
            ours, ours(messages, tools=tools, template_kwargs=variables if isinstance(variables, dict) else None)
        )


def test_image_errors_name_the_part(ours):
    messages = [{"role": "user", "content": "x"}, *question(noise(9, 9), "no/such.png")]
    with pytest.raises(ImageError, match=r"messages\[1\]\.content\[1\]: no/such\.png: no such file"):
        ours(messages)
    with pytest.raises(OptionError, match=r"messages\[0\]\.content\[0\]: max_slice_nums=0"):
        ours([{"role": "user", "content": [{"type": "image", "image": noise(9, 9), "max_slice_nums": 0}]}])
    with pytest.raises(ImageError, match=r"2 images are more than the limit of 1.*max_images"):
        ours(question(noise(9, 9), noise(9, 9)), limits=MediaLimits(max_images=1))
    with pytest.raises(ImageError, match="network is switched off"):
        ours(question("http://127.0.0.1:9/"), limits=MediaLimits(remote=False))


def test_nothing_is_loaded_when_the_template_refuses(ours):
    class Trap(io.BytesIO):
        def read(self, *_):
            raise AssertionError("read")

    with pytest.raises(PromptError, match="No user query"):
        ours([{"role": "assistant", "content": [{"type": "image", "image": Trap()}]}])


@pytest.mark.parametrize("template", ["no image", "<|image_pad|><|image_pad|>", "{{ '<|image_pad|>' * 2 }}"])
def test_placeholders_must_match_the_images(ours, template):
    processor = Processor(ours.config, ours.tokenizer, ChatTemplate.load(template, SETTINGS))
    with pytest.raises(PromptError, match=r"image placeholders for 1 images"):
        processor(question(noise(9, 9)))


def test_the_model_and_the_tokenizer_must_agree_on_the_placeholder(ours):
    place = ours.tokenizer.special.image
    Processor(ours.config, ours.tokenizer, ours.template, place)
    with pytest.raises(CheckpointError, match=f"image_token_id={place + 1}"):
        Processor(ours.config, ours.tokenizer, ours.template, place + 1)


def test_continuing_the_last_message(ours, theirs):
    for said in ("Once upon", "Once upon ", "a <|im_end|> b", [{"type": "text", "text": "parts"}]):
        messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}]
        prompt = ours(messages, continue_final_message=True)
        wanted = theirs.apply_chat_template(messages, tokenize=False, continue_final_message=True)
        assert prompt.text == wanted
    with pytest.raises(PromptError, match="needs text"):
        ours([{"role": "user", "content": "x"}, {"role": "assistant"}], continue_final_message=True)
    hidden = Processor(ours.config, ours.tokenizer, ChatTemplate.load("x", SETTINGS))
    with pytest.raises(PromptError, match="leaves out"):
        hidden([{"role": "user", "content": "x"}], continue_final_message=True)


def test_from_checkpoint_files(ours, tmp_path):
    path = write_tokenizer(tmp_path)
    inside = {**SETTINGS, "chat_template": TEMPLATE}
    made = Processor.from_checkpoint_files(PREPROCESSOR, path, inside)
    again = Processor.from_checkpoint_files(ProcessorConfig.from_dict(PREPROCESSOR), path, SETTINGS, TEMPLATE)
    wanted = ours(question(noise(50, 60)))
    for processor in (made, again):
        assert processor(question(noise(50, 60))).ids.tolist() == wanted.ids.tolist()


def test_times_are_told(ours):
    prompt = ours(question(noise(400, 300)))
    assert prompt.decode_seconds > 0
    assert prompt.preprocess_seconds > 0


def test_threads_may_share_a_processor(ours):
    wanted = ours(question(noise(300, 200))).ids.tolist()
    results = []

    def work():
        results.extend(ours(question(noise(300, 200))).ids.tolist() == wanted for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 20


def test_imports_are_light():
    code = (
        "import sys, pocketvlm, pocketvlm.processor, pocketvlm.parsing.newlines; "
        "from pocketvlm.processor import Processor, Tokenizer, ChatTemplate, load_image, plan_image; "
        "print([name for name in ('PIL', 'tokenizers', 'jinja2', 'torch', 'ssl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_names_of_the_package():
    import pocketvlm.processor as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    assert package.Tokenizer is Tokenizer
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing
