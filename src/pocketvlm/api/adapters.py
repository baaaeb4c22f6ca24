"""`Adapters` has the adapters of a loaded model: it reads them, gives them to the engine, and describes them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pocketvlm.adapters import Adapter
from pocketvlm.bytesize import readable_count
from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.adapters.base import difference, other_base
from pocketvlm.checkpoint.adapters.options import check_options, read_options
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.files import ADAPTER_OPTIONS
from pocketvlm.checkpoint.hub import resolve_adapter
from pocketvlm.config import ProcessorConfig
from pocketvlm.engine import EngineDriver
from pocketvlm.errors import AdapterWarning, OptionError
from pocketvlm.model import expected_tensors
from pocketvlm.options.load import check_adapter_name
from pocketvlm.options.media import MEDIA_OPTIONS, VideoOptions
from pocketvlm.options.request import ADAPTER_DEFAULTS
from pocketvlm.suggest import nearest


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A loaded adapter: where it is from and what it changes; its arrays are the engine's.

    options: defaults of requests that use it, over the checkpoint's. updates: number of updated matrices by part of the
    network and kind of matrix. ranks: all that occur. replaced: names of tensors that the adapter replaces. parameters:
    numbers in its updates and replacements. digest: of all values that change logits. created: seconds since 1970.
    """

    name: str
    source: str
    digest: str
    options: Mapping[str, Any]
    updates: Mapping[str, Mapping[str, int]]
    ranks: tuple[int, ...]
    replaced: tuple[str, ...]
    parameters: int
    created: float = field(default_factory=time.time)

    @classmethod
    def of(cls, name: str, adapter: Adapter) -> AdapterInfo:
        """What an adapter changes."""
        counts: dict[str, dict[str, int]] = {}
        for part, kind in sorted((part_of(name), name.split(".")[-2]) for name in adapter.updates):
            kinds = counts.setdefault(part, {})
            kinds[kind] = kinds.get(kind, 0) + 1
        updates = adapter.updates.values()
        return cls(
            name,
            adapter.source,
            adapter.digest(),
            MappingProxyType({key: value for key, value in adapter.options.items() if key in ADAPTER_DEFAULTS}),
            MappingProxyType(counts),
            tuple(sorted({update.rank for update in updates})),
            tuple(sorted(adapter.replacements)),
            sum(update.a.size + update.b.size for update in updates)
            + sum(tensor.data.size for tensor in adapter.replacements.values()),
        )

    @property
    def matrices(self) -> int:
        """Number of matrices that have an update."""
        return sum(sum(kinds.values()) for kinds in self.updates.values())

    def __str__(self) -> str:
        """One line: name, source, what it changes and with which options."""
        ranks = " and ".join(map(str, self.ranks))
        counts = [
            f"{part}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
            for part, kinds in self.updates.items()
        ]
        chosen = ", ".join(f"{name} {value}" for name, value in self.options.items())
        told = [
            f"{self.matrices} matrices of rank {ranks}" if self.matrices else "no matrices",
            f"{readable_count(self.parameters)} parameters",
            *counts,
            *([f"replaces {', '.join(self.replaced)}"] if self.replaced else []),
            f"options: {chosen}" if chosen else "no options of its own",
        ]
        return f"{self.name} ({self.source}): {'; '.join(told)}"

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        return {
            "name": self.name,
            "source": self.source,
            "digest": self.digest,
            "matrices": self.matrices,
            "ranks": list(self.ranks),
            "updates": {part: dict(kinds) for part, kinds in self.updates.items()},
            "replaced": list(self.replaced),
            "parameters": self.parameters,
            "options": dict(self.options),
        }


def part_of(tensor: str) -> str:
    """The part of the network that a tensor belongs to, by the checkpoint's name of the tensor."""
    if tensor.startswith("model.language_model.embed_tokens."):
        return "embedding"
    if tensor.startswith("model.vision_tower."):
        return "window merger" if ".vit_merger." in tensor else "vision tower"
    if tensor.startswith("model.merger."):
        return "merger"
    return "head" if tensor.startswith("lm_head.") else "text"


