"""`pocketvlm chat` in a pipe, in this process: lines in, answers out; layout, streamed Markdown, completion."""

from __future__ import annotations

import json
import os
import stat

import pytest
from clips import write_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from pocketvlm.cli.chatting.editor import ChatCompleter, _history, history_file
from pocketvlm.cli.chatting.markdown import split_blocks
from pocketvlm.cli.chatting.screen import layout

GREEDY = ("--temperature", "0", "--max-tokens", "8")


def test_each_line_of_a_pipe_is_a_message_and_answers_alone_are_on_stdout(invoke, picture, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # a status line with a high rate is longer than 80
    outcome = invoke("chat", "nano", *GREEDY, stdin=f"What is this? '{picture}'\nAnd now?\n".encode())
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 2
    assert outcome.out == invoke("chat", *GREEDY, "-q", stdin=f"What is this? '{picture}'\nAnd now?".encode()).out
    said = outcome.err.splitlines()
    assert said[0].startswith("image 1: 64x48, ")
    assert sum(line.startswith("ttft ") for line in said) == 2
    assert len(said) == 3


def test_the_first_answer_is_that_of_run(invoke, picture):
    run = invoke("run", "nano", "-i", str(picture), "What is this?", *GREEDY)
    assert invoke("chat", "-i", str(picture), *GREEDY, stdin=b"What is this?\n").out == run.out
    assert invoke("chat", *GREEDY, stdin=f"What is this? '{picture}'".encode()).out == run.out


def test_a_video_to_begin_with(invoke, tmp_path):
    write_clip(tmp_path / "clip.mp4", 30, 10)
    run = invoke("run", "nano", "-v", str(tmp_path / "clip.mp4"), "What is this?", *GREEDY)
    chat = invoke("chat", "-v", str(tmp_path / "clip.mp4"), *GREEDY, stdin=b"What is this?\n")
    assert chat.out == run.out
    assert chat.err.startswith("video 1: 64x48, 3 of 30 frames, ")
    for more in ("-v", f"{tmp_path}/clip.mp4:2"), ("-i", f"video:{tmp_path}/clip.mp4:2"):
        assert "6 of 30 frames" in invoke("chat", *more, stdin=b"/show\n").err
    assert "there is no such file" in invoke("chat", "-v", f"{tmp_path}/none.mp4", stdin=b"").err


def test_commands_and_lines_that_go_on(invoke, picture, tmp_path):
    talk = tmp_path / "talk.json"
    lines = ["/mode 4x", f"/image '{picture}'", "What is\\", "this?", f"/save {talk}", "/exit", "never sent"]
    outcome = invoke("chat", *GREEDY, stdin="\n".join(lines).encode())
    assert outcome.code == 0
    assert "mode: 4x" in outcome.err
    user, answer = json.loads(talk.read_text())
    assert user["content"][1] == {"type": "text", "text": "What is\nthis?"}
    assert answer["content"] in outcome.out

    again = invoke("chat", "--load", str(talk), *GREEDY, stdin=b"/show\n")
    assert "you: What is this?" in again.err


def test_quiet_hides_notes_but_not_what_was_asked_for(invoke, picture):
    outcome = invoke("chat", "-q", *GREEDY, stdin=f"/mode 4x\nWhat? '{picture}'\n".encode())
    assert outcome.err == "mode: 4x\n"


def test_what_goes_wrong_in_a_pipe_is_a_line_and_an_exit_code(invoke, tmp_path):
    outcome = invoke("chat", *GREEDY, stdin=f"/xyzzy\nsee {tmp_path}/no.png\nHello\n".encode())
    assert outcome.code == 1
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert "no command /xyzzy" in errors[0]
    assert "nothing was sent" in errors[1]
    assert len(errors) == 2
    assert outcome.out.count("\n") == 1, "the last line was answered"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-i", "no.png"], 1, "image 'no.png': there is no such file"),
        (["-i", "-"], 2, "-i - does not work in a chat"),
        (["--load", "no.json"], 2, "--load no.json: there is no such file"),
        (["--temperature", "-1"], 2, "temperature=-1.0 is out of range"),
        (["--precision", "exact", "--weights", "int4"], 2, "contradicts"),
        (["--max-slice-nums", "0"], 2, "--max-slice-nums"),
        (["no-such-model/x/y"], 1, "no-such-model"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_read(invoke, arguments, code, message):
    outcome = invoke("chat", *arguments, stdin=b"Hello\n")
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1


def test_a_saved_file_that_cannot_be_loaded_ends_it(invoke, tmp_path):
    (tmp_path / "talk.json").write_text("nonsense")
    outcome = invoke("chat", "--load", str(tmp_path / "talk.json"), stdin=b"Hello\n")
    assert (outcome.code, outcome.out) == (1, "")
    assert "not a JSON file" in outcome.err


def test_no_input_is_no_error(invoke):
    outcome = invoke("chat", "nano")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_tables_become_one_column_where_two_do_not_fit():
    lines = ["/mode 16x|4x\tfew tokens an image, or four times as many", "/exit\tleave", "", "a line that is longer"]
    assert layout(lines, 70) == [
        "/mode 16x|4x  few tokens an image, or four times as many",
        "/exit         leave",
        "",
        "a line that is longer",
    ]
    assert layout(lines, 16)[:4] == ["/mode 16x|4x", "  few tokens an", "  image, or four", "  times as many"]
    assert layout(["  two words"], 7) == ["  two", "  words"]
    assert layout(["a\x1b[31m"], 40) == ["a␛[31m"]
    assert all(len(line) <= 20 for line in layout(lines, 20))


TEXT = """# Title

One paragraph
of two lines.

- a

  more of a
- b

```python
x = 1

y = 2
```

~~~
```

~~~
The end"""


def test_markdown_is_cut_where_nothing_can_change_any_more():
    done, rest = split_blocks(TEXT)
    assert rest == "~~~\n```\n\n~~~\nThe end"
    blocks, rest = [], ""
    for character in TEXT:
        done, rest = split_blocks(rest + character)
        if done:
            blocks.append(done)
    blocks.append(rest)
    assert "".join(blocks) == TEXT
    assert blocks == [
        "# Title\n\n",
        "One paragraph\nof two lines.\n\n",
        "- a\n\n  more of a\n- b\n\n",
        "```python\nx = 1\n\ny = 2\n```\n\n",
        "~~~\n```\n\n~~~\nThe end",
    ]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="a \n`~-", max_size=60), st.integers(1, 60))
