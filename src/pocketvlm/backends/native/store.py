"""The store loads the quantized weights of a network from the cache, or quantizes them and writes the cache file."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pocketvlm.backends.native.coding import Coded, WeightType, encode, form_of
from pocketvlm.backends.native.packed import open_packed, write_packed
from pocketvlm.backends.ops import Place, StoredTensor
from pocketvlm.packfile import SUFFIX, VERSION, opened, written

if TYPE_CHECKING:
    from pocketvlm._native import Runtime

# To be raised when `encode` makes other codes of the same matrix.
ENCODING = 1


def file_name(weights: WeightType, fingerprint: str, tensors: Mapping[str, StoredTensor]) -> str:
    """The name of the file with the codes of these tensors: a hash over everything that they depend on."""
    plan = [(name, t.dtype, t.shape, form_of(name, weights)) for name, t in sorted(tensors.items())]
    text = json.dumps([VERSION, ENCODING, sys.byteorder, weights, fingerprint, plan])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() + SUFFIX


class Store:
    """The codes of one network. Whatever is wrong with the file costs time and a CacheWarning, never an answer."""

    def __init__(
        self, runtime: Runtime, place: Place, weights: WeightType, tensors: Mapping[str, StoredTensor]
    ) -> None:
        self.path = place.directory / file_name(weights, place.fingerprint, tensors)
        self._runtime, self._place, self._weights = runtime, place, weights
        self._kept: dict[str, Coded] = {}
        # The checksums take as long as everything else that a start has to read, and need no interpreter.
        self._opening = threading.Thread(target=self._open)
        self._opening.start()
        self._used: dict[str, Coded] = {}
        self._encoded = False

    def code(self, stored: StoredTensor, bits: int, group: int) -> Coded:
        """The codes of a matrix."""
        self.wait()
        found = self._kept.get(stored.name)
        if found is None or (found.bits, found.group, (found.outputs, found.inputs)) != (bits, group, stored.shape):
            found = encode(self._runtime, stored, bits, group)
            self._encoded = True
        self._used[stored.name] = found
        return found

    def wait(self) -> None:
        """Wait until what is kept is there."""
        self._opening.join()

    def finish(self) -> str:
        """Write the file if anything had to be encoded; says what became of it."""
        if not self._encoded:
            return f"read from {self.path}" if self._used else "none needed"
        return f"encoded, {written(self.path, f'weights of {self._place.model}', self._write)}"

    def _open(self) -> None:
        self._kept = opened(self.path, lambda: open_packed(self.path, self._runtime)) or {}

    def _write(self) -> None:
        place = self._place
        write_packed(self.path, self._runtime, self._used, place.model, place.path, self._weights)
