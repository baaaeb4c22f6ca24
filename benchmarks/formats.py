"""Measures quantized checkpoints of the released shape with random weights: files, memory, start, speed, errors.

    python benchmarks/formats.py make --directory build/formats       # once: 8 GB, by the formats' own libraries
    python benchmarks/formats.py measure --directory build/formats
    python benchmarks/formats.py render

`make` needs the extras `formats` and `bench`; `measure` needs `bench` for the peer, llama.cpp. Both sides are measured
in turns, after a check that values and logits are equal. `measure` writes benchmarks/results/formats.json and, as
`render` does without measuring, the part of docs/formats.md between its markers. Close everything else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

from checkpoints.make import FORMATS, make  # noqa: E402
from checkpoints.measure import DifferentError, Setup, measured  # noqa: E402
from checkpoints.report import page, restore, save  # noqa: E402
from compare import machine  # noqa: E402
from comparison.report import write_page  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "formats.json"
PAGE = ROOT / "docs" / "formats.md"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["make", "measure", "render"])
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "formats", help="folder of the checkpoints")
    parser.add_argument("--only", nargs="*", choices=[kind.key for kind in FORMATS], help="formats; results are left")
    parser.add_argument("--quick", action="store_true", help="one turn of everything; stored results are left")
    parser.add_argument("--runs", type=int, default=5, help="counted turns (default 5)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llama-packages", type=Path, nargs="*", default=[], help="folders with llama_cpp and gguf")
    return parser.parse_args()


def main() -> None:
    """Make, measure or render."""
    options = parse()
    # After the installed packages, which have their own NumPy.
    sys.path += [str(path) for path in options.llama_packages]
    wanted = [kind for kind in FORMATS if not options.only or kind.key in options.only]
    if options.do == "make":
        make(options.directory, wanted, options.threads)
        return
    if options.do == "render":
        write_page(PAGE, page(*restore(RESULTS)), "formats")
        return
    missing: list[str] = []

    def complain(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        missing.append(line)

    packages = tuple(options.llama_packages)
    setup = Setup(options.directory, options.threads, options.runs, options.quick, packages, complain)
    if absent := [kind.key for kind in wanted if not (options.directory / kind.key).is_dir()]:
        sys.exit(f"{options.directory} has no {', '.join(absent)}: run `formats.py make` with the same --directory")
    found = []
    for kind in wanted:
        try:
            found.append(measured(kind, setup))
        except DifferentError as error:
            sys.exit(f"results differ: {error}")
    runs = 1 if options.quick else options.runs
    record = {"machine": machine(), "threads": options.threads, "runs": runs, "missing": missing}
    print(page(record, found))
    if not (options.only or options.quick):
        save(RESULTS, record, found)
        write_page(PAGE, page(record, found), "formats")


if __name__ == "__main__":
    main()
