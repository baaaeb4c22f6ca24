"""The command `pocketvlm finetune` trains an adapter or a whole checkpoint on conversations, and shows how it goes."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pocketvlm.bytesize import parse_size, readable_size
from pocketvlm.cli import options
from pocketvlm.cli.data import FormatOption, MediaDirOption, NameOption, TooLong, TurnsOption
from pocketvlm.cli.options import INPUT, OUTPUT, option
from pocketvlm.options.media import ImageOptions, VideoOptions
from pocketvlm.options.option import Definition, definition, definitions
from pocketvlm.options.training import TrainingOptions

if TYPE_CHECKING:
    from pocketvlm.api.finetuning import FinetuneResult
    from pocketvlm.cli.progress import LongWork
    from pocketvlm.train.report import StepReport

EPILOG = """
Examples:

  pocketvlm finetune nano dials.jsonl -o dials --epochs 10 --batch 16
  pocketvlm finetune openbmb/MiniCPM-V-4.6 train.json -o adapter --eval eval.json --eval-every 50
  pocketvlm finetune openbmb/MiniCPM-V-4.6 train.json -o adapter --mode 4x --slices 9 --targets all
  accelerate launch --num_processes 2 -m pocketvlm finetune openbmb/MiniCPM-V-4.6 train.json -o adapter
  pocketvlm run openbmb/MiniCPM-V-4.6 --adapter adapter -i photo.jpg "What is this?"

The folder OUT appears when training is done; until then the run is in OUT.partial. Ctrl+C saves it, and the same \
command with --resume continues with the same bits. Needs: pip install "pocketvlm[train]".
"""
# Options of media have the short names of the chat's settings here too.
_SHORT = {"downsample_mode": "mode", "max_slice_nums": "slices"}
_MEDIA = tuple(
    definition(owner, name)
    for owner, name in (
        (ImageOptions, "downsample_mode"),
        (ImageOptions, "max_slice_nums"),
        (ImageOptions, "use_image_id"),
        (ImageOptions, "scale_resolution"),
        (VideoOptions, "max_num_frames"),
        (VideoOptions, "stack_frames"),
        (VideoOptions, "fps"),
    )
)


def _shortened(each: Definition) -> Definition:
    return replace(each, option=replace(each.option, flag=_SHORT.get(each.name, each.option.flag)))


_TYPED = (*definitions(TrainingOptions), *map(_shortened, _MEDIA))


@options.takes(*_TYPED, *options.load_options("revision", "threads"))
def finetune(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_envvar=False,
            help='Model with dense weights: "nano" (built in), a directory, or a hub id such as openbmb/MiniCPM-V-4.6.',
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            show_envvar=False,
            help="Files of conversations: of LLaMA-Factory, ms-swift, TRL or OpenAI (docs/finetune.md).",
        ),
    ],
    out: Annotated[str, option("--out", "-o", "OUT", panel=OUTPUT, help="The folder to make.")],
    eval: Annotated[
        list[str] | None,
        option("--eval", "FILE", panel=INPUT, help="Data whose loss decides which step is the best. Repeatable."),
    ] = None,
    format: FormatOption = "auto",
    name: NameOption = None,
    media_dir: MediaDirOption = None,
    turns: TurnsOption = "all",
    too_long: Annotated[
        TooLong,
        option(
            *("--too-long", "refuse|skip|cut"),
            panel=INPUT,
            help="What becomes of samples over --max-length; cut ends the answer there, never the question.",
        ),
    ] = "refuse",
    skip_bad: Annotated[
        bool, option("--skip-bad", options.FLAG, panel=INPUT, help="Continue without records that cannot be used.")
    ] = False,
    device: Annotated[
        str | None,
        option("--device", "cpu|cuda", panel=options.ENGINE, help="Where to train. Default: cuda if there is one."),
    ] = None,
    resume: Annotated[
        bool, option("--resume", options.FLAG, panel=OUTPUT, help="Continue the run in OUT.partial.")
    ] = False,
    as_json: Annotated[bool, options.json_option("FINETUNE")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Train a low-rank adapter (LoRA), or all weights, on conversations with images and videos.

    The preprocessing is that of inference, to the bit, and its options are saved in the adapter.
    """
    from pocketvlm.api.finetuning import finetune as train
    from pocketvlm.cli.progress import LongWork

    given: dict[str, Any] = {}
    for each in _TYPED:
        value = values[str(each.argument)]
        if value is not None:
            given[each.name] = parse_size(value, each.flag) if each.option.size else value
    with LongWork(quiet, {"download": "downloading", "train": "training"}) as work:
        screen = _Screen(work, quiet)
        result = train(
            model,
            data,
            out,
            eval=eval or None,
            resume=resume,
            format=format,
            name=name,
            media_dir=media_dir,
            turns=turns,
            too_long=too_long,
            skip_bad=skip_bad,
            device=device,
            threads=values["threads"],
            revision=values["revision"],
            progress=screen.progress,
            report=screen.report,
            notice=screen.notice,
            **given,
        )
    if result.main:
        _say(result, as_json)


class _Screen:
    """What a run shows on stderr."""

    def __init__(self, work: LongWork, quiet: bool) -> None:
        self._work, self._quiet = work, quiet

    def progress(self, stage: str, done: int, total: int, words: str) -> None:
        """Progress of what comes before and after training."""
        self._work.step(words or stage, done, total)

    def report(self, step: StepReport) -> None:
        """Progress of training, and a line for each evaluation."""
        self._work.step("train", step.step, step.steps, step.seconds_left, _figures(step))
        if step.eval_loss is not None:
            self.notice(f"step {step.step} of {step.steps}: evaluation loss {step.eval_loss:.4f}")

    def notice(self, text: str) -> None:
        """A line."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)


def _figures(step: StepReport) -> str:
    return f"loss {step.loss:.4f}, {step.tokens_per_second:,.0f} tokens/s, {readable_size(step.memory)}"


def _say(result: FinetuneResult, as_json: bool) -> None:
    from pocketvlm.cli.progress import duration
    from pocketvlm.train.check import counted

    if as_json:
        import json

        print(json.dumps({"type": "pocketvlm.finetune", "version": 1, **result.to_dict()}))
        return
    evaluated = "" if result.eval_loss is None else f", evaluation loss {result.eval_loss:.4f}"
    trained = f"{counted(result.matrices, 'matrix', 'matrices')}, " if result.matrices else ""
    facts = {
        "written": str(result.path),
        "trained": f"{trained}{result.parameters:,} values, {counted(result.samples, 'sample')}, "
        f"{counted(result.steps, 'step')}",
        "loss": f"{result.loss:.4f} at the last step; weights of step {result.step}{evaluated}",
        "time": f"{duration(result.seconds)}, {result.tokens_per_second:,.0f} tokens/s, peak memory "
        f"{readable_size(result.peak_memory)}",
    }
    width = max(map(len, facts))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in facts.items()), flush=True)
