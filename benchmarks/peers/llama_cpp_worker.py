"""A process that holds one model in llama.cpp and times what it is told to: JSON lines in, JSON lines out.

    python benchmarks/peers/llama_cpp_worker.py --text TEXT.gguf --mmproj MMPROJ.gguf --threads 2

So that a benchmark can take turns between engines. One command a line, one answer a line; seconds are wall time; a
command that fails answers {"error": ...} and the process goes on. It ends with its input.

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
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import llama_cpp
    from llama_cpp import llama_cpp as lib
    from llama_cpp import mtmd_cpp as mtmd
except ImportError as missing:
    sys.exit(f"llama_cpp cannot be imported ({missing}): `pip install llama-cpp-python`, or set PYTHONPATH")

Answer = dict[str, Any]
Floats = NDArray[np.float32]
VIEW = 448
FIRST_WORD, LAST_WORD = 300, 240_000
ERROR_LEVEL = 4


class PeerError(Exception):
    """A command that cannot be carried out, or a call of llama.cpp that failed."""


class Log:
    """Takes llama.cpp's messages: to stderr if verbose, else only the last errors are kept for our own messages."""

    def __init__(self, verbose: bool) -> None:
        self.errors: deque[str] = deque(maxlen=5)
        self.verbose = verbose
        self._callback = lib.llama_log_callback(self._take)
        for setter in (lib.llama_log_set, mtmd.mtmd_log_set, mtmd.mtmd_helper_log_set):
            setter(self._callback, ctypes.c_void_p(None))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        message = text.decode(errors="replace")
        if self.verbose:
            print(message, end="", file=sys.stderr, flush=True)
        elif level == ERROR_LEVEL:
            self.errors.append(message.strip())

    def failure(self, what: str) -> PeerError:
        """The error to raise, with what llama.cpp said last."""
        said = "; ".join(self.errors)
        self.errors.clear()
        return PeerError(f"{what}: {said}" if said else what)


