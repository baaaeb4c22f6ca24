"""`Trainer` runs the steps: loss, gradients, optimizer, evaluation, checkpoints, and stopping between two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pocketvlm.errors import CheckpointError
from pocketvlm.options.training import TrainingOptions
from pocketvlm.train.features import Features, Floats
from pocketvlm.train.memory import peak_memory
from pocketvlm.train.network import Network
from pocketvlm.train.processes import Processes
from pocketvlm.train.report import StepReport
from pocketvlm.train.schedule import Schedule
from pocketvlm.train.source import Source
from pocketvlm.train.state import RunFolder

_STATE = "trainer.pt"
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(slots=True)
class Best:
    """The evaluation with the lowest loss so far."""

    step: int = 0
    loss: float = math.inf


class Trainer:
    """Trains a network on a source. Every process has one; the main process writes the folder.

    features: of frozen vision towers; None: the network's own tower runs in each step. write: writes the weights of a
    checkpoint (an adapter) into its folder. evaluating(done, total): samples of an evaluation. evaluated(step, loss):
    an evaluation that no report of a step tells of.
    """

    def __init__(
        self,
        network: Network,
        source: Source,
        evaluation: Source | None,
        features: Features | None,
        schedule: Schedule,
        options: TrainingOptions,
        folder: RunFolder,
        processes: Processes,
        write: Callable[[Path], None],
        evaluating: Callable[[int, int], None] = lambda done, total: None,
        evaluated: Callable[[int, float], None] = lambda step, loss: None,
    ) -> None:
        self.network, self.source, self.evaluation, self.features = network, source, evaluation, features
        self.schedule, self.options, self.folder, self.processes = schedule, options, folder, processes
        self._write, self._evaluating, self._evaluated = write, evaluating, evaluated
        # The optimizer's own float32 weights: those of the network where these are float32, else copies.
        self._weights = {
            name: each if each.dtype == torch.float32 else torch.nn.Parameter(each.detach().float())
            for name, each in network.parameters.items()
        }
        self.optimizer = torch.optim.AdamW(
            list(self._weights.values()), lr=options.lr, betas=_BETAS, eps=_EPSILON, weight_decay=options.weight_decay
        )
        torch.manual_seed(options.seed + 1 + processes.rank)  # of dropout
        self.step, self._first_step, self.best, self.last_loss = 0, 0, Best(), math.nan
        self.tokens, self.seconds = 0, 0.0
        # Of step `self.step`: whether its evaluation is missing, and whether its checkpoint is written.
        self._due, self._saved = evaluation is not None, False

    @property
    def _eval_every(self) -> int:
        return self.options.eval_every or self.schedule.steps_per_epoch

    @property
    def _save_every(self) -> int:
        return self.options.save_every or self.schedule.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all steps and their evaluations are done."""
        return self.step == self.schedule.steps and not self._due

    def run(self, stop: Callable[[], bool]) -> Iterator[StepReport]:
        """Run the remaining steps, one at a time. Saves and returns early once `stop()` is true in any process."""
        if self._due:  # before the first step, or that of a run which was stopped in an evaluation
            loss = self._evaluate(stop)
            if loss is None:
                return
            self._evaluated(self.step, loss)
        while self.step < self.schedule.steps:
            report = self._step()
            if self._due:
                report = replace(report, eval_loss=self._evaluate(stop))
            yield report
            last = self.step == self.schedule.steps
            stopped = self._due or (not last and self._any(stop()))
            if last or stopped or self.step % self._save_every == 0:
                self.save()
            if stopped:
                return

    def _step(self) -> StepReport:
        began = time.perf_counter()
        indices = self.schedule.indices(self.step)
        records = self.source.records
        total = sum(records[index].loss_tokens for index in indices)
        tokens = sum(len(records[index].ids) for index in indices)
        self.network.train(True)
        loss = torch.zeros((), device=self.processes.device)
        for batch in self._batches(self.source, indices, self.options.batch):
            part = self.network.loss([records[index] for index in batch], self._features(self.source, batch)) / total
            part.backward()  # type: ignore[no-untyped-call]
            self._collect_gradients()
            loss += part.detach()
        mean = float(self.processes.sum(loss))
        norm = self._update(self.schedule.learning_rate(self.step))
        self.step += 1
        self.last_loss, self._saved = mean, False
        if not math.isfinite(mean) or not math.isfinite(norm):
            raise CheckpointError(
                f"step {self.step}: the loss is {mean}, its gradient {norm}: training has diverged with "
                f"lr={self.options.lr:g}: give a smaller one, or dtype='f32'"
            )
        seconds = time.perf_counter() - began
        self.tokens += tokens
        self.seconds += seconds
        self._due = self.evaluation is not None and (
            self.step % self._eval_every == 0 or self.step == self.schedule.steps
        )
        report = StepReport(
            self.step,
            self.schedule.steps,
            mean,
            self.schedule.learning_rate(self.step - 1),
            norm,
            tokens,
            seconds,
            tokens / seconds,
            peak_memory(self.processes.device.type == "cuda"),
            (self.schedule.steps - self.step) * self.seconds / max(1, self.step - self._first_step),
        )
        if self.processes.is_main:
            self._log(report)
        return report

    def _evaluate(self, stop: Callable[[], bool]) -> float | None:
        """Evaluate a step and log it; the best one is saved. None once `stop()` is true in any process."""
        loss = self.evaluate(stop)
        if loss is None:
            return None
        self._due, self._saved = False, False
        if self.processes.is_main:
            self.folder.append({"step": self.step, "eval_loss": loss})
        if self.step and loss < self.best.loss:
            self.best = Best(self.step, loss)
            self.save()
        return loss

    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> float | None:
        """Mean loss over all loss tokens of the evaluation data, in nats; None once `stop()` is true in any process."""
        if self.evaluation is None:
            raise ValueError("there is no evaluation data")
        self.network.train(False)
        loss = torch.zeros((), dtype=torch.float64)
        count = sum(record.loss_tokens for record in self.evaluation.records)
        total, done, stopped = len(self.evaluation.records), 0, False
        with torch.no_grad():
            for batch in self._batches(self.evaluation, range(total), self.options.batch):
                self._evaluating(done, total)
                if stopped := stop():
                    break
                records = [self.evaluation.records[index] for index in batch]
                loss += self.network.loss(records, self._features(self.evaluation, batch)).double().cpu()
                done = min(total, done + len(batch) * self.processes.count)
        if self._any(stopped):
            return None
        self._evaluating(total, total)
        return float(self.processes.sum(loss.to(self.processes.device, torch.float32))) / count

    def _batches(self, source: Source, indices: Sequence[int], size: int) -> Iterator[list[int]]:
        """The batches of this process; records of like length run together, so that little is padded."""
        ordered = sorted(indices, key=lambda index: (len(source.records[index].ids), index))
        mine = ordered[self.processes.rank :: self.processes.count]
        for start in range(0, len(mine), size):
            yield mine[start : start + size]

    def _features(self, source: Source, batch: Sequence[int]) -> list[Sequence[Floats | torch.Tensor]]:
        if self.features is not None:
            return [source.features(index, self.features) for index in batch]
        return [
            [self.network.encode(view.load()) for view in source.views(index)] if source.records[index].views else []
            for index in batch
        ]

    def _collect_gradients(self) -> None:
        """Add the gradients of weights that are not float32 to those of their float32 copies."""
        for name, weight in self._weights.items():
            parameter = self.network.parameters[name]
            if weight is parameter or parameter.grad is None:
                continue
            gradient = parameter.grad.float()
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
            parameter.grad = None

    def _update(self, lr: float) -> float:
        """One step of the optimizer; returns the norm of the gradient before it was clipped."""
        for weight in self._weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            self.processes.sum(weight.grad)
        norm = torch.nn.utils.clip_grad_norm_(self._weights.values(), self.options.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._spread()
        return float(norm)

    @torch.no_grad()
    def _spread(self) -> None:
        """Round the float32 copies back into the network's weights."""
        for name, weight in self._weights.items():
            parameter = self.network.parameters[name]
            if weight is not parameter:
                parameter.copy_(weight)

    def _any(self, stop: bool) -> bool:
        return bool(self.processes.sum(torch.tensor(float(stop), device=self.processes.device)) > 0)

    def _log(self, report: StepReport) -> None:
        entry: dict[str, Any] = {
            "step": report.step,
            "epoch": round(report.step / self.schedule.steps_per_epoch, 4),
            "loss": report.loss,
            "lr": report.lr,
            "grad_norm": report.grad_norm,
            "tokens": report.tokens,
            "seconds": round(report.seconds, 4),
            "memory": report.memory,
        }
        self.folder.append(entry)

    def save(self) -> None:
        """Write a checkpoint of this step, from which the run resumes with the same bits."""
        if self._saved:
            return
        random = self.processes.gather(
            {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state() if self.processes.device.type == "cuda" else None,
            }
        )
        if self.processes.is_main:

            def write(folder: Path) -> None:
                self._write(folder)
                state = {
                    "step": self.step,
                    "weights": {name: weight.detach() for name, weight in self._weights.items()},
                    "optimizer": self.optimizer.state_dict(),
                    "random": random,
                    "best": (self.best.step, self.best.loss),
                    "last_loss": self.last_loss,
                    "due": self._due,
                }
                torch.save(state, folder / _STATE)

            self.folder.save(self.step, write, frozenset({self.best.step}))
        self._saved = True
        self.processes.wait()

    def resume(self, step: int) -> None:
        """Continue from the checkpoint of a step. Raises CheckpointError for a damaged one."""
        state = self._read(step)
        self.optimizer.load_state_dict(state["optimizer"])
        self._take(state)
        random = state["random"][self.processes.rank]
        torch.set_rng_state(random["cpu"])
        if random["cuda"] is not None:
            torch.cuda.set_rng_state(random["cuda"])
        self.step = self._first_step = step
        self.best, self.last_loss = Best(*state["best"]), state["last_loss"]
        self._due, self._saved = state.get("due", False), True

    def take_weights(self, step: int) -> None:
        """Take the weights of an earlier checkpoint, such as the best one."""
        self._take(self._read(step))

    @torch.no_grad()
    def _take(self, state: dict[str, Any]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(state["weights"][name])
        self._spread()

    def _read(self, step: int) -> dict[str, Any]:
        path = self.folder.checkpoint(step) / _STATE
        try:
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read ({error}): remove the folder {path.parent.name}") from None
        return found

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights in float32, by their names in the network."""
        return {name: weight.detach() for name, weight in self._weights.items()}
