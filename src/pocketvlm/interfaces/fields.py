"""One rule for all interfaces says which request fields are refused and which are reported as ignored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pocketvlm.errors import OptionError

Verdict = Literal["refused", "ignored"]

CHAT, COMPLETIONS, RESPONSES = "chat", "completions", "responses"
MESSAGES, OLLAMA, TOKENS = "messages", "ollama", "tokens"
FILES, BATCHES, ADAPTERS = "files", "batches", "adapters"
OPENAI = (CHAT, COMPLETIONS, RESPONSES)

_MAX_NAMES = 40
_MAX_CHARACTERS = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]:\-]")


class IgnoredFields:
    """The fields of one request that change nothing about its answer. strict: refuse them instead."""

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._names: dict[str, None] = {}
        self._more = 0

    def add(self, name: str) -> None:
        """Report one field by its path in the request. Raises OptionError if fields must not be ignored."""
        safe = _UNSAFE.sub("?", name[:_MAX_CHARACTERS])
        if self._strict:
            raise OptionError(f"{safe}: this field is not supported, and --strict refuses what it would ignore")
        if safe in self._names:
            return
        if len(self._names) < _MAX_NAMES:
            self._names[safe] = None
        else:
            self._more += 1

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._names)

    def __str__(self) -> str:
        """The paths, separated by commas; ASCII without blanks inside a path, so that it fits into a header."""
        more = [f"and-{self._more}-more"] if self._more else []
        return ", ".join([*self._names, *more])


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to fields that the models of requests do not have.

    interfaces: where the fields are known. names: paths in a request, without list indices. verdict: "refused" or
    "ignored". why: half a sentence for messages and documentation. harmless: values that ask for what happens anyway;
    null is always one. They are neither refused nor reported.
    """

    interfaces: tuple[str, ...]
    names: tuple[str, ...]
    verdict: Verdict
    why: str
    harmless: tuple[Any, ...] = ()


def _refused(interfaces: tuple[str, ...], names: str, why: str, *harmless: Any) -> Rule:
    return Rule(interfaces, tuple(names.split()), "refused", why, harmless)


def _ignored(interfaces: tuple[str, ...], names: str, why: str, *harmless: Any) -> Rule:
    return Rule(interfaces, tuple(names.split()), "ignored", why, harmless)


