"""Fixtures for the engine's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from oracle import Oracle, config_dict, make_oracle


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    return make_oracle(config_dict(), seed=9)