class Context:
    """Sequences of one model: their memory, and decoding into it."""

    def __init__(self, model: Any, log: Log, threads: int, sequences: int, length: int) -> None:
        self.model, self.log, self.sequences, self.length = model, log, sequences, length
        params = lib.llama_context_default_params()
        params.n_ctx = sequences * length
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        self.handle = lib.llama_init_from_model(model, params)
        if not self.handle:
            raise log.failure(f"no context of {sequences} x {length} tokens")
        self.memory = lib.llama_get_memory(self.handle)
        self.batch_size = int(lib.llama_n_batch(self.handle))
        self.batch = lib.llama_batch_init(self.batch_size, 0, 1)
        self.vocab = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model)))

    def close(self) -> None:
        """Free the memory."""
        lib.llama_batch_free(self.batch)
        lib.llama_free(self.handle)

    def clear(self) -> None:
        """Forget every sequence."""
        lib.llama_memory_clear(self.memory, True)

    def prompt(self, ids: Sequence[int], start: int = 0, sequence: int = 0, every: bool = False) -> None:
        """Put ids into a sequence; logits of the last one, or of every one, are computed if the batch holds them."""
        if start + len(ids) > self.length:
            raise PeerError(f"{start + len(ids)} tokens do not fit the context of {self.length}: raise --context")
        if not all(0 <= number < self.vocab for number in ids):
            raise PeerError(f"token ids must be from 0 to {self.vocab - 1}")
        for begin in range(0, len(ids), self.batch_size):
            piece = ids[begin : begin + self.batch_size]
            rows = [(number, start + begin + i, sequence) for i, number in enumerate(piece)]
            last = begin + len(piece) == len(ids)
            self.decode(rows, [every or (last and i == len(piece) - 1) for i in range(len(piece))])

    def decode(self, rows: Sequence[tuple[int, int, int]], wanted: Sequence[bool]) -> None:
        """Run rows of (id, position, sequence), computing logits where wanted."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (number, position, sequence) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = number, position, 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted[i]
        status = lib.llama_decode(self.handle, batch)
        if status:
            raise self.log.failure(f"llama_decode failed (status {status})")

    def logits(self, row: int = -1) -> Floats:
        """Logits of a row of the last batch, without a copy; waits until they are there."""
        pointer = lib.llama_get_logits_ith(self.handle, row)
        if not pointer:
            raise self.log.failure(f"no logits of row {row}")
        return np.ctypeslib.as_array(pointer, (self.vocab,))


class Vision:
    """One mmproj file: either of the two modes, as the file says."""

    def __init__(self, path: Path, model: Any, log: Log, threads: int) -> None:
        self.log, self.width = log, int(lib.llama_model_n_embd_inp(model))
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = False
        params.print_timings = False
        params.n_threads = threads
        self.handle = mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not self.handle:
            raise log.failure(f"{path} did not load")
        with Chunks(self, random_image(VIEW, VIEW, 0)) as chunks:
            per_view = chunks.tokens(chunks.images[0])
        modes = {VIEW * VIEW // 14**2 // 16: "16x", VIEW * VIEW // 14**2 // 4: "4x"}
        if per_view not in modes:
            raise PeerError(f"{path} makes {per_view} tokens of a view: expected {' or '.join(map(str, modes))}")
        self.mode = modes[per_view]

    def encode(self, chunk: Any) -> None:
        """Run the tower over one view."""
        if mtmd.mtmd_encode_chunk(self.handle, chunk):
            raise self.log.failure("mtmd_encode_chunk failed")

    def features(self, tokens: int) -> Floats:
        """What the last `encode` made, [tokens, width], without a copy."""
        return np.ctypeslib.as_array(mtmd.mtmd_get_output_embd(self.handle), (tokens, self.width))


class Chunks:
    """An image as llama.cpp prepares it: views and the marker ids around them. A context manager: freed at its end."""

    def __init__(self, vision: Vision, pixels: NDArray[np.uint8]) -> None:
        height, width, _ = pixels.shape
        data = (ctypes.c_uint8 * pixels.size).from_buffer_copy(pixels.tobytes())
        bitmap = mtmd.mtmd_bitmap_init(width, height, data)
        marker = mtmd.mtmd_default_marker()
        text = mtmd.mtmd_input_text(marker, len(marker), False, True)
        self._handle = mtmd.mtmd_input_chunks_init()
        bitmaps = (mtmd.mtmd_bitmap_p_ctypes * 1)(bitmap)
        status = mtmd.mtmd_tokenize(vision.handle, self._handle, ctypes.byref(text), bitmaps, 1)
        mtmd.mtmd_bitmap_free(bitmap)
        if status:
            self.__exit__()
            raise vision.log.failure(f"mtmd_tokenize failed (status {status})")
        count = mtmd.mtmd_input_chunks_size(self._handle)
        self.all = [mtmd.mtmd_input_chunks_get(self._handle, i) for i in range(count)]
        self.images = [chunk for chunk in self.all if self.is_image(chunk)]

    def __enter__(self) -> Chunks:
        return self

    def __exit__(self, *_: object) -> None:
        mtmd.mtmd_input_chunks_free(self._handle)

    @staticmethod
    def is_image(chunk: Any) -> bool:
        """Whether the chunk is a view, not ids."""
        return mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE

    @staticmethod
    def tokens(chunk: Any) -> int:
        """Tokens that the chunk takes in a prompt."""
        return int(mtmd.mtmd_input_chunk_get_n_tokens(chunk))


def random_image(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Noise uint8 [height, width, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_ids(count: int, seed: int = 0) -> list[int]:
    """Ids of ordinary tokens."""
    return np.random.default_rng(seed).integers(FIRST_WORD, LAST_WORD, count).tolist()


class Worker:
    """The model and the commands."""

    def __init__(self, options: argparse.Namespace) -> None:
        for path in (options.text, *options.mmproj):
            if not path.is_file():
                raise PeerError(f"{path} is not a file: gguf_export.py writes the files for this benchmark")
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
            "llama_cpp_python": llama_cpp.__version__,
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