# Fields without a rule are ignored and reported too: the second half of this list only gives reasons and defaults.
RULES = (
    _refused((CHAT,), "audio", "answers have no sound"),
    _refused((CHAT,), "modalities", "answers are text only", [], ["text"]),
    _refused((CHAT, RESPONSES), "functions", "give tools instead", []),
    _refused((CHAT, RESPONSES), "function_call", "give tool_choice instead", "none", "auto"),
    _refused((CHAT,), "messages.function_call", "give tool_calls instead"),
    _refused((CHAT,), "web_search_options", "this server searches nothing"),
    _refused((CHAT, RESPONSES), "documents", "put their text into a message", []),
    _refused((CHAT, RESPONSES), "chat_template", "the checkpoint's own template is used"),
    _refused((CHAT, COMPLETIONS), "best_of", "give n for several answers", 1),
    _refused((CHAT, COMPLETIONS), "prompt_logprobs", "log-probabilities are those of answers"),
    _refused(OPENAI, "use_beam_search", "answers are sampled", False),
    _refused(OPENAI, "allowed_token_ids bad_words", "give logit_bias instead", []),
    _refused(OPENAI, "truncate_prompt_tokens", "shorten the prompt", 0),
    _refused((CHAT, COMPLETIONS), "guided_grammar structured_outputs.grammar grammar", "give a schema or a regex", ""),
    _refused((CHAT, COMPLETIONS), "structured_outputs.structural_tag", "give tools or a schema"),
    _refused(OPENAI, "logits_processors logit_processors", "give logit_bias instead", []),
    _refused((CHAT, COMPLETIONS), "prompt_embeds", "give text or token ids"),
    _refused((CHAT, COMPLETIONS), "json_schema regex ebnf", "give response_format or guided_regex instead", {}, ""),
    _refused((CHAT, COMPLETIONS), "n_predict max_new_tokens max_output_tokens", "give max_tokens instead", -1),
    _refused((CHAT, COMPLETIONS), "min_new_tokens", "give min_tokens instead", 0),
    _refused((CHAT, COMPLETIONS), "stop_sequences", "give stop instead", []),
    _refused((CHAT, COMPLETIONS), "num_beams", "answers are sampled", 1),
    _refused(OPENAI, "random_seed", "give seed instead"),
    _refused((CHAT, COMPLETIONS), "n_probs logprob_token_ids", "give logprobs instead", 0, []),
    _refused((CHAT, COMPLETIONS), "include_stop_str_in_output return_tokens_as_token_ids no_stop_trim",
             "answers have one form here", False),
    _refused((CHAT, COMPLETIONS), "t_max_predict_ms", "give max_tokens instead", 0, -1),
    _refused((CHAT, COMPLETIONS), "lora lora_path", "give the name of an adapter as model or adapter",
             [], ""),
    _refused((CHAT,), "enable_thinking", "give chat_template_kwargs or reasoning_effort instead", False),
    _refused((CHAT,), "thinking", "give chat_template_kwargs or reasoning_effort instead", {"type": "disabled"}),
    _refused((CHAT,), "reasoning", "give reasoning_effort instead", {}),
    _refused((CHAT,), "include_reasoning separate_reasoning stream_reasoning parse_tool_calls",
             "reasoning and calls always have fields of their own", True),
    _refused((CHAT,), "reasoning_format", "reasoning always has a field of its own", "auto", "deepseek"),
    _refused((CHAT, COMPLETIONS), "return_token_ids", "ask /tokenize for ids", False),
    _refused((CHAT,), "echo", "only /v1/completions repeats the prompt", False),
    _refused((COMPLETIONS,), "suffix", "the model continues text and does not fill gaps", ""),
    _refused((RESPONSES,), "previous_response_id conversation", "nothing is stored: send the whole conversation"),
    _refused((RESPONSES,), "prompt", "no prompts are stored: send instructions and input"),
    _refused((RESPONSES, MESSAGES), "n best_of", "this interface gives one answer", 1),
    _refused((RESPONSES,), "max_completion_tokens", "give max_output_tokens instead"),
    _refused((RESPONSES,), "logprobs", "give top_logprobs or include instead", False),
    _refused((RESPONSES,), "reasoning_effort", "give reasoning.effort instead"),
    _refused((RESPONSES,), "enable_thinking", "give reasoning.effort instead", False),
    _refused((RESPONSES,), "thinking", "give reasoning.effort instead", {"type": "disabled"}),
    _refused((RESPONSES,), "response_format guided_json guided_regex guided_choice guided_grammar structured_outputs",
             "give text.format instead"),
    _refused((MESSAGES,), "response_format guided_json guided_regex guided_choice guided_grammar structured_outputs",
             "give output_config.format instead"),
    _refused((MESSAGES,), "stop", "give stop_sequences instead"),
    _refused((MESSAGES,), "max_completion_tokens max_output_tokens", "give max_tokens instead"),
    _refused((MESSAGES,), "reasoning_effort enable_thinking chat_template_kwargs", "give thinking instead"),
    _refused((MESSAGES,), "functions", "give tools instead", []),
    _refused((MESSAGES,), "seed min_p repetition_penalty presence_penalty frequency_penalty logit_bias min_tokens "
             "ignore_eos stop_token_ids", "this interface has no such setting: use /v1/chat/completions"),
    _refused((COMPLETIONS,), "max_completion_tokens", "give max_tokens instead"),
    _refused((COMPLETIONS,), "tools chat_template_kwargs", "use /v1/chat/completions for conversations", []),
    _refused((RESPONSES,), "background", "answers are not stored: wait for this one", False),
    _refused((MESSAGES,), "mcp_servers container", "this server calls no other services", []),
    _refused((OLLAMA,), "messages.videos videos", "send videos to /v1/chat/completions or /v1/responses", []),
    _refused((MESSAGES,), "compaction", "ask for a summary in a message"),
    _refused((MESSAGES,), "messages.clear_at", "leave the message out of later requests", "never"),
    _refused((OLLAMA,), "template", "the checkpoint's own template is used", ""),
    _refused((OLLAMA,), "suffix", "the model continues text and does not fill gaps", ""),
    _refused((OLLAMA,), "width height steps", "the model makes no images", 0),
    _refused((OLLAMA,), "_debug_render_only", "ask /tokenize for the prompt", False),
    _refused((ADAPTERS,), "is_3d_lora_weight", "adapters of this model have matrices alone", False),
    _ignored((ADAPTERS,), "lora_int_id", "adapters are known by name"),
    _ignored(OPENAI, "store", "nothing is stored", False),
    _ignored(OPENAI, "service_tier", "requests have priority instead", "auto", "default"),
    _ignored(OPENAI, "prompt_cache_key prompt_cache_options prompt_cache_retention",
             "prompts that begin alike share their state anyway"),
    _ignored(OPENAI, "safety_identifier client_metadata", "they are not stored", {}),
    _ignored((CHAT, COMPLETIONS), "metadata", "it is not stored", {}),
    _ignored(OPENAI, "verbosity text.verbosity", "the model has no setting for it", "medium"),
    _ignored((CHAT,), "messages.name", "the template has no names of speakers"),
    _ignored((CHAT,), "messages.annotations", "they tell of an earlier answer", []),
    _ignored((CHAT,), "prediction", "it would only save time"),
    _ignored(OPENAI, "stream_options.include_obfuscation", "streams are not padded", False),
    _ignored((RESPONSES,), "truncation", "a prompt that is too long is an error", "disabled"),
    _ignored((RESPONSES,), "reasoning.summary reasoning.generate_summary", "the reasoning itself is shown"),
    _ignored((RESPONSES,), "max_tool_calls", "the client calls tools"),
    _ignored((MESSAGES,), "service_tier speed inference_geo", "there is one model on one machine",
             "auto", "standard_only", "standard"),
    _ignored((MESSAGES,), "fallbacks fallback_credit_token billing_policy user_profile_id workspace_id",
             "there is one model and no account"),
    _ignored((MESSAGES,), "cache_control system.cache_control tools.cache_control messages.content.cache_control "
             "messages.content.content.cache_control", "prompts that begin alike share their state anyway"),
    _ignored((MESSAGES,), "context_management diagnostics", "the whole conversation is read each time", {"edits": []}),
    _ignored((MESSAGES,), "output_config.effort output_config.task_budget messages.output_config",
             "the model has no setting for it: see thinking"),
    _ignored((MESSAGES,), "tools.eager_input_streaming", "arguments are streamed as they come", True),
    _ignored((MESSAGES,), "tools.defer_loading", "the model sees every tool from the beginning", False),
    _ignored((MESSAGES,), "tools.allowed_callers", "only the model calls tools", ["direct"]),
    _ignored((MESSAGES,), "messages.content.caller", "only the model calls tools", {"type": "direct"}),
    _ignored((MESSAGES,), "messages.content.is_error", "the model reads the text of the result", False),
    _ignored((MESSAGES,), "messages.content.citations messages.content.content.citations system.citations",
             "answers cite nothing", [], {"enabled": False}),
    _ignored((MESSAGES,), "messages.content.transformations messages.content.content.transformations",
             "large images are scaled down", {"oversized_image": "downsize"}),
    _ignored((CHAT, COMPLETIONS), "typical_p mirostat mirostat_mode mirostat_tau mirostat_eta tfs_z repeat_last_n "
             "top_n_sigma xtc_probability xtc_threshold dry_multiplier dry_base dry_allowed_length "
             "dry_penalty_last_n dry_sequence_breakers dynatemp_range dynatemp_exponent samplers top_a",
             "a way of sampling that few engines share"),
    _ignored((OLLAMA,), "options.typical_p options.tfs_z", "a way of sampling that few engines share", 1, 1.0),
    _ignored((OLLAMA,), "options.mirostat options.mirostat_tau options.mirostat_eta options.penalize_newline",
             "a way of sampling that few engines share", 0, False),
    _ignored((OLLAMA,), "options.repeat_last_n", "penalties count the whole prompt and answer", -1),
    _ignored((OLLAMA,), "options.num_thread options.num_batch options.num_gpu options.main_gpu options.use_mmap "
             "options.use_mlock options.num_keep options.numa options.low_vram options.f16_kv options.vocab_only",
             "set when the server starts"),
    _ignored((OLLAMA,), "truncate", "a prompt that is too long is an error", False),
    _ignored((OLLAMA,), "shift", "an answer ends where the context does", False),
    _ignored((OLLAMA,), "system options", "only prompts have them", "", {}),
    _ignored((OLLAMA,), "insecure username password", "nothing is downloaded", False, ""),
    _ignored((OLLAMA,), "runner", "there is one way to run the model", ""),
)  # fmt: skip

