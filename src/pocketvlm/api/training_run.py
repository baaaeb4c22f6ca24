"""`Run` trains a checkpoint whose options and data are checked, and makes the folder of its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm import backends
from pocketvlm.api.stopping import Stop
from pocketvlm.backends.cache import directory
from pocketvlm.backends.options import choose
from pocketvlm.checkpoint.adapters.base import sample_of
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.writers.output import write_checkpoint
from pocketvlm.checkpoint.writers.registry import find_writer
from pocketvlm.engine.featurefiles import FeatureFiles
from pocketvlm.model import expected_tensors, tensor_roles
from pocketvlm.options.training import TrainingOptions
from pocketvlm.processor.processor import Processor
from pocketvlm.train.check import counted
from pocketvlm.train.features import Features, VisionEncoder
from pocketvlm.train.memory import peak_memory
from pocketvlm.train.records import digest
from pocketvlm.train.schedule import Schedule
from pocketvlm.train.source import Source
from pocketvlm.train.state import RunFolder

if TYPE_CHECKING:
    from pocketvlm.train.report import StepReport
    from pocketvlm.train.trainer import Trainer

# Stage, work done, all work, and what to say about it. Stages: "download" (bytes), "read", "encode", "load",
# "evaluate", "write".
Progress = Callable[[str, int, int, str], None]
# Settings of a run that are known when its data is read.
LATER = ("processes", "model", "data", "eval")


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """What a run made.

    path: the adapter's folder, or the checkpoint's. step: the one whose weights it has: the best by evaluation, else
    the last. matrices: number of updated ones; parameters: trained values. loss: mean of the last step, in nats a
    token; eval_loss: of `step`, None without evaluation data. seconds: of this call, whose steps may be fewer. main:
    whether this process wrote the files, as one of several does.
    """

    path: Path
    method: str
    step: int
    steps: int
    samples: int
    matrices: int
    parameters: int
    loss: float
    eval_loss: float | None
    seconds: float
    tokens_per_second: float
    peak_memory: int
    main: bool = True

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {name: value for name, value in asdict(self).items() if name != "main"} | {"path": str(self.path)}


@dataclass(frozen=True, slots=True)
class Run:
    """A run. model, revision: as they were given. media: options of images and videos that were given.

    targets: what is updated; with_vision: also the vision tower.
    """

    model: str
    revision: str | None
    checkpoint: Checkpoint
    processor: Processor
    training: TrainingOptions
    media: Mapping[str, Any]
    targets: tuple[str, ...]
    with_vision: bool
    source: Source
    evaluation: Source | None
    out: Path
    run: RunFolder

    def train(
        self,
        resume: bool,
        device: str | None,
        threads: int | None,
        cache_dir: str | Path | None,
        tell: Progress,
        report: Callable[[StepReport], None] | None,
        say: Callable[[str], None],
        stop: Stop,
        began: float,
    ) -> FinetuneResult:
        from pocketvlm.train.network import Network, quiet
        from pocketvlm.train.processes import Processes
        from pocketvlm.train.trainer import Trainer

        processes, training = Processes(device, threads), self.training
        schedule = Schedule(
            len(self.source.records),
            training.batch * training.accumulate * processes.count,
            training.epochs,
            training.lr,
            training.warmup,
            training.seed,
        )
        settings = self._settings(processes.count)
        if processes.is_main and resume:
            self.run.check(settings)
            self.run.truncate_log(self.run.steps()[-1])
        elif processes.is_main:
            self.run.begin(settings)
        processes.wait()
        if processes.device.type == "cpu" and not self.with_vision:
            features = self._features(cache_dir, threads, None)
            self._encode(features, processes, tell)  # before the network needs its memory
        tell("load", 0, 1, "loading the network")
        network = Network(
            self.checkpoint.path, self.checkpoint.model, training, self.targets, self.with_vision, processes.device
        )
        if self.with_vision:
            features = None
        elif processes.device.type == "cpu":
            network.drop_vision()
        else:
            features = self._features(cache_dir, threads, network)
            self._encode(features, processes, tell)
        parameters = sum(each.numel() for each in network.parameters.values())
        say(self._words(network, parameters, schedule, processes))
        trainer = Trainer(
            network,
            self.source,
            self.evaluation,
            features,
            schedule,
            training,
            self.run,
            processes,
            partial(self._write, network),
            lambda done, total: tell("evaluate", done, total, "evaluating"),
            lambda step, loss: say(f"step {step} of {schedule.steps}: evaluation loss {loss:.4f}"),
        )
        if resume:
            trainer.resume(self.run.steps()[-1])
            say(f"resumed after step {trainer.step} of {schedule.steps}")
        with stop.deferred(), quiet():
            for each in trainer.run(stop):
                if report is not None and processes.is_main:
                    report(each)
        if not trainer.finished:
            raise KeyboardInterrupt
        tell("write", 0, 1, "writing")
        best = trainer.best.step or trainer.step
        if processes.is_main:
            self._publish(network, trainer, best)
        processes.wait()
        return FinetuneResult(
            self.out,
            training.method,
            best,
            schedule.steps,
            len(self.source.records),
            len(self.targets) if training.method == "lora" else 0,
            parameters,
            trainer.last_loss,
            trainer.best.loss if trainer.best.step else None,
            time.perf_counter() - began,
            trainer.tokens / trainer.seconds if trainer.seconds else 0.0,
            peak_memory(processes.device.type == "cuda"),
            processes.is_main,
        )

    def _settings(self, processes: int) -> dict[str, Any]:
        """What the bits of the result depend on."""
        return {
            **option_settings(self.training, self.media),
            "processes": processes,
            "model": self.checkpoint.fingerprint,
            "data": digest(self.source.records),
            "eval": None if self.evaluation is None else digest(self.evaluation.records),
        }

    def _features(self, cache_dir: str | Path | None, threads: int | None, network: Any) -> Any:
        """Features from the disk, else of the native backend in exact arithmetic, or of the network's own tower."""
        config = self.checkpoint.model
        if network is None:
            scheme = choose("native", "stored", "exact")

            def encoder() -> Any:
                tensors = self.checkpoint.tensors(expected_tensors(config))
                return VisionEncoder(config, backends.create("native", threads, scheme=scheme), tensors)

            owner = "native exact"
        else:

            def encoder() -> Any:
                return network.encode_frozen

            owner = f"torch {network.dtype}"
        store = None
        if self.training.feature_cache:
            folder = directory(cache_dir).with_name("features")
            store = FeatureFiles(folder, f"{self.checkpoint.fingerprint} {owner}", self.training.feature_cache)
        return Features(store, encoder, config.text.hidden_size)

    def _encode(self, features: Any, processes: Any, tell: Progress) -> None:
        """Compute the features that are not cached yet, and release what computes them."""
        if self.training.feature_cache == 0:
            return
        sources = [each for each in (self.source, self.evaluation) if each is not None and each.view_count]
        work = [(source, index) for source in sources for index in range(len(source.records))]
        for done, (source, index) in enumerate(work[processes.rank :: processes.count]):
            source.features(index, features)
            tell("encode", min(len(work), (done + 1) * processes.count), len(work), "encoding images")
        features.release()
        processes.wait()

    def _words(self, network: Any, parameters: int, schedule: Any, processes: Any) -> str:
        what = f"{counted(len(self.targets), 'matrix', 'matrices')} adapted, " if self.training.method == "lora" else ""
        several = f", {processes.count} processes" if processes.count > 1 else ""
        kind = {"torch.float32": "f32", "torch.bfloat16": "bf16"}[str(network.dtype)]
        return (
            f"{counted(len(self.source.records), 'sample')}, {counted(self.source.view_count, 'view')}; {what}"
            f"{parameters:,} trained values; {counted(schedule.steps, 'step')} on {processes.device.type} in "
            f"{kind}{several}"
        )

    def _write(self, network: Any, folder: Path) -> None:
        """Write the weights of a checkpoint of the run."""
        if self.training.method == "lora":
            from pocketvlm.train.output import write_updates

            write_updates(folder, network, self._options(), self._base(), self._training(network))

    def _options(self) -> dict[str, Any]:
        """The options that requests with the adapter get by default: those given, the mode, and thinking if it differs.

        Thinking is saved where all samples agree and the template would do otherwise.
        """
        found: dict[str, Any] = {}
        if self.checkpoint.model.vision is not None:
            found["downsample_mode"] = self.checkpoint.processor.downsample_mode
        kinds = {sample.thinking for sample in self.source.samples}
        if len(kinds) == 1:
            (thinking,) = kinds
            usual, same = (
                self.processor([{"role": "user", "content": "a"}], enable_thinking=each).text
                for each in (None, thinking)
            )
            if usual != same:
                found["enable_thinking"] = thinking
        return {**found, **self.media}

    def _base(self) -> dict[str, Any]:
        """What pocketvlm.json says of the base, so that another one of the same shapes is noticed."""
        tensors = self.checkpoint.tensors(expected_tensors(self.checkpoint.model))
        return {"model": self.model, "revision": self.revision, "sample": sample_of(tensors)}

    def _training(self, network: Any) -> dict[str, Any]:
        """What training.json says."""
        return {
            **asdict(self.training),
            **self.media,
            "samples": len(self.source.records),
            "matrices": len(self.targets),
            "parameters": sum(each.numel() for each in network.parameters.values()),
        }

    def _publish(self, network: Any, trainer: Trainer, best: int) -> None:
        from pocketvlm.train import output

        if self.training.method == "lora":
            output.publish(self.run, best, trainer.step, self.out)
        else:
            if best != trainer.step:
                trainer.take_weights(best)
            tensors = self.checkpoint.tensors(expected_tensors(self.checkpoint.model))
            tensors |= {each.name: each for each in network.tensors(trainer.weights) if each.name in tensors}
            roles = tensor_roles(self.checkpoint.model)
            write_checkpoint(find_writer("bf16"), self.checkpoint, tensors, roles, self.out, "bf16")
            output.add_log(self.run, self.out)
        self.run.remove()


def option_settings(training: TrainingOptions, media: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the bits of a run's result depend on."""
    ignored = ("feature_cache", "save_every")
    own = {each.name: getattr(training, each.name) for each in fields(training) if each.name not in ignored}
    return {**own, **media}
