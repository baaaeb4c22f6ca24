"""Names, comments and documents use the words of docs/glossary.md, not private ones."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_tree import ROOT

FOLDERS = ("src", "native", "tests", "benchmarks", "recipes", "docs", "examples")
# Word of an identifier (`kept` in `kept_tokens`, `_Kept`) -> what to use instead.
WORDS = {
    "asking": "request",
    "behind": "after",
    "beside": "with",
    "coded": "quantized",
    "company": "batch",
    "drawn": "sampled",
    "excess": "offset",
    "halves": "bfloat16",
    "holding": "allocation",
    "holdings": "allocations",
    "kept": "cached, pinned, retained or saved",
    "least": "min, minimum",
    "most": "max, maximum",
    "patience": "timeout",
    "piece": "chunk, delta, part or segment",
    "pieces": "chunks, deltas, parts or segments",
    "promised": "committed",
    "secure": "reserve",
    "tidy": "trim",
    "unprepared": "preallocated",
    "whoever": "a noun",
}
# SIMD code has lanes; the command line's help has panels.
PYTHON_WORDS = {"lane": "decoder, thread or stream", "lanes": "decoders, threads or streams"}
CPP_WORDS = {"panel": "tile", "panels": "tiles"}
# The name of a test is a sentence, in which these are ordinary words.
SENTENCE_WORDS = {"halves", "least", "most", "piece", "pieces"}
# Phrases in comments, docstrings and documents.
PHRASES = (
    r"in (?:any )?company",
    r"\bwhoever\b",
    r"\blet(?:s|ting)? go of\b",
    r"\bturns of a batch\b",
    r"\bcoded (?:weights|matri|tensors)",
    r"\bgo(?:es)? for it\b",
    r"\bcut alike\b",
    r"(?<![-\"`])\bkept\b",
)
# Documents of the past quote names as they were.
HISTORY = {"CHANGELOG.md", "docs/log.md"}


def files(*suffixes: str) -> Iterator[tuple[str, str]]:
    """Path and text of every file of these kinds that is not pending."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            name = path.relative_to(ROOT).as_posix()
            if path.suffix in suffixes and path != Path(__file__):
                yield name, path.read_text(encoding="utf-8")


def words(identifier: str) -> set[str]:
    """The words of an identifier: those of `_KeptPictures2` are kept and pictures."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)}


def python_identifiers(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every identifier in Python code, those in f-strings included."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string
        elif token.type == tokenize.STRING and re.match(r"[rR]?[fF]", token.string):
            for inner in re.findall(r"\{([^{}]*)\}", token.string):
                yield from ((token.start[0], name) for name in re.findall(r"(?<![\"'\w])[A-Za-z_]\w*", inner))


def cpp_identifiers(text: str) -> Iterator[tuple[int, str]]:
    """Line and name of every identifier in C++ code."""
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r'"(?:\\.|[^"\\])*"', "", line.partition("//")[0])
        yield from ((number, name) for name in re.findall(r"[A-Za-z_]\w*", code))


def python_prose(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment and docstring."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if docstring := ast.get_docstring(node, clean=False):
            yield node.body[0].lineno, docstring


def cpp_prose(text: str) -> Iterator[tuple[int, str]]:
    """Line and text of every comment."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.search(r"(?<!:)//(.*)", line):
            yield number, found[1]


def private(identifier: str, terms: dict[str, str]) -> str | None:
    """What is wrong with an identifier, or None."""
    found = words(identifier) & set(terms)
    if identifier.startswith("test_"):
        found -= SENTENCE_WORDS
    return "; ".join(f"{identifier}: say {terms[word]}" for word in sorted(found)) or None


def phrase(text: str) -> str | None:
    """The first private phrase of a text, or None."""
    found = re.search("|".join(PHRASES), " ".join(text.split()), re.IGNORECASE)
    return found and found[0]


def test_identifiers_use_the_terms_of_the_glossary() -> None:
    found = [
        f"{name}:{line}: {fault}"
        for name, text in files(".py", ".pyi")
        for line, identifier in python_identifiers(text)
        if (fault := private(identifier, WORDS | PYTHON_WORDS))
    ]
    found += [
        f"{name}:{line}: {fault}"
        for name, text in files(".h", ".cpp")
        for line, identifier in cpp_identifiers(text)
        if (fault := private(identifier, WORDS | CPP_WORDS))
    ]
    assert not found, "\n".join(found)


def test_comments_and_documents_use_the_terms_of_the_glossary() -> None:
    prose = [(name, line, said) for name, text in files(".py", ".pyi") for line, said in python_prose(text)]
    prose += [(name, line, said) for name, text in files(".h", ".cpp") for line, said in cpp_prose(text)]
    pages = [
        *files(".md"),
        *((name, (ROOT / name).read_text(encoding="utf-8")) for name in ("README.md", "CONTRIBUTING.md")),
    ]
    prose += [(name, 1, text) for name, text in pages if name not in HISTORY]
    found = [f"{name}:{line}: {fault}" for name, line, said in prose if (fault := phrase(said))]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", ["kept", "_KeptPictures", "kept_tokens", "MOST_BYTES", "coded_linear"])
def test_private_words_are_found_in_names(name: str) -> None:
    assert private(name, WORDS)


@pytest.mark.parametrize("name", ["cached", "utmost", "decoded", "almost", "keeps", "test_one_call_at_most"])
def test_other_words_are_not(name: str) -> None:
    assert private(name, WORDS) is None


def test_identifiers_and_phrases_are_seen_where_they_stand() -> None:
    assert (1, "kept") in list(python_identifiers('print(f"{kept} bytes")\n'))
    assert [name for _, name in cpp_identifiers('int least = 1;  // most\nlog("kept");')] == ["int", "least", "log"]
    assert phrase("one answer in any\n    company") == "in any company"
    assert phrase("# a company that makes films") is None
