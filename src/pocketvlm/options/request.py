"""Options of a request that belong neither to sampling nor to media, and the typed keywords of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypedDict

from pocketvlm.options.media import MEDIA_OPTIONS, Alpha
from pocketvlm.options.option import Option, names
from pocketvlm.options.sampling import SamplingParams
from pocketvlm.types import DownsampleMode

# Both a request and a server, for requests that do not say, have this option.
NormalizeNewlines = Annotated[
    bool, Option(r"Turn a literal \n in the answer into a new line, outside code and formulas.", group="Output")
]


@dataclass(frozen=True, slots=True)
class TemplateOptions:
    """What the chat template gets in addition to the messages."""

    group: ClassVar[str] = "Input"

    enable_thinking: Annotated[
        bool | None,
        Option("Let the model think first.", default="as the template says", flag="thinking", chat="thinking"),
    ] = None
    tools: Annotated[
        Sequence[Mapping[str, Any]] | None,
        Option(
            "Functions that the model may call.",
            wanted="a list of JSON objects",
            flag=None,
            chat=None,
        ),
    ] = None
    template_kwargs: Annotated[
        Mapping[str, Any] | None,
        Option(
            "More variables of the template.",
            wanted="a dictionary",
            flag=None,
            chat=None,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class AdapterOptions:
    """Which of the loaded adapters answers."""

    group: ClassVar[str] = "Input"

    adapter: Annotated[
        str | None,
        Option(
            "The adapter that answers, by its name.",
            wanted="the name of a loaded adapter",
            default="none: the model itself",
            flag=None,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How the text of an answer is changed."""

    normalize_newlines: NormalizeNewlines = False


class MediaKeywords(TypedDict, total=False):
    """Typed keywords of the processor for images and videos. None leaves an option to the checkpoint."""

    downsample_mode: DownsampleMode | None
    max_slice_nums: int | None
    slice_mode: bool | None
    use_image_id: bool | None
    scale_resolution: int | None
    alpha: Alpha | None
    max_num_frames: int | None
    stack_frames: int | None
    fps: float | None
    start: float | None
    end: float | None


class RequestKeywords(MediaKeywords, total=False):
    """Typed keywords of `Model.ask`, `chat`, `stream` and their like. None leaves an option to the checkpoint."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    min_tokens: int | None
    max_tokens: int | None
    logprobs: int | None
    logit_bias: Sequence[tuple[int, float]] | None
    enable_thinking: bool | None
    tools: Sequence[Mapping[str, Any]] | None
    template_kwargs: Mapping[str, Any] | None
    adapter: str | None
    normalize_newlines: bool | None


SAMPLING_OPTIONS = names(SamplingParams)
PROCESSOR_OPTIONS = (*MEDIA_OPTIONS, *names(TemplateOptions))
# What an adapter's own settings may say; other keys in them are not options of requests.
ADAPTER_DEFAULTS = (*MEDIA_OPTIONS, "enable_thinking")
REQUEST_OPTIONS = (*SAMPLING_OPTIONS, *PROCESSOR_OPTIONS, *names(AdapterOptions, TextOptions))


def over_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a request for the processor over the defaults of its adapter; None is "not given"."""
    chosen = {name: value for name, value in given.items() if value is not None}
    under = {name: defaults[name] for name in ADAPTER_DEFAULTS if defaults.get(name) is not None}
    if "enable_thinking" in (chosen.get("template_kwargs") or {}):
        under.pop("enable_thinking", None)
    return {**under, **chosen}
