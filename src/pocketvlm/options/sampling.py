"""`SamplingParams` defines the options of sampling: how the next token is chosen, and when an answer ends."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pocketvlm.errors import OptionError
from pocketvlm.options.option import Option, validate

_CHECKPOINT = "the checkpoint's"


def _is_bias(value: Any) -> bool:
    return isinstance(value, tuple) and all(token >= 0 and -100 <= bias <= 100 for token, bias in value)


def _are_stops(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) and text for text in value)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen and when generation ends (names as in vLLM and OpenAI).

    temperature 0 is greedy. top_k 0 or -1 and top_p 1 are off. Penalties follow the usual definitions: repetition over
    prompt and output, presence and frequency over the output. stop strings end the text before the match. logprobs: how
    many alternatives are reported with each token, 0 to 20, None for no report. logit_bias: pairs of token id and a
    number from -100 to 100 that is added to its logit.
    """

    group: ClassVar[str] = "Sampling"

    temperature: Annotated[
        float, Option("0 is greedy: always the most likely token.", low=0, high=100, default=_CHECKPOINT)
    ] = 1.0
    top_p: Annotated[float, Option("Nucleus sampling; 1 is off.", above=0, high=1, default=_CHECKPOINT)] = 1.0
    top_k: Annotated[
        int, Option("Maximum number of candidate tokens; 0 or -1 is off.", low=-1, default=_CHECKPOINT)
    ] = 0
    min_p: Annotated[
        float,
        Option(
            "Minimum probability of a token, relative to the most likely one; 0 is off.",
            low=0,
            high=1,
            default=_CHECKPOINT,
        ),
    ] = 0.0
    repetition_penalty: Annotated[
        float, Option("Penalty of tokens in prompt and answer; 1 is off.", above=0, below=100, default=_CHECKPOINT)
    ] = 1.0
    presence_penalty: Annotated[float, Option("Penalty of tokens in the answer; 0 is off.", low=-2, high=2)] = 0.0
    frequency_penalty: Annotated[
        float, Option("Penalty of tokens in the answer, for each occurrence; 0 is off.", low=-2, high=2)
    ] = 0.0
    seed: Annotated[int | None, Option("The same seed gives the same answer.", low=0, default="random")] = None
    stop: Annotated[
        tuple[str, ...],
        Option("End the answer before this text.", check=_are_stops, wanted="non-empty strings", metavar="TEXT"),
    ] = ()
    stop_token_ids: Annotated[
        tuple[int, ...], Option("End at this token id.", metavar="ID", flag="stop_token_id", chat=None)
    ] = ()
    ignore_eos: Annotated[bool, Option("Go on after the end token, up to max_tokens.", chat=None)] = False
    min_tokens: Annotated[int, Option("No end before this many tokens.", low=0)] = 0
    max_tokens: Annotated[int, Option("Maximum number of tokens to generate.", low=1)] = 1024
    logprobs: Annotated[
        int | None,
        Option("Alternatives that are reported with each token.", low=0, high=20, flag=None, chat=None),
    ] = None
    logit_bias: Annotated[
        tuple[tuple[int, float], ...],
        Option(
            "Token ids, and what is added to their logits.",
            check=_is_bias,
            wanted="token ids with -100 to 100",
            flag=None,
            chat=None,
        ),
    ] = ()

    def __post_init__(self) -> None:
        """Bring other spellings into one form, and refuse values outside their range, naming field and value."""
        for name in ("stop", "stop_token_ids"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str | int) else tuple(value or ()))
        if self.top_k == -1:
            object.__setattr__(self, "top_k", 0)
        validate(self)
        if self.min_tokens > self.max_tokens:
            raise OptionError(f"min_tokens={self.min_tokens!r} is out of range: give 0 to max_tokens")
