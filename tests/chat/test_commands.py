"""Every command of a chat: its effect, its reply, and its errors."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from chat_kit import ask, lines, run
from PIL import Image

from pocketvlm import ImageError, InputError, OptionError, VideoError
from pocketvlm.chat.commands import COMMANDS, command
from pocketvlm.chat.media import read_pages
from pocketvlm.chat.session import Session
from pocketvlm.processor import clipboard, pdf


def test_lines_that_are_no_commands(here: Path) -> None:
    for line in ("hello /help", " /help", "/", "/3", "/no/such.png what?", f"{here}/a.png", "//help", "1/2"):
        assert command(line) is None


def test_unknown_commands_name_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"no command /imge: did you mean /image\?"):
        command("/imge a.png")
    with pytest.raises(OptionError, match="/help shows all"):
        command("/xyzzy")


def test_help_shows_every_command(session: Session) -> None:
    shown = lines(session, "/help")
    for each in COMMANDS:
        assert each.usage in shown
        assert each.help in lines(session, f"/help {each.name}")
    assert lines(session, "/?") == shown
    with pytest.raises(OptionError, match="no command /xyzzy"):
        run(session, "/help xyzzy")


def test_image_takes_one_path_with_blanks_or_several(session: Session, here: Path) -> None:
    assert lines(session, "/image my cat.png").endswith("(my cat.png)")
    assert len(run(session, "/image a.png 'my cat.png' b.JPG").lines) == 3
    assert [medium.name for medium in session.pending] == ["my cat.png", "a.png", "my cat.png", "b.JPG"]
    for wrong, message in (("", "write /image cat.png"), (" no.png", "no.png: no such file")):
        with pytest.raises(InputError if wrong else OptionError, match=message):
            run(session, f"/image{wrong}")
    with pytest.raises(ImageError):
        run(session, "/image a.png notes.txt")
    assert len(session.pending) == 4


def test_pdf_takes_pages(session: Session, here: Path) -> None:
    assert len(run(session, "/pdf paper.pdf 1,3").lines) == 2
    assert [medium.name for medium in session.pending] == ["paper.pdf page 1", "paper.pdf page 3"]
    assert session.pending[1].image.getpixel((50, 50))[2] > 200
    assert session.pending[1].image.size == (400, 560), "144 dots an inch"
    assert len(run(session, "/pdf paper.pdf").lines) == 3
    (here / "paper.pdf").rename(here / "my paper.pdf")
    assert len(run(session, "/pdf my paper.pdf 2-").lines) == 2
    assert len(run(session, "/pdf 'my paper.pdf' 3").lines) == 1
    (here / "my paper.pdf").rename(here / "paper.pdf")
    for wrong, message in (
        ("/pdf paper.pdf 4", "pages '4' are not supported: give numbers from 1 to 3"),
        ("/pdf no.pdf", "no.pdf: no such file"),
        ("/pdf a.png", "a.png: cannot be read as a PDF"),
        ("/pdf https://example.com/a.pdf", "from disk only"),
        ("/pdf", "write /pdf paper.pdf"),
    ):
        with pytest.raises((ImageError, OptionError), match=message):
            run(session, wrong)
    with pytest.raises(ImageError, match="there is no page 4: it has pages 1 to 3"):
        pdf.draw_page(here / "paper.pdf", 4)


def test_page_numbers() -> None:
    assert read_pages("1-3,5, 7-", 8) == [1, 2, 3, 5, 7, 8]
    assert read_pages("all", 2) == [1, 2]
    for wrong in ("", "0", "3-1", "9", "1-9", "x", "-2", "1,,2", "²"):
        with pytest.raises(OptionError, match="are not supported"):
            read_pages(wrong, 8)


def test_without_pypdfium2_the_extra_is_named(here: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdfium2", None)
    with pytest.raises(OptionError, match=r"pip install 'pocketvlm\[pdf\]'"):
        run(session, "/pdf paper.pdf")


def test_url_takes_addresses_only(session: Session, here: Path) -> None:
    assert lines(session, f"/url {(here / 'a.png').as_uri()}").endswith("(a.png)")
    with pytest.raises(OptionError, match=r"a\.png is no address"):
        run(session, "/url a.png")
    with pytest.raises(ImageError, match=r"cannot be fetched|no complete answer"):
        run(session, "/url http://127.0.0.1:9/a.png")
    with pytest.raises(VideoError, match=r"cannot be fetched|no complete answer"):
        run(session, "/url http://127.0.0.1:9/a.mp4")
    data = base64.b64encode((here / "clip.mp4").read_bytes()).decode()
    assert lines(session, f"/url data:video/mp4;base64,{data}").startswith("video 1: 160x120, 5 of 20 frames")


def test_paste_takes_a_picture_or_files(session: Session, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageGrab

    def holds(found: Any) -> None:
        def grab() -> Any:
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(ImageGrab, "grabclipboard", grab)

    holds(Image.new("RGBA", (30, 20)))
    assert lines(session, "/paste").startswith("image 1: 30x20, ")
    assert session.pending[0].saved(embed=False)["image_url"]["url"].startswith("data:image/png;base64,")
    colours = [session.pending[0].part(alpha)["image"].getpixel((0, 0)) for alpha in ("white", "reference")]
    assert colours == [(255, 255, 255), (0, 0, 0)], "/set alpha holds for it too"
    holds([str(here / "a.png"), str(here / "paper.pdf")])
    assert len(run(session, "/paste").lines) == 4
    for found, message in (
        (None, "holds no image"),
        ([], "holds no image"),
        (NotImplementedError("x"), "install wl-clipboard"),
        (OSError("no\ndisplay"), "cannot be read: no display: give a path"),
    ):
        holds(found)
        with pytest.raises(ImageError, match=message):
            clipboard.clipboard()


def test_undo_takes_back_what_waits_and_then_what_was_said(session: Session, here: Path) -> None:
    ask(session, "What is this? a.png")
    ask(session, "And now?")
    run(session, "/image b.JPG")
    assert lines(session, "/undo") == "taken back: image b.JPG"
    assert lines(session, "/undo") == "taken back, with its answer: And now?"
    assert lines(session, "/undo") == "taken back, with its answer: What is this? and 1 image"
    assert not session.conversation.messages
    with pytest.raises(OptionError, match="nothing to take back"):
        run(session, "/undo")


def test_clear_begins_anew_and_keeps_settings(session: Session, here: Path) -> None:
    ask(session, "What is this? a.png")
    run(session, "/image b.JPG")
    run(session, "/clear")
    assert not session.conversation.messages
    assert not session.pending
    assert session.settings.value("max_tokens") == "6"
    with pytest.raises(OptionError, match="/clear takes no argument, not 'all'"):
        run(session, "/clear all")


def test_regen_answers_again(session: Session) -> None:
    ask(session, "Hello")
    before = session.conversation.messages[-1]
    reply = run(session, "/regen")
    assert "gives the same answer" in reply.lines[0]
    assert reply.answer is not None
    list(reply.answer)
    assert session.conversation.messages[-1] is not before
    assert session.conversation.messages[-1].text == before.text
    run(session, "/set temperature 1")
    assert run(session, "/regen").lines == ()


def test_set_shows_and_changes(session: Session, here: Path) -> None:
    assert "temperature\t0.0" in run(session, "/set").lines
    assert "mode\t(16x)" in run(session, "/set").lines
    assert lines(session, "/set top_p 0.5") == "top_p: 0.5"
    assert lines(session, "/set top_p").startswith("top_p: 0.5 - Nucleus sampling")
    assert lines(session, "/set top-p default") == "top_p: (1.0)"
    assert lines(session, "/set stop \\n\\n") == "stop: '\\n\\n'"
    assert session.settings.arguments()["stop"] == ("\n\n",)
    assert lines(session, "/set system You are brief.") == "system: You are brief."
    assert lines(session, "/set max_slice_nums 2") == "slices: 2"
    for wrong, message in (
        ("/set temprature 1", "did you mean 'temperature'"),
        ("/set temp 1", "did you mean 'temperature'"),
        ("/set xyzzy 1", "/set shows them all"),
        ("/set temperature hot", "temperature='hot' is not supported: give a number from 0 to 100"),
        ("/set temperature -1", r"temperature=-1.0 is out of range"),
        ("/set thinking maybe", "give on or off"),
    ):
        with pytest.raises(OptionError, match=message):
            run(session, wrong)
    assert session.settings.value("temperature") == "0.0"


def test_short_commands_for_settings(session: Session, here: Path) -> None:
    run(session, "/image deep er/c d.webp")
    few = lines(session, "/mode 16x")
    many = lines(session, "/mode 4x")
    assert many.startswith("mode: 4x\nimage 1: ")
    assert int(many.split(" tokens")[0].split()[-1]) > int(few.split(" tokens")[0].split()[-1])
    assert ", 1 view, " in lines(session, "/slices 1")
    assert lines(session, "/thinking on") == "thinking: on"
    assert session.settings.arguments()["enable_thinking"] is True
    assert lines(session, "/thinking").startswith("thinking: on - Let the model think first")
    with pytest.raises(OptionError, match=r"^mode='8x' is not supported"):
        run(session, "/mode 8x")
    with pytest.raises(OptionError, match="slices"):
        run(session, "/slices 0")


def test_show(session: Session, here: Path) -> None:
    assert lines(session, "/show") == "nothing was said yet"
    long = "Tell me everything that you can see in this picture, please, and do not leave out anything"
    ask(session, f"{long}. a.png")
    run(session, "/image b.JPG")
    run(session, "/set system Brief.")
    shown = run(session, "/show").lines
    assert shown[0] == "system: Brief."
    assert shown[1].startswith("  image 1: 100x80")
    assert shown[2].startswith("you: Tell me everything")
    assert shown[2].endswith("…")
    assert shown[-1].startswith("  waiting: image 2: 110x80")
    assert f"you: {long}." in run(session, "/show all").lines
    assert run(session, "/show settings").lines == run(session, "/set").lines
    with pytest.raises(OptionError, match="no thinking to show"):
        run(session, "/show thinking")
    with pytest.raises(OptionError, match="/show nothing is not known"):
        run(session, "/show nothing")


def test_exit_ends_the_chat(session: Session) -> None:
    for name in ("/exit", "/quit", "/bye"):
        assert run(session, name).leave
    assert not run(session, "/help").leave


def test_stats_before_and_after(session: Session) -> None:
    assert "no answer yet" in lines(session, "/stats")
    ask(session, "Hello")
    assert "first token after" in lines(session, "/stats")


def test_save_and_load(session: Session, here: Path) -> None:
    run(session, "/set system Be brief.")
    ask(session, "What is this? my cat.png")
    ask(session, "And now?")
    said = session.conversation.prompt()
    assert lines(session, "/save talk.json").startswith("saved 4 messages, ")
    saved = json.loads((here / "talk.json").read_text())
    assert [message["role"] for message in saved] == ["system", "user", "assistant", "user", "assistant"]
    assert saved[1]["content"][0] == {"type": "image_url", "image_url": {"url": (here / "my cat.png").as_uri()}}
    run(session, "/clear")
    run(session, "/set system default")
    reply = lines(session, "/load talk.json")
    assert reply.startswith("loaded 4 messages with 1 image from talk.json\n")
    assert session.settings.system == "Be brief."
    for before, after in zip(said, session.conversation.prompt(), strict=True):
        assert before["role"] == after["role"]
        if isinstance(before["content"], str):
            assert before == after
        else:
            assert before["content"][1:] == after["content"][1:]
            assert before["content"][0]["image"].tobytes() == after["content"][0]["image"].tobytes()
    ask(session, "Go on")
    assert lines(session, "/save").startswith("saved 6 messages")


def test_save_refuses_to_replace_a_strange_file(session: Session, here: Path) -> None:
    ask(session, "Hello")
    (here / "mine.json").write_text("{}")
    with pytest.raises(InputError, match=r"mine.json is there already: /save mine.json overwrite replaces it"):
        run(session, "/save mine.json")
    assert (here / "mine.json").read_text() == "{}"
    run(session, "/save mine.json overwrite")
    run(session, "/save mine.json")
    with pytest.raises(InputError, match="cannot be written"):
        run(session, "/save no/such/talk.json")
    session.file = None
    with pytest.raises(OptionError, match=r"write /save talk\.json"):
        run(session, "/save")
    assert sorted(path.name for path in here.iterdir() if "json" in path.name) == ["mine.json"]


def test_a_new_conversation_does_not_replace_the_saved_one(session: Session, here: Path) -> None:
    ask(session, "Hello")
    run(session, "/save talk.json")
    saved = (here / "talk.json").read_text()
    run(session, "/clear")
    with pytest.raises(InputError, match="nothing was said yet"):
        run(session, "/save talk.json overwrite")
    ask(session, "Hello again")
    with pytest.raises(OptionError, match=r"write /save talk\.json"):
        run(session, "/save")
    assert (here / "talk.json").read_text() == saved


def test_pictures_can_be_saved_inside_the_file(session: Session, here: Path) -> None:
    ask(session, "What is this? a.png paper.pdf")
    run(session, "/save talk.json embed")
    for path in (here / "a.png", here / "paper.pdf"):
        path.unlink()
    images = [medium.image.tobytes() for medium in session.conversation.media]
    run(session, "/load talk.json")
    assert [medium.image.tobytes() for medium in session.conversation.media] == images


def test_loaded_files_of_other_programs(session: Session, here: Path) -> None:
    talk = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image", "image": "a.png", "max_slice_nums": 1}],
        },
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "42"},
        {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "clip.mp4"}, "fps": 1}]},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
    ]
    (here / "talk.json").write_text(json.dumps({"model": "x", "messages": talk}))
    run(session, "/load talk.json")
    messages = session.conversation.prompt()
    assert messages[0]["content"][1]["max_slice_nums"] == 1
    assert messages[1]["tool_calls"] == talk[1]["tool_calls"]
    assert messages[3]["content"] == [{"type": "video", "video": str(here / "clip.mp4"), "fps": 1}]
    assert messages[4]["reasoning_content"] == "Hm."
    assert lines(session, "/show thinking") == "Hm."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("3", "holds no list of messages"),
        ('["a"]', r"messages\[0\] must be an object"),
        ('[{"role": "king", "content": "a"}]', "role='king'"),
        ('[{"role": "user"}]', "needs 'content'"),
        ('[{"role": "user", "content": 3}]', "must be a string or a list"),
        ('[{"role": "user", "content": [{"type": "sound"}]}]', r"messages\[0\].content\[0\]: type='sound'"),
        (
            '[{"role": "user", "content": [{"type": "image", "image": "no.png"}]}]',
            r"content\[0\]: no.png: no such file",
        ),
        ('[{"role": "user", "content": [{"type": "video", "video": 3}]}]', "'video' must be a string"),
    ],
)
def test_files_that_cannot_be_loaded_change_nothing(session: Session, here: Path, text: str, message: str) -> None:
    ask(session, "Hello")
    (here / "talk.json").write_text(text)
    with pytest.raises(InputError, match=message):
        run(session, "/load talk.json")
    assert len(session.conversation.messages) == 2
    with pytest.raises(InputError, match="cannot be read: No such file"):
        run(session, "/load none.json")
    with pytest.raises(OptionError, match=r"write /load talk\.json"):
        run(session, "/load")
