"""The setting `adapter` of a chat: its options are shown and used as defaults, and other names are refused."""

from __future__ import annotations

import pytest

from pocketvlm.chat.settings import Settings
from pocketvlm.config import ProcessorConfig
from pocketvlm.errors import OptionError
from pocketvlm.types import SamplingParams

ADAPTERS = {"plain": {}, "sliced": {"max_slice_nums": 3, "downsample_mode": "4x", "enable_thinking": True}}


@pytest.fixture
def settings() -> Settings:
    return Settings(SamplingParams(), ProcessorConfig(), {"adapter": "sliced"}, ADAPTERS)


def test_options_of_the_adapter_are_defaults(settings: Settings) -> None:
    assert settings.media_options == {"max_slice_nums": 3, "downsample_mode": "4x"}
    assert settings.arguments() == {**ADAPTERS["sliced"], "adapter": "sliced"}
    assert [settings.value(name) for name in ("adapter", "slices", "mode", "thinking")] == [
        "sliced", "(3)", "(4x)", "(on)",
    ]  # fmt: skip
    settings.change("slices", "5")
    settings.change("thinking", "off")
    assert (settings.value("slices"), settings.value("thinking")) == ("5", "off")
    assert settings.arguments()["max_slice_nums"] == 5
    assert settings.arguments()["enable_thinking"] is False
    settings.change("slices", "default")
    assert settings.value("slices") == "(3)"


def test_another_adapter_has_other_defaults(settings: Settings) -> None:
    settings.change("adapter", "plain")
    assert (settings.value("slices"), settings.value("mode")) == ("(9)", "(16x)")
    assert settings.arguments() == {"adapter": "plain"}
    settings.change("adapter", "default")
    assert settings.value("adapter") == "(none: the model itself)"
    assert settings.arguments() == {}


def test_names_of_no_adapter_are_refused(settings: Settings) -> None:
    with pytest.raises(OptionError, match="adapter='other' is not loaded: give plain, sliced, or default"):
        settings.change("adapter", "other")
    assert settings.value("adapter") == "sliced"
    with pytest.raises(OptionError, match="start the chat with --adapter DIR"):
        Settings(SamplingParams(), ProcessorConfig(), {"adapter": "sliced"})
