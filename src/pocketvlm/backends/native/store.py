"""Where the codes of a network come from while it is built: out of a packed file, or encoded anew and kept in one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pocketvlm.backends.native.coding import Coded, WeightType, encode, form_of
from pocketvlm.backends.native.packed import SUFFIX, VERSION, PackedError, open_packed, write_packed
from pocketvlm.backends.ops import Place, StoredTensor
from pocketvlm.errors import CacheWarning

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
        self._kept = self._open()
        self._used: dict[str, Coded] = {}
        self._encoded = False

    def code(self, stored: StoredTensor, bits: int, group: int) -> Coded:
        """The codes of a matrix."""
        found = self._kept.get(stored.name)
        if found is None or (found.bits, found.group, (found.outputs, found.inputs)) != (bits, group, stored.shape):
            found = encode(self._runtime, stored, bits, group)
            self._encoded = True
        self._used[stored.name] = found
        return found

    def finish(self) -> str:
        """Write the file if anything had to be encoded; says what became of it."""
        if not self._encoded:
            return f"read from {self.path}" if self._used else "none needed"
        try:
            place = self._place
            write_packed(self.path, self._runtime, self._used, place.model, place.path, self._weights)
        except OSError as error:
            reason = f"{error.strerror or error}: {self.path.parent}"
            warnings.warn(
                f"the packed weights of {self._place.model} are not kept and will be made again ({reason}): "
                f"set POCKETVLM_CACHE to another directory, or load without cache",
                CacheWarning,
                stacklevel=2,
            )
            return f"encoded, not kept ({reason})"
        return f"encoded, kept in {self.path}"

    def _open(self) -> dict[str, Coded]:
        try:
            found = open_packed(self.path, self._runtime)
        except FileNotFoundError:
            return {}
        except (PackedError, OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            warnings.warn(f"{self.path} is not used and made again: {reason}", CacheWarning, stacklevel=2)
            return {}
        with contextlib.suppress(OSError):  # `pocketvlm cache list` says when a file was last used
            os.utime(self.path)
        return found
