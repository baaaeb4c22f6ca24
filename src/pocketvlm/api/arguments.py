"""`Arguments` sorts the keywords of `Model.ask` and its like: sampling, processor, adapter, text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pocketvlm.api.adapters import Adapters
from pocketvlm.options.option import refuse_unknown
from pocketvlm.options.request import PROCESSOR_OPTIONS, REQUEST_OPTIONS, SAMPLING_OPTIONS, over_defaults
from pocketvlm.types import SamplingParams


@dataclass(frozen=True, slots=True)
class Arguments:
    """The options of one request. options: of the processor, as they were given; defaults: those of the adapter."""

    sampling: SamplingParams
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    normalize: bool
    adapter: str | None

    @classmethod
    def of(cls, params: Mapping[str, Any], sampling: SamplingParams, adapters: Adapters) -> Arguments:
        """From keywords, where None is "not given". sampling: for what is not given. Raises OptionError."""
        refuse_unknown(params, REQUEST_OPTIONS)
        given = {name: value for name, value in params.items() if value is not None}
        adapter = given.get("adapter")
        return cls(
            replace(sampling, **{name: given[name] for name in SAMPLING_OPTIONS if name in given}),
            {name: given[name] for name in PROCESSOR_OPTIONS if name in given},
            adapters.options(adapter),
            bool(given.get("normalize_newlines", False)),
            adapter,
        )

    @property
    def for_processor(self) -> dict[str, Any]:
        """Options of the request over those of the adapter."""
        return over_defaults(self.defaults, self.options)
