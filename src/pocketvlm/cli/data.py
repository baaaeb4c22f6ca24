"""The command `pocketvlm data check` reads training data as a fine-tune would, and says what is in it and wrong."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pocketvlm.cli import options
from pocketvlm.cli.options import INPUT, OUTPUT, option
from pocketvlm.cli.plain import PlainCommand

if TYPE_CHECKING:
    from pocketvlm.train.check import Report
    from pocketvlm.train.examples import ExampleMaker
    from pocketvlm.train.sample import Sample

EPILOG = """
Examples:

  pocketvlm data check train.jsonl
  pocketvlm data check train.jsonl --show 2
  pocketvlm data check train.json --model openbmb/MiniCPM-V-4.6 --max-length 2048 --max-slice-nums 4
  pocketvlm data check LLaMA-Factory/data --name mllm_demo --json

DATA is a JSON array, JSON lines (also as .gz) or Parquet of LLaMA-Factory, ms-swift, TRL or OpenAI, or a folder with \
a dataset_info.json; docs/data.md shows each. The exit code is 1 if anything cannot be trained on. Images are read for \
their sizes alone.
"""

TooLong = Literal["refuse", "skip", "cut"]
Turns = Literal["all", "last"]
DataFormat = Literal["auto", "messages", "sharegpt", "alpaca", "query-response", "prompt-completion"]

# How a data set is read, for each command that reads one.
FormatOption = Annotated[
    DataFormat, option("--format", "NAME", panel=INPUT, help="Format of the records; auto: by their keys.")
]
NameOption = Annotated[str | None, option("--name", "NAME", panel=INPUT, help="Dataset in dataset_info.json.")]
MediaDirOption = Annotated[
    str | None,
    option("--media-dir", "DIR", panel=INPUT, help="Where paths of media begin. Default: the data file's folder."),
]
TurnsOption = Annotated[
    Turns, option("--turns", "all|last", panel=INPUT, help="Which answers of a conversation have loss.")
]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def _root(ctx: typer.Context) -> None:
    """Look at training data before it is trained on."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


