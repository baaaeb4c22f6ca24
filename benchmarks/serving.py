"""Compares servers: `pocketvlm serve`, llama.cpp's and transformers', same random weights of the real shape, in turns.

    python benchmarks/serving.py --llama-server PATH/llama-server --gguf FOLDER --transformers-packages FOLDER

Writes benchmarks/results/serving-KIND.json and a picture, KIND being the kind of processor, and the part of
docs/benchmarks.md between its markers, which shows every kind that has a file. All servers are started first; each is
stopped while others have their turn. A peer that is missing is left out with a line that says how to get it. `--quick`
checks this script with nano, without peers. Close everything else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(1, str(Path(__file__).resolve().parent / "peers"))

from checkpoint import digest, write_checkpoint  # noqa: E402
from comparison.llama import find_files  # noqa: E402
from comparison.machines import code, machine, this_kind  # noqa: E402
from comparison.report import write_page  # noqa: E402
from comparison.rows import MissingError  # noqa: E402
from service import report, servers  # noqa: E402
from service.bare import Bare  # noqa: E402
from service.rows import ROWS, Bench, Figures  # noqa: E402
from service.servers import Server, StartError  # noqa: E402

import pocketvlm  # noqa: E402
from pocketvlm.bench.shape import random_tensors, released_config  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
GET_LLAMA = (
    "build llama.cpp with -DLLAMA_BUILD_SERVER=ON and give its llama-server with --llama-server, or name folders with "
    "llama-cpp-python[server] with --llama-packages"
)
GET_TRANSFORMERS = "`pip install transformers[serving] torchvision`, or name folders with --transformers-packages"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="counted turns of each row (default 3)")
    parser.add_argument("--only", default="", help="rows whose name begins with this; stored results are left alone")
    parser.add_argument("--update", action="store_true", help="with --only: put these rows among those of this kind")
    parser.add_argument("--quick", action="store_true", help="nano, one short turn, no peers; stored results are left")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, default=ROOT / "build" / "peers", help="folder of the exported files")
    parser.add_argument("--llama-server", type=Path, help="llama.cpp's llama-server")
    parser.add_argument("--llama-options", default="", help="more options for it, as one text")
    parser.add_argument("--llama-packages", type=Path, nargs="*", default=[], help="folders with llama_cpp, gguf, ...")
    parser.add_argument(
        "--transformers-packages", type=Path, nargs="*", default=[], help="folders with torchvision, ..."
    )
    parser.add_argument("--no-transformers", action="store_true")
    parser.add_argument("--no-llama", action="store_true")
    parser.add_argument("--output", type=int, default=128, help="tokens of an answer (default 128)")
    parser.add_argument("--render", action="store_true", help="measure nothing: page and picture out of stored results")
    options = parser.parse_args()
    if options.update and (options.quick or not options.only):
        parser.error("--update goes with --only, and not with --quick")
    if not any(name.startswith(options.only) for name in ROWS):
        parser.error(f"--only {options.only}: rows are {', '.join(ROWS)}")
    return options


class Serving:
    """One run: servers that could be started, figures, and what is missing."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        self.options, self.scratch = options, scratch
        self.path = RESULTS / f"serving-{this_kind()}.json"
        self.stored = stored(self.path) if options.update and self.path.exists() else None
        self.began = time.perf_counter()
        self.missing: list[str] = []
        self.rows: dict[str, Figures] = {}
        self.machine: dict[str, str] = {}
        self.servers: list[Server] = []
        self.checkpoint = "nano"
        self.weights = "int8" if options.quick else "int4"

    def say(self, line: str) -> None:
        """Progress, with seconds since the start."""
        print(f"{time.perf_counter() - self.began:.0f} s: {line}", file=sys.stderr, flush=True)

    def complain(self, line: str) -> None:
        """Say what is left out, now and in the results."""
        self.say(line)
        self.missing.append(line)

    def start(self) -> None:
        """Start ours and every peer that is there."""
        options = self.options
        self.machine = machine()
        cache = options.gguf / "cache"
        tensors = None
        if not options.quick:
            tensors = random_tensors(released_config())
            nano = Path(pocketvlm.__file__).parent / "nano"
            self.checkpoint = str(write_checkpoint(tensors, nano, options.gguf / f"checkpoint-{digest(tensors)}"))
        self._add(servers.ours(self.checkpoint, cache, options.threads, self.weights))
        self.servers[0].output = options.output
        if options.quick:
            return
        if not options.no_llama:
            try:
                files = find_files(tensors, options.gguf, options.llama_packages, options.threads)
                self._add_llama(files)
            except MissingError as error:
                self.complain(str(error))
        if not options.no_transformers:
            peer = servers.transformers(Path(self.checkpoint), options.transformers_packages, options.threads)
            self._try(peer, GET_TRANSFORMERS)

    def _add_llama(self, files: dict[str, Path]) -> None:
        options = self.options
        if options.llama_server is not None:
            self._try(
                servers.llama(options.llama_server, files, options.threads, options.llama_options.split()), GET_LLAMA
            )
        elif options.llama_packages:
            self._try(servers.llama_python(options.llama_packages, files, options.threads), GET_LLAMA)
        else:
            self.complain(f"llama.cpp is left out: {GET_LLAMA}")

    def _try(self, server: Server, get: str) -> None:
        try:
            self._add(server)
        except (StartError, OSError) as error:
            self.complain(f"{server.name} is left out ({error}): {get}")

    def _add(self, server: Server) -> None:
        self.say(f"starting {server.name}")
        try:
            server.start(self.scratch / f"{len(self.servers)}.log")
        except BaseException:
            server.stop()
            raise
        server.pause()
        self.servers.append(server)
        self.machine[server.name] = server.shown()

    def run(self) -> None:
        """Measure row by row, and keep what was found."""
        options = self.options
        cache = str(options.gguf / "cache")
        bench = Bench(
            self.servers,
            lambda: Bare(self.checkpoint, cache, options.threads, self.weights),
            1 if options.quick else options.runs,
            self.complain,
            16 if options.quick else options.output,
            5 if options.quick else 40,
            2.0 if options.quick else 20.0,
        )
        if self.stored is not None:
            self.rows = dict(self.stored[1])
        for name, row in ROWS.items():
            if name.startswith(options.only):
                self.rows[name] = row(bench)
                self.rows[name].code = code()
                medians = {column: round(self.rows[name].median(column), 3) for column in self.rows[name].values}
                self.say(f"{name}: {medians}")
                self.keep()

    def record(self) -> dict[str, Any]:
        """The facts that are stored with the rows."""
        if self.stored is not None:  # of the run that most rows are of
            return self.stored[0]
        return {"machine": self.machine, "missing": self.missing}

    def whole(self) -> bool:
        """Whether this run's results replace those that are stored, or some of them."""
        return self.options.update or not (self.options.only or self.options.quick)

    def keep(self) -> None:
        """Store what was found so far."""
        path = self.path if self.whole() else self.scratch / "serving-part.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = {name: asdict(figures) for name, figures in self.rows.items()}
        path.write_text(json.dumps({**self.record(), "rows": rows}, indent=1) + "\n")

    def stop(self) -> None:
        """End all servers."""
        for server in self.servers:
            server.stop()


