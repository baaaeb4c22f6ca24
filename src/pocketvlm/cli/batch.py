"""The command `pocketvlm batch` answers the lines of a file, or one question about many images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pocketvlm.cli import options
from pocketvlm.cli.options import INPUT, OUTPUT, option
from pocketvlm.errors import OptionError
from pocketvlm.options.load import LoadOptions
from pocketvlm.options.media import ImageOptions, VideoOptions
from pocketvlm.options.request import TemplateOptions, TextOptions
from pocketvlm.options.sampling import SamplingParams

if TYPE_CHECKING:
    from pocketvlm.jobs.progress import Progress

EPILOG = """
Examples:

  pocketvlm batch requests.jsonl -o answers.jsonl --model openbmb/MiniCPM-V-4.6
  pocketvlm batch pictures/ -o captions.jsonl --prompt "Describe this image." --max-tokens 64
  pocketvlm batch rows.csv -o rows.parquet --image-column path -p "Is this a {kind}?" --schema answer.json

IN is a JSONL file of OpenAI's batch lines, a CSV or Parquet file, or images: folders, files, or patterns in quotes. \
Killed or interrupted, the same command goes on where it stopped. OUT appears when each line has its answer or its \
error; until then finished lines are in OUT.partial. OUT.job says which job they belong to.

Each option can be set as POCKETVLM_BATCH_<OPTION>, e.g. POCKETVLM_BATCH_CONCURRENCY=32.
"""
HOW = "Job"
_LOADING = (
    *("revision", "mmproj", "backend", "weights", "precision", "kv_cache_dtype", "threads", "device", "cache"),
    *("memory_limit", "prefill_chunk", "max_model_len", "prefix_cache"),
    *("vision_cache", "vision_cache_dir", "vision_cache_disk"),
)


@options.takes(
    *options.PROMPT_OPTIONS,
    *options.SAMPLING_OPTIONS,
    *options.MEDIA_OPTIONS,
    *options.load_options(*_LOADING),
    *options.TEXT_OPTIONS,
)
def batch(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="IN", show_envvar=False, help="A .jsonl, .csv or .parquet file, or images."),
    ],
    out: Annotated[str, option("--out", "-o", "FILE", panel=OUTPUT, help="The file to write.")],
    model: Annotated[str, option("--model", "-m", "MODEL", panel=HOW, help=options.MODEL_HELP)] = options.DEFAULT_MODEL,
    served_model_name: Annotated[
        list[str] | None,
        option("--served-model-name", "NAME", panel=HOW, help="What lines call the model, besides MODEL. Repeatable."),
    ] = None,
    prompt: Annotated[
        str | None,
        option("--prompt", "-p", "TEXT", panel=INPUT, help="The question; {column} is a value of the row."),
    ] = None,
    system: Annotated[
        str | None, option("--system", "TEXT", panel=INPUT, help="System prompt, with columns too.")
    ] = None,
    image_column: Annotated[
        str | None,
        option("--image-column", "NAME", panel=INPUT, help="Column with paths, URLs or bytes of images."),
    ] = None,
    id_column: Annotated[
        str | None, option("--id-column", "NAME", panel=INPUT, help="Column of custom_ids. Default: row-1, row-2, ...")
    ] = None,
    media_dir: Annotated[
        str | None,
        option("--media-dir", "DIR", panel=INPUT, help="Where relative paths begin. Default: the folder of IN."),
    ] = None,
    concurrency: Annotated[
        int, option("--concurrency", "N", panel=HOW, help="Lines that are answered at the same time.", min=1, max=4096)
    ] = 16,
    max_retries: Annotated[
        int,
        option(
            *("--max-retries", "N"), panel=HOW, help="Further attempts after failures that may pass.", min=0, max=100
        ),
    ] = 3,
    schema: Annotated[
        str | None,
        option("--schema", "FILE", panel=OUTPUT, help="JSON schema: every answer is JSON of this form."),
    ] = None,
    to: Annotated[
        Literal["jsonl", "parquet"] | None,
        option(
            *("--to", "jsonl|parquet"),
            panel=OUTPUT,
            help="parquet: a row for each line, with the schema's columns. Default: by OUT's name, else jsonl.",
        ),
    ] = None,
    order: Annotated[
        Literal["input", "finished"],
        option("--order", "input|finished", panel=OUTPUT, help="Order of the output's lines. Default: input."),
    ] = "input",
    as_json: Annotated[bool, options.json_option("BATCH")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Answer the lines of a file, or one question about each of many images.

    Each line gets its answer or its error in OUT, as OpenAI's batch API writes them.
    """
    sampling, loading = options.given(values, SamplingParams), options.given(values, LoadOptions)
    options.check(sampling, loading)
    try:
        from pocketvlm.jobs import parquet
        from pocketvlm.jobs.output import Output
        from pocketvlm.jobs.rows import columns_for
        from pocketvlm.jobs.run import Work, run
        from pocketvlm.jobs.sources.bodies import Defaults
        from pocketvlm.jobs.sources.choose import open_source
        from pocketvlm.jobs.sources.source import survey
    except ImportError as error:
        raise OptionError(
            f'a batch job needs {error.name}, which is not installed: pip install "pocketvlm[jobs]"'
        ) from None
    from pocketvlm.cli.progress import LongWork

    form = to or ("parquet" if out.lower().endswith(".parquet") else "jsonl")
    wanted = _read_schema(schema)
    if form == "parquet":
        parquet.check_installed()
        columns_for(wanted)
    media = {**options.given(values, ImageOptions), **options.given(values, VideoOptions)}
    media = {**options.processor_options({**values, "thinking": None}), **media}
    template = options.given(values, TemplateOptions)
    defaults = Defaults(sampling, media, template, options.given(values, TextOptions).get("normalize_newlines"), wanted)
    source, directory = open_source(inputs, prompt, system, image_column, id_column)
    if media_dir is not None:
        directory = Path(media_dir).expanduser()
        if not directory.is_dir():
            raise OptionError(f"--media-dir={media_dir}: no such directory")
    with LongWork(quiet) as activity:
        activity.say("reading the input")
        digest, found = source.digest(), survey(source)
        work = Work(
            source,
            found,
            defaults,
            concurrency,
            workers=_workers(),
            max_retries=max_retries,
        )
        settings = {"input": digest, "media_dir": media_dir, **defaults.to_dict()}

        def journal(checkpoint: str) -> Any:
            output = Output(Path(out), {**settings, "checkpoint": checkpoint}, order, form, wanted)
            outputs.append(output)
            return output.open(found.last)

        outputs: list[Output] = []
        from pocketvlm.api import load
        from pocketvlm.interfaces.preparation import served_name

        activity.say(f"loading {model}")
        loaded = load(model, progress=activity.loading(model), max_seqs=concurrency, **loading)
        names = (served_name(loaded.name), *(served_model_name or ()))
        try:
            ended = run(loaded, work, directory, journal, lambda progress: _report(activity, progress), names=names)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where this one stopped") from None
        progress = None
        if ended is not None:
            activity.say(f"writing {out}")
            outputs[0].finish(ended[0])
            progress = ended[1]
    _summary(out, found.count, progress, as_json, quiet)


