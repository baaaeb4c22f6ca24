"""Adapters that come and go: caches apart, the same name again, removal while requests run, other threads."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from adapter_kit import adapted, random_adapter
from engine_kit import Run, alone, ask, check_idle, engine_of, network, pictured, text
from oracle import Oracle, make_prompt

from pocketvlm.engine import EngineDriver, TokenEvent
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.errors import OptionError
from pocketvlm.model import MiniCPMV

TIMEOUT = 60.0  # seconds until a test gives up waiting


@pytest.fixture
def model(oracle: Oracle) -> MiniCPMV:
    found = network(oracle)
    found.add_adapter("text", random_adapter(oracle, 1, 2, "layers"))
    found.add_adapter("tower", random_adapter(oracle, 2, 2, "tower"))
    return found


def check(run: Run, model: MiniCPMV, request: object) -> None:
    """The answer in an engine with caches is the one in an engine without."""
    number = run.add(request)  # type: ignore[arg-type]
    run.finish()
    np.testing.assert_array_equal(run.rows(number), alone(model, request)[1])  # type: ignore[arg-type]


def test_an_entry_of_one_adapter_is_not_used_for_another(model: MiniCPMV) -> None:
    run = Run(engine_of(model))
    for name in ("text", None, "tower", "text", None):
        check(run, model, adapted(ask(text(3, 60, [40]), 5), name))
    assert (run.engine.stats().prefix_hits, run.engine.stats().prefix_misses) == (2, 3)
    check_idle(run.engine)


def test_features_are_shared_unless_the_vision_tower_changes(oracle: Oracle, model: MiniCPMV) -> None:
    run = Run(engine_of(model, prefix_cache=0))
    prompt = pictured(oracle, 1)
    for name in (None, "text", "tower", None, "text", "tower"):
        check(run, model, adapted(ask(prompt), name))
    assert (run.engine.vision.misses, run.engine.vision.hits) == (4, 8)


def test_views_of_several_adapters_are_encoded_in_one_pass(oracle: Oracle, model: MiniCPMV) -> None:
    views = make_prompt(oracle.config, [(8, 12), (12, 8)], seed=1).views  # small ones are rounded otherwise together
    names = [None, "tower", "text", "tower"]
    adapters = [model.adapter(name) for name in names]
    mixed = model.encode([views[i % 2] for i in range(4)], adapters)
    for i, adapter in enumerate(adapters):
        np.testing.assert_array_equal(mixed[i], model.encode([views[i % 2]], [adapter])[0])
    assert not np.allclose(mixed[1], model.encode([views[1]])[0], atol=1e-2)


def test_another_adapter_of_the_same_name_finds_no_old_entries(oracle: Oracle, model: MiniCPMV, tmp_path: Path) -> None:
    run = Run(engine_of(model, vision_files=FeatureFiles(tmp_path, "owner")))
    request = adapted(ask(pictured(oracle, 1), 4), "tower")
    check(run, model, request)
    before = run.rows(0)
    run.engine.add_adapter("tower", random_adapter(oracle, 7, 2, "tower"), replace=True)
    check(run, model, request)
    assert run.engine.stats().prefix_hits == run.engine.vision.hits == 0
    assert len(list(tmp_path.iterdir())) == 4
    assert not np.array_equal(run.rows(1), before)
    run.engine.remove_adapter("tower")
    run.engine.add_adapter("tower", random_adapter(oracle, 2, 2, "tower"))  # the first one again
    fresh = Run(engine_of(model, vision_files=FeatureFiles(tmp_path, "owner")))
    for other in (run, fresh):
        check(other, model, request)
    assert run.engine.stats().prefix_hits == 1
    assert (fresh.engine.vision.hits, fresh.engine.vision.misses) == (2, 0)
    np.testing.assert_array_equal(fresh.rows(0), before)


def test_a_removed_adapter_serves_its_running_requests(oracle: Oracle, model: MiniCPMV) -> None:
    run = Run(engine_of(model))
    request = adapted(ask(text(1, 20), 12), "text")
    expected = alone(model, request)[1]
    other = replace(request, adapter=None)
    numbers = [run.add(request), run.add(other), run.add(request)]
    for _ in range(6):
        run.step()
    held = weakref.ref(model.adapter("text"))
    run.engine.remove_adapter("text")
    with pytest.raises(OptionError, match="adapter 'text' is not loaded: known are tower"):
        run.add(request)
    with pytest.raises(OptionError, match="not loaded"):
        run.engine.remove_adapter("text")
    run.engine.add_adapter("text", random_adapter(oracle, 9, 1, "layers"))  # the name is free at once
    numbers.append(run.add(request))
    assert held() is not None
    run.finish()
    for number in (numbers[0], numbers[2]):
        np.testing.assert_array_equal(run.rows(number), expected)
    np.testing.assert_array_equal(run.rows(numbers[1]), alone(model, other)[1])
    np.testing.assert_array_equal(run.rows(numbers[3]), alone(model, request)[1])
    gc.collect()
    assert held() is None, "captured steps or requests hold a removed adapter"
    check_idle(run.engine)


def test_an_idle_adapter_is_freed_at_once(model: MiniCPMV) -> None:
    run = Run(engine_of(model))
    run.add(adapted(ask(text(1, 20), 4), "text"))
    run.finish()
    held = weakref.ref(model.adapter("text"))
    run.engine.remove_adapter("text")
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("own_thread", [True, False])
def test_adapters_come_and_go_under_traffic(oracle: Oracle, model: MiniCPMV, own_thread: bool) -> None:
    requests = [adapted(ask(text(i, 20 + i), 8, seed=i), (None, "text", "tower")[i % 3]) for i in range(9)]
    expected = [alone(model, request)[0] for request in requests]
    with pytest.raises(OptionError, match="not taken"):
        model.add_adapter("text", random_adapter(oracle, 1))
    again = alone(model, adapted(ask(text(1, 21), 8, seed=1), "text"))[0]
    driver = EngineDriver(engine_of(model))
    if own_thread:
        driver.start()
    answers: list[list[TokenEvent]] = [[] for _ in requests]
    tickets = [driver.submit(request, events.append) for request, events in zip(requests, answers, strict=True)]
    failures: list[BaseException] = []

    def change(name: str) -> None:
        try:
            for seed in range(4):
                driver.add_adapter(name, random_adapter(oracle, seed, 1, "all"), replace=seed == 2)
                found: list[TokenEvent] = []
                ticket = driver.submit(adapted(ask(text(1, 21), 3), name), found.append)
                if seed != 1:  # after the request in the inbox, so the request finishes with it
                    driver.remove_adapter(name)
                driver.wait(lambda: ticket.ended)  # noqa: B023
                assert [event.finish_reason for event in found] == [None, None, "length"]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=change, args=(f"other {i}",)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    driver.wait(lambda: all(ticket.ended for ticket in tickets))
    assert not failures, failures
    assert [[event.token_id for event in events] for events in answers] == expected
    assert driver.adapters == ("text", "tower")
    found: list[TokenEvent] = []
    ticket = driver.submit(adapted(ask(text(1, 21), 8, seed=1), "text"), found.append)
    driver.wait(lambda: ticket.ended)
    assert [event.token_id for event in found] == again
    driver.close()
    assert not driver.engine._removed
    check_idle(driver.engine)


def test_the_driver_refuses_a_removed_adapter(model: MiniCPMV) -> None:
    driver = EngineDriver(engine_of(model))
    driver.remove_adapter("text")
    with pytest.raises(OptionError, match="'text' is not loaded"):
        driver.remove_adapter("text")
    with pytest.raises(OptionError, match="'text' is not loaded"):
        driver.submit(adapted(ask(text(1, 9)), "text"), lambda event: None)
    driver.close()
