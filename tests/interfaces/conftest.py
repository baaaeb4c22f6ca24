"""One server and one responder, each with a model of its own, so that neither answers from the other's caches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server.kit import Running, running

import pocketvlm
from pocketvlm.interfaces.responder import Responder


@pytest.fixture(scope="package")
def server() -> Iterator[Running]:
    with running(loading={"prefix_cache": 0}) as found:
        yield found


@pytest.fixture(scope="package")
def responder() -> Iterator[Responder]:
    with pocketvlm.load("nano", threads=1, prefix_cache=0) as model:
        found = Responder(model)
        yield found
        assert not model.engine.sequences
        found.close()
