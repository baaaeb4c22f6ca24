"""`LLM` has vLLM's names of arguments and results, so that a script for vLLM runs with another import."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

from pocketvlm.api import Messages, Model, load
from pocketvlm.api.many import in_order
from pocketvlm.api.streams import Stream
from pocketvlm.errors import InputError, OptionError
from pocketvlm.options.load import LoadOptions, Precision, Weights
from pocketvlm.options.option import names
from pocketvlm.options.request import over_defaults
from pocketvlm.types import FinishReason, Prompt, Result, SamplingParams

__all__ = ["LLM", "CompletionOutput", "LoRARequest", "RequestOutput"]

# vLLM's names of types, and ours.
_DTYPES: dict[str, tuple[Weights, Precision | None]] = {
    "auto": ("auto", None),
    "bfloat16": ("bf16", None),
    "float16": ("bf16", None),
    "half": ("bf16", None),
    "float32": ("auto", "exact"),
    "float": ("auto", "exact"),
}
_KV_CACHE_DTYPES = {"bfloat16": "bf16", "int8_per_token_head": "int8"}
# Arguments about graphics cards, foreign code and room for adapters. They have no effect here.
_MOOT = (
    *("trust_remote_code", "gpu_memory_utilization", "enforce_eager", "disable_log_stats", "swap_space"),
    *("enable_lora", "max_loras", "max_lora_rank", "max_cpu_loras"),
)


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """One answer. index: always 0. finish_reason: "stop", "length" or another of FinishReason."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """A request and its answer: what was asked, as text and ids, and `outputs` with one answer."""

    request_id: str
    prompt: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass(frozen=True, slots=True)
class LoRARequest:
    """The adapter of a request: its name, and the directory that it is loaded from first. lora_int_id has no effect."""

    lora_name: str
    lora_int_id: int = 1
    lora_path: str = ""


class LLM:
    """A model with vLLM's offline interface: `LLM(model="...").chat(messages, SamplingParams(...))`."""

    def __init__(
        self,
        model: str = "nano",
        *,
        revision: str | None = None,
        dtype: str = "auto",
        quantization: Literal["int4", "int8"] | None = None,
        max_model_len: int | None = None,
        max_num_seqs: int | None = None,
        seed: int | None = None,
        tensor_parallel_size: int = 1,
        limit_mm_per_prompt: Mapping[str, int] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Load a model: "nano", a directory or a hub id.

        dtype: "auto" (quantized, as `load`), "bfloat16" or "float16" (weights as stored), "float32" (exact).
        quantization: "int8" or "int4". seed: for requests without one. limit_mm_per_prompt: maximum number of media of
        a kind, e.g. {"image": 2, "video": 1}. mm_processor_kwargs: options of the processor for every request. vLLM's
        arguments about graphics cards and foreign code have no effect; other arguments are those of `load`, with
        vLLM's names of kv_cache_dtype too. Raises OptionError.
        """
        if dtype not in _DTYPES:
            raise OptionError(f"dtype={dtype!r} is not supported: give one of {', '.join(_DTYPES)}")
        if tensor_parallel_size != 1:
            raise OptionError(f"tensor_parallel_size={tensor_parallel_size} is not supported: this engine runs as one")
        weights, precision = _DTYPES[dtype]
        given = {name: value for name, value in others.items() if name not in _MOOT}
        for name, value in given.items():
            if name not in names(LoadOptions):
                raise OptionError(f"LLM: {name}={value!r} is not supported: leave it out")
        if "kv_cache_dtype" in given:
            dtype_of_cache = given["kv_cache_dtype"]
            given["kv_cache_dtype"] = _KV_CACHE_DTYPES.get(dtype_of_cache, dtype_of_cache)
        options: dict[str, Any] = {
            "weights": quantization or weights,
            "precision": None if quantization else precision,
            **given,
        }
        self.llm_engine: Model = load(
            model, revision=revision, max_model_len=max_model_len, max_seqs=max_num_seqs, **options
        )
        self._seed = seed
        self._limits = dict(limit_mm_per_prompt or {})
        self._options = dict(mm_processor_kwargs or {})

    def get_default_sampling_params(self) -> SamplingParams:
        """Sampling as the checkpoint says."""
        return self.llm_engine.sampling_defaults

    def chat(
        self,
        messages: Messages | Sequence[Messages],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        *,
        lora_request: LoRARequest | Sequence[LoRARequest | None] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """Answers to a conversation, or to several: OpenAI-style messages, or a list of them.

        sampling_params: for all, or one for each; None is the checkpoint's. use_tqdm: count the answers on stderr where
        that is a terminal. lora_request: the adapter for all, or one for each. The other arguments are vLLM's. Raises
        InputError and OptionError for the first conversation that cannot be answered, CheckpointError for an adapter.
        """
        talks: list[Any] = [messages] if _is_one(messages) else list(messages)
        params = self._params(sampling_params, len(talks))
        adapters = self._adapters(lora_request, len(talks))
        options = {**self._options, **(mm_processor_kwargs or {})}
        prompts: dict[int, Prompt] = {}

        def start(index: int) -> Stream:
            prompt = self.llm_engine.processor(
                talks[index],
                tools=tools,
                add_generation_prompt=add_generation_prompt and not continue_final_message,
                continue_final_message=continue_final_message,
                **over_defaults(
                    self.llm_engine.adapters.options(adapters[index]),
                    {**options, "template_kwargs": chat_template_kwargs},
                ),
            )
            self._check(prompt)
            prompts[index] = prompt
            chosen = {field.name: getattr(params[index], field.name) for field in fields(SamplingParams)}
            return self.llm_engine.stream(prompt, adapter=adapters[index], **chosen)

        width = min(self.llm_engine.engine.scheduler.max_seqs, max(len(talks), 1))
        shown = use_tqdm and sys.stderr is not None and sys.stderr.isatty()
        outputs = []
        for index, result in enumerate(in_order((partial(start, number) for number in range(len(talks))), width)):
            if result.error is not None:
                raise result.error
            outputs.append(_output(index, prompts.pop(index), result))
            if shown:
                end = "\n" if index + 1 == len(talks) else ""
                print(f"\r{index + 1} of {len(talks)} answers", end=end, file=sys.stderr, flush=True)
        return outputs

    def _params(self, given: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
        """Parameters of each conversation."""
        each = [given or self.get_default_sampling_params()] * count if not isinstance(given, Sequence) else list(given)
        if len(each) != count:
            raise InputError(f"{count} conversations but {len(each)} sampling_params: give one for each, or one")
        return [replace(one, seed=self._seed) if one.seed is None else one for one in each]

    def _adapters(self, given: LoRARequest | Sequence[LoRARequest | None] | None, count: int) -> list[str | None]:
        """Names of the adapters of each conversation, which are loaded if they are not."""
        each = list(given) if isinstance(given, Sequence) else [given] * count
        if len(each) != count:
            raise OptionError(f"{count} conversations but {len(each)} lora_request: give one for each, or one")
        for request in each:
            if request is not None and request.lora_name not in self.llm_engine.adapters:
                self.llm_engine.add_adapter(request.lora_name, request.lora_path)
        return [None if request is None else request.lora_name for request in each]

    def _check(self, prompt: Prompt) -> None:
        for kind, count in (("image", len(prompt.images)), ("video", len(prompt.videos))):
            limit = self._limits.get(kind)
            if limit is not None and count > limit:
                raise InputError(f"{count} {kind}s are more than limit_mm_per_prompt={{{kind!r}: {limit}}}: raise it")


def _is_one(messages: Any) -> bool:
    """Whether this is one conversation: a list of messages."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise InputError(f"messages must be a conversation or a list of them, not {type(messages).__name__}")
    return not messages or isinstance(messages[0], Mapping)


def _output(index: int, prompt: Prompt, result: Result) -> RequestOutput:
    answer = CompletionOutput(0, result.text, result.token_ids, result.finish_reason)
    return RequestOutput(str(index), prompt.text, prompt.ids.tolist(), [answer])
