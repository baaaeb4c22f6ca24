"""The command `pocketvlm eval` answers the questions of a data set and scores the answers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pocketvlm.cli import options, outputs
from pocketvlm.cli.data import FormatOption, MediaDirOption, NameOption
from pocketvlm.cli.failure import FAILED
from pocketvlm.cli.options import ENGINE, FLAG, INPUT, OUTPUT, option
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.request import TextOptions
from pocketvlm.options.sampling import SamplingParams

if TYPE_CHECKING:
    from pocketvlm.api.evaluation import Evaluation

METRICS = "Metric"
STAGES = {"download": "downloading", "load": "loading", "answers": "answering"}
EPILOG = """
Examples:

  pocketvlm eval openbmb/MiniCPM-V-4.6 test.jsonl --metric anls --max-tokens 64
  pocketvlm eval openbmb/MiniCPM-V-4.6 test.jsonl --adapter adapter --baseline -o report.html --failures failures.jsonl
  pocketvlm eval nano test.jsonl --answers answers.jsonl --limit 100
  pocketvlm eval ./MiniCPM-V-4.6-int4 test.jsonl --against openbmb/MiniCPM-V-4.6 -o report.json
  pocketvlm eval test.jsonl --predictions answers-of-another-program.jsonl --min-score 0.9

Exit code 1 also means that the score is below --min-score, or that no question was answered.
"""


@options.takes(
    *options.PROMPT_OPTIONS,
    *options.SAMPLING_OPTIONS,
    *options.MEDIA_OPTIONS,
    *options.load_options(),
    *options.TEXT_OPTIONS,
)
def eval_(
    model: Annotated[str, typer.Argument(metavar="MODEL", show_envvar=False, help=options.MODEL_HELP)],
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            show_envvar=False,
            help="Data files, as for training: questions with the answer of the assistant as reference, or with "
            '"answers", of which any is right. With --predictions the only arguments.',
        ),
    ] = None,
    metric: Annotated[
        Literal["exact", "contains", "anls", "iou"],
        option(
            "--metric",
            "exact|contains|anls|iou",
            panel=METRICS,
            help="exact: the same text but for case, blanks and a final full stop. contains: the reference is in the "
            'answer. anls: edits, as for DocVQA. iou: overlap of boxes. A record\'s own "metric" wins.',
        ),
    ] = "exact",
    min_score: Annotated[
        float | None,
        option("--min-score", "X", panel=METRICS, help="Exit with code 1 if the score is lower, from 0 to 1."),
    ] = None,
    format: FormatOption = "auto",
    name: NameOption = None,
    media_dir: MediaDirOption = None,
    turns: Annotated[
        Literal["all", "last"],
        option("--turns", "all|last", panel=INPUT, help="Which answers of a conversation are questions to answer."),
    ] = "all",
    limit: Annotated[int | None, option("--limit", "N", panel=INPUT, help="Only the first N samples.")] = None,
    predictions: Annotated[
        str | None,
        option("--predictions", "FILE", panel=INPUT, help='Score these answers: JSONL with "id" and "answer".'),
    ] = None,
    adapter: Annotated[
        list[str] | None, option("--adapter", "[NAME=]DIR", panel=ENGINE, help="Evaluate the model with this adapter.")
    ] = None,
    baseline: Annotated[
        bool, option("--baseline", FLAG, panel=ENGINE, help="Compare with the model without the adapter.")
    ] = False,
    against: Annotated[
        str | None,
        option("--against", "MODEL|FILE", panel=ENGINE, help="Compare with another model, or with answers in a JSONL."),
    ] = None,
    output: Annotated[
        list[str] | None,
        option(
            *("--output", "-o", "FILE"),
            panel=OUTPUT,
            help="Write a report: a page with images to a .html file, or all figures to a .json file. Repeatable.",
        ),
    ] = None,
    failures: Annotated[
        str | None,
        option("--failures", "FILE", panel=OUTPUT, help="Write the samples that failed as JSONL, which is data again."),
    ] = None,
    answers: Annotated[
        str | None,
        option("--answers", "FILE", panel=OUTPUT, help="Save answers as they come; the same command continues."),
    ] = None,
    as_json: Annotated[bool, options.json_option("EVAL")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Score a model on questions with known answers: 95 % interval, failures, comparison with a baseline.

    Greedy unless --temperature says otherwise.
    """
    if predictions is None and not data:
        raise OptionError(f"there is no data after the model {model!r}: write pocketvlm eval MODEL DATA.jsonl")
    if predictions is not None and data and not _is_data(model):
        raise OptionError(f"--predictions={predictions}: no model answers here: leave out {model!r}")
    if min_score is not None and not 0 <= min_score <= 1:
        raise OptionError(f"--min-score={min_score:g} is out of range: give 0 to 1, 0.9 for 90 %")
    options.one_adapter(adapter)
    if baseline and not adapter:
        raise OptionError("--baseline compares an adapter with its base: give --adapter, or --against MODEL")
    paths = [*([model] if predictions is not None else []), *(data or [])]
    sampling, engine = options.given(values, SamplingParams), options.given(values, LoadOptions)
    options.check(sampling, engine)
    params = {**sampling, **options.given(values, TextOptions), **options.processor_options(values)}
    written = outputs.Outputs(output or [], failures, [*paths, predictions, against, answers])
    written.check()

    from pocketvlm.api.evaluation import evaluate
    from pocketvlm.api.stopping import stopping
    from pocketvlm.cli.progress import LongWork

    try:
        with LongWork(quiet, STAGES) as work, stopping():
            found = evaluate(
                model if predictions is None else None,
                paths,
                metric=metric,
                adapter=adapter[0] if adapter else None,
                compare_base=baseline,
                against=against,
                predictions=predictions,
                answers=answers,
                limit=limit,
                format=format,
                name=name,
                media_dir=media_dir,
                turns=turns,
                load_options=engine,
                progress=work.step,
                **params,
            )
    except KeyboardInterrupt:
        saved = f"the answers up to here are in {answers}, the same command continues"
        raise KeyboardInterrupt(
            saved if answers is not None else "with --answers FILE such work can continue"
        ) from None
    show(found, as_json)
    files = written.write(found)
    if files and not quiet:
        print(f"wrote {' and '.join(map(str, files))}", file=sys.stderr)
    _judge(found, min_score)


