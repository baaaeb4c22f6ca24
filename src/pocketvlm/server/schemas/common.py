"""Fields that several interfaces share. A field that is not listed is refused by name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Json = dict[str, Any]
Count = Annotated[int, Field(ge=0, lt=1 << 31)]


class Strict(BaseModel):
    """A JSON object without unknown fields and without guessed types: "1" is not 1."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class Sampling(Strict):
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
    max_tokens: int | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Token id to what is added to its logit, -100 to 100."
    )

    def sampling(self) -> dict[str, Any]:
        """Fields of SamplingParams that were given."""
        names = (
            "temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed",
            "ignore_eos", "min_tokens", "max_tokens",
        )  # fmt: skip
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.top_k is not None:
            given["top_k"] = max(self.top_k, 0) if self.top_k == -1 else self.top_k
        if self.stop is not None:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if self.stop_token_ids is not None:
            given["stop_token_ids"] = tuple(self.stop_token_ids)
        if self.logit_bias is not None:
            given["logit_bias"] = tuple((token_id(key), value) for key, value in self.logit_bias.items())
        return given


def token_id(key: str) -> int:
    """A token id written as a JSON key. Raises OptionError."""
    from pocketvlm.errors import OptionError

    if not key.isascii() or not key.isdigit() or len(key) > 9:
        raise OptionError(f"logit_bias: {key[:40]!r} is not a token id")
    return int(key)
