"""`Pipeline` quantizes a network step by step: vision, pictures, measurements, head, and layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.model import expected_tensors
from pocketvlm.model.parts import NetworkParts
from pocketvlm.quantize.capture import Inputs
from pocketvlm.quantize.clock import Clock
from pocketvlm.quantize.job import Job
from pocketvlm.quantize.layer import Made, quantize_layer
from pocketvlm.quantize.measurement import MEASURED_TOKENS, PROBE_COST, Measurement
from pocketvlm.quantize.methods import gptq, nearest, output_error
from pocketvlm.quantize.runner import Runner
from pocketvlm.quantize.sites import EMBEDDING, HEAD, prefix
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.quantize.work import WorkFolder
from pocketvlm.tensors import QuantizedTensor, Tensor

Floats = NDArray[np.float32]
# Of the numbers that a run computes: finished tensors of another version are not used.
ALGORITHM_VERSION = 1
_VISION_STEP = 1 << 26  # values of the vision tower that one step quantizes
_COMPARED_VIEWS = 4  # whose features say what quantization of the tower costs


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """All tensors of the quantized network, and for each changed one its scheme, method and error."""

    tensors: dict[str, Tensor]
    schemes: dict[str, str | None]
    made: dict[str, tuple[str | None, float | None]]
    vision_error: float | None


class Pipeline:
    """Each step is saved when it is finished, so that a later run with the same settings goes on after it."""

    def __init__(self, job: Job, work: WorkFolder, report: Any = None) -> None:
        self._job, self._work = job, work
        self._schemes = dict(job.schemes)
        self._layers = len(job.config.text.layer_types)
        self._made: dict[str, Tensor] = {}
        self._said: dict[str, tuple[str | None, float | None]] = {}
        self._calibrated = job.method != "rtn"
        self._prompts = [sample.prompt for sample in job.samples] if self._calibrated else []
        self._clock = Clock(self._costs(), report)

    def run(self) -> Outcome:
        """All steps. Raises TensorError for weights that are infinite or NaN, and CheckpointError for a full disk."""
        self._vision()
        features: dict[str, Floats] = {}
        vision_error = None
        if self._calibrated:
            features, vision_error = self._pictures()
            self._schemes |= Measurement(self._job, self._work, self._clock, features).run()
        self._head()
        self._decoder(features)
        return Outcome({**self._job.dense, **self._made}, self._schemes, self._said, vision_error)

    def _costs(self) -> dict[str, tuple[int, float]]:
        """Rough seconds of each stage at 2e11 operations a second."""
        job, shapes = self._job, expected_tensors(self._job.config)
        layer = sum(prod(shape) for name, shape in shapes.items() if name.startswith(prefix(0)))
        head, tokens = prod(shapes[EMBEDDING]), sum(len(prompt.ids) for prompt in self._prompts)
        run, rounding = 2e-11 * layer / 2, 5e-8 if job.method == "rtn" else 6e-7
        views = len(self._views())
        found = {"vision": (len(self._vision_groups()), 2e-8 * _VISION_STEP)}
        if self._calibrated:
            tower = sum(prod(shape) for name, shape in shapes.items() if job.roles[name] == "vision_matrix")
            found["pictures"] = (max(views, 1), 1e-11 * tower * 700)
            found["measure"] = (self._layers, run * min(tokens, MEASURED_TOKENS) * (1.5 if not job.units else 4))
            if job.units:
                found["probe"] = (self._layers + 1, 7 * (1e-11 * PROBE_COST / 2 + 1e-9 * head))
        found["head"] = (1, head * (5e-8 if job.method == "rtn" else 3e-7))
        found["layers"] = (self._layers, layer * rounding + 6 * run * tokens)
        return found

    # The vision tower.

    def _vision_groups(self) -> list[list[str]]:
        groups: list[list[str]] = []
        room = 0
        for name, role in self._job.roles.items():
            if role == "vision_matrix" and self._job.schemes[name] is not None:
                size = prod(self._job.dense[name].shape)
                if size > room:
                    groups.append([])
                    room = _VISION_STEP
                groups[-1].append(name)
                room -= size
        return groups

    def _vision(self) -> None:
        for number, names in enumerate(self._vision_groups()):
            self._step(f"vision-{number:02d}", "vision", lambda names=names: self._rounded(names))  # type: ignore[misc]

    def _rounded(self, names: Sequence[str]) -> dict[str, Made]:
        found = {}
        for name in names:
            w = np.ascontiguousarray(self._job.dense[name].float32())
            found[name] = Made(nearest(name, w, tensor_scheme(self._schemes[name] or "")), "rtn", None)
        return found

    def _views(self) -> dict[str, Any]:
        """Each distinct view of the calibration set, by its digest."""
        return {view.digest: view for prompt in self._prompts for view in prompt.views}

    def _pictures(self) -> tuple[dict[str, Floats], float | None]:
        """Features of all views with the quantized tower, and the error that its quantization causes."""
        views = self._views()
        info = self._work.info("pictures")
        if info is None:
            features: dict[str, Floats] = {}
            error = None
            if views:
                parts = NetworkParts(self._job.config, self._job.usual, {**self._job.dense, **self._made})
                tower = parts.prepared_vision()
                assert tower is not None
                for digest, view in views.items():
                    features[digest] = np.array(parts.encode(tower, view))
                    self._clock.done("pictures")
                del tower
                error = self._vision_error(features, views) if self._vision_groups() else None
            if not views:
                self._clock.done("pictures")
            counts = {digest: len(rows) for digest, rows in features.items()}
            width = self._job.config.text.hidden_size
            joined = np.concatenate([*features.values(), np.empty((0, width), np.float32)])
            self._work.finish("pictures", {"rows": counts, "error": error}, arrays={"features": joined})
            self._job.release()
            return features, error
        for _ in range(max(len(views), 1)):
            self._clock.skip("pictures")
        joined, start, features = self._work.array("pictures", "features"), 0, {}
        for digest, count in info["rows"].items():
            features[digest], start = joined[start : start + count], start + count
        return features, info["error"]

    def _vision_error(self, features: Mapping[str, Floats], views: Mapping[str, Any]) -> float:
        parts = NetworkParts(self._job.config, self._job.exact, self._job.dense)
        tower = parts.prepared_vision()
        assert tower is not None
        chosen = list(views)[:: max(1, len(views) // _COMPARED_VIEWS)][:_COMPARED_VIEWS]
        error = whole = 0.0
        for digest in chosen:
            expected = parts.encode(tower, views[digest])
            error += float(np.square(expected - features[digest]).sum(dtype=np.float64))
            whole += float(np.square(expected).sum(dtype=np.float64))
        return error / max(whole, 1e-30)

    # The head and the layers.

    def _head(self) -> None:
        self._step("head", "head", lambda: dict(self._quantized_head()))

    def _quantized_head(self) -> Iterator[tuple[str, Made]]:
        if self._job.head == HEAD and self._schemes[EMBEDDING] is not None:
            yield from self._rounded([EMBEDDING]).items()
        name = self._job.head
        if self._schemes[name] is None:
            return
        if not self._calibrated:
            yield from self._rounded([name]).items()
            return
        gram = self._job.head_gram(self._work.array("measure", "head"))
        w, scheme = np.ascontiguousarray(self._job.dense[name].float32()), tensor_scheme(self._schemes[name] or "")
        if self._job.method == "awq":
            tensor, label = nearest(name, w, scheme, np.ascontiguousarray(np.diagonal(gram))), "rtn"
        else:
            tensor, label = gptq(name, w, gram, scheme), "gptq"
        yield name, Made(tensor, label, output_error(w, tensor.dequantize(), gram))

    def _decoder(self, features: Mapping[str, Floats]) -> None:
        job = self._job
        runner = Runner(job.config, job.exact, self._prompts) if self._calibrated else None
        rows: list[Floats] | None = None
        reference: list[Floats] | None = None
        for index in range(self._layers):
            step = f"layer-{index:02d}"
            if self._work.info(step) is not None:
                self._step(step, "layers", dict)
                continue
            dense = {name: tensor for name, tensor in job.dense.items() if name.startswith(prefix(index))}
            schemes = {name: None if (s := self._schemes[name]) is None else tensor_scheme(s) for name in dense}
            inputs: dict[str, Inputs] = {}
            if runner is not None:
                if rows is None or reference is None:
                    rows, reference = self._rows_before(index, runner, features)
                reference, inputs = runner.compared(job.dense, index, rows, reference)
            made = quantize_layer(job.config.text, index, dense, schemes, inputs, job.method, job.unchanged)
            arrays = {}
            if runner is not None and rows is not None and reference is not None and index < self._layers - 1:
                tensors = {**job.dense, **{name: each.tensor for name, each in made.items()}}
                rows = runner.layer(tensors, index, rows)
                arrays = {"rows": np.concatenate(rows), "reference": np.concatenate(reference)}
            self._step(step, "layers", lambda made=made: made, arrays)  # type: ignore[misc]
            self._work.drop_arrays(f"layer-{index - 1:02d}")
            job.release()

    def _rows_before(
        self, index: int, runner: Runner, features: Mapping[str, Floats]
    ) -> tuple[list[Floats], list[Floats]]:
        """Rows before a layer in the quantized network so far, and in the dense one."""
        if index == 0:
            tensors = {**self._job.dense, **self._made}
            return runner.embeddings(tensors, features), runner.embeddings(self._job.dense, features)
        step = f"layer-{index - 1:02d}"
        return runner.split(self._work.array(step, "rows")), runner.split(self._work.array(step, "reference"))

    def _step(
        self, step: str, stage: str, make: Callable[[], dict[str, Made]], arrays: Mapping[str, Floats] | None = None
    ) -> None:
        """Make tensors and save them, or take them from an earlier run; retains them mapped."""
        info = self._work.info(step)
        if info is None:
            made = make()
            info = {"made": {name: [each.method, each.error] for name, each in made.items()}}
            self._work.finish(step, info, {name: each.tensor for name, each in made.items()}, arrays)
            del made
            self._clock.done(stage)
            self._job.release()
        else:
            self._clock.skip(stage)
        self._made |= self._work.tensors(step)
        self._said |= {
            name: (method, error) for name, (method, error) in info["made"].items() if self._is_quantized(name)
        }

    def _is_quantized(self, name: str) -> bool:
        return isinstance(self._made[name], QuantizedTensor)
