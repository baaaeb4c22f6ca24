"""What a configuration says of the model, checked before any actor starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.option import names, refuse_unknown


def check_engine_kwargs(given: Mapping[str, Any]) -> None:
    """Raise OptionError for a name or a value that `load` would refuse on every node."""
    own = names(LoadOptions)
    refuse_unknown(given, (*own, "adapters"), "engine_kwargs: ")
    try:
        LoadOptions(**{name: value for name, value in given.items() if name in own})
    except OptionError as error:
        raise OptionError(f"engine_kwargs: {error}") from None


def check_model(name: str, field: str) -> None:
    """Raise OptionError for a name that no node can load; only nodes know which directories and files they have."""
    if name != "nano" and "/" not in name and not Path(name).exists():
        raise OptionError(
            f"{field}={name!r} is not known: give 'nano', a directory or GGUF file that all nodes have, or a hub id "
            "such as openbmb/MiniCPM-V-4.6"
        )