_BY_NAME = {(interface, name): rule for rule in RULES for interface in rule.interfaces for name in rule.names}
_INDEX = re.compile(r"\[\d+\]")


def judge(interface: str, path: str, value: Any, ignored: IgnoredFields) -> None:
    """Apply the rule to one field that a request's model does not have. Raises OptionError for a refused one."""
    rule = _BY_NAME.get((interface, _INDEX.sub("", path)))
    if value is None or (
        rule is not None and any(value == same and type(value) is type(same) for same in rule.harmless)
    ):
        return
    if rule is not None and rule.verdict == "refused":
        raise OptionError(f"{path}: this field is not supported: {rule.why}")
    ignored.add(path)


def table() -> str:
    """The rules as Markdown, for docs/server.md: `python -m pocketvlm.interfaces.fields`."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    for verdict, title in (("refused", "Refused"), ("ignored", "Accepted, without effect")):
        yield from (f"| {title} | in | unless | because |", "|---|---|---|---|")
        for rule in RULES:
            if rule.verdict == verdict:
                names = ", ".join(f"`{name}`" for name in rule.names)
                values = ", ".join(f"`{json.dumps(value)}`" for value in rule.harmless)
                where = ", ".join(rule.interfaces)
                yield f"| {names} | {where} | {values} | {rule.why} |"
        yield ""


if __name__ == "__main__":
    print(table(), end="")
