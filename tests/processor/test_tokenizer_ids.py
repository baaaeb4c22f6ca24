"""Ids and text against the tokenizers library and transformers; streaming decode; control tokens and their absence."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from processor_kit import CONTROL, EXTRA, SETTINGS, write_tokenizer
from tokenizers import Tokenizer as Backend

from pocketvlm.errors import CheckpointError, PromptError
from pocketvlm.processor import Detokenizer, Tokenizer

# Text that is likely to touch every branch of the split, and control tokens whole and in pieces.
TEXTS = [
    *CONTROL, "<|im_", "end|>", "<", ">", "|", "/", "think", "'s", "'LL", " ", "  ", "\n", "\r\n", "\t", "12", "é",
    "e\u0301", "\u0338", "中文", "नमस्ते", "🙂", "👩\u200d👧", "\u00a0", "\u2028", "\ue000", "Ω", "\u212b", "A", "\x00",
]  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(TEXTS), st.text(max_size=6)), max_size=12).map("".join)
QUICK = settings(max_examples=300, deadline=None)


@pytest.fixture(scope="module")
def tokenizer(ours) -> Tokenizer:
    return ours.tokenizer


@pytest.fixture(scope="module")
def library(folder) -> Backend:
    return Backend.from_file(str(write_tokenizer(folder)))


@QUICK
@given(text=TEXT)
@example(text="<think>\u0338")
@example(text="<|im_start<|im_end|>")
def test_template_text_has_the_ids_of_the_library(tokenizer, library, text):
    assert tokenizer.encode_template(text) == library.encode(text, add_special_tokens=False).ids


@QUICK
@given(text=TEXT)
def test_plain_text_never_has_control_ids(tokenizer, library, text):
    ids = tokenizer.encode_plain(text)
    assert not set(ids) & set(tokenizer.control_ids.values())
    assert tokenizer.decode(ids) == library.normalizer.normalize_str(text)
    if not tokenizer.spellings.pattern.search(text):
        assert ids == library.encode(text, add_special_tokens=False).ids


@QUICK
@given(data=st.data())
def test_decoding_any_ids_whole_and_streamed(tokenizer, library, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
    for skip in (True, False):
        whole = tokenizer.decode(ids, skip)
        assert whole == library.decode(ids, skip_special_tokens=skip)
        stream = Detokenizer(tokenizer, skip)
        parts = [stream.add(token) for token in ids]
        rest = stream.flush()
        assert "".join(parts) + rest == whole
        # What has been shown is final: it begins the decoding of the whole.
        for end in range(len(ids)):
            assert whole.startswith("".join(parts[: end + 1]))


def test_streaming_holds_back_incomplete_characters(tokenizer, library):
    ids = [library.token_to_id(char) for char in ("ð", "Ł", "Ļ", "Ĥ")]  # F0 9F 99 82, one byte each
    stream = Detokenizer(tokenizer)
    assert [stream.add(token) for token in ids] == ["", "", "", "🙂"]
    assert stream.flush() == ""
    assert stream.add(ids[0]) == ""
    assert stream.flush() == "\ufffd"
    assert stream.add(tokenizer.encode_plain("A")[0]) == "A"


def test_skipping_follows_the_flag_of_each_token(tokenizer):
    text = "a<|im_end|>b<think>c</think>d<image>e<tool_call>f"
    ids = tokenizer.encode_template(text)
    assert tokenizer.decode(ids) == "ab<think>c</think>de<tool_call>f"
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_transformers_agrees(theirs, tokenizer):
    text = "<|im_start|>user\nWhat's <b>this</b>?\r\n\r\n  12345 नमस्ते<|im_end|>\n<think>\n\n</think>\n\nÅ"
    ids = theirs.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.encode_template(text) == ids
    assert tokenizer.decode(ids) == theirs.tokenizer.decode(ids, skip_special_tokens=True)


def test_named_tokens(tokenizer):
    special = tokenizer.special
    names = ["image", "video", "image_start", "image_end", "slice_start", "slice_end", "image_id_start", "image_id_end"]
    assert {name: getattr(special, name) for name in names} == {
        name: tokenizer.control_ids[EXTRA[f"{name}_token"]] for name in names
    }
    assert tokenizer.token_id("<|im_end|>") == tokenizer.control_ids["<|im_end|>"]
    assert tokenizer.spelling("eos_token") == "<|im_end|>"
    assert tokenizer.vocab_size == max(tokenizer.control_ids.values()) + 1
    with pytest.raises(CheckpointError, match="'<nope>' is missing"):
        tokenizer.token_id("<nope>")


def test_names_come_from_the_configuration_then_from_the_facts(tmp_path):
    renamed = {**CONTROL, "<picture>": True}
    path = write_tokenizer(tmp_path, renamed)
    assert Tokenizer.from_files(path, {}).special == Tokenizer.from_files(path, SETTINGS).special
    other = Tokenizer.from_files(path, {"extra_special_tokens": {**EXTRA, "image_start_token": "<picture>"}})
    assert other.special.image_start == other.control_ids["<picture>"]
    top = Tokenizer.from_files(path, {"image_start_token": {"content": "<picture>"}})
    assert top.special == other.special


@pytest.mark.parametrize("missing", ["<|image_pad|>", "<image>", "</slice>", "<image_id>"])
def test_a_missing_token_is_named(tmp_path, missing):
    path = write_tokenizer(tmp_path, {text: flag for text, flag in CONTROL.items() if text != missing})
    with pytest.raises(CheckpointError, match=f"{missing!r} is missing".replace("|", r"\|")):
        Tokenizer.from_files(path, SETTINGS)


def test_video_may_be_missing(tmp_path):
    path = write_tokenizer(tmp_path, {text: flag for text, flag in CONTROL.items() if text != "<|video_pad|>"})
    assert Tokenizer.from_files(path, SETTINGS).special.video is None


def edited(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(decoder={"type": "Fuse"}), "byte-level BPE only"),
        (lambda data: data.update(decoder=None), "byte-level BPE only"),
        (lambda data: data["added_tokens"][0].update(lstrip=True), "lstrip"),
        (lambda data: data.update(model={"type": "What"}), "'What'.*byte-level BPE only"),
    ],
)
def test_tokenizers_of_other_kinds_are_refused(tmp_path, change, words):
    path = edited(write_tokenizer(tmp_path), change)
    with pytest.raises(CheckpointError, match=words):
        Tokenizer.from_files(path, SETTINGS)


def test_padding_and_truncation_in_the_file_are_off(tmp_path):
    def change(data):
        data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        data["padding"] = {"strategy": {"Fixed": 9}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                           "pad_type_id": 0, "pad_token": "x"}  # fmt: skip

    tokenizer = Tokenizer.from_files(edited(write_tokenizer(tmp_path), change), SETTINGS)
    assert tokenizer.decode(tokenizer.encode_plain("one two three four")) == "one two three four"
    assert len(tokenizer.encode_plain("!")) == 1


def test_files_that_are_missing_or_broken(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        Tokenizer.from_files(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        Tokenizer.from_files(tmp_path / "tokenizer.json")


def test_lone_surrogates_are_refused(tokenizer):
    with pytest.raises(PromptError, match=r"U\+D83D"):
        tokenizer.encode_plain("a\ud83db")
