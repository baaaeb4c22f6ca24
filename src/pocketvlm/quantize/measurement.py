"""Measures the dense network, and chooses from that the scheme of each matrix within a budget of bits."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from pocketvlm.quantize.allocation import Choice, Unit, allocate
from pocketvlm.quantize.calibration.sample import within
from pocketvlm.quantize.candidates import COUNTED, Rows, bits_of, rounding_error, sampled_rows
from pocketvlm.quantize.capture import Inputs
from pocketvlm.quantize.chunks import row_chunks, run_chunks
from pocketvlm.quantize.clock import Clock
from pocketvlm.quantize.job import Job
from pocketvlm.quantize.methods import nearest
from pocketvlm.quantize.runner import Runner
from pocketvlm.quantize.sensitivity import Probe
from pocketvlm.quantize.sites import EMBEDDING, HEAD
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.quantize.work import WorkFolder

Floats = NDArray[np.float32]
MEASURED_TOKENS = 4096  # of the dense pass, which gives errors of candidates and the head's Gram matrix
PROBE_COST = 1e11  # parameters of the language model, times tokens, that one measurement of a divergence may take
_PROBE_TOKENS, _PROBE_LENGTH, _PROBE_ROWS = (256, 4096), 192, 128
_PROBE_BITS = 4.0


class Measurement:
    """The steps "measure" and "probe" of a pipeline."""

    def __init__(self, job: Job, work: WorkFolder, clock: Clock, features: Mapping[str, Floats]) -> None:
        """features: of the views of the calibration set, by digest."""
        self._job, self._work, self._clock, self._features = job, work, clock, features
        self._layers = len(job.config.text.layer_types)

    def run(self) -> dict[str, str | None]:
        """The scheme of each matrix that the budget chose; empty without one."""
        job, info = self._job, self._work.info("measure")
        if info is None and not job.units and job.schemes[job.head] is None:
            info = {"errors": {}}  # neither errors nor the head's inputs are needed
            self._work.finish("measure", info)
        if info is None:
            length = max((len(sample.prompt.ids) for sample in job.samples), default=1)
            chosen = [sample.prompt for sample in within(list(job.samples), MEASURED_TOKENS, length)]
            runner = Runner(job.config, job.exact, chosen)
            rows = runner.embeddings(job.dense, self._features)
            errors: dict[str, dict[str, float]] = {}
            for index in range(self._layers):
                if job.units:
                    rows, inputs = runner.captured(job.dense, index, rows)
                    errors |= self._errors({name: each.gram() for name, each in inputs.items()})
                else:  # no scheme is chosen: only the head's inputs are needed
                    rows = runner.layer(job.dense, index, rows)
                job.release()
                self._clock.done("measure")
            head = Inputs(job.config.text.hidden_size)
            for x in runner.head_inputs(job.dense, rows):
                head.add(x)
            errors |= self._errors({job.head: job.head_gram(head.gram())})
            info = {"errors": errors}
            self._work.finish("measure", info, arrays={"head": head.gram()})
        else:
            for _ in range(self._layers):
                self._clock.skip("measure")
        return self._choose(info["errors"], self._probe()) if job.units else {}

    def _errors(self, grams: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
        """The squared output error of each candidate of the matrices whose inputs are given."""
        found: dict[str, dict[str, float]] = {}
        for names, candidates in self._job.units.items():
            for name in names:
                if name not in grams:
                    continue
                rows = sampled_rows(self._job.dense[name].float32(), self._job.roles[name])
                known = [each for each in candidates if each is not None]

                def error(at: slice, gram: Floats = grams[name], rows: Rows = rows, known: list[str] = known) -> float:
                    return rounding_error(rows, gram, known[at.start])

                found[name] = dict(zip(known, run_chunks(error, row_chunks(len(known), 1)), strict=True))
        return found

    def _probe(self) -> dict[str, float]:
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
                probe = probe or self._make_probe()
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

    def _make_probe(self) -> Probe:
        job = self._job
        size = sum(prod(tensor.shape) for name, tensor in job.dense.items() if job.roles[name] == "matrix")
        low, high = _PROBE_TOKENS
        tokens = int(min(max(PROBE_COST / max(size, 1), low), high))
        short = within(list(job.samples), tokens, _PROBE_LENGTH) or within(list(job.samples), tokens, 1 << 30)
        runner = Runner(job.config, job.exact, [sample.prompt for sample in short])
        vocabulary = job.config.text.vocab_size
        return Probe(runner, job.dense, self._features, max(_PROBE_ROWS, (1 << 22) // vocabulary))

    def _probed(self, names: tuple[str, ...]) -> str:
        """The candidate of a unit that is nearest to four bits."""
        shape = self._job.dense[names[0]].shape
        weights = prod(shape)
        known = [each for each in self._job.units[names] if each is not None]
        return min(known, key=lambda each: abs(bits_of(each, shape) / weights - _PROBE_BITS))

    def _choose(
        self, errors: Mapping[str, Mapping[str, float]], divergences: Mapping[str, float]
    ) -> dict[str, str | None]:
        """Choose the scheme of each unit within the budget: expected losses grow with the squared output error."""
        job = self._job
        assert job.budget is not None
        shapes = {name: job.dense[name].shape for name in job.dense}
        counted = [name for name, role in job.roles.items() if role in COUNTED]
        chosen = {name for names in job.units for name in names}
        fixed = sum(bits_of(job.schemes[name], shapes[name]) for name in counted if name not in chosen)
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
        chosen_ones = zip(units, allocate(units, budget), strict=True)
        return {name: choice.scheme for unit, choice in chosen_ones for name in unit.names}

    def _layer_of(self, name: str) -> int:
        if name == EMBEDDING:
            return -1
        return self._layers if name == HEAD else int(name.split(".layers.")[1].split(".", maxsplit=1)[0])
