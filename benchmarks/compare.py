"""Compares speed and precision with llama.cpp and transformers: the same random weights of the real shape, in turns.

    python benchmarks/compare.py --runs 5

First checks that all engines compute the same. Writes benchmarks/results/compare.json and compare.png, and the part of
docs/benchmarks.md between its markers. Needs about 14 GB of memory and, for the peers, the extras `dev` and `bench`; a
peer that is missing is left out with a line that says how to get it. Close everything else.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

import numpy as np  # noqa: E402
from checkpoint import write_checkpoint  # noqa: E402
from comparison import checks, report, scenarios  # noqa: E402
from comparison.goals import judge  # noqa: E402
from comparison.llama import GET, GET_AVX2, Llama, find_files  # noqa: E402
from comparison.ours import Bandwidth, Ours  # noqa: E402
from comparison.plot import draw  # noqa: E402
from comparison.rows import Figures, MissingError, measure  # noqa: E402
from gguf_export import digest  # noqa: E402

import pocketvlm  # noqa: E402
from pocketvlm.bench.shape import random_tensors, released_config  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
QUICK_RUNS = 2


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted turns of each row (default 5)")
    parser.add_argument("--only", default="", help="rows whose name contains this; stored results are left alone")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_RUNS} turns, fewer rows; stored results are left")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, default=ROOT / "build" / "peers", help="folder of the exported files")
    parser.add_argument("--llama-packages", type=Path, nargs="*", default=[], help="folders with llama_cpp, gguf, ...")
    parser.add_argument("--avx2-packages", type=Path, nargs="*", default=[], help="the same, llama_cpp built for AVX2")
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--no-llama", action="store_true")
    parser.add_argument("--no-checks", action="store_true", help="for work on this script: with --only or --quick")
    parser.add_argument("--render", action="store_true", help="measure nothing: page and picture out of stored results")
    options = parser.parse_args()
    if options.no_checks and not (options.only or options.quick):
        parser.error("--no-checks goes with --only or --quick: results without a check are not stored")
    return options


class Comparison:
    """One run: the available engines, the results, and the missing peers."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.began = time.perf_counter()
        self.missing: list[str] = []
        self.rows: dict[str, Figures] = {}
        self.config = released_config()
        self.tensors = random_tensors(self.config)
        self.machine = machine()
        self.checked: dict[str, float] = {}
        self.errors: dict[str, Any] = {}
        self.files: dict[str, Path] = {}

    def complain(self, line: str) -> None:
        """Report what is left out, now and in the results."""
        print(line, file=sys.stderr, flush=True)
        self.missing.append(line)

    def say(self, line: str) -> None:
        """Print progress, with seconds since the start."""
        print(f"{time.perf_counter() - self.began:.0f} s: {line}", file=sys.stderr, flush=True)

    def engine(self, weights: str, precision: str = "fast") -> Ours:
        """Ours, with weights of a type."""
        return Ours.of(self.config, self.tensors, self.options.threads, weights, precision)

    def reference(self) -> Any:
        """transformers in float32, or None."""
        if self.options.no_transformers:
            return None
        try:
            from comparison.hub_classes import Reference
        except ImportError as error:
            self.complain(f"transformers is left out ({error}): `pip install -e '.[dev]'` has the version it takes")
            return None
        found = Reference(self.config, self.tensors, self.options.threads)
        self.machine |= found.versions()
        return found

    def llama(self) -> Llama | None:
        """llama.cpp built for this processor, or None."""
        if self.options.no_llama:
            return None
        return self._llama(self.options.llama_packages, scenarios.MAIN_FILES, "llama.cpp", GET)

    def avx2(self) -> Llama | None:
        """llama.cpp built for AVX2, or None."""
        from pocketvlm import _native

        if self.options.no_llama or "avx2" not in _native.usable_isas():
            return None
        if not self.options.avx2_packages:
            self.complain(f"the AVX2 build of llama.cpp is left out: {GET_AVX2}")
            return None
        # After the build on the path: its other requirements, which may be installed elsewhere.
        packages = [*self.options.avx2_packages, *self.options.llama_packages]
        return self._llama(packages, scenarios.AVX2_FILES, "llama.cpp AVX2", GET_AVX2)

    def _llama(self, packages: list[Path], kinds: str, name: str, get: str) -> Llama | None:
        directory, threads = self.options.gguf, self.options.threads
        try:
            self.files = self.files or find_files(self.tensors, directory, self.options.llama_packages, threads)
            found = Llama(self.files, packages, threads, directory)
            info = found.info(kinds, get)
        except MissingError as error:
            self.complain(str(error))
            return None
        self.machine |= {name: f"{info['llama_cpp']} (llama-cpp-python {info['llama_cpp_python']})"}
        self.machine |= {f"{name} instruction sets": " ".join(_features(info["system"]))}
        return found

    def check(self, reference: Any, llama: Llama | None, int4: Ours) -> None:
        """Stop unless all engines compute the same; then measure the errors of fast arithmetic."""
        exact = self.engine("auto", "exact")
        if reference is not None:
            checks.against_reference(exact, reference, self.checked)
        if llama is not None:
            checks.against_llama(exact, llama, self.checked)
        half = self.halve(reference)
        fast = {"int8": self.engine("int8"), "int4": int4, "bf16 (fast)": self.engine("bf16")}
        self.say(", ".join(f"{name} {value:.1e}" for name, value in self.checked.items()))
        self.errors["text"] = checks.text_errors(exact, fast, half, llama)
        self.errors["vision"] = checks.vision_errors(exact, int4, half, llama)
        files = self.files
        if files and importlib.util.find_spec("gguf") is None:
            self.complain("weight errors of llama.cpp are left out: `pip install gguf`")
            files = {}
        self.say("errors of logits and features taken")
        self.errors["weights"] = checks.weight_errors(int4, self.tensors, files)

    @staticmethod
    def halve(reference: Any) -> Any:
        """Convert transformers to bfloat16."""
        if reference is not None:
            import torch

            reference.take(torch.bfloat16)
        return reference

    def checkpoint(self) -> Path:
        """A checkpoint directory with these weights."""
        nano = Path(pocketvlm.__file__).parent / "nano"
        return write_checkpoint(self.tensors, nano, self.options.gguf / f"checkpoint-{digest(self.tensors)}")

    def run(self) -> None:
        """Check, then measure row by row."""
        options = self.options
        reference, llama, avx2 = self.reference(), self.llama(), self.avx2()
        try:
            if avx2:
                avx2.stop()
            int4 = self.engine("int4")
            self.machine |= int4.ops.describe()
            if options.no_checks:
                self.halve(reference)
            else:
                self.check(reference, llama, int4)
            self.say("engines are ready")
            engines = scenarios.Engines(
                int4,
                lambda: self.engine("int8"),
                reference,
                llama,
                avx2,
                self.checkpoint,
                options.gguf / "cache",
                options.threads,
            )
            bandwidth = Bandwidth(int4.ops)
            runs = min(options.runs, QUICK_RUNS) if options.quick else options.runs
            for row in scenarios.rows(engines, options.quick, lambda name: options.only in name):
                self.rows[row.name] = measure(row, runs, bandwidth, self.complain)
                self.keep()
        finally:
            for peer in (llama, avx2):
                if peer:
                    peer.stop()

    def record(self) -> dict[str, Any]:
        """The facts that are stored with the rows."""
        return {
            "machine": self.machine,
            "runs": self.options.runs,
            "missing": self.missing,
            "checked": self.checked,
            "errors": self.errors,
        }

    def keep(self) -> None:
        """Save the results so far."""
        whole = not (self.options.only or self.options.quick)
        path = RESULTS / "compare.json" if whole else self.options.gguf / "compare-part.json"
        report.save(path, self.record(), self.rows)


