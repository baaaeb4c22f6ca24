"""Holds one model in llama.cpp in a process of its own and times what JSON lines ask for.

    python benchmarks/peers/llama_cpp_worker.py --text TEXT.gguf --mmproj MMPROJ.gguf --threads 2

The separate process lets a benchmark alternate between engines. Each line is a command and gets a line as its answer;
seconds are wall time. A command that fails answers {"error": ...}, and the process continues. It ends with its input.

    {"do": "info"}                                             versions, instruction sets, the model, seconds to load
    {"do": "memory"}                                           resident bytes now and at most
    {"do": "prefill", "ids": [...]}                            from empty memory to the logits of the last token
    {"do": "decode", "depth": 32, "tokens": 16}                a token, one at a time after a prompt of `depth` ids
    {"do": "batch", "sequences": 8, "depth": 32, "tokens": 16}       a step of all the sequences together
    {"do": "vision", "width": 448, "height": 448, "mode": "16x", "seed": 0}   encoding a random image
    {"do": "image_prompt", "views": 1, "text": 24}             a prompt of views of 448x448, each between its markers
    {"do": "logits", "ids": [...], "all": false}               no timing: saves the logits, answers the path
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from inputs import VIEW, random_ids, random_image
from llama_cpp_images import Chunks, Vision
from llama_cpp_text import Context, Log, PeerError, lib, mtmd
from numpy.typing import NDArray

Answer = dict[str, Any]


class Worker:
    """The model and the commands."""

    def __init__(self, options: argparse.Namespace) -> None:
        for path in (options.text, *options.mmproj):
            if not path.is_file():
                raise PeerError(f"{path} is not a file: llama_cpp_files.py writes the files for this benchmark")
        self.threads, self.path = options.threads, options.text
        self.log = Log(options.verbose)
        self.scratch = options.scratch
        self._saved = 0
        began = time.perf_counter()
        lib.llama_backend_init()
        self.model = lib.llama_model_load_from_file(str(options.text).encode(), lib.llama_model_default_params())
        if not self.model:
            raise self.log.failure(f"{options.text} did not load")
        self.single = Context(self.model, self.log, options.threads, 1, options.context)
        self.several: Context | None = None
        towers = [Vision(path, self.model, self.log, options.threads) for path in options.mmproj]
        self.towers = {tower.mode: tower for tower in towers}
        self.loaded = time.perf_counter() - began

    def answer(self, command: Any) -> Answer:
        """Carry out one command."""
        commands: dict[str, Callable[..., Answer]] = {
            name: getattr(self, name)
            for name in ("info", "memory", "prefill", "decode", "batch", "vision", "image_prompt", "logits")
        }
        if not isinstance(command, dict) or command.get("do") not in commands:
            raise PeerError(f'a command is an object with "do", one of: {", ".join(commands)}')
        return commands[command.pop("do")](**command)

    def info(self) -> Answer:
        """What runs here."""
        text = ctypes.create_string_buffer(256)
        lib.llama_model_desc(self.model, text, len(text))
        return {
            "llama_cpp_python": version("llama_cpp_python"),
            "llama_cpp": lib.llama_version().decode(),
            "system": lib.llama_print_system_info().decode().strip(),
            "model": text.value.decode(),
            "file": self.path.name,
            "model_bytes": lib.llama_model_size(self.model),
            "parameters": lib.llama_model_n_params(self.model),
            "modes": list(self.towers),
            "threads": self.threads,
            "context": self.single.length,
            "load_seconds": self.loaded,
        }

    def memory(self) -> Answer:
        """Resident memory of this process; pages of the mapped files are counted in `file`."""
        lines = Path("/proc/self/status").read_text().splitlines()
        sizes = {key: int(value.split()[0]) * 1024 for key, _, value in (line.partition(":") for line in lines)
                 if key in ("VmRSS", "VmHWM", "RssAnon", "RssFile")}  # fmt: skip
        return {
            "bytes": sizes["VmRSS"],
            "peak": sizes["VmHWM"],
            "anonymous": sizes["RssAnon"],
            "file": sizes["RssFile"],
        }

    def prefill(self, ids: list[int]) -> Answer:
        """Seconds from empty memory to the logits of the last id."""
        if not ids:
            raise PeerError("a prompt needs at least one id")
        self.single.clear()
        began = time.perf_counter()
        self.single.prompt(ids)
        self.single.logits()
        return {"seconds": time.perf_counter() - began, "tokens": len(ids)}

    def decode(self, depth: int, tokens: int) -> Answer:
        """Seconds a token, each the most likely one after those before it."""
        if depth < 1 or tokens < 1 or depth + tokens > self.single.length:
            raise PeerError(f"depth and tokens must be at least 1 and at most {self.single.length} together")
        self.single.clear()
        self.single.prompt(random_ids(depth))
        number = int(self.single.logits().argmax())
        began = time.perf_counter()
        for position in range(depth, depth + tokens):
            self.single.decode([(number, position, 0)], [True])
            number = int(self.single.logits().argmax())
        return {"seconds": (time.perf_counter() - began) / tokens}

    def batch(self, sequences: int, tokens: int, depth: int = 32) -> Answer:
        """Seconds a step in which each sequence takes its most likely token."""
        if min(sequences, tokens, depth) < 1:
            raise PeerError("sequences, tokens and depth must be at least 1")
        length = -(-(depth + tokens) // 256) * 256
        context = self.several
        if context is None or (context.sequences, context.length) != (sequences, length):
            if context is not None:
                context.close()
            context = self.several = Context(self.model, self.log, self.threads, sequences, length)
        context.clear()
        numbers = []
        for sequence in range(sequences):
            context.prompt(random_ids(depth, sequence), sequence=sequence)
            numbers.append(int(context.logits().argmax()))
        began = time.perf_counter()
        for position in range(depth, depth + tokens):
            context.decode([(number, position, s) for s, number in enumerate(numbers)], [True] * sequences)
            numbers = [int(context.logits(row).argmax()) for row in range(sequences)]
        return {"seconds": (time.perf_counter() - began) / tokens}

    def vision(self, width: int, height: int, mode: str = "16x", seed: int = 0, save: bool = False) -> Answer:
        """Seconds for the features of a random image; preparing its pixels is not counted. save: answer a path too."""
        tower, parts = self._tower(mode), []
        with Chunks(tower, random_image(width, height, seed)) as chunks:
            seconds = 0.0
            for chunk in chunks.images:
                began = time.perf_counter()
                tower.encode(chunk)
                seconds += time.perf_counter() - began
                if save:
                    parts.append(tower.features(chunks.tokens(chunk)).copy())
            tokens = sum(chunks.tokens(chunk) for chunk in chunks.images)
            answer = {"seconds": seconds, "views": len(chunks.images), "tokens": tokens}
        return {**answer, "path": self._save(np.concatenate(parts))} if save else answer

    def image_prompt(self, views: int, text: int, mode: str = "16x") -> Answer:
        """Seconds to the logits after images of one view and `text` ids in all, of which two a view are markers.

        Two thirds of the other ids come after the images, the rest before. Pixels are prepared before the clock starts.
        """
        tower, words = self._tower(mode), text - 2 * views
        if views < 1 or words < 1:
            raise PeerError(f"{views} views with their two markers need more than {text} ids of text")
        ids = random_ids(words)
        self.single.clear()
        prepared = [Chunks(tower, random_image(VIEW, VIEW, seed)) for seed in range(views)]
        try:
            vision, position = 0.0, len(ids) // 3
            began = time.perf_counter()
            self.single.prompt(ids[:position])
            for chunk in (chunk for chunks in prepared for chunk in chunks.all):
                if Chunks.is_image(chunk):
                    start = time.perf_counter()
                    tower.encode(chunk)
                    vision += time.perf_counter() - start
                position = self._evaluate(tower, chunk, position)
            self.single.prompt(ids[len(ids) // 3 :], position)
            self.single.logits()
            seconds = time.perf_counter() - began
        finally:
            for chunks in prepared:
                chunks.__exit__()
        tokens = position + len(ids) - len(ids) // 3
        return {"seconds": seconds, "vision": vision, "prefill": seconds - vision, "tokens": tokens}

    def logits(self, ids: list[int], all: bool = False) -> Answer:
        """Save float32 logits of the last id [vocab], or of all ids [ids, vocab]."""
        if not ids or (all and len(ids) > self.single.batch_size):
            raise PeerError(f"give from 1 to {self.single.batch_size} ids")
        self.single.clear()
        self.single.prompt(ids, every=all)
        rows = [self.single.logits(row).copy() for row in range(len(ids))] if all else self.single.logits()
        return {"path": self._save(np.asarray(rows))}

    def _tower(self, mode: str) -> Vision:
        if mode not in self.towers:
            raise PeerError(f"no mmproj file of mode {mode!r} is loaded (loaded: {', '.join(self.towers) or 'none'})")
        return self.towers[mode]

    def _evaluate(self, tower: Vision, chunk: Any, position: int) -> int:
        """Put an encoded view or marker ids into the sequence; returns the position after them."""
        if not Chunks.is_image(chunk):
            count = ctypes.c_size_t()
            tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            self.single.prompt(tokens[: count.value], position)
            return position + count.value
        after = lib.llama_pos(position)
        status = mtmd.mtmd_helper_decode_image_chunk(
            tower.handle,
            self.single.handle,
            chunk,
            mtmd.mtmd_get_output_embd(tower.handle),
            lib.llama_pos(position),
            lib.llama_seq_id(0),
            self.single.batch_size,
            ctypes.byref(after),
            mtmd.mtmd_helper_post_decode_callback(),
            None,
        )
        if status:
            raise self.log.failure(f"the features of a view were not taken (status {status})")
        return int(after.value)

    def _save(self, values: NDArray[Any]) -> str:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._saved += 1
        path = self.scratch / f"{os.getpid()}-{self._saved}.npy"
        np.save(path, values)
        return str(path)


def main() -> None:
    """Load, then answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="GGUF file of the language model")
    parser.add_argument("--mmproj", type=Path, action="append", default=[], help="vision file; again for the 4x mode")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="longest prompt and answer in tokens")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="folder for saved arrays")
    parser.add_argument("--verbose", action="store_true", help="llama.cpp's messages to stderr")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        worker = Worker(options)
    except PeerError as error:
        sys.exit(str(error))
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            answer = worker.answer(json.loads(line))
        except (PeerError, TypeError, ValueError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
