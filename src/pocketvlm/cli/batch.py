"""The command `pocketvlm batch` answers the lines of a file, or one question about many images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pocketvlm.cli import options
from pocketvlm.cli.options import INPUT, OUTPUT, option
from pocketvlm.errors import InputError, OptionError
from pocketvlm.options.load import LoadOptions, named_adapters
from pocketvlm.options.media import ImageOptions, VideoOptions
from pocketvlm.options.request import TemplateOptions, TextOptions
from pocketvlm.options.sampling import SamplingParams

if TYPE_CHECKING:
    from pocketvlm.jobs.progress import Progress

EPILOG = """
Examples:

  pocketvlm batch requests.jsonl -o answers.jsonl --model openbmb/MiniCPM-V-4.6
  pocketvlm batch pictures/ -o captions.jsonl --prompt "Describe this image." --max-tokens 64
  pocketvlm batch receipts/ -o rows.jsonl -p "What was bought?" --adapter adapters/receipts
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
    *options.ADAPTER_OPTIONS,
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
        from pocketvlm.jobs.output import Output, check_path
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

    check_path(Path(out).expanduser())
    form = to or ("parquet" if out.lower().endswith(".parquet") else "jsonl")
    wanted = _read_schema(schema)
    if form == "parquet":
        parquet.check_installed()
        columns_for(wanted)
    media = {**options.given(values, ImageOptions), **options.given(values, VideoOptions)}
    media = {**options.processor_options({**values, "thinking": None}), **media}
    template = options.given(values, TemplateOptions)
    defaults = Defaults(sampling, media, template, options.given(values, TextOptions).get("normalize_newlines"), wanted)
    adapters = list(named_adapters(loading.get("adapters")))
    if prompt is not None:  # these lines are made here, and name no adapter
        options.one_adapter(loading.get("adapters"))
    if len(adapters) == 1:
        defaults = replace(defaults, adapter=adapters[0])
    source, directory = open_source(inputs, prompt, system, image_column, id_column)
    if media_dir is not None:
        directory = Path(media_dir).expanduser()
        if not directory.is_dir():
            raise OptionError(f"--media-dir={media_dir}: no such directory")
    with LongWork(quiet) as activity:
        activity.say("reading the input")
        digest, found = source.digest(), survey(source)
        if found.count == 0:
            raise InputError(f"{inputs[0]}: there is no line or row in it, so there is nothing to answer")
        work = Work(
            source,
            found,
            defaults,
            concurrency,
            workers=_workers(),
            max_retries=max_retries,
        )
        question = {"prompt": prompt, "system": system, "image_column": image_column, "id_column": id_column}
        settings = {"input": digest, **question, "media_dir": media_dir, **defaults.to_dict()}

        def journal(checkpoint: str) -> Any:
            given = {each.name: f"{each.digest[:16]} {dict(each.options)}" for each in loaded.adapters.values()}
            whole = {**settings, "checkpoint": checkpoint, "adapter": given or None}
            output = Output(Path(out).expanduser(), whole, order, form, wanted)
            outputs.append(output)
            return output.open(found.last)

        outputs: list[Output] = []
        from pocketvlm.api import load
        from pocketvlm.options.load import served_name

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
    if progress.failures:
        parts.append(f"{progress.failures} failed")
    parts += [*_rates(progress), f"{stage} {share:.0%}"]
    left = progress.seconds_left
    if left is not None and progress.finished < progress.total:
        parts.append(f"{duration(left)} left")
    activity.show("answered", progress.finished, progress.total, f" {progress.finished}{', '.join(parts)}")


def _rates(progress: Progress) -> list[str]:
    images = [f"{_figure(progress.rate(progress.images))} images/s"] if progress.images else []
    return [*images, f"{_figure(progress.rate(progress.tokens))} tokens/s"]


def _figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _lines(count: int) -> str:
    return f"{count} line{'' if count == 1 else 's'}"


def _summary(out: str, count: int, progress: Progress | None, as_json: bool, quiet: bool) -> None:
    import json

    from pocketvlm.cli.progress import duration
    from pocketvlm.cli.terminal import printable

    if progress is None:
        figures: dict[str, Any] = {"lines": count, "answered": 0, "before": count}
        line = f"{out} is complete: {_lines(count)} of an earlier run; nothing to do"
    else:
        stages = {name: round(seconds, 6) for name, seconds in progress.stages.items()}
        figures = {
            "lines": count,
            "before": progress.before,
            "answered": progress.done - progress.failures,
            "failed": progress.failures,
            "unfit": progress.unfit,
            "images": progress.images,
            "prompt_tokens": progress.prompt_tokens,
            "completion_tokens": progress.tokens,
            "seconds": round(progress.seconds, 3),
            "stages": stages,
        }
        before = f" ({progress.before} before)" if progress.before else ""
        unfit = f" ({progress.unfit} without the JSON of --schema: raise --max-tokens)" if progress.unfit else ""
        failed = f", {progress.failures} failed{unfit}" if progress.failures else ""
        whole = sum(stages.values()) or 1.0
        shares = ", ".join(
            f"{name} {seconds / whole:.0%}" for name, seconds in stages.items() if seconds / whole >= 0.005
        )
        rates = ", ".join(_rates(progress))
        line = f"{out}: {_lines(count)}{before}{failed} in {duration(progress.seconds)}: {rates}; {shares}"
    if as_json:
        print(json.dumps({"out": out, **figures}, ensure_ascii=False))
    if not quiet:
        print(printable(line), file=sys.stderr, flush=True)
