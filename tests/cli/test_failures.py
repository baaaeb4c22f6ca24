"""What goes wrong becomes one line on stderr, nothing on stdout, and an exit code."""

from __future__ import annotations

import errno

import pytest

from pocketvlm.errors import BackendError, ImageError, OptionError, VideoError


def one_line(outcome, code, *parts):
    """Check exit code, silence on stdout, and a single line that holds all parts."""
    assert outcome.code == code, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    for part in parts:
        assert part in outcome.err


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--vresion", ("--vresion", "see pocketvlm --help")),
        ("rnu nano", ("'rnu'", "Did you mean 'run'?")),
        ("run --imgae a.png", ("--imgae", "did you mean --image?", "see pocketvlm run --help")),
        ("run --max-new-tokens 5", ("did you mean", "--max-tokens")),
        ("run --backend nativ", ("--backend", "'nativ'", "did you mean 'native'?")),
        ("run --downsample-mode 8x", ("--downsample-mode", "'8x'", "'16x', '4x'")),
        ("run --max-tokens many", ("--max-tokens", "'many'", "integer")),
        ("run --max-tokens", ("--max-tokens", "requires an argument")),
        ("run nano hi --max-tokens 0", ("--max-tokens=0", "at least 1")),
        ("run nano hi --temperature -1", ("temperature=-1.0",)),
        ("run nano hi --top-p 2", ("--top-p=2.0",)),
        ("run nano hi --threads 0", ("threads=0", "at least 1")),
        ("run nano hi --weights in4", ("--weights", "'in4'", "did you mean 'int4'?")),
        ("run nano hi --weights int4 --precision exact", ("weights='int4'", "precision='exact'", "weights='stored'")),
        ("run nano hi --backend torch --precision fast", ("precision='fast'", "backend='native'")),
        ("info nano --backend torch --weights int8", ("weights='int8'", "backend='native'")),
        ("run nano hi --device cuda", ("device='cuda'", "backend='torch'")),
        ("run nano hi there", ("(there)", "quotes", "-i before each image")),
        ("run nano hi -p again", ("twice", "'hi'")),
        ("run -i - -i - -p hi", ("twice", "one image")),
        ("run -i - -p -", ("both read stdin",)),
        ("run nano hi --processor-kwargs {", ("--processor-kwargs", "not valid JSON")),
        ("run nano hi --processor-kwargs []", ("--processor-kwargs", "object", "[]")),
        (
            'run nano hi --processor-kwargs {"slice_mod":1}',
            ("'slice_mod'", "did you mean 'slice_mode'?"),
        ),
        ('run nano hi --processor-kwargs {"zzz":1}', ("'zzz'", "known are", "max_slice_nums")),
        ("tokens", ("nothing to count",)),
        ("info nano --device cuda", ("device='cuda'",)),
        ("info nano --threads 0", ("threads=0",)),
        ("pull", ("MODEL",)),
        ("pull nano --revision main", ("'main'", "local directory")),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(invoke, model, line, parts):
    one_line(invoke(*line.split()), 2, *parts)
    assert model.loaded == {}


def test_nothing_to_ask_is_refused_with_an_example(invoke, model):
    one_line(invoke("run", terminal=True), 2, "nothing to answer", 'pocketvlm run -i cat.jpg "What is this?"')
    one_line(invoke("run", stdin=b" \n"), 2, "nothing to answer")
    one_line(invoke("run", "nano", "  "), 2, "nothing to answer")
    one_line(invoke("run", "hello", terminal=True), 2, "no prompt for the model 'hello'", "-p")


def test_an_image_from_a_terminal_is_refused(invoke, model):
    one_line(invoke("run", "-i", "-", "-p", "hi", terminal=True), 2, "nothing is piped in")


def test_files_that_are_missing_are_reported_before_the_model_loads(invoke, model):
    one_line(invoke("run", "nano", "-i", "nowhere.png", "hi"), 1, "'nowhere.png'", "no such file")
    one_line(invoke("run", "-i", "-", "-p", "hi"), 1, "stdin", "empty")
    assert model.loaded == {}


@pytest.mark.parametrize("name", ["nanoo", "./nowhere", "org/name/more"])
def test_an_unknown_model_is_named(invoke, name):
    one_line(invoke("run", name, "hi"), 1, repr(name), "nano", "hub id")


def test_a_prompt_that_is_no_text_is_refused(invoke, model):
    one_line(invoke("run", stdin=b"\x89PNG\xff"), 1, "not UTF-8", "-i -")
    one_line(invoke("run", "nano", "bad \udcff byte"), 1, "not UTF-8")


@pytest.mark.parametrize(
    ("error", "code", "parts"),
    [
        (ImageError("image 1: damaged"), 1, ("error: image 1: damaged\n",)),
        (VideoError("messages[0].content[1]: a.mp4: damaged"), 1, ("error: video: a.mp4: damaged\n",)),
        (BackendError("no kernels\nat all"), 1, ("error: no kernels at all\n",)),
        (OptionError("max_slice_nums=0 is not supported"), 2, ("--max-slice-nums=0",)),
        (ImageError("messages[1].content[2]: c.png: damaged"), 1, ("error: image 3: c.png: damaged\n",)),
        (OptionError("options: slice_mode=3 is not supported"), 2, ("error: --slice-mode=3 is not supported\n",)),
        (MemoryError(), 1, ("not enough memory",)),
        (OSError(errno.EIO, "Input/output error", "weights"), 1, ("Input/output error: weights",)),
        (ZeroDivisionError("division by zero"), 1, ("ZeroDivisionError: division by zero", "--debug")),
        (ImageError("escape \x1b[31m sequence"), 1, ("escape ␛[31m sequence",)),
    ],
)
def test_errors_are_one_line_and_debug_adds_the_traceback(invoke, model, error, code, parts):
    model.chunks, model.error = ("never",), error
    one_line(invoke("run", "nano", "hi"), code, *parts)
    outcome = invoke("run", "nano", "hi", "--debug")
    assert outcome.code == code
    assert "Traceback (most recent call last)" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: ")


def test_an_error_in_the_middle_leaves_what_was_written(invoke, model):
    model.error = BackendError("lost the device")
    outcome = invoke("run", "nano", "hi")
    assert outcome.code == 1
    assert outcome.out == "A red\n"
    assert outcome.err == "error: lost the device\n"


def test_an_error_in_json_mode_leaves_stdout_empty(invoke, model):
    model.error = BackendError("lost the device")
    one_line(invoke("run", "nano", "hi", "--output", "json"), 1, "lost the device")


def test_interrupting_ends_the_line_and_says_so(invoke, model):
    model.error = KeyboardInterrupt()
    outcome = invoke("run", "nano", "hi")
    assert outcome.code == 130
    assert outcome.out == "A red\n"
    assert outcome.err == "interrupted\n"


def test_a_gone_reader_is_silent(invoke, model):
    model.error = BrokenPipeError(errno.EPIPE, "Broken pipe")
    outcome = invoke("run", "nano", "hi")
    assert outcome.code == 141
    assert outcome.err == ""
