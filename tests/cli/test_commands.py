"""`info`, `tokens`, `pull`, `--version` and `--help`, on the embedded model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pocketvlm import __version__, api
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.cli.reference import reference


def columns(line: str) -> list[str]:
    return line.split()


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    """One large picture that is cut into slices, one small."""
    from PIL import Image

    sizes = {"large.png": (900, 700), "small.png": (60, 40)}
    for name, size in sizes.items():
        Image.new("RGB", size, "blue").save(tmp_path / name)
    return [str(tmp_path / name) for name in sizes]


def test_version_and_help(invoke):
    assert invoke("--version").out == f"pocketvlm {__version__}\n"
    for arguments in ((), ("--help",), ("-h",)):
        outcome = invoke(*arguments)
        assert outcome.code == 0
        assert outcome.err == ""
        assert all(f" {name} " in outcome.out for name in ("run", "info", "tokens", "pull", "cache"))


def test_help_of_run_is_in_groups_and_ends_with_examples(invoke, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = invoke("run", "--help").out
    groups = [
        text.index(f"─ {name} ─") for name in ("Input", "Sampling", "Image and video processing", "Engine", "Output")
    ]
    assert groups == sorted(groups)
    assert groups[-1] < text.index("Examples:")
    assert "POCKETVLM_RUN_MAX_TOKENS=64" in text


def test_the_reference_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: python -m pocketvlm.cli.reference > docs/cli.md"


def test_info_agrees_with_the_loaded_model(invoke):
    facts = json.loads(invoke("info", "nano", "--json").out)
    loaded = api.load("nano").info()
    assert facts == loaded


@pytest.mark.parametrize(
    ("line", "precision", "weights"),
    [
        ("", "fast (the default of backend native)", "int8 (the default of precision fast)"),
        ("--weights int4", "fast (the", "int4 in the language model, int8 in the vision tower (asked for)"),
        ("--weights bf16", "fast (the", "as stored, bfloat16 or float32 (asked for)"),
        ("--precision exact", "exact (asked for)", "as stored, bfloat16 or float32 (the default of precision exact)"),
        ("--backend torch", "exact (all", "as stored"),
    ],
)
def test_info_says_which_weights_and_arithmetic_and_why(invoke, line, precision, weights):
    facts = json.loads(invoke("info", "--json", *line.split()).out)["backend"]
    assert facts["precision"].startswith(precision)
    assert facts["weights"].startswith(weights)
    assert ("integer" in facts["arithmetic"]) == (line in ("", "--weights int4"))


def test_info_for_people_names_sizes_and_kernels(invoke):
    outcome = invoke("info")
    assert outcome.code == 0
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in outcome.out.splitlines())
    assert rows["model"] == "nano"
    assert rows["path"] == str(embedded_directory())
    assert "layers" in rows["text"]
    assert "MB" in rows["parameters"]
    assert rows["quantization"] == "none: all tensors are dense"
    assert rows["matrices"].startswith("1 embedding and head: bf16, dense in the checkpoint; 8-bit integer products")
    assert "36 vision tower, 6 window merger, 2 merger: bf16" in outcome.out
    assert rows["threads"]
    assert outcome.err == ""


@pytest.mark.parametrize("extra", [[], ["--max-slice-nums", "2"], ["--no-use-image-id"], ["--no-slice-mode"]])
@pytest.mark.parametrize("mode", ["16x", "4x"])
def test_tokens_are_those_of_the_real_prompt(invoke, pictures, mode, extra):
    """The other mode is computed from sizes alone, so each mode is checked from both."""
    arguments = ["tokens", "nano", "-i", pictures[0], "-i", pictures[1], "-p", "What differs?", "--json", *extra]
    here = json.loads(invoke(*arguments, "--downsample-mode", mode).out)
    there = json.loads(invoke(*arguments, "--downsample-mode", "4x" if mode == "16x" else "16x").out)
    assert here["downsample_mode"] == mode
    assert here["prompt_tokens"] == there["prompt_tokens"]
    assert here["images"] == there["images"]

    from pocketvlm.checkpoint.huggingface import read_checkpoint

    processor = api.processor_for(read_checkpoint(embedded_directory()))
    options = {"--max-slice-nums": {"max_slice_nums": 2}, "--no-use-image-id": {"use_image_id": False}}
    chosen = {**options.get(extra[0], {"slice_mode": False})} if extra else {}
    prompt = processor(api.as_messages("What differs?", pictures), downsample_mode=mode, **chosen)
    assert here["prompt_tokens"][mode] == len(prompt.ids)
    for reported, image in zip(here["images"], prompt.images, strict=True):
        assert reported[mode]["tokens"] == image.tokens
        assert reported[mode]["vision_tokens"] == image.vision_tokens
        assert reported["grid"] == (None if image.grid is None else list(image.grid))


def test_tokens_for_people_is_a_table_with_a_total(invoke, pictures):
    outcome = invoke("tokens", "-i", pictures[0], "-i", pictures[1])
    head, large, small, blank, total = outcome.out.splitlines()
    assert columns(head) == ["image", "size", "grid", "overview", "slice", "16x", "4x"]
    assert columns(large)[:3] == ["large.png", "900x700", "2x2"]
    assert columns(small)[:3] == ["small.png", "60x40", "-"]
    assert blank == ""
    assert re.fullmatch(r"prompt: \d+ tokens in 16x · \d+ tokens in 4x \(\d+ of them text\), context \d+", total)
    assert outcome.err == ""


def test_tokens_reads_no_weights(invoke, pictures, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr("pocketvlm.tensors.load", refuse)
    assert invoke("info").code == 0
    monkeypatch.setattr("pocketvlm.checkpoint.formats.format.map_tensors", refuse)
    assert invoke("tokens", "-i", pictures[0]).code == 0


def test_tokens_takes_images_and_text_from_stdin(invoke, pictures):
    data = Path(pictures[1]).read_bytes()
    assert "60x40" in invoke("tokens", "-i", "-", stdin=data).out
    counts = [invoke("tokens", "-p", text, stdin=b"hello").out for text in ("-", "hello")]
    assert counts[0] == counts[1]


def test_pull_prints_the_path_alone_on_stdout(invoke):
    outcome = invoke("pull", "nano")
    assert outcome.out == f"{embedded_directory()}\n"
    assert re.fullmatch(r"\d+ files, \d+\.\d MB\n", outcome.err)
    assert invoke("pull", "nano", "--quiet").err == ""


def test_debug_shows_where_an_error_came_from(invoke):
    outcome = invoke("info", "org/name/more", "--debug")
    assert outcome.code == 1
    assert "hub.py" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: model 'org/name/more'")
