"""Bodies of chat completions for images and rows, and the defaults that options give to the bodies of lines."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketvlm.errors import OptionError
from pocketvlm.jobs.line import Line, Problem
from pocketvlm.suggest import nearest

CHAT = "/v1/chat/completions"
# Names of sampling options in the bodies of endpoints; others do not exist there. Chat and completions have all.
_NAMES: Mapping[str, Mapping[str, str]] = {
    "/v1/responses": {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_output_tokens"},
    "/v1/messages": {
        **{name: name for name in ("temperature", "top_p", "top_k", "max_tokens")},
        "stop": "stop_sequences",
    },
}


class Template:
    """A text with `{column}` in it; `{{` and `}}` are braces. Raises OptionError for anything else in braces."""

    def __init__(self, text: str, columns: Sequence[str], flag: str) -> None:
        self._parts: list[tuple[str, str | None]] = []
        try:
            parsed = list(string.Formatter().parse(text))
        except ValueError as error:
            raise OptionError(f"{flag}: {error}: write {{column}}, and {{{{ or }}}} for a brace") from None
        for literal, name, form, conversion in parsed:
            if name is not None and (form or conversion or name not in columns):
                near = nearest(name, columns)
                known = f"did you mean {{{near}}}?" if near else f"the columns are {', '.join(columns) or 'none'}"
                raise OptionError(f"{flag}: there is no column {name!r}: {known}")
            self._parts.append((literal, name))
        self.columns = [name for _, name in self._parts if name is not None]

    def fill(self, row: Mapping[str, Any]) -> str:
        """The text with the values of a row; None is empty."""
        return "".join(
            literal + ("" if name is None or row.get(name) is None else str(row[name])) for literal, name in self._parts
        )


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the job's options say where a body says nothing. schema: of every answer, whatever a body says.

    adapter: of every line that names none itself, by `adapter` or as its `model`.
    sampling: by the names of SamplingParams. media: of the processor. template: variables of the chat template.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    media: Mapping[str, Any] = field(default_factory=dict)
    template: Mapping[str, Any] = field(default_factory=dict)
    normalize_newlines: bool | None = None
    schema: Mapping[str, Any] | None = None
    adapter: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For the digest of a job."""
        return {
            "sampling": dict(self.sampling),
            "media": dict(self.media),
            "template": dict(self.template),
            "normalize_newlines": self.normalize_newlines,
            "schema": self.schema,
        }

    def apply(self, line: Line) -> Line:
        """The line with these defaults in its body, or with a problem where its endpoint lacks an option."""
        if line.body is None:
            return line
        body = dict(line.body)
        names = _NAMES.get(line.url)
        lacking = [name for name in self.sampling if names is not None and name not in names]
        if line.url != CHAT:
            lacking += [*self.media, *self.template]
        if names is not None and self.normalize_newlines is not None:
            lacking.append("normalize_newlines")
        if lacking:
            message = f"line {line.number}: bodies of {line.url} have no {lacking[0]}: leave that option out"
            problem = Problem("option_not_supported", message)
            return Line(line.number, line.custom_id, problem=problem, size=line.size)
        if self.adapter is not None and not body.get("adapter"):
            body["adapter"] = self.adapter
        for name, value in self._sampling_fields(line.url, names).items():
            body.setdefault(name, value)
        if line.url == CHAT and "max_completion_tokens" in line.body and "max_tokens" not in line.body:
            body.pop("max_tokens", None)
        if self.media:
            body["mm_processor_kwargs"] = {**self.media, **(body.get("mm_processor_kwargs") or {})}
        if self.template:
            body["chat_template_kwargs"] = {**self.template, **(body.get("chat_template_kwargs") or {})}
        if self.normalize_newlines is not None:
            body.setdefault("normalize_newlines", self.normalize_newlines)
        if self.schema is not None:
            body.update(_guide(line.url, self.schema, body))
        return Line(line.number, line.custom_id, line.url, body, size=line.size)

    def _sampling_fields(self, url: str, names: Mapping[str, str] | None) -> dict[str, Any]:
        fields = {(name if names is None else names[name]): value for name, value in self.sampling.items()}
        if url == CHAT and "logprobs" in fields:
            fields["top_logprobs"] = fields["logprobs"]
            fields["logprobs"] = True
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _guide(url: str, schema: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The field of a body that asks for JSON of a schema."""
    form = {"type": "json_schema", "name": "answer", "schema": schema}
    match url:
        case "/v1/responses":
            return {"text": {**(body.get("text") or {}), "format": form}}
        case "/v1/messages":
            config = {**(body.get("output_config") or {}), "format": {"type": "json_schema", "schema": schema}}
            return {"output_config": config}
        case "/v1/completions":
            return {"guided_json": schema}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}


def chat_body(sources: Sequence[str], text: str, system: str | None) -> dict[str, Any]:
    """A question about images or videos, each named by a path, a URL or a data URI."""
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    parts: list[dict[str, Any]] = [_part(source) for source in sources]
    return {"messages": [*messages, {"role": "user", "content": [*parts, {"type": "text", "text": text}]}]}


def _part(source: str) -> dict[str, Any]:
    kind = "video" if source.lower().endswith(VIDEO_SUFFIXES) else "image"
    if source[:5].lower() in ("data:", "http:", "https", "file:"):
        return {"type": f"{kind}_url", f"{kind}_url": {"url": source}}
    return {"type": kind, "path": source}


PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