def show(found: Evaluation, as_json: bool) -> None:
    """Print an evaluation."""
    if as_json:
        import json

        outputs.write_line(json.dumps(found.to_dict(), ensure_ascii=False, default=str))
        return
    from pocketvlm.bench.evaluation import table
    from pocketvlm.cli.tables import show_table
    from pocketvlm.cli.terminal import printable

    show_table(table.score_rows(found), 2)
    lines = [table.difference_line(found), table.method_line(found), *(f"note: {note}" for note in found.notes)]
    print(printable("\n".join(line for line in lines if line)))
    rows = table.change_rows(found)
    if len(rows) > 1:
        print()
        show_table(rows[: table.SHOWN_CHANGES + 1], len(rows[0]))
        if (more := len(rows) - 1 - table.SHOWN_CHANGES) > 0:
            print(f"and {more} more: -o report.html shows all")


def _judge(found: Evaluation, min_score: float | None) -> None:
    """Exit with code 1 where nothing was answered, or the score is too low."""
    side = found.candidate
    if side.errors == side.samples:
        raise _failure(f"no question was answered: {found.samples[0].place}: {found.samples[0].answer.error}")
    if min_score is not None and found.score < min_score:
        raise _failure(f"the score {found.score:.4g} is below --min-score {min_score:g}")


def _failure(text: str) -> typer.Exit:
    from pocketvlm.cli.terminal import printable

    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return typer.Exit(FAILED)


def _is_data(path: str) -> bool:
    return path.lower().endswith((".json", ".jsonl", ".gz", ".parquet"))
