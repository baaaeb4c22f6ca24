"""Fixtures for all tests: each backend that this machine can run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# `make test` tries the same examples each time; `make test-long` looks for new ones. None is timed.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("new", deadline=None)
settings.load_profile("same")

sys.path.insert(0, str(Path(__file__).parent))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with an argument `ops` runs on every backend."""
    if "ops" in metafunc.fixturenames:
        metafunc.parametrize("ops", ["torch", "native"], indirect=True)


@pytest.fixture
def ops(request: pytest.FixtureRequest) -> object:
    from pocketvlm import backends
    from pocketvlm.backends.options import choose

    return backends.create(request.param, threads=2, scheme=choose(request.param, precision="exact"))
