"""One server for all tests that change nothing about it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server.kit import Running, running


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with running() as found:
        yield found


@pytest.fixture(autouse=True)
def nothing_runs_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does, the shared server is idle afterwards: no sequence is left in the engine."""
    yield
    if "server" in request.fixturenames:
        found = request.getfixturevalue("server")
        found.idle()
        assert not found.context.model.engine.sequences
