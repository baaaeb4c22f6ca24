"""Commands: `llm` with functions, schemas and pictures, a short load with guidellm, and a compliance test."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from clients.kit import DONE, python, run, servers

pytestmark = pytest.mark.clients

FUNCTION = 'def weather(city: str, days: int) -> str:\n    "The weather of a place."\n    return "rain"\n'
CALLS = {"weather": {"city": "Paris", "days": 3}}


def test_llm_through_chat_completions(tmp_path: Path) -> None:
    llm = python("libraries") / "llm"
    with servers(CALLS) as both:
        able = {"vision": True, "supports_tools": True, "supports_schema": True}
        told = [
            {"model_id": name, "model_name": "nano", "api_base": f"{url}/v1", "api_key_name": "local", **able}
            for name, url in (("model", both.model.url), ("agent", both.agent.url))
        ]
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(told))  # JSON is YAML
        environment = {"LLM_USER_PATH": str(tmp_path)}
        look = ["-m", "model", "--key", "none", "What is this?", "-a", "picture.png"]
        assert "pple" in run([llm, *look], tmp_path, **environment)
        assert "pple" in run([llm, *look, "--no-stream"], tmp_path, **environment)
        weather = ["-m", "agent", "--key", "none", "Weather?", "--functions", FUNCTION]
        assert DONE in run([llm, *weather], tmp_path, **environment)
        city = {"city": {"enum": ["Paris"]}}
        schema = {"type": "object", "properties": city, "required": ["city"], "additionalProperties": False}
        asked = ["-m", "model", "--key", "none", "Where?", "--schema", json.dumps(schema)]
        assert json.loads(run([llm, *asked], tmp_path, **environment)) == {"city": "Paris"}
        assert not both.recorder.failures()


def test_llm_through_ollama(tmp_path: Path) -> None:
    llm = python("libraries") / "llm"
    with servers(CALLS) as both:
        user = {"LLM_USER_PATH": str(tmp_path)}
        look = ["-m", "ollama/nano", "What is this?", "-a", "picture.png"]
        assert "pple" in run([llm, *look], tmp_path, OLLAMA_HOST=both.model.url, **user)
        weather = ["-m", "ollama/nano", "Weather?", "--functions", FUNCTION]
        assert DONE in run([llm, *weather], tmp_path, OLLAMA_HOST=both.agent.url, **user)
        assert not both.recorder.failures()


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_guidellm(route: str, tmp_path: Path) -> None:
    prompts = "".join(json.dumps({"prompt": f"hello {number}"}) + "\n" for number in range(4))
    (tmp_path / "prompts.jsonl").write_text(prompts)
    report = tmp_path / "report.json"
    with servers({}) as both:
        backend = f"kind=openai_http,target={both.model.url},model=nano,request_format={route}"
        options = {
            "--backend": backend,
            "--profile": "kind=concurrent,streams=2",
            "--constraint": "kind=max_requests,count=4",
            "--data": f"kind=json_file,path={tmp_path / 'prompts.jsonl'}",
            "--output": f"kind=json,path={report}",
        }
        words = [word for pair in options.items() for word in pair]
        run([python("guidellm") / "guidellm", "run", *words, "--disable-console"], tmp_path)
        assert not both.recorder.failures()
        asked = [each for each in both.recorder.exchanges if each.path == route]
        assert len(asked) >= 4
    metrics = json.loads(report.read_text())["benchmarks"][0]["metrics"]
    assert metrics["request_totals"]["successful"] == 4
    assert metrics["request_totals"]["errored"] == 0


@pytest.mark.parametrize("form", ["openai-chat", "open-responses", "anthropic"])
def test_llm_comply(form: str, tmp_path: Path) -> None:
    with servers({"get_weather": {"location": "Paris"}}) as both:
        asked = ["-u", f"{both.agent.url}/v1", "-k", "none", "-m", "nano", "--format", form]
        program = python("libraries") / "llm-comply"
        listed = subprocess.run(
            [program, "--format", form, "--list"], capture_output=True, text=True, check=True
        ).stdout
        names = re.findall(r"^  (\S+)", listed, re.MULTILINE)
        # Its wrong request has no model, which this server takes for the one that it serves.
        chosen = [name for name in names if not name.endswith("error-handling")]
        assert len(chosen) > 5
        run([program, *asked, "--filter", ",".join(chosen)], tmp_path)
