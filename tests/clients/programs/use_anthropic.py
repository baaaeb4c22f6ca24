"""anthropic: the helpers that parse answers, and the one that runs tools."""

from __future__ import annotations

import anthropic
from steps import AGENT, BASE64, DONE, MODEL, Weather, run, step

client = anthropic.Anthropic(base_url=MODEL, api_key="none", max_retries=0)
agent = anthropic.Anthropic(base_url=AGENT, api_key="none", max_retries=0)


@step
def a_picture_streams_with_thinking_switched_off() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": BASE64}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    asked = {"model": "nano", "max_tokens": 100, "messages": [{"role": "user", "content": content}]}
    with client.messages.stream(**asked, thinking={"type": "disabled"}) as stream:
        assert "pple" in stream.get_final_text()


@step
def a_schema_is_parsed() -> None:
    answer = client.messages.parse(
        model="nano", max_tokens=200, messages=[{"role": "user", "content": "Paris"}], output_format=Weather
    )
    assert isinstance(answer.parsed_output, Weather)


@step
def tools_are_run_until_the_end() -> None:
    seen = []

    @anthropic.beta_tool
    def weather(city: str, days: int) -> str:
        """The weather of a place."""
        seen.append((city, days))
        return "rain"

    runner = agent.beta.messages.tool_runner(
        model="nano",
        max_tokens=2000,
        tools=[weather],
        messages=[{"role": "user", "content": "Weather?"}],
        thinking={"type": "enabled", "budget_tokens": 1024},
        system="Be brief.",
    )
    final = runner.until_done()
    assert seen == [("Paris", 3)]
    assert final.content[-1].text == DONE


@step
def tokens_are_counted() -> None:
    assert client.messages.count_tokens(model="nano", messages=[{"role": "user", "content": "x"}]).input_tokens > 0


run()
