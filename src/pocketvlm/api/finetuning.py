"""`finetune` trains an adapter or all weights of a checkpoint on conversations, with the preprocessing of inference."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pocketvlm.api import processor_for
from pocketvlm.api.stopping import Stop, stopping
from pocketvlm.api.training_run import LATER, FinetuneResult, Progress, Run, option_settings
from pocketvlm.checkpoint.checkpoint import Checkpoint
from pocketvlm.checkpoint.hub import resolve
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.checkpoint.writers.output import check_free
from pocketvlm.errors import BackendError, CheckpointError, OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.media import MEDIA_OPTIONS
from pocketvlm.options.option import definition, names, refuse_unknown
from pocketvlm.options.training import TrainingOptions
from pocketvlm.train.check import check
from pocketvlm.train.data import check_sources, read_dataset
from pocketvlm.train.examples import ExampleMaker
from pocketvlm.train.source import Source
from pocketvlm.train.state import SUFFIX, RunFolder
from pocketvlm.train.targets import choose_targets, trains_vision

if TYPE_CHECKING:
    from pocketvlm.train.report import StepReport

__all__ = ["FinetuneResult", "finetune", "missing_libraries"]

Data = str | Path | Sequence[str | Path]
_NEEDED = ("torch", "transformers", "peft", "accelerate")
DEVICES = ("cpu", "cuda")
# Those of images and videos; `alpha` is that of LoRA here, and transparent images are put on white.
_MEDIA = tuple(name for name in MEDIA_OPTIONS if name not in names(TrainingOptions))


def missing_libraries() -> str | None:
    """Why training cannot run in this installation, and the way out; None if it can."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if not missing:
        return None
    return f'training needs {" and ".join(missing)}: pip install "pocketvlm[train]"'


