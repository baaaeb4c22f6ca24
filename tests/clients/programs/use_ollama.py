"""ollama: functions as tools, schemas, thinking, pictures, and the calls about models."""

from __future__ import annotations

import ollama
from steps import AGENT, DONE, MODEL, PICTURE, Weather, run, step

client = ollama.Client(MODEL)
agent = ollama.Client(AGENT)


def weather(city: str, days: int) -> str:
    """The weather of a place.

    Args:
        city: where
        days: for how long
    """
    return "rain"


@step
def a_picture_streams() -> None:
    asked = [{"role": "user", "content": "What is this?", "images": [PICTURE]}]
    parts = list(client.chat("nano", asked, stream=True, keep_alive=-1, options={"num_ctx": 1024, "temperature": 0}))
    assert "pple" in "".join(part.message.content for part in parts)
    assert parts[-1].done_reason == "stop"


@step
def a_schema_is_obeyed() -> None:
    asked = [{"role": "user", "content": "Paris"}]
    answer = client.chat("nano", asked, format=Weather.model_json_schema(), options={"num_predict": 200})
    Weather.model_validate_json(answer.message.content)


@step
def a_function_is_called_and_its_result_taken() -> None:
    messages = [{"role": "user", "content": "Weather?"}]
    first = agent.chat("nano", messages, tools=[weather], think=True)
    call = first.message.tool_calls[0].function
    assert call.arguments == {"city": "Paris", "days": 3}
    assert first.message.thinking
    messages += [first.message, {"role": "tool", "tool_name": call.name, "content": weather(**call.arguments)}]
    assert agent.chat("nano", messages, tools=[weather]).message.content == DONE


@step
def generate_with_every_field() -> None:
    answer = client.generate(
        "nano", "hello", suffix="", system="", template="", context=[], raw=False, images=[PICTURE]
    )
    assert answer.response


@step
def loading_and_unloading() -> None:
    assert client.generate("nano", "").done_reason == "load"
    assert client.generate("nano", "", keep_alive=0).done_reason in ("load", "unload")
    assert client.chat("nano", []).done


@step
def models_are_described() -> None:
    assert client.show("nano").details.family
    assert client.ps().models[0].size
    assert client.list().models[0].digest is not None


run()
