"""instructor in its modes: functions, JSON, JSON schema."""

from __future__ import annotations

import anthropic
import instructor
import openai
from steps import MODEL, Weather, run, step


def add(mode: instructor.Mode) -> None:
    def extract() -> None:
        client = instructor.from_openai(openai.OpenAI(base_url=f"{MODEL}/v1", api_key="none"), mode=mode)
        found = client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": "Paris"}], response_model=Weather, max_retries=0
        )
        assert isinstance(found, Weather)

    extract.__name__ = mode.value
    step(extract)


for each in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
    add(each)


@step
def anthropic_tools() -> None:
    client = instructor.from_anthropic(anthropic.Anthropic(base_url=MODEL, api_key="none"))
    found = client.messages.create(
        model="nano", max_tokens=300, messages=[{"role": "user", "content": "x"}], response_model=Weather, max_retries=0
    )
    assert isinstance(found, Weather)


run()
