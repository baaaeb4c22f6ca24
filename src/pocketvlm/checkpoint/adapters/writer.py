"""`write_adapter` writes an adapter in PEFT's file format, which peft and `read_adapter` load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.atomic import replacing, write_all
from pocketvlm.checkpoint.adapters.keys import parse_key
from pocketvlm.checkpoint.adapters.options import VERSION, check_options
from pocketvlm.checkpoint.adapters.settings import AdapterSettings
from pocketvlm.checkpoint.files import ADAPTER_CONFIG, ADAPTER_OPTIONS, ADAPTER_WEIGHTS
from pocketvlm.checkpoint.formats.safetensors import write_tensors
from pocketvlm.checkpoint.writers.output import check_free, new_folder
from pocketvlm.errors import CheckpointError, OptionError
from pocketvlm.tensors import DenseTensor, StoredDtype

State = Mapping[str, NDArray[np.float32] | NDArray[np.float16] | DenseTensor]
_DTYPES: Mapping[str, StoredDtype] = {"float32": "f32", "float16": "f16"}


def write_adapter(
    path: str | Path,
    *,
    updates_as_peft_state: State,
    config: Mapping[str, Any],
    options: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter to a folder.

    path: a new folder, which appears whole or not at all; or one that exists, whose adapter is replaced file by file
    while its other files stay. updates_as_peft_state: tensors under the keys that `get_peft_model_state_dict` gives,
    as float32 or float16 arrays, or as a DenseTensor for bfloat16. config: the content of adapter_config.json.
    options: of images, videos and template, as the adapter was trained. base: `model`, the
    name of the base, and `sample`, sums of its values, as `pocketvlm.checkpoint.adapters.base.sample_of` gives them.

    Raises ConfigError for a config or an option that `read_adapter` would refuse, TensorError for values that are not
    finite, OptionError for a path that cannot be used, and CheckpointError where a file cannot be written.
    """
    out = Path(path).expanduser()
    AdapterSettings.read(config, ADAPTER_CONFIG)
    said = {"version": VERSION, "options": check_options(options, ADAPTER_OPTIONS), "base": dict(base or {})}
    tensors = {key: _tensor(key, values) for key, values in updates_as_peft_state.items()}
    if not out.is_dir():
        check_free(out)
        with new_folder(out) as folder:
            _write(folder, tensors, config, said)
            try:
                folder.rename(out)
            except OSError as error:
                raise CheckpointError(f"{out}: cannot be made: {error.strerror or error}") from None
    else:
        _write(out, tensors, config, said)


def _tensor(key: str, values: NDArray[Any] | DenseTensor) -> DenseTensor:
    """A tensor under its key, checked."""
    if parse_key(key).part == "unknown":
        raise OptionError(f"{key!r} is no key of a LoRA adapter: give those of peft's get_peft_model_state_dict")
    if not isinstance(values, DenseTensor):
        if values.dtype.name not in _DTYPES:
            raise OptionError(f"{key}: dtype {values.dtype} is not supported: give float32, float16, or a DenseTensor")
        values = DenseTensor(key, _DTYPES[values.dtype.name], values)
    values.finite_data()
    return values


def _write(
    folder: Path, tensors: Mapping[str, DenseTensor], config: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    write_tensors(folder / ADAPTER_WEIGHTS, tensors, {"format": "pt"})
    for name, content in ((ADAPTER_CONFIG, config), (ADAPTER_OPTIONS, options)):
        path = folder / name
        try:
            with replacing(path) as file:
                write_all(file, (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}") from None
