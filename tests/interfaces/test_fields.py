"""The rules of request fields by themselves; tests/server/test_fields.py tests them in every interface."""

from __future__ import annotations

from pathlib import Path

import pytest

from pocketvlm.errors import OptionError
from pocketvlm.interfaces.endpoints import ENDPOINTS
from pocketvlm.interfaces.fields import MESSAGES, OLLAMA, RULES, IgnoredFields, judge, table
from pocketvlm.interfaces.schemas.anthropic import MessagesRequest
from pocketvlm.interfaces.schemas.ollama import OllamaOptions, OllamaShowRequest
from pocketvlm.options.option import names
from pocketvlm.options.sampling import SamplingParams

BODIES = [*(endpoint.body for endpoint in ENDPOINTS.values()), OllamaShowRequest]


def test_names_are_bounded() -> None:
    ignored = IgnoredFields()
    for number in range(1000):
        ignored.add(f"field{number}")
        ignored.add("x" * 10_000)
    text = str(ignored)
    assert len(text) < 5000
    assert text.endswith("and-961-more")
    assert text.isascii()


def test_harmless_values_have_their_own_type() -> None:
    ignored = IgnoredFields()
    judge("chat", "best_of", 1, ignored)
    with pytest.raises(OptionError):
        judge("chat", "best_of", True, ignored)
    judge("chat", "tools[0].anything", 1, ignored)
    assert str(ignored) == "tools[0].anything"


def test_each_field_has_one_rule() -> None:
    for interface in {name for rule in RULES for name in rule.interfaces}:
        names = [name for rule in RULES if interface in rule.interfaces for name in rule.names]
        assert len(names) == len(set(names)), interface


def test_no_rule_is_about_a_field_that_requests_have() -> None:
    """A rule never applies to a field that has become part of the requests, but docs/server.md would still list it."""
    for interface in {body.interface for body in BODIES}:
        bodies = [set(body.model_fields) for body in BODIES if body.interface == interface]
        known = set.intersection(*bodies)
        if interface == OLLAMA:
            known |= {f"options.{name}" for name in OllamaOptions.model_fields}
        ruled = {name for rule in RULES if interface in rule.interfaces for name in rule.names}
        assert not known & ruled, f"{interface}: leave these fields out of RULES"


def test_anthropics_interface_refuses_options_of_sampling_that_it_lacks() -> None:
    """Without a rule they would be ignored, although they change the answer; logprobs only adds to it."""
    refused = {
        name for rule in RULES if MESSAGES in rule.interfaces and rule.verdict == "refused" for name in rule.names
    }
    assert set(names(SamplingParams)) - {"logprobs"} <= refused | set(MessagesRequest.model_fields)


def test_the_page_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    assert table() in page, "docs/server.md is stale: put in what `python -m pocketvlm.interfaces.fields` prints"
