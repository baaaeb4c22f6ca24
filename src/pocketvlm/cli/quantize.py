"""The command `pocketvlm quantize` makes a quantized checkpoint for an engine, and says what it costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pocketvlm.bytesize import readable_size
from pocketvlm.cli import options, reports
from pocketvlm.cli.merge import OTHER_BASE_HELP, adapter_lines
from pocketvlm.cli.options import FLAG, INPUT, OUTPUT, option
from pocketvlm.errors import OptionError

EPILOG = """
Examples:

  pocketvlm quantize nano nano-int4
  pocketvlm quantize openbmb/MiniCPM-V-4.6 gguf --format gguf --scheme Q4_K_M --report report.json
  pocketvlm quantize openbmb/MiniCPM-V-4.6 awq --format awq --method awq --calibration conversations.jsonl
  pocketvlm quantize openbmb/MiniCPM-V-4.6 invoices.gguf --format gguf --merge-adapter ./adapter
  pocketvlm quantize openbmb/MiniCPM-V-4.6 native --bits-per-weight 4.5 --keep "*.out_proj.weight"

The directory OUT appears when all is written. Until then the finished tensors are in OUT.partial: the same command \
goes on from there after an interruption. The same seed gives the same bits.
"""
HOW = "Quantization"
STAGES = {
    "download": "downloading",
    "vision": "quantizing the vision tower",
    "pictures": "encoding images",
    "measure": "measuring inputs of layers",
    "probe": "trying schemes",
    "head": "quantizing the head",
    "layers": "quantizing layers",
    "write": "writing",
}
Format = Literal["gguf", "awq", "gptq", "mlx", "compressed-tensors", "native"]


@options.takes(*options.load_options("revision", "mmproj", "threads"))
def quantize(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", show_envvar=False, help=f"{options.MODEL_HELP} Its tensors are dense.")
    ],
    out: Annotated[
        str, typer.Argument(metavar="OUT", show_envvar=False, help="The directory to make, or a file FILE.gguf.")
    ],
    format: Annotated[
        Format,
        option("--format", "gguf|awq|gptq|mlx|compressed-tensors|native", panel=HOW, help="Format of the files."),
    ] = "native",
    scheme: Annotated[
        str | None,
        option(
            *("--scheme", "NAME"),
            panel=HOW,
            help="int4-g32, int4-g64, int4-g128, int8, Q4_K_M, Q5_K_M, Q6_K, Q8_0, IQ4_NL, mxfp4, nvfp4, mxfp8 or "
            "another one of docs/quantize.md. Default: Q4_K_M for gguf, int4-g64 for mlx and native, else int4-g128.",
        ),
    ] = None,
    method: Annotated[
        Literal["rtn", "gptq", "awq", "auto"],
        option(
            *("--method", "rtn|gptq|awq|auto"),
            panel=HOW,
            help="rtn: round to nearest. auto: the best for each matrix, by measured error.",
        ),
    ] = "auto",
    bits_per_weight: Annotated[
        float | None,
        option(
            *("--bits-per-weight", "X"),
            panel=HOW,
            help="Budget of auto over the language model's matrices and head, scales included. Default: the scheme's.",
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        option("--keep", "PATTERN", panel=HOW, help="Tensors that stay as they are, as *.o_proj.weight. Repeatable."),
    ] = None,
    vision: Annotated[
        str,
        option(
            *("--vision", "NAME"),
            panel=HOW,
            help="Scheme of the vision tower: stored (as it is), Q8_0 (gguf, native), int8 (native) or default: int8 "
            "for native, else stored.",
        ),
    ] = "default",
    calibration: Annotated[
        str,
        option(
            *("--calibration", "FILE|FOLDER"),
            panel=INPUT,
            help="JSONL of messages, a folder of images, or default: a set of texts, images and clips.",
        ),
    ] = "default",
    merge_adapter: Annotated[
        list[str] | None,
        option(
            *("--merge-adapter", "DIR"),
            panel=INPUT,
            help="Merge an adapter (LoRA; a folder or a hub id) into the weights first. One at most.",
        ),
    ] = None,
    allow_other_base: Annotated[bool, option("--allow-other-base", FLAG, panel=INPUT, help=OTHER_BASE_HELP)] = False,
    seed: Annotated[int, option("--seed", "N", panel=HOW, help="Of the default calibration set. Default: 0.")] = 0,
    report: Annotated[str | None, option("--report", "FILE", panel=OUTPUT, help=reports.HELP)] = None,
    as_json: Annotated[bool, options.json_option("QUANTIZE")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
    **values: Any,
) -> None:
    """Quantize a checkpoint for an engine, with images in the calibration, and report what it costs.

    Runs on the CPU without PyTorch, a layer at a time. With --report the result is compared with the original, also
    in speed.
    """
    adapter = _one(merge_adapter)
    target = reports.check(report, quiet, out)
    from pocketvlm.api.comparing import compare_models
    from pocketvlm.api.quantizing import quantize_model
    from pocketvlm.cli import compare
    from pocketvlm.cli.progress import LongWork, duration
    from pocketvlm.cli.terminal import printable

    threads, revision, mmproj = values["threads"], values["revision"], values["mmproj"]
    with LongWork(quiet, STAGES) as work:
        try:
            result = quantize_model(
                model,
                out,
                format=format,
                scheme=scheme,
                method=method,
                calibration=calibration,
                keep=tuple(keep or ()),
                vision=vision,
                bits_per_weight=bits_per_weight,
                seed=seed,
                merge_adapter=adapter,
                allow_other_base=allow_other_base,
                threads=threads,
                revision=revision,
                mmproj=mmproj,
                progress=work.step,
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on where this one stopped") from None
    if not as_json:
        nbytes = sum(path.stat().st_size for path in result.paths)
        facts = {
            "written": f"{out}: {len(result.paths)} files, {readable_size(nbytes)}",
            "scheme": f"{result.scheme}, {result.method}: {result.bits_per_weight:.2f} bits a weight of the language "
            f"model",
            "time": f"{duration(result.seconds)}, peak memory {readable_size(result.peak_memory)}",
        }
        width = max(map(len, facts))
        lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
        print(printable("\n".join(lines)), flush=True)
    if result.adapter is not None and not quiet:
        print("\n".join(adapter_lines(result.adapter)), file=sys.stderr)
    content: dict[str, Any] = {"type": "pocketvlm.quantization", "version": 1, "quantization": result.to_dict()}
    written: list[Path] = []
    if target is not None:
        with LongWork(quiet, compare.STAGES) as work:
            # Not by the name OUT, which may be that of another model, nor with another mmproj of the folder.
            path, *others = result.paths
            made = path if path.suffix == ".gguf" else path.parent.resolve()
            own = others[0] if path.suffix == ".gguf" and others else None
            found = compare_models(
                model,
                made,
                mmproj=own,
                threads=threads,
                reference_revision=revision,
                reference_mmproj=mmproj,
                reference_adapter=adapter,
                progress=work.step,
            )
            found = compare.timed(found, work, (model, revision, mmproj), (made, None, own), threads)
        content["comparison"] = found.to_dict()
        if not as_json:
            print()
            compare.show(found, False)
        written = reports.write(target, content, found)
    if as_json:
        import json

        print(json.dumps(content, ensure_ascii=False))
    if written and not quiet:
        print(f"wrote {' and '.join(map(str, written))}", file=sys.stderr)


def _one(adapters: list[str] | None) -> str | None:
    """The adapter to merge. Raises OptionError for more than one."""
    if adapters is not None and len(adapters) > 1:
        raise OptionError(
            f"--merge-adapter is given {len(adapters)} times, for {' and '.join(adapters)}: give one, and merge "
            f"others first with pocketvlm merge"
        )
    return adapters[0] if adapters else None