def finetune(
    model: str | Path,
    data: Data,
    out: str | Path,
    *,
    eval: Data | None = None,
    resume: bool = False,
    format: str = "auto",
    name: str | None = None,
    media_dir: str | Path | None = None,
    turns: Literal["all", "last"] = "all",
    too_long: Literal["refuse", "skip", "cut"] = "refuse",
    skip_bad: bool = False,
    device: str | None = None,
    threads: int | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
    report: Callable[[StepReport], None] | None = None,
    notice: Callable[[str], None] | None = None,
    **options: Any,
) -> FinetuneResult:
    """Train a checkpoint on conversations and write an adapter, or with method "full" a checkpoint, to `out`.

    model: "nano", a directory or a hub id, with dense weights. data: files of conversations (docs/finetune.md). out:
    the folder to make; until it is made, the run is in `out`.partial. eval: data whose loss decides which checkpoint is
    the best. resume: continue the run in `out`.partial, with the same bits as if it had not stopped. format, name,
    media_dir, turns: as `read_dataset` takes them. too_long: what becomes of samples over max_length; "cut" ends their
    answers there. skip_bad: continue without records that cannot be used. device: "cpu" or "cuda" (None: cuda if there
    is one). threads: CPU threads (None: physical cores). revision: as `load` takes it. cache_dir: for image features
    (None: the cache of this package). options: fields of `TrainingOptions`, and options of images and videos, which are
    saved in the adapter.

    progress(stage, done, total, words) is called often, report(StepReport) after each step, notice(text) for what is
    worth knowing once. Ctrl+C and SIGTERM raise KeyboardInterrupt; in a step or an evaluation they save a checkpoint
    first. Raises OptionError, InputError, CheckpointError and BackendError before the work starts.
    """
    began = time.perf_counter()
    refuse_unknown(options, (*names(TrainingOptions), *_MEDIA))
    training = TrainingOptions(**{name: options[name] for name in names(TrainingOptions) if name in options})
    media = {name: options[name] for name in _MEDIA if options.get(name) is not None}
    if too_long not in ("refuse", "skip", "cut"):
        raise OptionError(f"too_long={too_long!r} is not supported: give 'refuse', 'skip' or 'cut'")
    if device is not None and device not in DEVICES:
        raise OptionError(f"device={device!r} is not supported: give 'cpu' or 'cuda'")
    if training.eval_every is not None and eval is None:
        raise OptionError(f"eval_every={training.eval_every} evaluates nothing: give evaluation data too, eval=FILE")
    definition(LoadOptions, "threads").check(threads)
    target = Path(out).expanduser()
    target = target.parent / target.name
    folder = RunFolder(target.with_name(target.name + SUFFIX))
    check_free(target)
    main = os.environ.get("RANK", "0") == "0"  # of several processes only the first one writes and reports
    if main:
        _check_run(folder, resume)
        if resume:
            folder.check(option_settings(training, media), LATER)
    if (reason := missing_libraries()) is not None:
        raise BackendError(reason)
    reading: Any = {"format": format, "name": name, "media_dir": media_dir, "turns": turns}
    for files in (data, eval):
        if files is not None:
            check_sources(files, **reading)
    if device == "cuda":
        from pocketvlm.train.processes import check_cuda

        check_cuda()
    say: Callable[[str], None] = notice if notice and main else lambda text: None
    tell: Progress = progress if progress and main else lambda stage, done, total, words: None

    def work(stop: Stop) -> FinetuneResult:
        checkpoint = open_checkpoint(resolve(model, revision, lambda done, total: tell("download", done, total, "")))
        _check_base(str(model), checkpoint)
        targets = choose_targets(checkpoint.model, training.targets)
        processor = processor_for(checkpoint)
        maker = ExampleMaker(processor, max_length=training.max_length, options=media, cut_answers=too_long == "cut")

        def read(words: str, done: int, total: int) -> None:
            tell("read", done, total, words)

        def prepared(files: Data, words: str) -> Source:
            dataset = read_dataset(files, **reading)
            found = check(dataset, maker, threads=threads, progress=partial(read, f"checking {words}"))
            found.require_sound(skip_bad, too_long != "refuse")
            say(found.summary())
            if found.left_out():
                say(f"left out: {found.left_out()} (`pocketvlm data check` lists them)")
            return Source(found.samples, maker, partial(read, f"reading {words}"))

        run = Run(
            str(model),
            revision,
            checkpoint,
            processor,
            training,
            media,
            targets,
            trains_vision(targets),
            prepared(data, "the data"),
            None if eval is None else prepared(eval, "the evaluation data"),
            target,
            folder,
        )
        return run.train(resume, device, threads, cache_dir, tell, report, say, stop, began)

    with stopping() as stop:
        try:
            return work(stop)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_way_on(folder)) from None


def _check_run(run: RunFolder, resume: bool) -> None:
    steps = run.steps()
    if resume and not steps:
        raise OptionError(f"resume=True: {run.path} has no checkpoint to resume from: leave the option out")
    if not resume and steps:
        raise OptionError(
            f"{run.path}: holds an unfinished run of {steps[-1]} steps: continue it with resume=True, or remove the "
            "folder"
        )
    if not run.removable:
        raise OptionError(f"{run.path}: exists and is no run: choose another OUT, or remove it")


def _way_on(run: RunFolder) -> str:
    """What an interrupted run has saved, and how to go on."""
    steps = run.steps()
    if not steps:
        return "no step is saved yet: begin again; image features that were computed are cached"
    return f"step {steps[-1]} is saved in {run.path}: continue with resume=True"


def _check_base(model: str, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a base that cannot be trained."""
    if checkpoint.quantization is not None:
        raise CheckpointError(
            f"{model}: is quantized ({checkpoint.quantization}), and training needs dense weights: give the 16-bit "
            f"checkpoint, or `pocketvlm convert {model} OUT --format bf16` and train that"
        )
    if checkpoint.path.is_file():
        raise CheckpointError(
            f"{model}: training reads checkpoints in the hub's layout: `pocketvlm convert {model} OUT --format bf16` "
            f"makes one"
        )
