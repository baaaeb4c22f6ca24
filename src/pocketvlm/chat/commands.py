"""The chat's commands begin with a slash, change the session, and reply with lines of text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pocketvlm.chat.conversation import Conversation
from pocketvlm.chat.figures import stats
from pocketvlm.chat.media import Medium, Opened, open_media, paste
from pocketvlm.chat.session import ChatEvent, Session
from pocketvlm.chat.settings import SETTINGS, wanted
from pocketvlm.chat.typed import kind_of
from pocketvlm.errors import InputError, OptionError
from pocketvlm.suggest import nearest

_NUMBER = r"\d+(?:\.\d+)?"
_NAME = re.compile(r"/([A-Za-z?]+)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Reply:
    """The lines that a command prints, the answer that it asked the model for, and whether the chat is over.

    A tab in a line separates the columns of a table.
    """

    lines: tuple[str, ...] = ()
    answer: Iterator[ChatEvent] | None = None
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """One command. completes: what its argument may be: paths, settings, or some words."""

    name: str
    usage: str
    help: str
    run: Callable[[Session, str], Reply]
    completes: str = ""
    aliases: tuple[str, ...] = ()


def command(line: str) -> tuple[Command, str] | None:
    """The command of a line and its argument; None where the line is text, or a path. Raises OptionError."""
    match = _NAME.fullmatch(line.rstrip())
    if match is None:
        return None
    name, argument = match[1].lower(), (match[2] or "").strip()
    found = _BY_NAME.get(name)
    if found is None:
        if kind_of(line.split(maxsplit=1)[0]) not in (None, "folder"):
            return None
        near = nearest(name, _BY_NAME)
        hint = f"did you mean /{near}?" if near else "/help shows all"
        raise OptionError(f"there is no command /{name}: {hint} (a blank before it sends it as text)")
    return found, argument


def _attach(session: Session, argument: str, open_one: Callable[[str], Opened], example: str) -> Reply:
    """Open each path or address of an argument, all or none."""
    names = _names(argument)
    if not names:
        raise OptionError(f"what shall be opened is missing: write {example}")
    opened = [open_one(name) for name in names]
    return Reply(tuple(line for one in opened for line in _taken(session, one)))


def _taken(session: Session, opened: Opened) -> list[str]:
    return [*session.attach(opened.media), *([opened.note] if opened.note else [])]


def _names(argument: str) -> list[str]:
    """Typed paths: a single path with blanks taken literally, or several paths as a shell would read them."""
    if not argument or kind_of(argument) is not None:
        return [argument] if argument else []
    try:
        return shlex.split(argument)
    except ValueError:
        return [argument]


def _with_last(argument: str, pattern: str) -> tuple[str, str | None]:
    """An argument without its last word, and that word, if there are more and it has a certain form."""
    head, _, last = argument.rpartition(" ")
    return (head.rstrip(), last) if head and re.fullmatch(pattern, last) else (argument, None)


def _image(session: Session, argument: str) -> Reply:
    return _attach(session, argument, lambda name: open_media(name, "image"), "/image cat.png")


def _video(session: Session, argument: str) -> Reply:
    argument, part = _with_last(argument, rf"{_NUMBER}-({_NUMBER})?|-{_NUMBER}")
    argument, fps = _with_last(argument, _NUMBER)
    start, _, end = (part or "").partition("-")
    given = {"fps": fps, "start": start, "end": end}
    options = {name: float(value) for name, value in given.items() if value}
    example = "/video clip.mp4 or /video clip.mp4 2 10-40 (two frames of each second, from second 10 to 40)"
    return _attach(session, argument, lambda name: open_media(name, "video", options=options), example)


def _pdf(session: Session, argument: str) -> Reply:
    argument, pages = _with_last(argument, r"all|\d[\d,-]*")
    return _attach(session, argument, lambda name: open_media(name, "pdf", pages), "/pdf paper.pdf 1-3,5")


def _url(session: Session, argument: str) -> Reply:
    for name in _names(argument):
        if not name.lower().startswith(("http://", "https://", "data:", "file:")):
            raise OptionError(f"{name} is no address: write /url https://example.com/cat.png")
    return _attach(session, argument, open_media, "/url https://example.com/cat.png")


def _paste(session: Session, argument: str) -> Reply:
    _nothing(argument, "/paste")
    return Reply(tuple(_taken(session, paste())))


def _clear(session: Session, argument: str) -> Reply:
    _nothing(argument, "/clear")
    session.conversation, session.pending, session.file, session.last = Conversation(), [], None, None
    return Reply(("a new conversation; the settings stay",))


def _undo(session: Session, argument: str) -> Reply:
    _nothing(argument, "/undo")
    if session.pending:
        medium = session.pending.pop()
        return Reply((f"taken back: {medium.kind} {medium.name}",))
    taken = session.conversation.undo()
    if not taken:
        raise OptionError("there is nothing to take back")
    media = _media(taken[0].media)
    return Reply((f"taken back, with its answer: {_short(taken[0].text)}{f' and {media}' if media else ''}",))


def _regen(session: Session, argument: str) -> Reply:
    _nothing(argument, "/regen")
    same = "the same prompt gives the same answer: /set temperature 0.7 or another /set seed changes that"
    return Reply((same,) if session.settings.greedy else (), session.again())


def _set(session: Session, argument: str) -> Reply:
    name, _, value = argument.partition(" ")
    if not name:
        rows = (f"{key}\t{session.settings.value(key)}" for key in SETTINGS)
        hint = "values in brackets are the checkpoint's or the adapter's; /set NAME VALUE, or default for the value"
        return Reply((*rows, hint))
    name = session.settings.named(name)
    if not value.strip():
        setting = SETTINGS[name]
        return Reply((f"{name}: {session.settings.value(name)} - {setting.help} Give {wanted(setting)}, or default.",))
    session.settings.change(name, value.strip())
    lines = [f"{name}: {session.settings.value(name)}"]
    if name in ("adapter", "mode", "slices", "frames", "stack", "fps", "start", "end"):
        lines += [session.describe(medium) for medium in (*session.conversation.media, *session.pending)]
    return Reply(tuple(lines))


def _shortcut(name: str) -> Callable[[Session, str], Reply]:
    """A setting as a command of its own."""
    return lambda session, argument: _set(session, f"{name} {argument}".strip())


def _show(session: Session, argument: str) -> Reply:
    if argument in ("settings", "set"):
        return _set(session, "")
    if argument == "thinking":
        thoughts = [message.reasoning for message in session.conversation.messages if message.reasoning]
        if not thoughts:
            raise OptionError("there is no thinking to show: /thinking on lets the model think")
        return Reply(tuple(thoughts[-1].expandtabs(4).splitlines()))
    if argument and argument != "all":
        raise OptionError(f"/show {argument} is not known: write /show, /show all, /show thinking or /show settings")
    lines = [f"system: {session.settings.system}"] if session.settings.system else []
    for message in session.conversation.messages:
        who = {"user": "you", "assistant": "model"}.get(message.role, message.role)
        lines += [f"  {session.describe(medium)}" for medium in message.media]
        text = message.text.expandtabs(4) if argument else _short(message.text, 60)
        lines += f"{who}: {text}".splitlines()
    lines += [f"  waiting: {session.describe(medium)}" for medium in session.pending]
    return Reply(tuple(lines) or ("nothing was said yet",))


def _save(session: Session, argument: str) -> Reply:
    words = _names(argument)
    flags = {word for word in words if word in ("embed", "overwrite")}
    names = [word for word in words if word not in flags]
    path = Path(names[0]).expanduser() if names else session.file
    if path is None or len(names) > 1:
        raise OptionError("give one file: write /save talk.json; with embed after it the pictures are in the file")
    if not session.conversation.messages:
        raise InputError("nothing was said yet, so there is nothing to save")
    if path.exists() and path != session.file and "overwrite" not in flags:
        raise InputError(f"{path} is there already: /save {shlex.quote(str(path))} overwrite replaces it")
    size = session.conversation.save(path, "embed" in flags)
    session.file = path
    count = len(session.conversation.messages)
    return Reply((f"saved {count} message{'s' if count != 1 else ''}, {size} bytes, to {path}",))


def _load(session: Session, argument: str) -> Reply:
    names = [argument] if Path(argument).is_file() else _names(argument)
    if len(names) != 1:
        raise OptionError("give one file: write /load talk.json")
    return load_conversation(session, Path(names[0]).expanduser())


def load_conversation(session: Session, path: Path) -> Reply:
    """Continue a saved conversation; the reply says what is in it. Raises InputError."""
    loaded = Conversation.load(path)
    session.conversation, session.pending, session.file, session.last = loaded, [], path, None
    session.settings.change("system", loaded.system or "default")
    media = _media(tuple(loaded.media))
    count = len(loaded.messages)
    text = f"loaded {count} message{'s' if count != 1 else ''}{f' with {media}' if media else ''} from {path}"
    return Reply((text, *_show(session, "").lines[-6:]) if count else (text,))


def _stats(session: Session, argument: str) -> Reply:
    _nothing(argument, "/stats")
    return Reply(tuple(stats(session)))


def _help(session: Session, argument: str) -> Reply:
    if argument:
        name = argument.removeprefix("/").lower()
        if name not in _BY_NAME:
            raise OptionError(f"there is no command /{name}: /help shows all")
        found = _BY_NAME[name]
        return Reply((f"{found.usage}: {found.help}",))
    return Reply((*(f"{each.usage}\t{each.help}" for each in COMMANDS), *HINTS))


def _exit(session: Session, argument: str) -> Reply:
    return Reply(leave=True)


def _nothing(argument: str, name: str) -> None:
    if argument:
        raise OptionError(f"{name} takes no argument, not {argument!r}")


def _short(text: str, limit: int = 40) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _media(media: tuple[Medium, ...]) -> str:
    counts = {kind: sum(medium.kind == kind for medium in media) for kind in ("image", "video")}
    return " and ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count)


HINTS = (
    "",
    "Paths and addresses of pictures, videos and PDF files may stand anywhere in a sentence, quoted or not. A line "
    "with nothing but these waits for the question.",
    "Enter sends. Alt+Enter, or a backslash at the end of a line, begins a new one. Tab completes. Ctrl+C stops an "
    "answer, Ctrl+D leaves.",
)

COMMANDS: tuple[Command, ...] = (
    Command("image", "/image PATH...", "show pictures to the model with the next question", _image, "paths"),
    Command(
        "video", "/video PATH [FPS] [START-END]", "show a video, or seconds of it, FPS frames of each", _video, "paths"
    ),
    Command("pdf", "/pdf PATH [PAGES]", "show pages of a PDF file, such as 1-3,5", _pdf, "paths"),
    Command("url", "/url ADDRESS...", "show a picture from the web", _url),
    Command("paste", "/paste", "show the picture that was copied last", _paste),
    Command("clear", "/clear", "begin a new conversation", _clear, aliases=("new", "reset")),
    Command("undo", "/undo", "take back what waits, or the last question with its answer", _undo),
    Command("regen", "/regen", "answer the last question anew", _regen, aliases=("retry",)),
    Command("set", "/set [NAME [VALUE]]", "show or change settings", _set, "settings"),
    Command("show", "/show [all|thinking|settings]", "what was said, or thought", _show, "all thinking settings"),
    Command("save", "/save [FILE] [embed]", "write the conversation, as OpenAI messages", _save, "paths"),
    Command("load", "/load FILE", "go on with a conversation that was saved", _load, "paths"),
    Command("mode", "/mode 16x|4x", "few tokens an image, or four times as many", _shortcut("mode"), "16x 4x"),
    Command("slices", "/slices N", "most slices an image is cut into", _shortcut("slices"), "1 4 9"),
    Command("thinking", "/thinking on|off", "let the model think first", _shortcut("thinking"), "on off"),
    Command("stats", "/stats", "figures of the last answer, and the caches", _stats),
    Command("help", "/help [COMMAND]", "this", _help, "commands", aliases=("h", "?")),
    Command("exit", "/exit", "leave", _exit, aliases=("quit", "bye", "q")),
)
_BY_NAME = {name: each for each in COMMANDS for name in (each.name, *each.aliases)}
