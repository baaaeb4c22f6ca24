"""openai-agents: an agent with a function and with a schema, through chat completions and through responses."""

from __future__ import annotations

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from steps import AGENT, DATA_URI, DONE, MODEL, Weather, run, step

set_tracing_disabled(True)


@function_tool
def weather(city: str, days: int) -> str:
    """The weather of a place."""
    return "rain"


def add(name: str, kind: type) -> None:
    def model(server: str) -> object:
        client = AsyncOpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
        return kind(model="nano", openai_client=client)

    async def tools() -> None:
        agent = Agent(name="a", instructions="Be brief.", model=model(AGENT), tools=[weather])
        found = await Runner.run(agent, "Weather?")
        assert found.final_output == DONE

    async def streamed() -> None:
        agent = Agent(name="a", instructions="Be brief.", model=model(AGENT), tools=[weather])
        found = Runner.run_streamed(agent, "Weather?")
        async for _ in found.stream_events():
            pass
        assert found.final_output == DONE

    async def schema() -> None:
        agent = Agent(name="a", model=model(MODEL), output_type=Weather, model_settings=ModelSettings(max_tokens=200))
        assert isinstance((await Runner.run(agent, "Paris")).final_output, Weather)

    async def picture() -> None:
        content = [
            {"type": "input_image", "image_url": DATA_URI, "detail": "auto"},
            {"type": "input_text", "text": "What is this?"},
        ]
        found = await Runner.run(Agent(name="a", model=model(MODEL)), [{"role": "user", "content": content}])
        assert "pple" in found.final_output

    for function in (tools, streamed, schema, picture):
        function.__name__ = f"{name}_{function.__name__}"
        step(function)


add("chat", OpenAIChatCompletionsModel)
add("responses", OpenAIResponsesModel)
run()
