"""Options of `load` that a configuration holds, checked before any actor starts."""

from __future__ import annotations

from collections.abc import Mapping
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
