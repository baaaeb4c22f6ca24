"""The command `pocketvlm compare` measures how far one checkpoint is from another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pocketvlm.cli import options, reports
from pocketvlm.cli.options import ENGINE, FLAG, INPUT, OUTPUT, option

if TYPE_CHECKING:
    from pocketvlm.api.comparison import Comparison
    from pocketvlm.cli.progress import LongWork

Side = tuple[str | Path, str | None, str | Path | None]  # a model, its revision and its mmproj

STAGES = {
    "download": "downloading",
    "vision": "encoding images with both models",
    "layers": "running the layers of both models",
    "logits": "comparing logits",
}
EPILOG = """
Examples:

  pocketvlm compare nano nano-int4
  pocketvlm compare openbmb/MiniCPM-V-4.6 MiniCPM-V-4.6-Q4_K_M.gguf --report report.json
  pocketvlm compare openbmb/MiniCPM-V-4.6 ./awq --data conversations.jsonl --speed

Each model runs a part at a time, so that comparing takes the memory of one layer or one head. Differences of weights \
alone are measured: with --precision fast, the rounding of integer products comes on top.
"""


@options.takes(*options.load_options("revision", "mmproj", "threads"))
def compare(
    reference: Annotated[
        str, typer.Argument(metavar="REFERENCE", show_envvar=False, help="The model to measure against, often 16-bit.")
    ],
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="CANDIDATE",
            show_envvar=False,
            help="The model to measure. --mmproj and --revision are of this one.",
        ),
    ],
    data: Annotated[
        str,
        option(
            *("--data", "FILE|FOLDER"),
            panel=INPUT,
            help="JSONL of messages, a folder of images, or default: held-out texts, images and clips.",
        ),
    ] = "default",
    max_tokens: Annotated[
        int,
        option(
            "--max-tokens", "N", panel=INPUT, help="About how many tokens all prompts have; 0 means all. Default: 8192."
        ),
    ] = 8192,
    precision: Annotated[
        Literal["exact", "fast"],
        option("--precision", "exact|fast", panel=ENGINE, help="Arithmetic of both models."),
    ] = "exact",
    speed: Annotated[
        bool, option("--speed", FLAG, panel=INPUT, help="Measure prefill and decode of both models too.")
    ] = False,
    reference_revision: Annotated[
        str | None, option("--reference-revision", "NAME", panel=ENGINE, help="--revision of the reference.")
    ] = None,
    reference_mmproj: Annotated[
        str | None, option("--reference-mmproj", "FILE", panel=ENGINE, help="--mmproj of the reference.")
    ] = None,
    report: Annotated[str | None, option("--report", "FILE", panel=OUTPUT, help=reports.HELP)] = None,
    as_json: Annotated[bool, options.json_option("COMPARE")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Compare two checkpoints: KL divergence, top-1 agreement, error of vision features, error by layer, size, speed.

    The two may have any formats, but must have one vocabulary.
    """
    target = reports.check(report, quiet)
    from pocketvlm.api.comparing import compare_models
    from pocketvlm.cli.progress import LongWork

    mmproj, revision, threads = values["mmproj"], values["revision"], values["threads"]
    with LongWork(quiet, STAGES) as work:
        found = compare_models(
            reference,
            candidate,
            data=data,
            max_tokens=max_tokens or None,
            precision=precision,
            threads=threads,
            revision=revision,
            mmproj=mmproj,
            reference_revision=reference_revision,
            reference_mmproj=reference_mmproj,
            progress=work.step,
        )
        if speed:
            sides = (reference, reference_revision, reference_mmproj), (candidate, revision, mmproj)
            found = timed(found, work, *sides, threads)
    show(found, as_json)
    if target is not None:
        written = reports.write(target, found.to_dict(), found)
        if not quiet:
            import sys

            print(f"wrote {' and '.join(str(file) for file in written)}", file=sys.stderr)


def timed(found: Comparison, work: LongWork, reference: Side, candidate: Side, threads: int | None) -> Comparison:
    """The comparison with the speeds of both models, one loaded after the other."""
    from pocketvlm.bench.comparison.speed import measure_speed

    speeds = []
    for name, (model, revision, mmproj) in {"reference": reference, "candidate": candidate}.items():
        work.step(f"timing the {name}", 0, 0)
        speeds.append(measure_speed(model, mmproj=mmproj, revision=revision, threads=threads))
    return replace(found, reference_speed=speeds[0], candidate_speed=speeds[1])


def show(found: Any, as_json: bool) -> None:
    """Print a comparison."""
    if as_json:
        import json

        print(json.dumps(found.to_dict(), ensure_ascii=False))
    else:
        from pocketvlm.bench.comparison.page import page
        from pocketvlm.cli.terminal import printable

        print(printable(page(found)))
