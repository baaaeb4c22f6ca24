"""openai: the helpers that parse answers, and both interfaces with tools."""

from __future__ import annotations

import json

import openai
from steps import AGENT, DATA_URI, DONE, MODEL, Weather, run, step

client = openai.OpenAI(base_url=f"{MODEL}/v1", api_key="none", max_retries=0)
agent = openai.OpenAI(base_url=f"{AGENT}/v1", api_key="none", max_retries=0)


PICTURE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": DATA_URI, "detail": "auto"}},
]


@step
def chat_parses_a_schema() -> None:
    answer = client.chat.completions.parse(
        model="nano",
        messages=[{"role": "user", "content": "Paris"}],
        response_format=Weather,
        max_completion_tokens=200,
    )
    assert isinstance(answer.choices[0].message.parsed, Weather)


@step
def chat_streams_with_usage() -> None:
    asked = {"model": "nano", "messages": [{"role": "user", "content": PICTURE}]}
    with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "content.delta" in kinds
    assert "pple" in final.choices[0].message.content
    assert final.usage.completion_tokens > 0


@step
def chat_calls_a_function_and_takes_its_result() -> None:
    tools = [openai.pydantic_function_tool(Weather)]
    messages = [{"role": "user", "content": "Weather?"}]
    first = client.chat.completions.parse(model="nano", messages=messages, tools=tools, tool_choice="required")
    call = first.choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, Weather)
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    assert agent.chat.completions.create(model="nano", messages=messages).choices[0].message.content == DONE


@step
def responses_parse_a_schema() -> None:
    answer = client.responses.parse(model="nano", input="Paris", text_format=Weather, max_output_tokens=200)
    assert isinstance(answer.output_parsed, Weather)


@step
def responses_stream_an_answer_about_a_picture() -> None:
    content = [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": DATA_URI, "detail": "auto"},
    ]
    with client.responses.stream(model="nano", input=[{"role": "user", "content": content}]) as stream:
        final = list(stream)[-1].response
    assert "pple" in final.output_text


@step
def responses_call_a_function_and_take_its_result() -> None:
    tool = {"type": "function", "name": "weather", "parameters": Weather.model_json_schema(), "strict": False}
    items = [{"role": "user", "content": "Weather?"}]
    first = agent.responses.create(
        model="nano",
        input=items,
        tools=[tool],
        store=False,
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "low"},
    )
    call = first.output[-1]
    assert json.loads(call.arguments) == {"city": "Paris", "days": 3}
    items += [*first.output, {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    assert agent.responses.create(model="nano", input=items, tools=[tool]).output_text == DONE


run()
