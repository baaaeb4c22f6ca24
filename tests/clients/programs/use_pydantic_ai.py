"""pydantic-ai through chat completions, responses and messages: functions, schemas, pictures."""

from __future__ import annotations

from typing import Any

from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from steps import AGENT, DONE, MODEL, PICTURE, Weather, run, step


def weather(city: str, days: int) -> str:
    """The weather of a place."""
    return "rain"


def model(name: str, server: str) -> Any:
    if name == "anthropic":
        return AnthropicModel("nano", provider=AnthropicProvider(base_url=server, api_key="none"))
    kind = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[name]
    return kind("nano", provider=OpenAIProvider(base_url=f"{server}/v1", api_key="none"))


def add(name: str) -> None:
    def tools() -> None:
        agent = Agent(model(name, AGENT), tools=[weather], instructions="Be brief.")
        assert agent.run_sync("Weather?").output == DONE

    async def streamed() -> None:
        agent = Agent(model(name, AGENT), tools=[weather], instructions="Be brief.")
        async with agent.run_stream("Weather?") as found:
            assert await found.get_output() == DONE

    def schema_by_function() -> None:
        agent = Agent(model(name, MODEL), output_type=ToolOutput(Weather), model_settings={"max_tokens": 300})
        assert isinstance(agent.run_sync("Paris").output, Weather)

    def schema() -> None:
        agent = Agent(model(name, MODEL), output_type=NativeOutput(Weather), model_settings={"max_tokens": 300})
        assert isinstance(agent.run_sync("Paris").output, Weather)

    def picture() -> None:
        agent = Agent(model(name, MODEL))
        found = agent.run_sync([BinaryContent(PICTURE.read_bytes(), media_type="image/png"), "What is this?"])
        assert "pple" in found.output

    # Its profile of unknown models of Anthropic has no native schemas.
    native = [] if name == "anthropic" else [schema]
    for function in (tools, streamed, schema_by_function, picture, *native):
        function.__name__ = f"{name}_{function.__name__}"
        step(function)


for each in ("chat", "responses", "anthropic"):
    add(each)
run()
