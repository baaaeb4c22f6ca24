"""Adapters of nano in PEFT's format, written with NumPy alone, that visibly change its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors_kit import encode, write_json

from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.model import expected_tensors

# Each layer's last product: whatever is added to it moves the answer.
TARGETS = ("linear_attn.out_proj", "self_attn.o_proj", "mlp.down_proj")
RANK = 4


def write_adapter(
    directory: Path,
    seed: int = 0,
    *,
    strength: float = 6.0,
    targets: Sequence[str] = TARGETS,
    options: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """An adapter of nano's text matrices whose names end with `targets`; random, so two seeds answer differently.

    options: of its pocketvlm.json. config: more keys of its adapter_config.json.
    """
    random = np.random.default_rng(seed)
    arrays = {}
    for name, shape in expected_tensors(open_checkpoint(embedded_directory()).model).items():
        module = name.removesuffix(".weight")
        if not (name.startswith("model.language_model.layers.") and module.endswith(tuple(targets))):
            continue
        key = f"base_model.model.{module}"
        a = random.standard_normal((RANK, shape[1])) / shape[1] ** 0.5
        b = random.standard_normal((shape[0], RANK)) * strength / RANK**0.5
        arrays[f"{key}.lora_A.weight"] = ("F32", a.astype(np.float32))
        arrays[f"{key}.lora_B.weight"] = ("F32", b.astype(np.float32))
    directory.mkdir(parents=True)
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": sorted(targets), **config}
    write_json(directory / "adapter_config.json", settings)
    (directory / "adapter_model.safetensors").write_bytes(encode(arrays))
    if options is not None:
        write_json(directory / "pocketvlm.json", {"version": 1, "options": dict(options)})
    return directory
