"""Compares speed and precision with llama.cpp, transformers and OpenVINO: the same random weights, in turns.

    python benchmarks/compare.py --runs 5              # everything; about 14 GB of memory
    python benchmarks/compare.py --check               # in parts, which are stored together: first the checks,
    python benchmarks/compare.py --errors text         # then the errors of fast arithmetic: text, vision, weights,
    python benchmarks/compare.py --rows "prefill 512"  # and rows whose names contain one of these

The weights have the real shape. First checks that all engines compute the same; rows are refused if the check was of
another commit. Writes benchmarks/results/compare-KIND.json and a picture, KIND being the kind of processor, and the
part of docs/benchmarks.md between its markers, which shows every kind that has a file. The peers need the extras
`dev` and `bench`; a missing one is left out with a line that says how to get it. Close everything else.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

from comparison import checks, machines, report, scenarios  # noqa: E402
from comparison.engines import Engines  # noqa: E402
from comparison.goals import judge  # noqa: E402
from comparison.ours import Bandwidth  # noqa: E402
from comparison.plot import draw  # noqa: E402
from comparison.report import Results  # noqa: E402
from comparison.rows import MissingError, measure  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
ERRORS = ("text", "vision", "weights")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted turns of each row (default 5)")
    parser.add_argument("--rows", nargs="*", default=[], help="only rows whose names contain one of these")
    parser.add_argument("--check", action="store_true", help="only check that all engines compute the same")
    parser.add_argument("--errors", nargs="*", default=[], choices=ERRORS, help="only take these errors")
    parser.add_argument(
        "--trial", action="store_true", help="for work on this script: no check, results are not stored"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, default=ROOT / "build" / "peers", help="folder of the exported files")
    parser.add_argument("--llama-packages", type=Path, nargs="*", default=[], help="folders with llama_cpp, gguf, ...")
    parser.add_argument("--avx2-packages", type=Path, nargs="*", default=[], help="the same, llama_cpp built for AVX2")
    parser.add_argument("--no-amx-packages", type=Path, nargs="*", default=[], help="the same, built without AMX")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--no-llama", action="store_true")
    parser.add_argument("--no-openvino", action="store_true")
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: page and pictures out of stored results"
    )
    return parser.parse_args()


class Comparison:
    """One run: its engines, and the results that it adds to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.perf_counter()
        self.kind = machines.this_kind()
        self.path = RESULTS / f"compare-{self.kind}.json"
        self.code = machines.code()
        self.parts = bool(options.rows or options.check or options.errors)
        self.engines = Engines(options, self.complain)
        self.left_out: list[str] = []
        self.results = Results.restore(self.path) if self.parts and self.path.exists() else Results()

    def complain(self, line: str) -> None:
        """Report what is left out, now and in the results."""
        self.say(line)
        self.left_out.append(line)

    def say(self, line: str) -> None:
        """Print progress, with seconds since the start."""
        print(f"{time.perf_counter() - self.began:.0f} s: {line}", file=sys.stderr, flush=True)

    def run(self) -> None:
        """Do what is asked for; without any choice everything, after the checks."""
        options = self.options
        try:
            if options.check or not (self.parts or options.trial):
                self.check()
            elif not options.trial and self.results.checked_code != self.code:
                had = self.results.checked_code or "none"
                sys.exit(f"the engines were checked with commit {had}, this is {self.code}: run with --check first")
            for part in options.errors if self.parts else ERRORS * (not options.trial):
                self.take_errors(part)
            if options.rows or not self.parts:
                self.measure()
        finally:
            self.engines.stop()

    def check(self) -> None:
        """Stop unless all engines compute the same."""
        engines, checked = self.engines, {}
        exact = engines.engine("auto", "exact")
        if reference := engines.reference:
            import torch

            reference.take(torch.float32)
            checks.against_reference(exact, reference, checked)
            reference.take(torch.bfloat16)
            self.say("transformers checked")
        if engines.openvino:
            checks.against_openvino(exact, engines.openvino, checked)
        if engines.llama:
            checks.against_llama(exact, engines.llama, engines.vision_files, checked)
        self.say(", ".join(f"{name} {value:.1e}" for name, value in checked.items()))
        self.results.checked, self.results.checked_code = checked, self.code
        self.store("check")

    def take_errors(self, part: str) -> None:
        """The errors of fast arithmetic, or of quantized weights."""
        engines = self.engines
        if part == "weights":
            try:
                files = {} if self.options.no_llama else engines.files
            except MissingError:
                files = {}  # the rows say what is missing
            if files and importlib.util.find_spec("gguf") is None:
                self.complain("weight errors of llama.cpp are left out: `pip install gguf`")
                files = {}
            found = checks.weight_errors(engines, files)
        else:
            take = checks.text_errors if part == "text" else checks.vision_errors
            found = take(engines, engines.engine("auto", "exact"))
        self.results.errors[part] = found
        self.say(f"errors of {part} taken")
        self.store(f"errors of {part}")

    def measure(self) -> None:
        """Measure row by row."""
        chosen = self.options.rows

        def wanted(name: str) -> bool:
            return not chosen or any(part in name for part in chosen)

        bandwidth = Bandwidth(self.engines.int4.ops)
        for row in scenarios.rows(self.engines, wanted):
            figures = measure(row, self.options.runs, bandwidth, self.complain)
            figures.code = self.code
            self.results.rows[row.name] = figures
            self.store(row.name)

    def store(self, part: str) -> None:
        """Save the results so far, with what was left out of this part."""
        self.results.machine |= self.engines.machine
        self.results.runs = self.options.runs
        self.results.missing[part] = list(self.left_out)
        if not self.options.trial:
            order = {name: index for index, name in enumerate(scenarios.NAMES)}
            self.results.rows = dict(sorted(self.results.rows.items(), key=lambda item: order[item[0]]))
            self.results.save(self.path)


def render(complain: Callable[[str], None]) -> None:
    """Draw the pictures and write the page, with a section for each kind of machine."""
    sections = []
    for path in sorted(RESULTS.glob("compare-*.json"), reverse=True):
        results, picture = Results.restore(path), path.with_suffix(".png")
        try:
            draw(results.rows, picture)
        except ImportError as error:
            complain(f"the picture is left out ({error}): `pip install matplotlib`")
        shown = f"../benchmarks/results/{picture.name}" if picture.exists() else None
        sections.append(report.section(path.stem.removeprefix("compare-"), results, shown))
    report.write_page(PAGE, "\n\n".join(sections), "compare")


def main() -> None:
    """Run the comparison, or render saved results."""
    options = parse()
    # For gguf and matplotlib; after the installed packages, which have their own NumPy.
    sys.path += [str(path) for path in options.llama_packages]
    if options.render:
        render(lambda line: print(line, file=sys.stderr))
        return
    comparison = Comparison(options)
    try:
        comparison.run()
    except checks.DifferentError as error:
        sys.exit(f"results differ: {error}")
    print(report.table(comparison.results.rows))
    print(report.errors(comparison.results.errors))
    print(report.summary(judge(comparison.results.rows)))
    if not options.trial:
        render(comparison.complain)


if __name__ == "__main__":
    main()
