"""A row of a data set becomes a question, and its answer becomes columns, under the names that `ray.data.llm` uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pocketvlm.answers.answer import Answer
from pocketvlm.answers.choice import Choice
from pocketvlm.errors import InputError, OptionError
from pocketvlm.interfaces.requests import Guide, Question
from pocketvlm.options.option import refuse_unknown
from pocketvlm.options.request import PROCESSOR_OPTIONS, SAMPLING_OPTIONS
from pocketvlm.processor.messages import as_messages

ERROR = "__inference_error__"
DATA = "__data"
OUTPUTS = (
    "generated_text",
    "generated_tokens",
    "num_generated_tokens",
    "num_input_tokens",
    "prompt_token_ids",
    "finish_reason",
    "logprobs",
    "metrics",
    "params",
    "request_id",
    "batch_uuid",
    "time_taken_llm",
)
# Fields of vLLM's SamplingParams with the only values that change nothing here.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "best_of": (1, None),
    "prompt_logprobs": (None,),
    "include_stop_str_in_output": (False, None),
    "bad_words": (None, []),
    "detokenize": (True, False, None),
    "spaces_between_special_tokens": (True, None),
    "output_kind": (None,),
}
_GUIDES = {"json": "json_schema", "regex": "regex", "choice": "choice", "json_object": "json_object"}


def plain(value: Any) -> Any:
    """A value of a row without NumPy's types, which Ray puts around lists and numbers; images stay as they are."""
    if isinstance(value, np.ndarray) and (value.dtype == object or value.ndim <= 1):
        return [plain(each) for each in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        # Ray makes one table of all rows: a key that other rows have is None where a row lacks it.
        return {key: plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def question_of(row: Mapping[str, Any]) -> Question:
    """What a row asks.

    `messages` (a conversation, with images as `processor.messages` reads them), or `tokenized_prompt` (ids), or
    `prompt`: with `image` or `video` (one or a list of path, URL, data URI, bytes, array) a question about them, alone
    a text that gets no template. Raises InputError and OptionError, naming the column.
    """
    sampling, guide, skip = _sampling(plain(row.get("sampling_params")) or {})
    options = plain(row.get("mm_processor_kwargs")) or {}
    if not isinstance(options, dict):
        raise InputError(f"mm_processor_kwargs must be a mapping, not {type(options).__name__}")
    refuse_unknown(options, PROCESSOR_OPTIONS)
    if _given(row.get("multimodal_data")):
        raise InputError("multimodal_data is not read: give images in column image, or in messages")
    images, videos = _media(row.get("image")), _media(row.get("video"))
    messages, ids, text = plain(row.get("messages")), None, None
    prompt = plain(row.get("prompt"))
    if messages:
        if images or videos:
            raise InputError("messages and column image: put the images into the messages, or use prompt and image")
    elif _given(row.get("tokenized_prompt")):
        messages, ids = None, [int(each) for each in plain(np.asarray(row["tokenized_prompt"]))]
    elif images or videos:
        messages = as_messages("" if prompt is None else _text(prompt), images, None, videos)
    elif prompt is not None:
        messages, text = None, _text(prompt)
    else:
        raise InputError("a row needs column messages, prompt or tokenized_prompt: let preprocess make one")
    return Question(
        messages=messages,
        text=text,
        ids=ids,
        sampling=sampling,
        options=options,
        guide=guide,
        chat=False,
        skip_special_tokens=skip,
    )


def answer_columns(choice: Choice, answer: Answer, seconds: float) -> dict[str, Any]:
    """The columns that a finished answer adds to its row."""
    usage, timings = choice.usage, choice.timings()
    ids = [int(each) for each in answer.token_ids]
    return {
        "generated_text": "".join(answer.text),
        "generated_tokens": ids,
        "num_generated_tokens": len(ids),
        "num_input_tokens": usage.prompt_tokens,
        "prompt_token_ids": choice.request.prompt.ids.tolist(),
        "finish_reason": answer.finish_reason or "",
        "logprobs": [{"token_id": int(each.token_id), "logprob": float(each.logprob)} for each in answer.logprobs],
        "metrics": {
            "image_tokens": usage.image_tokens,
            "media": timings.decode_media + timings.resize,
            "vision": timings.vision,
            "prefill": timings.prefill,
            "decode": timings.decode,
            "ttft": timings.ttft,
        },
        "params": str(choice.request.params),
        "time_taken_llm": seconds,
        ERROR: "",
    }


def failed_columns(message: str) -> dict[str, Any]:
    """The columns of a row that could not be answered: the message, and empty values of the others' types."""
    numbers = dict.fromkeys(("num_generated_tokens", "num_input_tokens"), 0)
    lists: dict[str, Any] = {name: [] for name in ("generated_tokens", "prompt_token_ids", "logprobs")}
    empty = {name: "" for name in OUTPUTS if name not in (*numbers, *lists, "metrics", "time_taken_llm")}
    return {**empty, **numbers, **lists, "time_taken_llm": 0.0, ERROR: message or "the row could not be answered"}


def label(row: Mapping[str, Any]) -> str:
    """What names a row in an error: its first column with a short plain value."""
    for key, value in row.items():
        if isinstance(value, int | str) and len(str(value)) <= 80:
            return f"{key}={value!r}"
    return "without a short column"


def _sampling(given: Any) -> tuple[dict[str, Any], Guide | None, bool]:
    """Sampling fields, the form of the answer, and whether special tokens are left out of its text."""
    if not isinstance(given, dict):
        raise InputError(f"sampling_params must be a mapping, not {type(given).__name__}")
    sampling: dict[str, Any] = {}
    guide, skip = None, True
    for name, value in given.items():
        if name in SAMPLING_OPTIONS:
            if value is not None:
                sampling[name] = tuple(value) if isinstance(value, list) else value
        elif name == "skip_special_tokens":
            skip = bool(value)
        elif name in ("structured_outputs", "guided_decoding"):
            guide = _guide(name, value)
        elif name not in _NEUTRAL:
            refuse_unknown({name: value}, SAMPLING_OPTIONS)
        elif value not in _NEUTRAL[name]:
            raise OptionError(f"sampling_params: {name}={value!r} is not supported: leave it out")
    return sampling, guide, skip


def _guide(name: str, value: Any) -> Guide | None:
    found = {key: each for key, each in (value or {}).items() if each is not None} if isinstance(value, dict) else None
    if found == {}:
        return None
    if found is None or len(found) != 1 or next(iter(found)) not in _GUIDES:
        raise OptionError(f"sampling_params: {name}={value!r}: give one of {', '.join(_GUIDES)}")
    kind, form = next(iter(found.items()))
    if kind == "json" and isinstance(form, str):
        try:
            form = json.loads(form)
        except ValueError as error:
            raise OptionError(f"sampling_params: {name}: json is no JSON schema: {error}") from None
    return Guide(_GUIDES[kind], None if kind == "json_object" else form, field=f"sampling_params.{name}")  # type: ignore[arg-type]


def _media(value: Any) -> Sequence[Any]:
    """One image, or several, as a list."""
    if value is None:
        return ()
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]


def _given(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"prompt must be a text, not {type(value).__name__}")
    return value
