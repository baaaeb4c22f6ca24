"""`Pipeline` quantizes a network step by step: vision, pictures, measurements, head, and layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.config import ModelConfig
from pocketvlm.model import expected_tensors
from pocketvlm.model.parts import NetworkParts
from pocketvlm.quantize.allocation import Choice, Unit, allocate
from pocketvlm.quantize.calibration.sample import Sample, within
from pocketvlm.quantize.candidates import COUNTED, bits_of, sampled_error
from pocketvlm.quantize.capture import Inputs
from pocketvlm.quantize.clock import Clock
from pocketvlm.quantize.layer import Made, Method, quantize_layer
from pocketvlm.quantize.methods import gptq, nearest, output_error
from pocketvlm.quantize.runner import Runner
from pocketvlm.quantize.sensitivity import Probe
from pocketvlm.quantize.sites import EMBEDDING, HEAD, prefix
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.quantize.work import WorkFolder
from pocketvlm.schemes import Role
from pocketvlm.tensors import DenseTensor, QuantizedTensor, Tensor

Floats = NDArray[np.float32]
_MEASURED_TOKENS = 4096  # of the dense pass, which gives errors of candidates and the head's Gram matrix
_PROBE_COST = 1e11  # parameters of the language model, times tokens, that one measurement of a divergence may take
_PROBE_TOKENS, _PROBE_LENGTH, _PROBE_ROWS = (256, 4096), 192, 128
_PROBE_BITS = 4.0
_VISION_STEP = 1 << 26  # values of the vision tower that one step quantizes
_COMPARED_VIEWS = 4  # whose features say what quantization of the tower costs


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a pipeline does.

    schemes: of each tensor, by name; None: dense. units: matrices that share a scheme and the schemes among which a
    `budget` (bits a weight) chooses; none without a budget. exact: a backend of exact arithmetic. usual: one as users
    run the network, for the tower. release: drops mapped pages that were read.
    """

    config: ModelConfig
    dense: Mapping[str, DenseTensor]
    roles: Mapping[str, Role]
    schemes: Mapping[str, str | None]
    units: Mapping[tuple[str, ...], tuple[str | None, ...]]
    budget: float | None
    method: Method
    samples: Sequence[Sample]
    exact: AnyBackend
    usual: AnyBackend
    release: Callable[[], None]


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
            self._measure(features)
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
            found["measure"] = (self._layers, run * min(tokens, _MEASURED_TOKENS) * (1.5 if not job.units else 4))
            if job.units:
                found["probe"] = (self._layers + 1, 7 * (1e-11 * _PROBE_COST / 2 + 1e-9 * head))
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

    # What the dense network says: the head's inputs, and for a budget errors and sensitivities.

    def _measure(self, features: Mapping[str, Floats]) -> None:
        job, info = self._job, self._work.info("measure")
        if info is None:
            length = max((len(prompt.ids) for prompt in self._prompts), default=1)
            chosen = [sample.prompt for sample in within(list(job.samples), _MEASURED_TOKENS, length)]
            runner = Runner(job.config, job.exact, chosen)
            rows = runner.embeddings(job.dense, features)
            errors: dict[str, dict[str, float]] = {}
            for index in range(self._layers):
                rows, inputs = runner.captured(job.dense, index, rows)
                errors |= self._errors({name: each.gram() for name, each in inputs.items()})
                job.release()
                self._clock.done("measure")
            head = Inputs(job.config.text.hidden_size)
            for x in runner.head_inputs(job.dense, rows):
                head.add(x)
            errors |= self._errors({self._head_name: self._head_gram(head.gram())})
            info = {"errors": errors}
            self._work.finish("measure", info, arrays={"head": head.gram()})
        else:
            for _ in range(self._layers):
                self._clock.skip("measure")
        if job.units:
            self._choose(info["errors"], self._probe(features))

    def _errors(self, grams: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
        """The squared output error of each candidate of the matrices whose inputs are given."""
        found = {}
        for names, candidates in self._job.units.items():
            for name in names:
                if name in grams:
                    w = self._job.dense[name].float32()
                    role = self._job.roles[name]
                    found[name] = {
                        each: sampled_error(name, w, grams[name], each, role) for each in candidates if each is not None
                    }
        return found

    def _probe(self, features: Mapping[str, Floats]) -> dict[str, float]:
        """The divergence that each unit alone causes with its `_probed` scheme, by the name of its first matrix."""
        job = self._job
        by_layer: dict[int, list[tuple[str, ...]]] = {}
        for names in job.units:
            by_layer.setdefault(self._layer_of(names[0]), []).append(names)
        found: dict[str, float] = {}
        probe: Probe | None = None
        for layer, units in sorted(by_layer.items()):
            step = f"probe-{layer + 1:02d}"
            info = self._work.info(step)
            if info is None:
                probe = probe or self._make_probe(features)
                info = {}
                for names in units:
                    scheme = tensor_scheme(self._probed(names))
                    changed = {
                        name: nearest(name, np.ascontiguousarray(job.dense[name].float32()), scheme) for name in names
                    }
                    info[names[0]] = probe.divergence(changed, layer)
                self._work.finish(step, info)
                job.release()
                self._clock.done("probe")
            else:
                self._clock.skip("probe")
            found |= info
        return found

    def _make_probe(self, features: Mapping[str, Floats]) -> Probe:
        job = self._job
        size = sum(prod(tensor.shape) for name, tensor in job.dense.items() if job.roles[name] == "matrix")
        low, high = _PROBE_TOKENS
        tokens = int(min(max(_PROBE_COST / max(size, 1), low), high))
        short = within(list(job.samples), tokens, _PROBE_LENGTH) or within(list(job.samples), tokens, 1 << 30)
        runner = Runner(job.config, job.exact, [sample.prompt for sample in short])
        vocabulary = job.config.text.vocab_size
        return Probe(runner, job.dense, features, max(_PROBE_ROWS, (1 << 22) // vocabulary))

    def _probed(self, names: tuple[str, ...]) -> str:
        """The candidate of a unit that is nearest to four bits."""
        shape = self._job.dense[names[0]].shape
        weights = prod(shape)
        known = [each for each in self._job.units[names] if each is not None]
        return min(known, key=lambda each: abs(bits_of(each, shape) / weights - _PROBE_BITS))

    def _choose(self, errors: Mapping[str, Mapping[str, float]], divergences: Mapping[str, float]) -> None:
        """Choose the scheme of each unit within the budget: expected losses grow with the squared output error."""
        job = self._job
        assert job.budget is not None
        shapes = {name: job.dense[name].shape for name in job.dense}
        counted = [name for name, role in job.roles.items() if role in COUNTED]
        chosen = {name for names in job.units for name in names}
        fixed = sum(bits_of(self._schemes[name], shapes[name]) for name in counted if name not in chosen)
        budget = job.budget * sum(prod(shapes[name]) for name in counted) - fixed
        units = []
        for names, candidates in job.units.items():
            base = self._probed(names)
            unit_error = sum(errors[name][base] for name in names)
            loss = max(divergences[names[0]], 1e-12) / max(unit_error, 1e-30)
            choices = [
                Choice(
                    each,
                    sum(bits_of(each, shapes[name]) for name in names),
                    0.0 if each is None else loss * sum(errors[name][each] for name in names),
                )
                for each in candidates
            ]
            units.append(Unit(names, tuple(choices)))
        for unit, choice in zip(units, allocate(units, budget), strict=True):
            self._schemes.update(dict.fromkeys(unit.names, choice.scheme))

    def _layer_of(self, name: str) -> int:
        if name == EMBEDDING:
            return -1
        return self._layers if name == HEAD else int(name.split(".layers.")[1].split(".", maxsplit=1)[0])

    # The head and the layers.

    @property
    def _head_name(self) -> str:
        return EMBEDDING if self._job.config.text.tie_word_embeddings else HEAD

    def _head_gram(self, gram: Floats) -> Floats:
        """What the head's errors are measured with; a tied one is looked up too, where all inputs count alike."""
        if self._head_name == HEAD:
            return gram
        scale = np.float32(len(gram) / max(float(np.trace(gram)), 1e-20))
        mixed: Floats = gram * scale + np.eye(len(gram), dtype=np.float32)
        return mixed

    def _head(self) -> None:
        self._step("head", "head", lambda: dict(self._quantized_head()))

    def _quantized_head(self) -> Iterator[tuple[str, Made]]:
        if self._head_name == HEAD and self._schemes[EMBEDDING] is not None:
            yield from self._rounded([EMBEDDING]).items()
        name = self._head_name
        if self._schemes[name] is None:
            return
        if not self._calibrated:
            yield from self._rounded([name]).items()
            return
        gram = self._head_gram(self._work.array("measure", "head"))
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
            made = quantize_layer(job.config.text, index, dense, schemes, inputs, job.method)
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
