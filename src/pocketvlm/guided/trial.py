"""A grammar is compiled in a helper process first, so that a hostile one cannot hang or crash the server.

The grammar library has limits, but not on everything: a long chain of references overflows its stack, products of
`multipleOf` run for minutes, nested repetitions take hundreds of megabytes. Here that costs the helper process its
life.
This file is also the program of that process: it imports nothing of the package and starts in about 0.1 s.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SECONDS = 2.0  # of processor time, for one grammar
MEGABYTES = 1024  # of address space, for the whole process
STEPS = 256  # bytes written under the grammar
# A quarter of the usual stack of a thread, so that a grammar that compiles here also compiles in the server.
STACK = 2 << 20
# The control tokens that grammars name. Ids 0 to 255 are single bytes, because the trial's tokenizer knows only bytes.
CONTROL = ("<|end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
UNSATISFIABLE = "NoExtensionBias"
TOO_LARGE = "it takes too much time or memory, or is nested too deeply; make it smaller"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The complaint about a grammar (empty if none), and the bytes of memory that compiling and a short use took."""

    complaint: str
    size: int = 0


class Trial:
    """The helper process, started when first asked, and again when a grammar has killed it. Safe to share."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def verdict(self, grammar: str) -> Verdict:
        """Try a grammar in Lark's form. The complaint is in the library's words, or `TOO_LARGE`."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                # -P: do not import from the folder of this file.
                command = [sys.executable, "-P", str(Path(__file__))]
                pipe = subprocess.PIPE
                process = subprocess.Popen(
                    command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, start_new_session=True
                )
                self._process = process
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                write(process.stdin, grammar)
                answer = read(process.stdout)
            except (BrokenPipeError, EOFError):
                process.wait()
                # A signal means that the grammar is at fault; any other exit means that the helper process cannot run.
                if process.returncode >= 0:
                    raise RuntimeError(f"the helper process of guided output ended with {process.returncode}") from None
                return Verdict(TOO_LARGE)
            size, _, complaint = answer.partition(" ")
            return Verdict(complaint, int(size))

    def close(self) -> None:
        """End the process; the next grammar starts another."""
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.communicate()
                self._process = None


def write(stream: IO[bytes], text: str) -> None:
    """One message: its length in bytes as 4 bytes, then UTF-8."""
    data = text.encode()
    stream.write(len(data).to_bytes(4, "little") + data)
    stream.flush()


def read(stream: IO[bytes]) -> str:
    """The next message. Raises EOFError where there is none."""
    head = stream.read(4)
    size = int.from_bytes(head, "little")
    data = stream.read(size)
    if len(head) < 4 or len(data) < size:
        raise EOFError
    return data.decode()


class Bytes:
    """A tokenizer of single bytes, in the form that the library asks for."""

    is_tokenizer_wrapper = True
    eos_token_id = 256
    bos_token_id = None
    special_token_ids = tuple(range(256, 256 + len(CONTROL)))
    tokens = tuple([bytes([value]) for value in range(256)] + [name.encode() for name in CONTROL])

    def __call__(self, text: str) -> list[int]:
        """The ids of a text: its bytes."""
        return list(text.encode())


def limits() -> object:
    """The library's limits here and in the server: its own, with less memory for states, and errors without content."""
    from llguidance import LLParserLimits

    return LLParserLimits(max_lexer_states=50_000, verbose_errors=False)


def return_memory() -> None:
    """Give memory that was freed back to the system (with glibc; elsewhere nothing)."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def resident() -> int:
    """Bytes of this process in memory; 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")


def judge(tokenizer: object, grammar: str) -> Verdict:
    """Compile a grammar and write some hundred random bytes under it."""
    from llguidance import LLMatcher

    return_memory()
    before = resident()
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())  # type: ignore[arg-type]
    draw = random.Random(0)
    for _ in range(STEPS):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error() or matcher.is_stopped():
            break
        allowed = [token for token in range(256 + len(CONTROL)) if bits >> token & 1 and token != Bytes.eos_token_id]
        if not allowed:
            break
        matcher.consume_token(draw.choice(allowed))
    return Verdict(str(matcher.get_error()), max(0, resident() - before))


def serve() -> None:
    """Answer until the other side closes the pipe. A grammar that takes too much ends the process by a signal."""
    from llguidance import LLTokenizer

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    tokenizer = LLTokenizer(Bytes())  # type: ignore[arg-type]
    while True:
        try:
            grammar = read(sys.stdin.buffer)
        except EOFError:
            return
        # Limit processor time, not clock time, so that a busy machine refuses no grammar. The signal ends the process.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            verdict = judge(tokenizer, grammar)
        except Exception as error:
            verdict = Verdict(str(error) or type(error).__name__)
        except BaseException as error:  # a panic of the library
            verdict = Verdict(f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(sys.stdout.buffer, f"{verdict.size} {verdict.complaint}")


def main() -> None:
    """Run `serve` on a thread with a small stack."""
    threading.stack_size(STACK)
    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
