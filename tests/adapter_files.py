"""Adapters in PEFT's file format, written by hand: no library of training is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors_kit import encode, write_json

State = dict[str, np.ndarray]
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "base_model_name_or_path": "org/base",
    "target_modules": ["q_proj"],
    "init_lora_weights": True,
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "lora_bias": False,
    "alora_invocation_tokens": None,
    "target_parameters": None,
}
PREFIX = "base_model.model."
_CODES = {"F32": np.float32, "F16": np.float16}


def factors(modules: Iterable[str], shapes: Mapping[str, tuple[int, ...]], rank: int = 4, seed: int = 0) -> State:
    """Random factors of linear layers under peft's keys."""
    generator, state = np.random.default_rng(seed), {}
    for module in modules:
        out, width = shapes[f"{module}.weight"]
        state[f"{PREFIX}{module}.lora_A.weight"] = generator.normal(0, 0.1, (rank, width)).astype(np.float32)
        state[f"{PREFIX}{module}.lora_B.weight"] = generator.normal(0, 0.1, (out, rank)).astype(np.float32)
    return state


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Float32 values as a file of a dtype holds them; bfloat16 is cut, not rounded."""
    if dtype == "BF16":
        return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(_CODES[dtype])


def write_folder(directory: Path, state: Mapping[str, np.ndarray], dtype: str = "F32", **config: Any) -> Path:
    """A folder with the two files of an adapter; config: fields other than the usual ones."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "adapter_config.json", {**CONFIG, **config})
    arrays = {name: (dtype, stored(values, dtype)) for name, values in state.items()}
    (directory / "adapter_model.safetensors").write_bytes(encode(arrays))
    return directory
