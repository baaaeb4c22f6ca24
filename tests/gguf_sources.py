"""Checkpoints and tensors that the GGUF writer is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf_kit import CONFIG, TEXT, VISION, random_values

from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.gguf.writer import GgufWriter
from pocketvlm.config import ModelConfig, ProcessorConfig
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.tensors import BlockValues, DenseTensor, QuantizedTensor, Tensor

Shape = tuple[int, int]


def small_checkpoint(
    text: Mapping[str, Any] | None = None, vision: Mapping[str, Any] | None = None, **config: Any
) -> Checkpoint:
    """A model of random weights with nano's tokenizer; its path ends in `small`."""
    sections = {"text_config": {**TEXT, **(text or {})}, "vision_config": {**VISION, **(vision or {})}}
    model = ModelConfig.from_dict({**CONFIG, **sections, **config})
    nano = open_checkpoint(embedded_directory())
    return replace(
        nano,
        path=Path("/models/small"),
        model=model,
        processor=ProcessorConfig(downsample_mode=model.downsample_mode, downsample_modes=model.downsample_modes),
    )


def small_tensors(model: ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors, exact in float16."""
    generator = np.random.default_rng(seed)
    return {
        name: DenseTensor(name, "f32", random_values(name, shape, generator))
        for name, shape in expected_tensors(model).items()
    }


def write_files(
    checkpoint: Checkpoint, tensors: Mapping[str, Tensor], directory: Path, label: str = "F32"
) -> tuple[Path, ...]:
    """What the writer writes into a new folder."""
    directory.mkdir(parents=True)
    return GgufWriter().write(checkpoint, tensors, tensor_roles(checkpoint.model), directory, label)


def grouped(
    bits: int,
    group: int,
    shape: Shape = (6, 256),
    *,
    zeros: str = "",
    biased: bool = False,
    signed: bool = False,
    scales: np.dtype[Any] | type = np.float16,
    seed: int = 0,
) -> QuantizedTensor:
    """Integer codes in groups. zeros: "middle", "any" or "" for none; scales: their dtype."""
    generator = np.random.default_rng(seed)
    low = -(2 ** (bits - 1)) if signed else 0
    codes = generator.integers(low, low + 2**bits, shape).astype(np.int8 if signed else np.uint8)
    counts = (shape[0], shape[1] // group)
    numbers = (generator.uniform(0.5, 1.5, counts) / 2**bits).astype(np.float32)
    numbers = (numbers.view(np.uint32) & 0xFFFE0000).view(np.float32).astype(scales)
    points = None
    if zeros:
        middle = 2 ** (bits - 1)
        values = np.full(counts, middle) if zeros == "middle" else generator.integers(0, 2**bits, counts)
        points = BlockValues(values.astype(np.uint8), (1, group))
    biases = None
    if biased:
        edges = -generator.integers(1, 2**bits, counts).astype(np.float32) / 2**bits
        biases = BlockValues(edges.astype(scales), (1, group))
    return QuantizedTensor(
        "m.weight", bits, shape, codes, BlockValues(numbers, (1, group)), points, biases=biases, origin="a file"
    )
