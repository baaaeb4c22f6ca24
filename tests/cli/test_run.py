"""`pocketvlm run` with a stand-in model: what reaches the model, and what comes out of each stream."""

from __future__ import annotations

import json

import pytest

STATUS = "ttft 0.21 s · vision 0.10 s · 85.3 tok/s · 88 prompt (64 image) + 12 tokens\n"


def test_the_answer_alone_goes_to_stdout_and_one_line_to_stderr(invoke, model):
    outcome = invoke("run", "nano", "What is this?")
    assert outcome.code == 0
    assert outcome.out == "A red square.\n"
    assert outcome.err == STATUS


def test_an_answer_that_ends_with_a_new_line_gets_no_second_one(invoke, model):
    model.chunks = ("One\n", "two\n")
    assert invoke("run", "nano", "hi").out == "One\ntwo\n"


def test_a_new_line_before_an_empty_last_chunk_counts(invoke, model):
    model.chunks = ("One\n", "")
    assert invoke("run", "nano", "hi").out == "One\n"


def test_an_empty_answer_is_an_empty_line(invoke, model):
    model.chunks = ("",)
    assert invoke("run", "nano", "hi").out == "\n"


def test_quiet_leaves_stderr_empty(invoke, model):
    outcome = invoke("run", "nano", "hi", "--quiet")
    assert (outcome.out, outcome.err) == ("A red square.\n", "")


def test_the_status_line_says_when_the_answer_was_cut_off(invoke, model):
    model.finish_reason = "length"
    assert "stopped at the length limit" in invoke("run", "nano", "hi").err


def test_json_is_one_object_and_nothing_else(invoke, model):
    outcome = invoke("run", "nano", "hi", "--output", "json")
    assert outcome.out.count("\n") == 1
    answer = json.loads(outcome.out)
    assert list(answer) == ["model", "text", "finish_reason", "usage", "timings"]
    assert answer["model"] == "nano"
    assert answer["text"] == "A red square."
    assert answer["usage"] == {"prompt_tokens": 88, "image_tokens": 64, "completion_tokens": 12, "total_tokens": 100}
    assert answer["timings"]["ttft"] == 0.21
    assert outcome.err == STATUS


def test_json_keeps_other_scripts_readable(invoke, model):
    model.chunks = ("红色", "方块")
    assert "红色方块" in invoke("run", "nano", "hi", "-o", "json").out


def test_control_characters_do_not_reach_a_terminal_but_reach_a_file(invoke, model, monkeypatch):
    model.chunks = ("a\x1b]0;title\x07\tb", "\n\x9bc")
    assert invoke("run", "nano", "hi").out == "a\x1b]0;title\x07\tb\n\x9bc\n"
    monkeypatch.setattr("pocketvlm.cli.answer.is_terminal", lambda stream: True)
    assert invoke("run", "nano", "hi").out == "a␛]0;title␇\tb\n\ufffdc\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "loaded", "text"),
    [
        (["nano", "What is this?"], b"", "nano", "What is this?"),
        (["nano", "word"], b"", "nano", "word"),
        (["-p", "What is this?"], b"", "nano", "What is this?"),
        (["--prompt", "Hello", "nano"], b"", "nano", "Hello"),
        (["What is this?"], b"", "nano", "What is this?"),
        (["这是什么"], b"", "nano", "这是什么"),
        (["Why?"], b"", "nano", "Why?"),
        (["nano"], b"from stdin\n", "nano", "from stdin"),
        ([], b"two\nlines\r\n", "nano", "two\nlines"),
        (["nano", "-"], b"from stdin", "nano", "from stdin"),
        (["-"], b"from stdin", "nano", "from stdin"),
        (["-p", "-"], b" keeps spaces \n\n", "nano", " keeps spaces \n"),
        (["nano", "-p", "given"], b"not read", "nano", "given"),
    ],
)
def test_model_and_prompt_are_told_apart(invoke, model, arguments, stdin, loaded, text):
    assert invoke("run", *arguments, stdin=stdin).code == 0
    assert model.loaded["model"] == loaded
    assert model.asked["text"] == text


