"""Fixtures for guided output: grammars over nano's tokenizer, for a model with a few ids more than have a token."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import guided_kit

from pocketvlm.guided import Grammars
from pocketvlm.processor import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return guided_kit.TOKENIZER


@pytest.fixture(scope="session")
def grammars(tokenizer: Tokenizer) -> Iterator[Grammars]:
    made = Grammars(tokenizer, guided_kit.END_IDS, guided_kit.VOCAB)
    yield made
    made.close()
