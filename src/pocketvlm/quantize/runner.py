"""`Runner` runs prompts through a network layer by layer, with weights that may change between the layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.backends.batch import Step
from pocketvlm.config import ModelConfig
from pocketvlm.model.parts import NetworkParts
from pocketvlm.model.sequences import batch_slices, run_layer, whole_step
from pocketvlm.model.weights import WeightsBuilder, preparing
from pocketvlm.quantize.capture import Inputs, Recorder, RowRecorder
from pocketvlm.schemes import Role
from pocketvlm.tensors import Tensor
from pocketvlm.types import Prompt

Floats = NDArray[np.float32]
Tensors = Mapping[str, Tensor]
_BATCH_TOKENS = 4096  # activations of more rows at once would take gigabytes


class Runner:
    """Prompts in batches, and the layers of a network on their rows.

    Hidden rows are lists of float32 arrays [tokens of a batch, hidden], one for each batch.
    """

    def __init__(self, config: ModelConfig, ops: AnyBackend, prompts: Sequence[Prompt]) -> None:
        """ops: a backend with exact arithmetic, so that quantized tensors have the values that they stand for."""
        self.config, self.ops, self.prompts = config, ops, tuple(prompts)
        axes = () if config.text.mrope_section is None else (3,)
        self._batches = [prompts[each] for each in batch_slices(prompts, _BATCH_TOKENS)]
        self._steps: list[Step[Any]] = [whole_step(ops, batch, axes) for batch in self._batches]

    @property
    def tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(prompt.ids) for prompt in self.prompts)

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return len(self.config.text.layer_types)

    def embeddings(self, tensors: Tensors, features: Mapping[str, Floats]) -> list[Floats]:
        """Rows before the first layer. features: of each view of the prompts, by its digest."""
        table = WeightsBuilder(self.config, preparing(self.ops, tensors)).embedding()
        rows = []
        for batch, step in zip(self._batches, self._steps, strict=True):
            x = np.array(self.ops.to_numpy(self.ops.embed(table, step.ids)))
            for prompt, offset in zip(batch, step.host.offsets.tolist(), strict=False):
                for view in prompt.views:
                    start = offset + view.start
                    x[start : start + view.tokens] = features[view.digest]
            rows.append(x)
        return rows

    def split(self, rows: Floats) -> list[Floats]:
        """Rows of all batches, end to end, as rows of each batch."""
        ends = np.cumsum([step.host.rows for step in self._steps])[:-1]
        return [np.ascontiguousarray(part) for part in np.split(rows, ends)]

    def layer(self, tensors: Tensors, index: int, rows: Sequence[Floats]) -> list[Floats]:
        """Rows after a layer."""
        layer = WeightsBuilder(self.config, preparing(self.ops, tensors)).decoder_layer(index)
        return [self._run(self.ops, layer, index, x, step) for x, step in zip(rows, self._steps, strict=True)]

    def captured(self, tensors: Tensors, index: int, rows: Sequence[Floats]) -> tuple[list[Floats], dict[str, Inputs]]:
        """Rows after a layer, and the inputs of each of its matrices, by name."""
        layer, names = self._named(tensors, index)
        recorder = Recorder(self.ops, names)
        after = [self._run(recorder, layer, index, x, step) for x, step in zip(rows, self._steps, strict=True)]
        return after, recorder.inputs

    def compared(
        self, tensors: Tensors, index: int, rows: Sequence[Floats], reference: Sequence[Floats]
    ) -> tuple[list[Floats], dict[str, Inputs]]:
        """Reference rows after a layer, and the inputs of its matrices on `rows` with their drift from the reference.

        tensors: the layer's dense weights. reference: the rows before the layer in the network without quantization.
        """
        layer, names = self._named(tensors, index)
        recorder, after = Recorder(self.ops, names), []
        for x, dense, step in zip(rows, reference, self._steps, strict=True):
            one = RowRecorder(self.ops, names)
            after.append(self._run(one, layer, index, dense, step))
            recorder.reference = one.rows
            self._run(recorder, layer, index, x, step)
        return after, recorder.inputs

    def _named(self, tensors: Tensors, index: int) -> tuple[Any, dict[Any, str]]:
        """A prepared layer, and the names of its matrices by their handles."""
        names: dict[Any, str] = {}
        prepare = preparing(self.ops, tensors)

        def find(name: str, shape: tuple[int, ...], role: Role) -> Any:
            handle = prepare(name, shape, role)
            if role in ("matrix", "gate"):
                names[handle] = name
            return handle

        return WeightsBuilder(self.config, find).decoder_layer(index), names

    def _run(self, ops: Any, layer: Any, index: int, x: Floats, step: Step[Any]) -> Floats:
        out = run_layer(self.ops, self.config.text, layer, index, self.ops.from_numpy(x), step, ops)
        return self.ops.to_numpy(out)

    def head_inputs(self, tensors: Tensors, rows: Sequence[Floats]) -> list[Floats]:
        """What the head multiplies: the rows after the last layer, normalised."""
        norm = WeightsBuilder(self.config, preparing(self.ops, tensors)).final_norm()
        eps = self.config.text.rms_norm_eps
        return [self.ops.to_numpy(self.ops.rms_norm(self.ops.from_numpy(x), norm, eps)) for x in rows]

    def logits(self, tensors: Tensors, rows: Floats) -> Floats:
        """Logits [n, vocab] of rows [n, hidden] after the last layer."""
        return NetworkParts(self.config, self.ops, tensors).head()(rows)