def _workers() -> int:
    from pocketvlm.jobs.run import default_workers

    return default_workers()


def _read_schema(name: str | None) -> Any:
    if name is None:
        return None
    import json

    try:
        value = json.loads(Path(name).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OptionError(f"--schema={name}: cannot be read: {reason}") from None
    except ValueError as error:
        raise OptionError(f"--schema={name}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise OptionError(f"--schema={name}: a JSON schema is an object, not {type(value).__name__}")
    return value


def _report(activity: Any, progress: Progress) -> None:
    """One status line: lines, failures, rates, time left, and the slowest stage."""
    from pocketvlm.cli.progress import duration

    stage, share = progress.slowest
    parts = [f" of {progress.total}"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    parts += [*_rates(progress), f"{stage} {share:.0%}"]
    left = progress.seconds_left
    if left is not None and progress.finished < progress.total:
        parts.append(f"{duration(left)} left")
    activity.show("answered", progress.finished, progress.total, f" {progress.finished}{', '.join(parts)}")


def _rates(progress: Progress) -> list[str]:
    images = [f"{progress.rate(progress.images):.3g} images/s"] if progress.images else []
    return [*images, f"{progress.rate(progress.tokens):.3g} tokens/s"]


def _summary(out: str, count: int, progress: Progress | None, as_json: bool, quiet: bool) -> None:
    import json

    from pocketvlm.cli.progress import duration
    from pocketvlm.cli.terminal import printable

    if progress is None:
        figures: dict[str, Any] = {"lines": count, "answered": 0, "before": count}
        line = f"{out} is complete: all {count} lines were answered before"
    else:
        stages = {name: round(seconds, 6) for name, seconds in progress.stages.items()}
        figures = {
            "lines": count,
            "before": progress.before,
            "answered": progress.done - progress.failed,
            "failed": progress.failed,
            "images": progress.images,
            "prompt_tokens": progress.prompt_tokens,
            "completion_tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "stages": stages,
        }
        before = f" ({progress.before} before)" if progress.before else ""
        failed = f", {progress.failed} failed" if progress.failed else ""
        whole = sum(stages.values()) or 1.0
        shares = ", ".join(
            f"{name} {seconds / whole:.0%}" for name, seconds in stages.items() if seconds / whole >= 0.005
        )
        rates = ", ".join(_rates(progress))
        line = f"{out}: {count} lines{before}{failed} in {duration(progress.seconds)}: {rates}; {shares}"
    if as_json:
        print(json.dumps({"out": out, **figures}, ensure_ascii=False))
    if not quiet:
        print(printable(line), file=sys.stderr, flush=True)
