"""Measures quantized checkpoints of the released shape with random weights: files, memory, start, speed, errors.

    python benchmarks/formats.py make --directory build/formats       # once: 8 GB, by the formats' own libraries
    python benchmarks/formats.py measure --directory build/formats
    python benchmarks/formats.py errors --directory build/formats     # every format that is read, a few layers: 2 GB
    python benchmarks/formats.py render

`make` and `errors` need the extras `formats` and `bench`; `measure` needs `bench` for the peer, llama.cpp. Both sides
are measured in turns, after a check that values and logits are equal. `measure` and `errors` write
benchmarks/results/formats.json and, as `render` does without measuring, the part of docs/formats.md between its
markers. With --only, the other formats that this machine measured stay in the results. Close everything else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

from checkpoints.errors import measured_errors  # noqa: E402
from checkpoints.make import FORMATS, Format, make  # noqa: E402
from checkpoints.measure import DifferentError, Setup, measured  # noqa: E402
from checkpoints.report import Results, page  # noqa: E402
from checkpoints.small import SMALL_FORMATS  # noqa: E402
from checkpoints.source import Source  # noqa: E402
from comparison.machines import machine  # noqa: E402
from comparison.report import write_page  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "formats.json"
PAGE = ROOT / "docs" / "formats.md"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["make", "measure", "errors", "render"])
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "formats", help="folder of the checkpoints")
    parser.add_argument("--only", nargs="*", default=[], help="keys of formats; the others' results are left")
    parser.add_argument("--quick", action="store_true", help="one turn of everything; stored results are left")
    parser.add_argument("--runs", type=int, default=5, help="counted turns (default 5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-packages", type=Path, nargs="*", default=[], help="folders with llama_cpp and gguf")
    options = parser.parse_args()
    known = [kind.key for kind in formats(options.do)]
    if unknown := sorted(set(options.only) - set(known)):
        parser.error(f"{options.do} knows no format {', '.join(unknown)}: it has {', '.join(known)}")
    return options


def formats(do: str) -> tuple[Format, ...]:
    """The formats that a command is about."""
    return SMALL_FORMATS if do == "errors" else FORMATS


def main() -> None:
    """Make, measure or render."""
    options = parse()
    # After the installed packages, which have their own NumPy.
    sys.path += [str(path) for path in options.llama_packages]
    wanted = [kind for kind in formats(options.do) if not options.only or kind.key in options.only]
    directory, threads = options.directory, options.threads
    if options.do == "make":
        make(directory, wanted, threads, Source.released)
        return
    if options.do == "render":
        write_page(PAGE, page(Results.restore(RESULTS)), "formats")
        return

    def stored() -> Results:
        """Results that this run adds to, read anew, because another run may have added some meanwhile."""
        return Results.restore(RESULTS).of_machine(machine(), threads, 1 if options.quick else options.runs)

    setup = Setup(directory, threads, options.runs, options.quick, tuple(options.llama_packages))
    if options.do == "errors":
        make(setup.small, wanted, threads, Source.small)
    elif absent := [kind.key for kind in wanted if not (directory / kind.key).is_dir()]:
        sys.exit(f"{directory} has no {', '.join(absent)}: run `formats.py make` with the same --directory")
    results = stored()
    for kind in wanted:
        try:
            if options.do == "errors":
                errors = measured_errors(kind, setup)
                results = stored()
                results.errors[kind.key] = errors
            else:
                left_out: list[str] = []
                found = measured(kind, setup, left_out)
                results = stored()
                results.missing[kind.key], results.formats[kind.key] = left_out, found
        except DifferentError as error:
            sys.exit(f"results differ: {error}")
        if not options.quick:
            results.save(RESULTS)
    print(page(results))
    if not options.quick:
        write_page(PAGE, page(results), "formats")


if __name__ == "__main__":
    main()
