"""`AppOptions` are the arguments of `pocketvlm.ray.serve:app`, from Python, YAML or the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.ray.loading import check_engine_kwargs, check_model
from pocketvlm.suggest import nearest

_COUNTS = ("max_ongoing_requests", "target_queued_tokens", "max_adapters")


@dataclass(frozen=True, slots=True)
class AppOptions:
    """How an application runs.

    model: what `pocketvlm.load` takes; every node must be able to read it. served_model_name: its name in requests.
    engine_kwargs: options of `load`. settings: of the server (`docs/server.md`), such as api_keys and max_queue.
    num_cpus: CPUs of a replica, which are also its threads. bind_cores: run each replica on that many cores, which no
    other one has. resources, ingress_resources: custom resources of Ray that nodes of replicas and of the ingress must
    have; an ingress that dies breaks its connections. replicas: a number, or (smallest, largest). target_queued_tokens:
    prompt tokens that wait on one replica before another is started. max_ongoing_requests: of a replica; more go to the
    next one, or wait. adapters: adapter directories by name; a replica loads one when a request names it, and at most
    max_adapters of them. drain: seconds that running answers get when a replica stops.
    """

    model: str = "nano"
    served_model_name: str | None = None
    engine_kwargs: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    num_cpus: float = 1
    bind_cores: bool = True
    resources: Mapping[str, float] = field(default_factory=dict)
    ingress_resources: Mapping[str, float] = field(default_factory=dict)
    replicas: int | tuple[int, int] = 1
    target_queued_tokens: int = 4096
    max_ongoing_requests: int = 64
    adapters: Mapping[str, str] = field(default_factory=dict)
    max_adapters: int = 4
    drain: float = 30.0

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> AppOptions:
        """From a mapping whose values may be texts, as a command line gives them. Raises OptionError by name."""
        known = [each.name for each in fields(cls)]
        values: dict[str, Any] = {}
        for name, value in arguments.items():
            if name not in known:
                near = nearest(name, known)
                hint = f"did you mean {near}?" if near else f"give one of {', '.join(known)}"
                raise OptionError(f"{name}={value!r} is no argument of this application: {hint}")
            values[name] = _read(name, value)
        return cls(**values)

    def __post_init__(self) -> None:
        """Check the values. Raises OptionError, naming argument, value and what is allowed."""
        if not isinstance(self.model, str) or not self.model:
            raise OptionError(f"model={self.model!r}: give 'nano', a directory that all nodes have, or a hub id")
        for name in ("engine_kwargs", "settings", "adapters", "resources", "ingress_resources"):
            if not isinstance(getattr(self, name), Mapping):
                raise OptionError(f'{name}={getattr(self, name)!r}: give names and values, as JSON {{"name": value}}')
        check_model(self.model, "model")
        check_engine_kwargs(self.engine_kwargs)
        for name in _COUNTS:
            if not _is_count(getattr(self, name)):
                raise OptionError(f"{name}={getattr(self, name)!r}: give a whole number from 1")
        for name in ("num_cpus", "drain"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise OptionError(f"{name}={value!r}: give a number above 0")
        if not isinstance(self.bind_cores, bool):
            raise OptionError(f"bind_cores={self.bind_cores!r}: give true or false")
        low, high = self.pool
        if not (_is_count(low) and _is_count(high) and low <= high):
            raise OptionError(f"replicas={self.replicas!r}: give a number from 1, or smallest and largest as [1, 4]")

    @property
    def pool(self) -> tuple[int, int]:
        """The smallest and largest number of replicas."""
        if isinstance(self.replicas, list | tuple) and len(self.replicas) == 2:
            return self.replicas[0], self.replicas[1]
        return (self.replicas, self.replicas) if isinstance(self.replicas, int) else (0, 0)


def _read(name: str, value: Any) -> Any:
    """A value that may be JSON in a text: numbers, (smallest, largest), mappings."""
    if not isinstance(value, str) or name in ("model", "served_model_name"):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value  # the check of values says what this argument takes


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
