"""Requests of several interfaces share JSON rules and sampling fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pocketvlm.errors import OptionError
from pocketvlm.interfaces import fields
from pocketvlm.interfaces.fields import IgnoredFields
from pocketvlm.interfaces.requests import Question

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
    model: str | None = Field(None, description="The model that is served, if it is left out.")

    @property
    def requested_model(self) -> str | None:
        """The model's name."""
        return self.model

    def accept(self, ignored: IgnoredFields) -> None:
        """Report the fields that nothing here reads. Raises OptionError for one that would change the answer."""
        for path, value in undeclared(self):
            fields.judge(self.interface, path, value, ignored)


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


class AnswerRequest(Body):
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

    temperature: float | None = Field(None, description="0 takes the most likely token each time.")
    top_p: float | None = None
    top_k: int | None = Field(None, description="0 or -1: off.")
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = Field(None, description="The same seed gives the same answer; choice i has seed + i.")
    stop: str | list[str] | None = Field(None, description="The answer ends before the first of these.")
    stop_token_ids: list[Count] | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    max_tokens: int | None = Field(None, description="null or -1: no limit but the context.")
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Token id to what is added to its logit, -100 to 100."
    )

    def sampling(self) -> dict[str, Any]:
        """Fields of SamplingParams that were given."""
        names = (
            "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
            "top_k", "ignore_eos", "min_tokens",
        )  # fmt: skip
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        given |= token_limit(self, "max_tokens")
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.stop_token_ids is not None:
            given["stop_token_ids"] = tuple(self.stop_token_ids)
        if self.logit_bias is not None:
            given["logit_bias"] = tuple((token_id(key), value) for key, value in self.logit_bias.items())
        return given


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
