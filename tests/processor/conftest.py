"""Fixtures for the processor's tests: both processors over one small tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import processor_kit

from pocketvlm.processor import Processor


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="session")
def ours(folder: Path) -> Processor:
    return processor_kit.ours(folder)


@pytest.fixture(scope="session")
def theirs(folder: Path) -> Any:
    return processor_kit.reference(folder)