@app.command(cls=PlainCommand, epilog=EPILOG, context_settings={"auto_envvar_prefix": "POCKETVLM_DATA_CHECK"})
@options.takes(*options.PROMPT_OPTIONS, *options.MEDIA_OPTIONS, *options.load_options("revision", "mmproj"))
def check(
    data: Annotated[list[str], typer.Argument(metavar="DATA", help="Data files, or folders with dataset_info.json.")],
    model: Annotated[
        str, option("--model", "MODEL", panel=INPUT, help=f"Whose processor counts the tokens. {options.MODEL_HELP}")
    ] = options.DEFAULT_MODEL,
    format: FormatOption = "auto",
    name: NameOption = None,
    media_dir: MediaDirOption = None,
    turns: TurnsOption = "all",
    max_length: Annotated[
        int | None,
        option("--max-length", "N", panel=INPUT, help="Maximum number of tokens of a sample. Default: none."),
    ] = None,
    too_long: Annotated[
        TooLong,
        option(
            "--too-long",
            "refuse|skip|cut",
            panel=INPUT,
            help="What becomes of longer samples; cut ends the answer there, never the question.",
        ),
    ] = "refuse",
    skip_bad: Annotated[
        bool, option("--skip-bad", options.FLAG, panel=INPUT, help="Continue without records that cannot be used.")
    ] = False,
    threads: Annotated[
        int | None, option("--threads", "N", panel=INPUT, help="CPU threads. Default: all processors.")
    ] = None,
    show: Annotated[
        int, option("--show", "N", panel=OUTPUT, help="Print the first N samples as the model sees them.")
    ] = 0,
    as_json: Annotated[bool, options.json_option("DATA_CHECK")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Read training data, count its tokens, and list what cannot be trained on, each with file and line."""
    from pocketvlm.api import processor_for
    from pocketvlm.checkpoint.hub import resolve
    from pocketvlm.checkpoint.reader import open_checkpoint
    from pocketvlm.cli.terminal import Activity
    from pocketvlm.train import check as checks
    from pocketvlm.train.data import read_dataset
    from pocketvlm.train.examples import ExampleMaker

    chosen = options.processor_options(values)
    with Activity(quiet) as activity:
        activity.say(f"reading {', '.join(data)}")
        dataset = read_dataset(data, format=format, name=name, media_dir=media_dir, turns=turns)
        activity.say(f"reading {model}")
        mmproj = values["mmproj"]
        path = resolve(model, values["revision"], activity.downloading(model), weights=False, mmproj=mmproj)
        processor = processor_for(open_checkpoint(path, weights=False, mmproj=mmproj))
        maker = ExampleMaker(processor, max_length=max_length, options=chosen, cut_answers=too_long == "cut")
        report = checks.check(
            dataset,
            maker,
            threads=threads,
            progress=lambda done, total: activity.say("counting tokens", done, total),
        )
    if as_json:
        import json

        print(json.dumps({"model": model, **report.to_dict()}, ensure_ascii=False))
    else:
        print(_table(report, model))
        for sample in report.samples[: max(show, 0)]:
            print(_shown(sample, maker))
    failed = _complain(report, skip_bad, too_long != "refuse", quiet)
    if failed or not report.samples:
        raise typer.Exit(1)


def _complain(report: Report, skip_bad: bool, skip_long: bool, quiet: bool) -> bool:
    """Print what is wrong on stderr; whether any of it stops a fine-tune."""
    from pocketvlm.cli.terminal import printable
    from pocketvlm.cli.typed import as_typed
    from pocketvlm.train.check import NOTHING_LEFT, counted
    from pocketvlm.train.data.dataset import listing

    failed = False
    for problems, noun, skipped in (
        (report.problems, "unusable record", skip_bad),
        (report.too_long, "overlong sample", skip_long),
        (report.warnings, "suspicious record", True),
    ):
        if not problems or (skipped and quiet):
            continue
        left_out = ", left out" if skipped and problems is not report.warnings else ""
        title = f"{counted(len(problems), noun)}{left_out}"
        print(f"{'warning' if skipped else 'error'}: {title}:", file=sys.stderr)
        print(printable(as_typed(listing(problems))), file=sys.stderr)
        failed = failed or not skipped
    if not report.samples:
        print(as_typed(f"error: {NOTHING_LEFT}"), file=sys.stderr)
    return failed


def _table(report: Report, model: str) -> str:
    """The summary, and a table of tokens: question, answer and both."""
    from pocketvlm.cli.terminal import printable
    from pocketvlm.train.check import counted, number

    lines = [report.summary(), f"of {counted(report.records, 'record')}, tokens of {model}"]
    if report.lengths:
        counts = report.counts()
        heads = [f"{name[1:]} %" if name[1:].isdigit() else name for name in counts["sample"]]
        rows = [["tokens", *heads], *([name, *map(number, found.values())] for name, found in counts.items())]
        rows[2][0] = "of it media"
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines.append("")
        for first, *others in rows:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join([first.ljust(widths[0]), *cells]))
        longest = report.samples[int(report.tokens.argmax())]
        lines += ["", f"the longest is answer {longest.turn + 1} of {longest.place}"]
    return printable("\n".join(lines))


def _shown(sample: Sample, maker: ExampleMaker) -> str:
    """A sample as the model sees it: what is learnt is green, or between [[ and ]] where there are no colours."""
    from pocketvlm.cli.terminal import is_terminal, printable
    from pocketvlm.train.rendering import spans

    colours = is_terminal(sys.stdout) and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    before, after = ("\x1b[32m", "\x1b[0m") if colours else ("[[", "]]")
    example = maker(sample, pending=True)
    found = spans(example, maker.processor.tokenizer)
    learnt = sum(span.tokens for span in found if span.learnt)
    head = f"\n--- {sample.place}, answer {sample.turn + 1}: {len(example.ids)} tokens, {learnt} of them learnt"
    texts = [f"{before}{printable(span.text)}{after}" if span.learnt else printable(span.text) for span in found]
    return f"{printable(head)}\n{''.join(texts)}"
