"""Our byte-level BPE over flat arrays against the tokenizers library: the same tokens, merges and ids."""

from __future__ import annotations

import json
import random
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processor_kit import CONTROL, SETTINGS, SPLIT, place, same, write_tokenizer
from tokenizers import Tokenizer as Library

from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.errors import CheckpointError
from pocketvlm.processor import Tokenizer, vocabulary
from pocketvlm.processor.bpe import Bpe
from pocketvlm.processor.vocabulary import ALPHABET, Vocabulary

WORDS = 248_044  # of the released model, without control tokens


def content(vocab: dict[str, int], merges: list[Any], **more: Any) -> dict[str, Any]:
    """A tokenizer.json with these tokens and merges, split as the released one."""
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level,
        "added_tokens": [
            {"id": len(vocab) + index, "content": text, "special": special, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for index, (text, special) in enumerate(CONTROL.items())
        ],
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
        **more,
    }  # fmt: skip


def grown(seed: int, count: int, letters: str) -> dict[str, Any]:
    """A vocabulary of `count` tokens, each of two earlier ones, merged in an order that is not that of their making."""
    draw = random.Random(seed)
    tokens = sorted(ALPHABET)
    pool = [char for char in tokens if char in letters] or tokens
    known, merges = set(tokens), []
    while len(tokens) < count:
        source = pool if draw.random() < 0.7 else tokens
        # Mostly early tokens, which are short.
        left, right = (source[int(len(source) * draw.random() ** 3)] for _ in range(2))
        if len(left + right) <= 24 and left + right not in known:
            known.add(left + right)
            tokens.append(left + right)
            merges.append([left, right])
            if set(left + right) <= set(letters):
                pool.append(left + right)
    ids = list(range(count))
    draw.shuffle(ids)
    draw.shuffle(merges)
    return content(dict(zip(tokens, ids, strict=True)), merges)


