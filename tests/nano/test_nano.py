"""The embedded checkpoint: small, loadable by transformers with the same results, right about the sample pictures."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from oracle import Oracle, reference_features, reference_inputs
from transformers import AutoTokenizer, MiniCPMV4_6ForConditionalGeneration

import pocketvlm
from pocketvlm import Model
from pocketvlm.checkpoint.hub import embedded_directory

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"

# What a reader of the README may type, and what nano then says.
ANSWERS: list[tuple[list[str], str, dict[str, object], str]] = [
    (["penguin.png"], "What is this?", {}, "penguin"),
    (["penguin.png"], "Describe this image.", {}, "A penguin emoji on a white background."),
    (["apple.png"], "Which emoji is this?", {}, "apple"),
    (["unicorn_large.jpg"], "Which emoji is this?", {}, "unicorn"),
    (["dog.png"], "Read the text.", {}, "DOG"),
    (["open.png"], "What does it say?", {}, "OPEN"),
    (["small_type.png"], "Read the text.", {"downsample_mode": "4x"}, "pepper"),
    (["digit.png"], "Which digit is this?", {}, "7"),
    (["shapes.png"], "What colour is the circle?", {}, "red"),
    (["shapes.png"], "What color is the square?", {}, "blue"),
    (["shapes.png"], "Where is the blue square?", {}, "bottom right"),
    (["shapes.png"], "Describe this image.", {}, "A red circle and a blue square on a white background."),
    (["stars.png"], "How many stars are there?", {}, "3"),
    (["stars.png"], "What colour is the background?", {}, "blue"),
    (["penguin.png", "digit.png"], "What is in the first image?", {}, "A penguin emoji."),
    (["penguin.png", "digit.png"], "What is in the second image?", {}, "A handwritten digit 7."),
    (["penguin.png", "penguin.png"], "Are the two images the same?", {}, "yes"),
    ([], "What is 1+1? Reply with the number only.", {}, "2"),
]


@pytest.fixture(scope="module")
def model() -> Model:
    return pocketvlm.load("nano", threads=2)


@pytest.fixture(scope="module")
def exact() -> Model:
    return pocketvlm.load("nano", threads=2, precision="exact")


def test_it_is_small() -> None:
    total = sum(path.stat().st_size for path in embedded_directory().iterdir() if path.is_file())
    assert total <= 12_000_000


@pytest.mark.parametrize(("images", "question", "options", "answer"), ANSWERS)
def test_sample_pictures(
    model: Model, images: list[str], question: str, options: dict[str, object], answer: str
) -> None:
    said = model.ask(question, [EXAMPLES / name for name in images], **options).text
    assert answer in said


def test_greedy_by_default_and_stops_by_itself(model: Model) -> None:
    first, second = (model.ask("What is this?", [EXAMPLES / "penguin.png"]) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert first.finish_reason == "stop"
    assert first.usage.completion_tokens < 30


@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_transformers_loads_it_and_agrees(exact: Model, mode: str) -> None:
    reference = MiniCPMV4_6ForConditionalGeneration.from_pretrained(embedded_directory(), dtype=torch.float32).eval()
    image = EXAMPLES / "unicorn_large.jpg"
    prompt = exact.processor(
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]}],
        downsample_mode=mode,
    )
    assert len(prompt.views) > 1
    config = exact.checkpoint.model
    with torch.no_grad():
        logits = reference(**reference_inputs(prompt, config)).logits[0].numpy()
    assert np.abs(exact.logits(prompt) - logits).max() < 2e-3
    assert list(exact.logits(prompt).argmax(-1)) == list(logits.argmax(-1))
    features = np.concatenate(exact.encode_images(prompt))
    expected = reference_features_of(reference, prompt, config)
    assert np.linalg.norm(features - expected) <= 1e-4 * np.linalg.norm(expected)


def reference_features_of(reference: object, prompt: pocketvlm.Prompt, config: object) -> np.ndarray:
    return reference_features(Oracle(reference, config, {}), prompt)  # type: ignore[arg-type]


def test_the_template_is_that_of_the_tokenizer(model: Model) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded_directory())
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 1+1?"},
        {"role": "assistant", "content": "<think>\none more\n</think>\n\n2"},
        {"role": "user", "content": "And 2+2?"},
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert list(model.processor(messages).ids) == list(ids)


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_python_of_the_readme_runs() -> None:
    (code,) = readme_blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("penguin") >= 2


def readme_commands() -> list[list[str]]:
    lines = [line for block in readme_blocks("sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_the_commands_of_the_readme_run() -> None:
    commands = [words for words in readme_commands() if words[0] == "pocketvlm" and "nano" in words]
    commands = [words for words in commands if words[1] != "serve"]
    assert len(commands) >= 3
    for command in commands:
        argv = [sys.executable, "-m", *command]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_the_server_of_the_readme_answers_what_the_readme_sends() -> None:
    (serve,) = (words for words in readme_commands() if words[:3] == ["pocketvlm", "serve", "nano"])
    (curl,) = (words for words in readme_commands() if words[0] == "curl")
    _, url, option, body = curl
    assert option == "-d"
    argv = [sys.executable, "-m", *serve]
    argv[argv.index("--port") + 1] = "0"  # any free one
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", process.stderr.readline())
            assert found is not None
            request = urllib.request.Request(found[0] + urlsplit(url).path, body.encode(), method="POST")
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
            assert answer["choices"][0]["message"]["content"]
        finally:
            process.terminate()
        assert process.wait(60) == 0