def stored(path: Path) -> tuple[dict[str, Any], dict[str, Figures]]:
    """What was measured last on a kind of machine: the run, and its rows."""
    record = json.loads(path.read_text())
    return record, {name: Figures(**row) for name, row in record.pop("rows").items()}


def render() -> None:
    """Draw the pictures and write the page, with a section for each kind of machine."""
    sections = []
    for path in sorted(RESULTS.glob("serving-*.json"), reverse=True):
        record, rows = stored(path)
        picture = path.with_suffix(".png")
        try:
            exists = report.draw(rows, picture)
        except ImportError as error:
            exists = picture.exists()
            print(f"the picture is left out ({error}): `pip install matplotlib`", file=sys.stderr)
        shown = f"../benchmarks/results/{picture.name}" if exists else None
        sections.append(report.section(path.stem.removeprefix("serving-"), record, rows, shown))
    write_page(PAGE, "\n\n".join(sections), "serving")


def main() -> None:
    """Run, or render what was found."""
    options = parse()
    # For gguf and matplotlib; after the installed packages, which have their own NumPy.
    sys.path += [str(path) for path in options.llama_packages]
    if options.render:
        render()
        return
    with tempfile.TemporaryDirectory() as scratch:
        serving = Serving(options, Path(scratch))
        try:
            serving.start()
            serving.run()
        finally:
            serving.stop()
    print(report.table(serving.rows))
    if serving.whole():
        render()


if __name__ == "__main__":
    main()