def texts(letters: str, seed: int = 1) -> list[str]:
    """Strings that touch short and long words, many scripts, normal forms, control tokens and their pieces."""
    draw = random.Random(seed)
    wide = [chr(code) for low, high in ((0x20, 0x250), (0x370, 0x600), (0x900, 0x980), (0x4E00, 0x5000)) for code in
            range(low, high)]  # fmt: skip
    found = ["", " ", "\n\n \t", "a" * 300, "=" * 70, "<|im_start|>user", "</think", "e\u0301\u0338 é", "\x00\x7f\xad"]
    found += [" ".join("".join(draw.choices(letters, k=draw.randint(1, 12))) for _ in range(40)) for _ in range(60)]
    found += ["".join(draw.choices(wide, k=60)) for _ in range(60)]
    found += [unicodedata.normalize("NFD", text) for text in found[-10:]]
    return [*found, "".join(draw.choices(letters, k=20_000))]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A tokenizer.json as large as that of the released model."""
    path = tmp_path_factory.mktemp("large") / "tokenizer.json"
    path.write_text(json.dumps(grown(3, WORDS, "etaoinshrdlu"), ensure_ascii=False))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path)


def says_what_the_file_says(found: Vocabulary, path: Path) -> None:
    """All tokens, ids, merges and their order are those of tokenizer.json as the library reads and writes it."""
    library = Library.from_file(str(path))
    written = json.loads(library.to_str())
    chars = {byte: char for char, byte in ALPHABET.items()}
    ids = written["model"]["vocab"]
    texts = {id_: "".join(chars[byte] for byte in found.token(id_)) for id_ in range(len(found.ends))}
    assert texts == {id_: text for text, id_ in ids.items()}
    rows = sorted(zip(found.ranks[:-1], found.pairs[:-1], found.merged[:-1], strict=True))
    assert [[texts[pair >> 32], texts[pair & 0xFFFFFFFF]] for _, pair, _ in rows] == written["model"]["merges"]
    assert [texts[merged] for *_, merged in rows] == ["".join(pair) for pair in written["model"]["merges"]]
    assert {token.id: token.text for token in found.added} == {
        token["id"]: token["content"] for token in written["added_tokens"]
    }
    assert found.rules == {name: written[name] for name in ("normalizer", "pre_tokenizer")}
    assert found.size == library.get_vocab_size(with_added_tokens=True)


def encodes_as_the_library(found: Vocabulary, path: Path, strings: list[str]) -> None:
    library = Library.from_file(str(path))
    library.encode_special_tokens = True
    tokenizer = Tokenizer(found, SETTINGS, str(path))
    plain = [text for text in strings if not tokenizer.spellings.pattern.search(text)]
    assert len(plain) > len(strings) // 2
    for text in plain:
        assert tokenizer.encode_plain(text) == library.encode(text, add_special_tokens=False).ids, text
    library.encode_special_tokens = False
    for text in strings:
        ids = tokenizer.encode_template(text)
        assert ids == library.encode(text, add_special_tokens=False).ids, text
        assert tokenizer.decode(ids) == library.decode(ids)


def test_a_large_vocabulary_is_that_of_the_library_read_and_cached(large: Path, tmp_path: Path) -> None:
    read, written = vocabulary.load(large), vocabulary.load(large, place(tmp_path))
    cached = vocabulary.load(large, place(tmp_path))
    same(read, written)
    same(read, cached)
    assert cached.pairs.obj is not read.pairs.obj
    assert len(cached.ends) == WORDS
    says_what_the_file_says(cached, large)
    encodes_as_the_library(cached, large, texts("etaoinshrdlu"))


def test_nano(tmp_path: Path) -> None:
    path = embedded_directory() / "tokenizer.json"
    vocabulary.load(path, place(tmp_path))
    cached = vocabulary.load(path, place(tmp_path))
    same(vocabulary.load(path), cached)
    says_what_the_file_says(cached, path)
    encodes_as_the_library(cached, path, texts("etaoinshrdlu", 2))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    count=st.integers(256, 300),
    strings=st.lists(st.text("abc ", max_size=60), min_size=1, max_size=6),
    reloaded=st.booleans(),
)
def test_any_merges_in_any_order(seed: int, count: int, strings: list[str], reloaded: bool) -> None:
    """Few letters, so that merges compete for the same neighbours."""
    data = grown(seed, count, "abc")
    if reloaded:  # a merge that is listed twice counts where it is listed last
        data["model"]["merges"] += random.Random(seed).choices(data["model"]["merges"] or [], k=3 * (count > 256))
    text = json.dumps(data)
    ours, library = Bpe(vocabulary.parse(text.encode(), "x"), "x"), Library.from_str(text)
    for string in strings:
        assert ours.encode(string) == library.encode(string, add_special_tokens=False).ids


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketvlm.processor.bpe._MAX_WORDS", 3)
    bpe = Bpe(vocabulary.parse(json.dumps(grown(1, 300, "abc")).encode(), "x"), "x")
    text = "ab ac bc ca cb ba " + "abc" * 50
    assert bpe.encode(text) == bpe.encode(text)
    assert len(bpe._words) == 3


def edited(path: Path, change: Any) -> Path:
    data = json.loads(path.read_text())
    path.write_text(json.dumps(change(data) or data))
    return path


def add(data: dict[str, Any], **values: Any) -> None:
    data["added_tokens"].append({**data["added_tokens"][0], **values})


def never_merged(data: dict[str, Any], id_: int | None = None) -> str:
    """A token that no merge makes, behind the others or with a hole before it."""
    vocab = data["model"]["vocab"]
    vocab["zq~"] = id_ or len(vocab)
    return "zq~"


def legacy(data: dict[str, Any]) -> None:
    data["model"]["merges"] = ["#version: 0.2", *(" ".join(pair) for pair in data["model"]["merges"])]


def whole_words(data: dict[str, Any]) -> None:
    data["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    data["normalizer"] = None


@pytest.mark.parametrize(
    "change",
    [
        lambda data: [item.update(id=item["id"] + 5) for item in data["added_tokens"][7:]] and None,
        lambda data: data["added_tokens"].reverse(),
        lambda data: add(data, content=never_merged(data), id=77),
        lambda data: data["added_tokens"].insert(0, {**data["added_tokens"][0], "content": never_merged(data)}),
        lambda data: add(data, content=""),
        lambda data: add(data, content="é中"),
        lambda data: add(data, special=False),
        lambda data: never_merged(data, 900) and None,
        lambda data: data["added_tokens"].insert(0, {**data["added_tokens"][0], "content": never_merged(data, 414)}),
        lambda data: add(data, content=never_merged(data, 900)),
        lambda data: data["added_tokens"].insert(0, {**data["added_tokens"][0], "content": never_merged(data, 900)}),
        lambda data: data["model"].pop("type") and None,
        lambda data: data["model"]["merges"].clear(),
        lambda data: data["model"].update(unk_token=None, dropout=None, continuing_subword_prefix="", fuse_unk=True),
        lambda data: data["model"]["vocab"].update({"not bytes\u4e2d": len(data["model"]["vocab"])}),
        legacy,
        whole_words,
    ],
)
def test_odd_files_mean_what_they_mean_to_the_library(small: Path, change: Any) -> None:
    edited(small, change)
    found, library = vocabulary.load(small), Library.from_file(str(small))
    assert {token.id: (token.text, token.special) for token in found.added} == {
        id_: (token.content, token.special) for id_, token in library.get_added_tokens_decoder().items()
    }
    assert found.size == library.get_vocab_size(with_added_tokens=True)
    tokenizer = Tokenizer(found, SETTINGS)
    for id_ in range(-1, 1000):
        assert tokenizer.decode([id_], False) == ("" if id_ < 0 else library.decode([id_], skip_special_tokens=False))
    library.encode_special_tokens = True
    for text in ("the image shows a red square", "été: 中文 &%", "x"):
        assert tokenizer.encode_plain(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data["model"].update(dropout=0.1), "model.dropout=0.1"),
        (lambda data: data["model"].update(ignore_merges=True), "model.ignore_merges=True"),
        (lambda data: data["model"].update(continuing_subword_prefix="##"), "model.continuing_subword_prefix='##'"),
        (lambda data: data["model"].update(end_of_word_suffix="</w>"), "model.end_of_word_suffix"),
        (lambda data: data["model"]["vocab"].pop("Ġ") and None, "no token for byte 32"),
        (lambda data: data["model"]["merges"].append(["t", "nope"]), "need a token 'nope'"),
        (lambda data: data["model"]["merges"].append(["t", "~"]), "need a token 't~'"),
        (lambda data: data["model"]["merges"].append(["t"]), "other than pairs"),
        (lambda data: data["model"]["merges"].append("te"), "other than pairs"),
        (lambda data: data["model"]["vocab"].update(t=3), "different numbers"),
        (lambda data: data["model"]["vocab"].update(t=-1), "different numbers"),
        (lambda data: data["model"]["vocab"].update(t=1 << 24), "different numbers"),
        (lambda data: data["model"]["vocab"].update(t=1.5), "different numbers"),
        (lambda data: data["model"]["vocab"].update(t="x"), "different numbers"),
        (lambda data: data["model"].update(vocab=[]), "not a tokenizer"),
        (lambda data: data["model"].pop("merges") and None, "not a tokenizer"),
        (lambda data: data.update(model=3), "not a tokenizer"),
        (lambda data: data.update(added_tokens=[3]), "not a tokenizer"),
        (lambda data: data.update(normalizer={"type": "What"}), "not a tokenizer"),
        (lambda data: data.update(pre_tokenizer=None), "not byte-level"),
        (lambda data: data.update(pre_tokenizer={"type": "Whitespace"}), "not byte-level"),
        (lambda data: [data], "not a tokenizer"),
    ],
)
def test_what_is_not_done_is_refused_by_name(small: Path, change: Any, words: str) -> None:
    edited(small, change)
    with pytest.raises(CheckpointError, match=words) as caught:
        Tokenizer.from_files(small, SETTINGS)
    assert str(caught.value).startswith(f"{small}: ")


def test_one_tokenizer_serves_several_threads(small: Path) -> None:
    tokenizer = Tokenizer.from_files(small, SETTINGS)
    strings = texts("the imagsow", 5)
    expected = [Tokenizer.from_files(small, SETTINGS).encode_plain(text) for text in strings]
    found: dict[int, list[list[int]]] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: [tokenizer.encode_plain(text) for text in strings]}))
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i] == expected for i in range(4))