def open_adapter(name: str, source: str | Path | Adapter, checkpoint: Checkpoint) -> Adapter:
    """Read an adapter for a checkpoint, and check its options. Raises CheckpointError and OptionError."""
    expected = expected_tensors(checkpoint.model)
    if isinstance(source, Adapter):
        adapter = source
        check_options(adapter.options, f"adapter {name!r}")
    else:
        adapter = read_adapter(source, expected, base=checkpoint.tensors(expected, sparse=True))
    check_media(name, adapter.options, checkpoint.processor)
    return adapter


def warn_of_other_base(name: str, adapter: Adapter, checkpoint: Checkpoint, stacklevel: int = 3) -> None:
    """Give an AdapterWarning if an adapter was trained on another base than this checkpoint."""
    kind = difference(adapter.base, checkpoint.tensors(expected_tensors(checkpoint.model), sparse=True))
    if kind is not None:
        text = f"adapter {name!r} was trained on another base than {checkpoint.path}"
        warnings.warn(f"{text}{other_base(adapter, kind)}", AdapterWarning, stacklevel=stacklevel)


def adapter_options(name: str, source: str | Path, processor: ProcessorConfig) -> Mapping[str, Any]:
    """The options of an adapter alone, from its files; reads no tensor. Raises CheckpointError and OptionError."""
    options = read_options(resolve_adapter(source) / ADAPTER_OPTIONS)
    check_media(name, options, processor)
    return options


def check_media(name: str, options: Mapping[str, Any], processor: ProcessorConfig) -> None:
    """Raise OptionError where a checkpoint does not support an adapter's options of images and videos."""
    media = {key: value for key, value in options.items() if key in MEDIA_OPTIONS}
    VideoOptions.resolve(processor, media, where=f"adapter {name!r}, its options")


class Adapters(Mapping[str, AdapterInfo]):
    """The loaded adapters by name. Any thread may read and change them; a change is made between two steps."""

    def __init__(self, checkpoint: Checkpoint, model_names: Collection[str]) -> None:
        """model_names: those of the model, which no adapter may have."""
        self._checkpoint, self._model_names = checkpoint, model_names
        self._known: dict[str, AdapterInfo] = {}  # replaced as a whole, so that readers need no lock
        self._changing = threading.Lock()

    def __getitem__(self, name: str) -> AdapterInfo:
        """One adapter."""
        return self._known[name]

    def __iter__(self) -> Any:
        """The names, in the order of loading."""
        return iter(self._known)

    def __len__(self) -> int:
        """How many are loaded."""
        return len(self._known)

    def __repr__(self) -> str:
        """A line for each."""
        lines = [f"  {info}" for info in self._known.values()]
        return "\n".join([f"{len(lines)} adapters:", *lines]) if lines else "no adapters"

    def snapshot(self) -> dict[str, AdapterInfo]:
        """All of them at one moment."""
        return dict(self._known)

    def add(self, driver: EngineDriver, name: str, source: str | Path | Adapter, replace: bool = False) -> AdapterInfo:
        """Read an adapter and let requests use it. Running requests go on with an adapter that this one replaces.

        Raises CheckpointError and OptionError; then nothing has changed.
        """
        check_adapter_name(name, self._model_names)
        with self._changing:
            if name in self._known and not replace:
                raise OptionError(
                    f"adapter {name!r} is loaded already: give another name, replace=True, or remove it first"
                )
            adapter = open_adapter(name, source, self._checkpoint)
            warn_of_other_base(name, adapter, self._checkpoint, stacklevel=4)
            info = AdapterInfo.of(name, adapter)
            driver.add_adapter(name, adapter, replace=replace)
            self._known = {**self._known, name: info}
        return info

    def remove(self, driver: EngineDriver, name: str) -> None:
        """Refuse new requests for an adapter and release it when running ones have ended. Raises OptionError."""
        with self._changing:
            self.check(name)
            driver.remove_adapter(name)
            self._known = {known: info for known, info in self._known.items() if known != name}

    def check(self, name: str) -> None:
        """Raise OptionError for the name of an adapter that is not loaded."""
        if name not in self._known:
            near = nearest(str(name), self._known)
            hint = f"did you mean {near!r}?" if near else f"loaded are {', '.join(self._known) or 'none'}"
            raise OptionError(f"adapter={name!r} is not loaded: {hint}")

    def options(self, name: str | None) -> Mapping[str, Any]:
        """Defaults of the requests that use an adapter; none without one. Raises OptionError."""
        if name is None:
            return {}
        self.check(name)
        return self._known[name].options
