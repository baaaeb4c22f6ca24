"""A record of any format becomes one conversation: messages, tools, and which answers are learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pocketvlm.errors import DataError
from pocketvlm.train.data.files import kind_of
from pocketvlm.train.data.formats import Format, Layout, keys_of
from pocketvlm.train.data.media import KINDS, Columns, Folders, column
from pocketvlm.train.data.messages import call_of, read_message, read_tools

# Keys that this module reads; all others are extra.
_USED = frozenset(
    "messages conversations instruction input output history query response prompt completion system tools".split()
    + "images image videos video chat_template_kwargs".split()
)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A record in one form. messages: with the key `learn` in each; extra: the other keys of the record.

    thinking: False drops the reasoning of its answers, True demands it, None takes answers as they are.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    extra: Mapping[str, Any]
    thinking: bool | None = None


def read_conversation(record: Mapping[str, Any], form: Format, layout: Layout, folders: Folders) -> Conversation:
    """The conversation of a record. Raises DataError naming key, value and way out."""
    _refuse(record)
    columns = _columns(record, layout, folders)
    raw = _READERS[form.name](record, layout)
    system = layout.get(record, "system")
    if isinstance(system, str) and system and not (raw and _role(raw[0][1], layout) == "system"):
        raw.insert(0, (layout.key("system"), {"role": "system", "content": system}))
    elif system is not None and not isinstance(system, str):
        raise DataError(f"{layout.key('system')!r} must be a string, not {kind_of(system)}")
    if not raw:
        raise DataError(f"no messages: the keys are {keys_of(record)}; {form.title} needs {form.needs}")
    usual = Layout(layout.columns, roles=layout.roles)
    messages: list[dict[str, Any]] = []
    for where, message in raw:
        # A message that this module made has the usual keys, whatever the file's are.
        keys = usual if isinstance(message, Mapping) and layout.role_key not in message else layout
        _append(messages, read_message(message, where, keys, columns), where)
    if form.in_front and not any(columns.inline.values()):
        first = next((message for message in messages if message["role"] == "user"), None)
        if first is not None:
            first["content"] = columns.in_front(first["content"])
    columns.check()
    extra = {key: value for key, value in record.items() if key not in {*_USED, *layout.columns.values()}}
    _answer_of_list(messages, extra)
    tools = read_tools(layout.get(record, "tools"), layout.key("tools"))
    return Conversation(messages, tools, extra, _thinking(record))


def _refuse(record: Mapping[str, Any]) -> None:
    """Refuse keys that change what a record means and have no meaning here."""
    objects = record.get("objects")
    if isinstance(objects, Mapping) and any(objects.get(key) for key in ("ref", "bbox")):
        raise DataError(
            "'objects' (places for <ref-object> and <bbox>) are not filled in: write names and coordinates into the "
            "texts, as the model shall write them"
        )
    for key in ("audios", "audio"):
        if record.get(key):
            raise DataError(f"{key!r}: the model does not hear: remove it")


def _thinking(record: Mapping[str, Any]) -> bool | None:
    """Whether the record says that its answers have reasoning: `enable_thinking` of chat_template_kwargs."""
    given = record.get("chat_template_kwargs") or {}
    if not isinstance(given, Mapping):
        raise DataError(f"'chat_template_kwargs' must be an object, not {kind_of(given)}")
    other = next((key for key in given if key != "enable_thinking"), None)
    if other is not None:
        raise DataError(
            f"chat_template_kwargs: {other!r} of one record is not supported: give template_kwargs for all records"
        )
    value = given.get("enable_thinking")
    if value is not None and not isinstance(value, bool):
        raise DataError(f"chat_template_kwargs: enable_thinking={value!r} is not supported: give true or false")
    return value


def _columns(record: Mapping[str, Any], layout: Layout, folders: Folders) -> Columns:
    sources, keys = {}, {}
    for kind in KINDS:
        plural = f"{kind}s"
        key = layout.key(plural)
        if plural not in layout.columns and record.get(key) is None and record.get(kind) is not None:
            key = kind
        sources[kind], keys[kind] = column(record.get(key), key), key
    return Columns(folders, sources, keys)


def _append(messages: list[dict[str, Any]], message: dict[str, Any], where: str) -> None:
    """Append a message; a tool call in a message of its own joins the answer before it."""
    if message["role"] != "call":
        messages.append(message)
        return
    calls = call_of(message["content"], where)
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).extend(calls)
    else:
        messages.append({"role": "assistant", "content": "", "tool_calls": calls, "learn": message["learn"]})


def _answer_of_list(messages: list[dict[str, Any]], extra: Mapping[str, Any]) -> None:
    """A question without an answer takes the first of `answers`, the accepted ones."""
    answers = extra.get("answers")
    if messages[-1]["role"] != "user" or answers is None:
        return
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError("'answers' must be a list of texts with at least one: give the accepted answers")
    messages.append({"role": "assistant", "content": answers[0], "learn": True})


def _role(message: Any, layout: Layout) -> str | None:
    if not isinstance(message, Mapping):
        return None
    name = message.get(layout.role_key or ("role" if "role" in message else "from"))
    return layout.roles.get(name) if isinstance(name, str) else None


Raw = list[tuple[str, Any]]


def _list(value: Any, key: str) -> Raw:
    if not isinstance(value, list):
        raise DataError(f"{key!r} must be a list of messages, not {kind_of(value)}")
    if not value:
        raise DataError(f"{key!r} is empty: give a question and its answer")
    return [(f"{key}[{index}]", message) for index, message in enumerate(value)]


def _messages(record: Mapping[str, Any], layout: Layout) -> Raw:
    key = layout.key("messages")
    return _list(record.get(key), key)


def _sharegpt(record: Mapping[str, Any], layout: Layout) -> Raw:
    key = layout.columns.get("messages", "conversations")
    return _list(record.get(key), key)


def _text(record: Mapping[str, Any], layout: Layout, name: str, needed: bool = True) -> str:
    key = layout.key(name)
    value = record.get(key)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        what = "is missing: give a string" if key not in record else f"must be a string, not {kind_of(value)}"
        raise DataError(f"{key!r} {what}")
    return value


def _pairs(record: Mapping[str, Any], layout: Layout, question: str, names: tuple[str, str]) -> Raw:
    """History of pairs, then a question and its answer."""
    key = layout.key("history")
    history = record.get(key) or []
    if not isinstance(history, list):
        raise DataError(f"{key!r} must be a list of pairs [question, answer], not {kind_of(history)}")
    found: Raw = []
    for index, pair in enumerate(history):
        where = f"{key}[{index}]"
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"{where} must be a pair of strings [question, answer]: {str(pair)[:60]}")
        found += [(f"{where}[0]", _say("user", pair[0])), (f"{where}[1]", _say("assistant", pair[1]))]
    answer = _text(record, layout, names[1], needed="answers" not in record)
    found.append((layout.key(names[0]), _say("user", question)))
    return [*found, (layout.key(names[1]), _say("assistant", answer))] if answer or "answers" not in record else found


def _say(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _alpaca(record: Mapping[str, Any], layout: Layout) -> Raw:
    more = _text(record, layout, "input", needed=False)
    question = _text(record, layout, "instruction") + (f"\n{more}" if more else "")
    return _pairs(record, layout, question, ("instruction", "output"))


def _query(record: Mapping[str, Any], layout: Layout) -> Raw:
    return _pairs(record, layout, _text(record, layout, "query"), ("query", "response"))


def _prompt(record: Mapping[str, Any], layout: Layout) -> Raw:
    found: Raw = []
    for key, role in (("prompt", "user"), ("completion", "assistant")):
        value = record.get(key)
        if isinstance(value, str):
            found.append((key, _say(role, value)))
            continue
        messages = _list(value, key)
        if key == "prompt":  # only completions are learnt, as in TRL
            messages = [(at, {**each, "loss": False} if isinstance(each, dict) else each) for at, each in messages]
        found += messages
    return found


_READERS = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "query-response": _query,
    "prompt-completion": _prompt,
}