def test_streamed_markdown_is_split_as_the_whole_is(text, at):
    first, rest = split_blocks(text[:at])
    second, rest = split_blocks(rest + text[at:])
    assert first + second + rest == text
    assert split_blocks(text) == (first + second, rest)


def completions(text: str, asked: bool = True) -> list[str]:
    """Lines that Tab can make of a line."""
    event = CompleteEvent(completion_requested=asked, text_inserted=not asked)
    found = ChatCompleter().get_completions(Document(text), event)
    return [text[: len(text) + each.start_position] + each.text for each in found]


def test_completion_of_commands_settings_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("my cat.png", "notes.txt", ".hidden.png", "talk.json", "it's.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.jpg").touch()
    assert completions("/s") == ["/set", "/show", "/save", "/slices", "/stats"]
    assert completions("/s", asked=False) == completions("/s")
    assert completions("/mode ") == ["/mode 16x", "/mode 4x"]
    assert completions("/set t") == ["/set temperature", "/set top_p", "/set top_k", "/set thinking"]
    assert completions("/set temperature t") == []
    assert completions("/help im") == ["/help image"]
    assert completions("What is my") == ["What is my\\ cat.png"]
    assert completions("What is my\\ c") == ["What is my\\ cat.png"]
    assert completions("see ~/de") == ["see ~/deep/"]
    assert completions("see ./deep/") == ["see ./deep/b.jpg"]
    assert completions("/image it") == ["/image it\\'s.mp4"]
    assert completions("/load ta") == ["/load talk.json"]
    assert completions("see .") == ["see .hidden.png"]
    assert completions("What is my", asked=False) == []
    assert completions("see /no/such/") == []


def test_the_history_is_private_and_leaves_long_lines_out(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = history_file()
    assert path == tmp_path / "state" / "pocketvlm" / "chat_history"
    history = _history(path)
    history.append_string("Hello")
    history.append_string("x" * 20_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "Hello" in path.read_text()
    assert "xxx" not in path.read_text()
    assert [*_history(path).load_history_strings()] == ["Hello"]
    (tmp_path / "file").touch()
    _history(tmp_path / "file" / "history").append_string("not saved")
    if os.geteuid():
        path.chmod(0)
        _history(path).append_string("not saved")


def test_help_names_the_command(invoke):
    assert "Chat about images" in invoke("chat", "--help").out.replace("\n", " ")
