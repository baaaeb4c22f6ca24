"""The official clients of OpenAI, Anthropic and Ollama against a real server."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import anthropic
import ollama
import openai
import pytest
from clips import write_clip
from server.kit import EXAMPLES, Running, Script, image, picture, running, until

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
CALL = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
    "</function>\n</tool_call>"
)
THOUGHT = "I look it up.\n</think>\n\nOne moment."
ARGUMENTS = '{"city": "Paris", "days": 3}'


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as found:
        yield found


@pytest.fixture(scope="module")
def scripted() -> Iterator[Running]:
    """A server whose model thinks, says a word and calls a function, whatever it is asked."""
    script = Script([f"{THOUGHT}\n\n{CALL}"])
    with running(prepare=script.install) as found:
        yield found


def test_openai_text_image_stream_and_logprobs(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": [image("apple.png"), {"type": "text", "text": "What is this?"}]}]
    whole = client.chat.completions.create(model="nano", messages=messages, logprobs=True, top_logprobs=1)
    text = whole.choices[0].message.content
    assert text is not None
    assert "pple" in text
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(whole.choices[0].logprobs.content) + 1
    with client.chat.completions.create(model="nano", messages=messages, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text


def test_openai_models_errors_and_files(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["nano"]
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="nano", messages=[{"role": "user", "content": "x"}], temperature=-1)
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    file = client.files.create(file=EXAMPLES / "penguin.png", purpose="vision")
    part = {"type": "image_url", "image_url": {"file_id": file.id}}
    answer = client.chat.completions.create(
        model="nano", messages=[{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    )
    assert "enguin" in str(answer.choices[0].message.content)
    assert client.files.content(file.id).read() == (EXAMPLES / "penguin.png").read_bytes()
    assert file.id in [other.id for other in client.files.list()]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_openai_videos_by_data_and_by_file(client: openai.OpenAI, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 30, 10)
    file = client.files.create(file=tmp_path / "clip.mp4", purpose="user_data")
    url = "data:video/mp4;base64," + base64.b64encode((tmp_path / "clip.mp4").read_bytes()).decode()
    text = "What is this?"
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "video_url", "video_url": {"file_id": file.id}}]
    chats = [
        client.chat.completions.create(
            model="nano", messages=[{"role": "user", "content": [part, {"type": "text", "text": text}]}], temperature=0
        )
        for part in parts
    ]
    parts = [{"type": "input_video", "video_url": url}, {"type": "input_video", "file_id": file.id}]
    responses = [
        client.responses.create(
            model="nano",
            input=[{"role": "user", "content": [part, {"type": "input_text", "text": text}]}],
            temperature=0,
        )
        for part in parts
    ]
    said = chats[0].choices[0].message.content
    assert said
    assert [chat.choices[0].message.content for chat in chats] == [said] * 2
    assert [response.output_text for response in responses] == [said] * 2
    assert {chat.usage.prompt_tokens for chat in chats} == {response.usage.input_tokens for response in responses}
    for part, says in (
        ({"type": "input_video"}, "needs one of video_url and file_id"),
        ({"type": "input_file", "file_id": file.id}, "type 'input_file' are not supported"),
    ):
        with pytest.raises(openai.BadRequestError, match=says):
            client.responses.create(model="nano", input=[{"role": "user", "content": [part]}])
    image_part = {"type": "input_image", "file_id": file.id, "detail": "auto"}
    with pytest.raises(openai.BadRequestError, match="looks like a video: give it as one"):
        client.responses.create(model="nano", input=[{"role": "user", "content": [image_part]}])
    client.files.delete(file.id)


def test_interfaces_without_videos_say_so(server: Running, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4", 3, 10)
    data = base64.b64encode((tmp_path / "clip.mp4").read_bytes()).decode()
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        for kind, says in (("video", "no videos: send them to"), ("image", "looks like a video")):
            block = {"type": kind, "source": {"type": "base64", "media_type": "video/mp4", "data": data}}
            with pytest.raises(anthropic.BadRequestError, match=says):
                client.messages.create(model="nano", max_tokens=5, messages=[{"role": "user", "content": [block]}])
        named = {"type": "image", "source": {"type": "url", "url": f"video:data:video/mp4;base64,{data}"}}
        assert client.messages.create(
            model="nano", max_tokens=5, messages=[{"role": "user", "content": [named]}]
        ).content
    with pytest.raises(ollama.ResponseError, match="looks like a video"):
        ollama.Client(host=server.url).generate(model="nano", prompt="What?", images=[str(tmp_path / "clip.mp4")])
    message = {"role": "user", "content": "What?", "videos": [data]}
    answer = server.client.post("/api/chat", json={"model": "nano", "messages": [message]})
    assert answer.status_code == 400
    assert "videos" in answer.json()["error"]


def test_openai_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="nano", prompt="Hello", max_tokens=3, n=2)
    assert len(answer.choices) == 2


def test_openai_responses(client: openai.OpenAI) -> None:
    content = [
        {"type": "input_image", "image_url": picture("apple.png"), "detail": "auto"},
        {"type": "input_text", "text": "What is this?"},
    ]
    answer = client.responses.create(model="nano", input=[{"role": "user", "content": content}])
    assert "pple" in answer.output_text
    assert answer.status == "completed"
    with client.responses.stream(model="nano", input=[{"role": "user", "content": content}]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == answer.output_text
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(model="nano", input="x", previous_response_id="resp_1")
    short = client.responses.create(model="nano", input="hello", max_output_tokens=1, instructions="Be brief.")
    assert short.status == "incomplete"
    assert short.incomplete_details.reason == "max_output_tokens"


def test_openai_tools_and_reasoning(scripted: Running) -> None:
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="none") as client:
        asked = {
            "model": "nano",
            "messages": [{"role": "user", "content": "Weather in Paris?"}],
            "tools": [WEATHER],
            "reasoning_effort": "high",
        }
        whole = client.chat.completions.create(**asked)
        message = whole.choices[0].message
        assert message.reasoning_content.strip() == "I look it up."
        assert message.content.strip() == "One moment."
        assert message.tool_calls[0].function.name == "weather"
        assert message.tool_calls[0].function.arguments == ARGUMENTS
        assert whole.choices[0].finish_reason == "tool_calls"
        assert whole.usage.completion_tokens_details.reasoning_tokens > 0
        with client.chat.completions.create(stream=True, **asked) as stream:
            chunks = list(stream)
        calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
        assert [call.function.name for call in calls if call.function.name] == ["weather"]
        assert "".join(call.function.arguments for call in calls) == ARGUMENTS
        assert {call.id for call in calls if call.id} == {calls[0].id}
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        # What was answered goes back in as the client writes it.
        history = [*asked["messages"], message.model_dump(), {"role": "tool", "tool_call_id": "x", "content": "rain"}]
        again = client.chat.completions.create(**{**asked, "messages": history})
        assert again.choices[0].message.tool_calls is not None
        response = client.responses.create(
            model="nano",
            input="Weather?",
            tools=[{"type": "function", **WEATHER["function"]}],
            reasoning={"effort": "high"},
        )
        assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
        items = [{"role": "user", "content": "Weather?"}, *(item.model_dump() for item in response.output)]
        items.append({"type": "function_call_output", "call_id": response.output[-1].call_id, "output": "rain"})
        again = client.responses.create(model="nano", input=items, tools=[{"type": "function", **WEATHER["function"]}])
        assert again.status == "completed"


def test_one_call_ends_an_answer_that_may_have_no_more() -> None:
    script = Script([f"{CALL}\n{CALL}\nand so on" + " and on" * 200], pause=0.001)
    with running(prepare=script.install) as server:
        fields = {"tools": [WEATHER], "parallel_tool_calls": False}
        choice = server.chat("Weather?", **fields).json()["choices"][0]
        assert [call["function"]["arguments"] for call in choice["message"]["tool_calls"]] == [ARGUMENTS]
        assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
        until(lambda: 0 in script.stopped)
        choice = server.chat("Weather?", tools=[WEATHER]).json()["choices"][0]
        assert len(choice["message"]["tool_calls"]) == 2
        assert choice["message"]["content"].startswith("and so on")


def test_openai_response_stream_with_tools(scripted: Running) -> None:
    with openai.OpenAI(base_url=f"{scripted.url}/v1", api_key="none") as client:
        tools = [{"type": "function", **WEATHER["function"]}]
        with client.responses.stream(model="nano", input="?", tools=tools, reasoning={"effort": "low"}) as stream:
            done = [event for event in stream if event.type == "response.output_item.done"]
            final = stream.get_final_response()
        assert [event.item.type for event in done] == ["reasoning", "message", "function_call"]
        assert final.output[-1].arguments == ARGUMENTS


def test_anthropic_messages(server: Running) -> None:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        data = base64.b64encode((EXAMPLES / "apple.png").read_bytes()).decode()
        content = [
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}},
            {"type": "text", "text": "What is this?"},
        ]
        asked = {"model": "nano", "max_tokens": 50, "messages": [{"role": "user", "content": content}]}
        whole = client.messages.create(**asked)
        assert "pple" in whole.content[0].text
        assert whole.stop_reason == "end_turn"
        with client.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == whole.content[0].text
            assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens
        counted = client.messages.count_tokens(model="nano", messages=asked["messages"])
        usage = whole.usage
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens
        assert client.messages.create(**{**asked, "max_tokens": 1}).stop_reason == "max_tokens"
        stopped = client.messages.create(**asked, stop_sequences=["pple"])
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "pple")
        with pytest.raises(anthropic.BadRequestError, match="top_k"):
            client.messages.create(**asked, extra_body={"top_k": -5})
        begun = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "Hello! Show"}]
        assert client.messages.create(model="nano", max_tokens=50, messages=begun).content[0].text == " me a picture."


def test_anthropic_tools_and_thinking(scripted: Running) -> None:
    function = WEATHER["function"]
    tool = {"name": "weather", "description": "Weather.", "input_schema": function["parameters"]}
    with anthropic.Anthropic(base_url=scripted.url, api_key="none") as client:
        asked = {
            "model": "nano",
            "max_tokens": 200,
            "system": [{"type": "text", "text": "Be brief."}],
            "messages": [{"role": "user", "content": "Weather in Paris?"}],
            "tools": [tool],
            "thinking": {"type": "enabled", "budget_tokens": 1024},
        }
        whole = client.messages.create(**asked)
        assert [block.type for block in whole.content] == ["thinking", "text", "tool_use"]
        assert whole.content[2].input == {"city": "Paris", "days": 3}
        assert whole.stop_reason == "tool_use"
        with client.messages.stream(**asked) as stream:
            final = stream.get_final_message()
        assert [block.type for block in final.content] == ["thinking", "text", "tool_use"]
        assert final.content[2].input == {"city": "Paris", "days": 3}
        result = {
            "type": "tool_result",
            "tool_use_id": whole.content[2].id,
            "content": [{"type": "text", "text": "rain"}],
        }
        history = [
            *asked["messages"],
            {"role": "assistant", "content": [block.model_dump() for block in whole.content]},
            {"role": "user", "content": [result, {"type": "text", "text": "And tomorrow?"}]},
        ]
        assert client.messages.create(**{**asked, "messages": history}).stop_reason == "tool_use"
        requests = scripted.context.driver.requests  # type: ignore[attr-defined]
        assert "<tool_response>\nrain\n</tool_response>" in requests[-1].prompt.text


def test_ollama(server: Running) -> None:
    client = ollama.Client(host=server.url)
    picture_ = str(EXAMPLES / "apple.png")
    asked = [{"role": "user", "content": "What is this?", "images": [picture_]}]
    whole = client.chat(model="nano", messages=asked)
    assert "pple" in whole.message.content
    stream = client.chat(model="nano:latest", messages=asked, stream=True, options={"temperature": 0})
    assert "".join(part.message.content for part in stream) == whole.message.content
    said = client.generate(model="nano", prompt="What is this?", images=[picture_], keep_alive="5m")
    assert said.response == whole.message.content
    assert said.eval_count > 0
    assert [model.model for model in client.list().models] == ["nano:latest"]
    assert "vision" in client.show("nano").capabilities
    assert client.ps().models[0].model == "nano:latest"
    assert client.generate(model="nano", prompt="hello", options={"num_predict": 2}).done_reason == "length"
    with pytest.raises(ollama.ResponseError, match="not served"):
        client.chat(model="other", messages=asked)


def test_ollama_tools_and_thinking(scripted: Running) -> None:
    client = ollama.Client(host=scripted.url)
    asked = {"model": "nano", "messages": [{"role": "user", "content": "Weather?"}], "tools": [WEATHER], "think": True}
    whole = client.chat(**asked)
    assert whole.message.thinking.strip() == "I look it up."
    assert whole.message.tool_calls[0].function.arguments == {"city": "Paris", "days": 3}
    parts = list(client.chat(**asked, stream=True))
    assert [call.function.name for part in parts for call in part.message.tool_calls or []] == ["weather"]
    history = [*asked["messages"], whole.message.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_name": "weather", "content": "rain"})
    assert client.chat(**{**asked, "messages": history}).message.tool_calls


def test_a_client_that_stops_reading_ends_its_request(server: Running) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        asked = {"model": "nano", "messages": [{"role": "user", "content": "hello"}]}
        stream = client.chat.completions.create(**asked, stream=True, max_tokens=2000, extra_body={"ignore_eos": True})
        assert next(iter(stream)).choices
        stream.close()
    line = until(lambda: next((line for line in server.lines() if line["status"] == 499), None))
    assert line.get("completion_tokens", 0) < 1900
    assert line["finish"] == "abort"