def _features(system: str) -> list[str]:
    """The instruction sets that llama.cpp says it uses."""
    return [part.split("=")[0].strip() for part in system.replace(":", "|").split("|") if part.strip().endswith("= 1")]


def machine() -> dict[str, str]:
    """The machine and the versions."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        cpu = next((value.strip() for key, _, value in lines if key.strip() == "model name"), cpu)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": f"{cpu}, {os.cpu_count()} logical",
        "memory": f"{memory / 2**30:.0f} GiB",
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pocketvlm": pocketvlm.__version__,
    }


def render(record: dict[str, Any], rows: dict[str, Figures], complain: Callable[[str], None]) -> None:
    """Draw the picture and write the page."""
    picture: Path | None = RESULTS / "compare.png"
    try:
        draw(rows, RESULTS / "compare.png")
    except ImportError as error:
        picture = None
        complain(f"the picture is left out ({error}): `pip install matplotlib`")
    report.write_page(PAGE, report.page(record, rows, picture and f"../benchmarks/results/{picture.name}"), "compare")


def main() -> None:
    """Run the comparison, or render saved results."""
    options = parse()
    # For gguf and matplotlib; after the installed packages, which have their own NumPy.
    sys.path += [str(path) for path in options.llama_packages]
    if options.render:
        render(*report.restore(RESULTS / "compare.json"), lambda line: print(line, file=sys.stderr))
        return
    comparison = Comparison(options)
    try:
        comparison.run()
    except checks.DifferentError as error:
        sys.exit(f"results differ: {error}")
    print(report.table(comparison.rows))
    print(report.errors(comparison.record()))
    print(report.summary(judge(comparison.rows)))
    if not (options.only or options.quick):
        render(comparison.record(), comparison.rows, comparison.complain)


if __name__ == "__main__":
    main()
