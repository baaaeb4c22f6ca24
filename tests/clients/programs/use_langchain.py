"""LangChain through its packages for OpenAI, Anthropic and Ollama."""

from __future__ import annotations

from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI
from steps import AGENT, BASE64, DATA_URI, DONE, MODEL, Weather, run, step


@tool
def weather(city: str, days: int) -> str:
    """The weather of a place."""
    return "rain"


def models(server: str, **more: Any) -> dict[str, Any]:
    openai = {"model": "nano", "base_url": f"{server}/v1", "api_key": "none", "max_retries": 0}
    return {
        "openai chat": ChatOpenAI(**openai, max_tokens=300, temperature=0, stream_usage=True),
        "openai responses": ChatOpenAI(**openai, use_responses_api=True, max_tokens=300),
        "anthropic": ChatAnthropic(model="nano", base_url=server, api_key="none", max_retries=0, max_tokens=300),
        "ollama": ChatOllama(model="nano", base_url=server, num_predict=300, temperature=0),
    }


PICTURES = {
    "openai chat": {"type": "image_url", "image_url": {"url": DATA_URI}},
    "openai responses": {"type": "image_url", "image_url": {"url": DATA_URI}},
    "anthropic": {"type": "image", "source_type": "base64", "mime_type": "image/png", "data": BASE64},
    "ollama": {"type": "image_url", "image_url": DATA_URI},
}


def add(name: str) -> None:
    """Steps for one of the packages."""

    def picture() -> None:
        content = [{"type": "text", "text": "What is this?"}, PICTURES[name]]
        messages = [SystemMessage("Be brief."), HumanMessage(content)]
        model = models(MODEL)[name]
        assert model.invoke(messages).text
        streamed = None
        for chunk in model.stream([HumanMessage(content)]):
            streamed = chunk if streamed is None else streamed + chunk
        assert "pple" in streamed.text
        assert streamed.usage_metadata["output_tokens"] > 0

    def tools() -> None:
        model = models(AGENT)[name].bind_tools([weather])
        messages: list[Any] = [HumanMessage("Weather?")]
        first = model.invoke(messages)
        assert [(call["name"], call["args"]) for call in first.tool_calls] == [
            ("weather", {"city": "Paris", "days": 3})
        ]
        messages += [first, ToolMessage("rain", tool_call_id=first.tool_calls[0]["id"], name="weather")]
        assert model.invoke(messages).text == DONE

    def required() -> None:
        model = models(MODEL)[name].bind_tools([weather], tool_choice="any")
        assert model.invoke("Weather?").tool_calls

    def schema() -> None:
        method = "json_schema"
        model = models(MODEL)[name].with_structured_output(Weather, method=method)
        assert isinstance(model.invoke("Paris"), Weather)

    def schema_by_function() -> None:
        model = models(MODEL)[name].with_structured_output(Weather, method="function_calling")
        assert isinstance(model.invoke("Paris"), Weather)

    steps = [picture, tools, schema]
    if name != "ollama":  # its interface has no way to demand a call
        steps += [required, schema_by_function]
    for function in steps:
        function.__name__ = f"{name.replace(' ', '_')}_{function.__name__}"
        step(function)


for each in PICTURES:
    add(each)
run()
