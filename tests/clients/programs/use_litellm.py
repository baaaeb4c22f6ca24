"""litellm through its providers for OpenAI, Anthropic, Ollama and hosted vLLM."""

from __future__ import annotations

import json
from typing import Any

import litellm
from steps import AGENT, DATA_URI, DONE, MODEL, Weather, run, step

litellm.telemetry = False
litellm.suppress_debug_info = True


TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather.", "parameters": Weather.model_json_schema()},
}


def add(provider: str, suffix: str) -> None:
    def ask(server: str, messages: list[Any], **more: Any) -> Any:
        base = f"{server}{suffix}"
        return litellm.completion(
            f"{provider}/nano", messages, api_base=base, api_key="none", max_tokens=300, num_retries=0, **more
        )

    def picture() -> None:
        content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": DATA_URI}}]
        chunks = list(ask(MODEL, [{"role": "user", "content": content}], stream=True))
        assert "pple" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def tools() -> None:
        messages: list[Any] = [{"role": "user", "content": "Weather?"}]
        first = ask(AGENT, messages, tools=[TOOL]).choices[0].message
        assert json.loads(first.tool_calls[0].function.arguments) == {"city": "Paris", "days": 3}
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "name": "weather", "content": "rain"}
        assert ask(AGENT, [*messages, first, result], tools=[TOOL]).choices[0].message.content == DONE

    def schema() -> None:
        answer = ask(MODEL, [{"role": "user", "content": "Paris"}], response_format=Weather)
        Weather.model_validate_json(answer.choices[0].message.content)

    def thinking() -> None:
        answer = ask(AGENT, [{"role": "user", "content": "Well?"}], reasoning_effort="low", drop_params=True)
        assert answer.choices[0].message.content.strip() == DONE

    # For "ollama" the library itself writes functions into the prompt.
    steps = [picture, schema, thinking] if provider == "ollama" else [picture, tools, schema, thinking]
    for function in steps:
        function.__name__ = f"{provider}_{function.__name__}"
        step(function)


add("openai", "/v1")
add("hosted_vllm", "/v1")
add("anthropic", "")
add("ollama_chat", "")
add("ollama", "")
run()
