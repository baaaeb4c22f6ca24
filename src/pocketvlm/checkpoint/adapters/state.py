"""The tensors of an adapter's file, copied into memory: the file may be replaced while the adapter is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pocketvlm.checkpoint.adapters.keys import parse_key
from pocketvlm.checkpoint.files import ADAPTER_PICKLE, ADAPTER_WEIGHTS
from pocketvlm.checkpoint.formats.safetensors import SUPPORTED, map_tensors, read_header
from pocketvlm.errors import CheckpointError, TensorError
from pocketvlm.tensors import DenseTensor


def read_state(directory: Path) -> tuple[Path, Mapping[str, DenseTensor]]:
    """The weight file of a folder, and its tensors by key; their values are checked when they are used.

    Raises CheckpointError for a missing or damaged file, and TensorError for a dtype that is no float of 16 or 32 bits.
    """
    path = directory / ADAPTER_WEIGHTS
    if not path.is_file():
        pickled = directory / ADAPTER_PICKLE
        if pickled.is_file():
            from pocketvlm.checkpoint.adapters.pickled import read_pickled

            return pickled, read_pickled(pickled)
        raise CheckpointError(
            f"{directory}: has neither {ADAPTER_WEIGHTS} nor {ADAPTER_PICKLE}: the adapter is incomplete, copy or "
            f"download all of its files"
        )
    entries = read_header(path)
    for entry in entries.values():
        if entry.dtype not in SUPPORTED:
            raise TensorError(
                f"{path}: {entry.name}: dtype {entry.dtype} is not supported, only {', '.join(sorted(SUPPORTED))} are: "
                f"save the adapter in one of these"
            )
    # An embedding's own weights are only compared.
    return path, {
        tensor.name: tensor
        if parse_key(tensor.name).part == "base"
        else DenseTensor(tensor.name, tensor.dtype, np.array(tensor.data), str(path))
        for tensor in map_tensors(entries.values())
    }
