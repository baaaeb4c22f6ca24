"""The command as a process with the embedded model: pipes, signals, terminals, and what a start costs."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import pocketvlm
from pocketvlm import api

COMMAND = [sys.executable, "-m", "pocketvlm"]
LONG = ["run", "nano", "Hello there", "--ignore-eos", "--max-tokens", "1900", "--temperature", "5", "--seed", "1"]
STATUS = re.compile(
    r"ttft \d+\.\d\d s · (vision \d+\.\d\d s · )?(\d+\.\d tok/s · )?\d+ prompt( \(\d+ image\))? \+ \d+ tokens"
)


@pytest.fixture(autouse=True)
def _process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """These sources, and stdout as users have it: buffered."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(pocketvlm.__file__).parents[1]))


def call(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    options = {"stdin": subprocess.DEVNULL, "timeout": 50, **options}
    if options.get("input") is not None:
        options.pop("stdin")
    return subprocess.run([*COMMAND, *arguments], capture_output=True, encoding="utf-8", check=False, **options)


def in_terminal(
    *arguments: str, command: Sequence[str] = COMMAND, width: int = 80, **environment: str
) -> tuple[int, str]:
    """Run with all three streams on a terminal; gives the exit code and everything that the terminal got."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color", "COLUMNS": str(width), **environment})
        os.execv(command[0], [*command, *arguments])
    seen = b""
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            data = os.read(terminal, 65536)
        except OSError:  # Linux says EIO when the other end is closed
            break
        if not data:
            break
        seen += data
    _, state = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(state), seen.decode("utf-8").replace("\r\n", "\n")


def test_the_answer_is_that_of_the_python_api(picture):
    result = api.load("nano").ask("What is this?", images=[picture], max_tokens=12, temperature=0.0)
    line = ["run", "nano", "-i", str(picture), "What is this?", "--max-tokens", "12", "--temperature", "0"]
    done = call(*line)
    assert done.returncode == 0, done.stderr
    assert done.stdout == result.text + ("" if result.text.endswith("\n") else "\n")
    assert STATUS.match(done.stderr)
    assert done.stderr.count("\n") == 1
    answer = json.loads(call(*line, "--output", "json").stdout)
    assert {name: answer[name] for name in ("text", "finish_reason", "usage")} == {
        name: value for name, value in result.to_dict().items() if name != "timings"
    }


def test_json_with_an_image_on_stdin(picture):
    with picture.open("rb") as image:
        done = call("run", "-i", "-", "-p", "What is this?", "--output", "json", "--max-tokens", "4", stdin=image)
    answer = json.loads(done.stdout)
    assert answer["model"] == "nano"
    assert answer["usage"]["image_tokens"] > 0
    assert answer["timings"]["ttft"] > 0


def test_a_prompt_on_stdin_and_another_backend():
    native, torch = (
        call("run", "--max-tokens", "8", "--temperature", "0", "--backend", backend, input="Hello\n")
        for backend in ("native", "torch")
    )
    assert native.returncode == 0, native.stderr
    assert native.stdout == torch.stdout


@contextmanager
def long_answer() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has begun a long answer and cannot end it before its stdout is read: the pipe is short."""
    # A suite that was started in the background has SIGINT ignored, and children inherit that.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [*COMMAND, *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed,  # noqa: PLW1509
    ) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        assert os.read(process.stdout.fileno(), 1)
        yield process


IN_TWO_PARTS = """
import sys
from pocketvlm import api
from pocketvlm.cli import main
from pocketvlm.types import Chunk, Timings, Usage

class Model:
    def stream(self, *prompt, **options):
        yield Chunk("one")
        sys.stdin.readline()
        yield Chunk(" two", (), "stop", Usage(1, 0, 2), Timings())

api.load = lambda *model, **options: Model()
sys.exit(main(["run", "nano", "hi"]))
"""


def test_text_comes_while_it_is_made():
    command = [sys.executable, "-c", IN_TWO_PARTS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0], "nothing came before the answer was complete"
        assert os.read(process.stdout.fileno(), 100) == b"one"
        assert process.communicate(b"go on\n")[0] == b" two\n"


def test_control_c_stops_cleanly_with_130():
    with long_answer() as process:
        process.send_signal(signal.SIGINT)
        text, error = process.communicate()
    assert process.returncode == 130
    assert error == b"interrupted\n"
    assert text.endswith(b"\n")


def test_a_reader_that_leaves_is_no_traceback():
    with long_answer() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        ("<&-", 2, "", "error: there is no prompt for the model 'nano'"),
        (">&-", 1, "", "error: stdout is closed\n"),
        ("2>&-", 2, "", ""),
    ],
)
def test_closed_streams_are_no_traceback(closed, code, out, err):
    line = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "run", "nano"]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == code
    assert done.stdout == out
    assert done.stderr.startswith(err)
    assert done.stderr.count("\n") == bool(err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_one_line():
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [*COMMAND, "info", "nano"], stdout=full, stderr=subprocess.PIPE, encoding="utf-8", check=False
        )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"


def test_a_stdout_that_cannot_spell_the_answer_is_no_error():
    done = call("tokens", "-p", "hi", env={**os.environ, "PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 0
    assert "?" in done.stdout


def test_a_terminal_gets_the_answer_and_a_dim_status_line(picture):
    code, seen = in_terminal("run", "nano", "-i", str(picture), "What is this?", "--max-tokens", "4")
    assert code == 0
    assert STATUS.search(seen)
    assert "\x1b[2mttft" in seen


def test_no_color_and_a_narrow_terminal_get_plain_text(picture):
    code, seen = in_terminal("tokens", "-i", str(picture), width=30, NO_COLOR="1")
    assert code == 0
    assert "\x1b" not in seen
    code, seen = in_terminal("run", "nano", "hi", "--max-tokens", "4", width=30, NO_COLOR="1")
    assert code == 0
    assert "\x1b[2m" not in seen


PROGRESS = """
import sys, time
from pocketvlm.cli.terminal import Activity
seconds = float(sys.argv[1])
with Activity(quiet=bool(sys.argv[2:])) as activity:
    report = activity.loading("nano")
    report("load", 1, 4)
    report("download", 3000, 4000)
    time.sleep(seconds)
    activity.say("reading [b]")
    time.sleep(seconds / 4)
"""


def test_progress_is_shown_when_it_takes_long_and_taken_away():
    command = [sys.executable, "-c", PROGRESS]
    code, seen = in_terminal("2", command=command)
    assert code == 0
    assert "downloading nano 3.0 kB of 4.0 kB" in seen
    assert "reading [b]" in seen
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor stays hidden"
    assert in_terminal("0.2", command=command) == (0, "")
    assert in_terminal("1", "quiet", command=command) == (0, "")
    assert in_terminal("1", command=command, TERM="dumb") == (0, "")


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from pocketvlm.cli import main; main(['run', '--help']); "
        "heavy = {'torch', 'PIL', 'numpy', 'tokenizers', 'jinja2', 'huggingface_hub', 'av', 'safetensors'}; "
        "print(sorted(heavy & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True)
    assert done.stderr == "[]\n"


def test_help_is_quick():
    """Processor time, the best of three: the wall clock belongs to whatever else runs."""
    script = "import time; from pocketvlm.cli import main; main(['--help']); print(time.process_time())"
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, encoding="utf-8", check=True) for _ in "123"
    ]
    assert min(float(run.stdout.splitlines()[-1]) for run in runs) < 0.3
