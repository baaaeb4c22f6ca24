"""Requests of several interfaces share JSON rules, sampling fields, and the base of what reads their messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pocketvlm.errors import OptionError
from pocketvlm.interfaces import fields
from pocketvlm.interfaces.fields import IgnoredFields
from pocketvlm.interfaces.requests import Place, Question
from pocketvlm.options.option import definition
from pocketvlm.options.request import SAMPLING_OPTIONS, AdapterOptions
from pocketvlm.options.sampling import SamplingParams

Json = dict[str, Any]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]
# In which chunks of a stream the usage stands.
UsageChunks = Literal["none", "last", "each"]
# The published words for how much a model thinks before it answers.
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max", "default", "auto"]


class Object(BaseModel):
    """A JSON object without guessed types: "1" is not 1. Fields that it does not declare are judged by `accept`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False, protected_namespaces=())
    # Whether nothing reads objects of this kind.
    skipped: ClassVar[bool] = False


class Body(Object):
    """The body of a request. interface: whose rules its undeclared fields follow."""

    interface: ClassVar[str]

    def accept(self, ignored: IgnoredFields) -> None:
        """Report the fields that nothing here reads. Raises OptionError for one that would change the answer."""
        for path, value in undeclared(self):
            fields.judge(self.interface, path, value, ignored)


class ModelRequest(Body):
    """The body of a request to the model or to one of its adapters."""

    model: str | None = Field(None, description="The model or an adapter; the model, if it is left out.")
    adapter: str | None = Field(
        None, description=f"{definition(AdapterOptions, 'adapter').help} model may name it too."
    )

    @property
    def requested_model(self) -> str | None:
        """The name of the model, or of an adapter."""
        return self.model


def undeclared(item: Object, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of each field of an object, and of the objects in it, that nothing reads."""
    for name, value in (item.model_extra or {}).items():
        yield prefix + name, value
    for name, field in type(item).model_fields.items():
        path, value = prefix + (field.alias or name), getattr(item, name)
        inside = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, each in inside:
            if isinstance(each, Object):
                place = path if index is None else f"{path}[{index}]"
                if each.skipped:
                    yield place, each
                else:
                    yield from undeclared(each, f"{place}.")


def described(name: str, more: str = "") -> Any:
    """A field of a request that is an option of sampling: absent by default, explained by the option's definition."""
    option = definition(SamplingParams, name)
    accepted = f"{option.wanted[0].upper()}{option.wanted[1:]}."
    return Field(None, description=" ".join(filter(None, [option.help, accepted, more])))


class AnswerRequest(ModelRequest):
    """The body of a request for an answer."""

    stream: bool | None = None

    @property
    def streams(self) -> bool:
        """Whether the answer comes as a stream."""
        return bool(self.stream)

    @property
    def end_user(self) -> str | None:
        """Who asks, for the log."""
        return None

    @property
    def own_id(self) -> str | None:
        """The request's id, if it brings one."""
        return None

    def questions(self, ignored: IgnoredFields, template: str) -> list[Question]:
        """What is asked: one for each prompt, none where only the model is to be loaded.

        template: the checkpoint's chat template. Raises OptionError and PromptError, ApiError for a thread.
        """
        raise NotImplementedError


class Sampling(AnswerRequest):
    """How to sample; what is left out is as the checkpoint's generation_config.json says."""

    temperature: float | None = described("temperature")
    top_p: float | None = described("top_p")
    top_k: int | None = described("top_k")
    min_p: float | None = described("min_p")
    repetition_penalty: float | None = described("repetition_penalty")
    presence_penalty: float | None = described("presence_penalty")
    frequency_penalty: float | None = described("frequency_penalty")
    seed: int | None = described("seed", "Choice i has seed + i.")
    stop: str | list[str] | None = described("stop")
    stop_token_ids: list[Count] | None = described("stop_token_ids")
    ignore_eos: bool | None = described("ignore_eos")
    min_tokens: int | None = described("min_tokens")
    max_tokens: int | None = described("max_tokens", "null or -1: no limit but the context.")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = described("logit_bias")

    def sampling(self) -> dict[str, Any]:
        """Fields of SamplingParams that were given."""
        special = ("max_tokens", "logit_bias")
        names = (name for name in SAMPLING_OPTIONS if name in Sampling.model_fields and name not in special)
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        given |= token_limit(self, "max_tokens")
        if self.logit_bias is not None:
            given["logit_bias"] = tuple((token_id(key), value) for key, value in self.logit_bias.items())
        return given


class MessageReader:
    """Base of a reader of one request: its messages so far, and the place of each in the request."""

    def __init__(self, ignored: IgnoredFields) -> None:
        self._ignored = ignored
        self._messages: list[dict[str, Any]] = []
        self._places: list[Place] = []

    def _append(self, message: dict[str, Any], place: Place) -> None:
        self._messages.append(message)
        self._places.append(place)


def token_limit(body: Body, *names: str) -> dict[str, Any]:
    """The limit on an answer's tokens as a field of SamplingParams: {} if none of the fields is there.

    null and -1 mean None, no limit but the context. Raises OptionError for two different limits.
    """
    given = {name: getattr(body, name) for name in names if name in body.model_fields_set}
    limits = {name: value for name, value in given.items() if value not in (None, -1)}
    if len(set(limits.values())) > 1:
        raise OptionError(f"{' and '.join(limits)} differ: give only one of them")
    for name, value in limits.items():
        if value < 1:
            raise OptionError(f"{name}={value} is out of range: give at least 1, or -1 for no limit but the context")
    return {"max_tokens": next(iter(limits.values()), None)} if given else {}


def token_id(key: str) -> int:
    """A token id written as a JSON key. Raises OptionError."""
    if not key.isascii() or not key.isdigit() or len(key) > 9:
        raise OptionError(f"logit_bias: {key[:40]!r} is not a token id")
    return int(key)


def thinks(effort: str | None) -> bool | None:
    """Whether the model thinks first for a published word of effort; None where the word leaves it open."""
    return None if effort in (None, "default", "auto") else effort not in ("none", "minimal")