def test_a_directory_with_a_space_is_a_model(invoke, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model").mkdir()
    assert invoke("run", "my model", stdin=b"hi").code == 0
    assert model.loaded["model"] == "my model"


def test_images_keep_their_order_and_stdin_is_one_of_them(invoke, model, picture):
    sources = [str(picture), "-", "https://example.com/b.png", "data:image/png;base64,AAAA"]
    arguments = [part for source in sources for part in ("-i", source)]
    assert invoke("run", *arguments, "-p", "hi", stdin=b"bytes of an image").code == 0
    assert model.asked["images"] == [str(picture), b"bytes of an image", *sources[2:]]


def test_an_image_alone_is_a_question(invoke, model, picture):
    assert invoke("run", "-i", str(picture), terminal=True).code == 0
    assert model.asked["text"] == ""


def test_stdin_is_read_once_if_it_is_the_image(invoke, model):
    assert invoke("run", "-i", "-", stdin=b"bytes of an image").code == 0
    assert model.asked["images"] == [b"bytes of an image"]
    assert model.asked["text"] == ""


def test_options_that_are_not_given_do_not_reach_the_model(invoke, model):
    invoke("run", "nano", "hi")
    assert model.asked == {"text": "hi", "images": [], "videos": [], "system": None}
    assert model.loaded.pop("progress") is not None
    assert model.loaded == {"model": "nano"}


def test_every_option_reaches_the_model_under_its_name(invoke, model):
    line = (
        "--system S --max-tokens 5 --min-tokens 1 --temperature 0.5 --top-p 0.9 --top-k 3 --min-p 0.1 "
        "--repetition-penalty 1.1 --presence-penalty 0.2 --frequency-penalty -0.2 --seed 7 --stop END --stop STOP "
        "--stop-token-id 4 --ignore-eos --downsample-mode 4x --max-slice-nums 2 --no-slice-mode --use-image-id "
        "--max-num-frames 9 --stack-frames 5 --fps 2.5 --start 1 --end 3 "
        "--scale-resolution 224 --thinking --normalize-newlines --backend torch --weights bf16 --precision exact "
        "--threads 3 --no-cache --device cpu --revision main"
    )
    assert invoke("run", "nano", "hi", *line.split()).code == 0
    assert model.asked == {
        "text": "hi",
        "images": [],
        "videos": [],
        "system": "S",
        "max_tokens": 5,
        "min_tokens": 1,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": -0.2,
        "seed": 7,
        "stop": ("END", "STOP"),
        "stop_token_ids": (4,),
        "ignore_eos": True,
        "downsample_mode": "4x",
        "max_slice_nums": 2,
        "slice_mode": False,
        "use_image_id": True,
        "scale_resolution": 224,
        "max_num_frames": 9,
        "stack_frames": 5,
        "fps": 2.5,
        "start": 1.0,
        "end": 3.0,
        "enable_thinking": True,
        "normalize_newlines": True,
    }
    assert model.loaded.pop("progress") is not None
    assert model.loaded == {
        "model": "nano",
        "revision": "main",
        "backend": "torch",
        "weights": "bf16",
        "precision": "exact",
        "threads": 3,
        "device": "cpu",
        "cache": False,
    }


def test_processor_kwargs_are_merged_and_single_options_win(invoke, model):
    kwargs = '{"downsample_mode": "4x", "max_slice_nums": 36}'
    invoke("run", "nano", "hi", "--processor-kwargs", kwargs, "--max-slice-nums", "4")
    assert model.asked["downsample_mode"] == "4x"
    assert model.asked["max_slice_nums"] == 4


def test_options_come_from_the_environment_and_the_command_line_wins(invoke, model, monkeypatch):
    environment = {"MAX_TOKENS": "5", "SEED": "1", "SLICE_MODE": "0", "STOP": "A B", "OUTPUT": "json", "MODEL": "nano"}
    for name, value in environment.items():
        monkeypatch.setenv(f"POCKETVLM_RUN_{name}", value)
    outcome = invoke("run", "a question", "--seed", "2")
    assert outcome.out.startswith("{")
    assert model.asked["max_tokens"] == 5
    assert model.asked["seed"] == 2
    assert model.asked["slice_mode"] is False
    assert model.asked["stop"] == ("A", "B")
    assert model.asked["text"] == "a question"


def test_the_model_of_the_environment_is_the_default(invoke, model, monkeypatch, tmp_path):
    monkeypatch.setenv("POCKETVLM_RUN_MODEL", str(tmp_path))
    invoke("run", "a question")
    assert model.loaded["model"] == str(tmp_path)
