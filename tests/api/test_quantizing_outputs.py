"""quantize_model refuses outputs that cannot be written before it starts, and names them after what they hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf_kit import tiny_config
from gguf_sources import small_checkpoint
from writer_kit import write_source

from pocketvlm.api.converting import convert_model
from pocketvlm.api.quantizing import quantize_model
from pocketvlm.checkpoint.gguf.header import read_header
from pocketvlm.checkpoint.writers.gguf.metadata import FILE_TYPES, model_name
from pocketvlm.checkpoint.writers.registry import WRITERS
from pocketvlm.errors import CheckpointError, ConfigError, OptionError
from pocketvlm.model import tensor_roles
from pocketvlm.quantize.pipeline import Outcome, Pipeline
from pocketvlm.quantize.tensor_schemes import tensor_scheme
from pocketvlm.quantize.work import WorkFolder


def started(*_: object) -> None:
    pytest.fail("the work started")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nano as GGUF files of 16 bits; returns that of the language model."""
    folder = tmp_path_factory.mktemp("pair")
    return convert_model("nano", folder / "nano.gguf", format="gguf")[0]


def test_a_directory_from_a_gguf_file_without_its_vision_file(pair: Path, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "nano.gguf").symlink_to(pair)
    with pytest.raises(ConfigError, match="has no vision file in its folder"):
        quantize_model(tmp_path / "alone" / "nano.gguf", tmp_path / "out", method="rtn", progress=started)
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


def test_another_vision_file_next_to_the_output(pair: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"format": "gguf", "scheme": "Q8_0", "method": "rtn"}
    _, vision = quantize_model("nano", tmp_path / "first.gguf", **options).paths
    assert vision.name == "mmproj-nano-F16.gguf"
    quantize_model("nano", tmp_path / "second.gguf", **options)
    vision.write_bytes(vision.read_bytes()[:-1] + b"x")
    with pytest.raises(OptionError, match=r"mmproj-nano-F16\.gguf: exists already and is not known to be"):
        quantize_model("nano", tmp_path / "third.gguf", progress=started, **options)
    (tmp_path / "mmproj-nano-BF16.gguf").write_bytes(b"x")
    with pytest.raises(OptionError, match=r"mmproj-nano-BF16\.gguf: exists already and is not known to be"):
        convert_model("nano", tmp_path / "third.gguf", format="gguf", progress=started)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "first.gguf",
        "mmproj-nano-BF16.gguf",
        "mmproj-nano-F16.gguf",
        "second.gguf",
    ]


def test_models_and_tokenizers_that_gguf_files_cannot_hold(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    options: dict[str, Any] = {"format": "gguf", "scheme": "Q8_0", "method": "rtn", "progress": started}
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": None}))
    with pytest.raises(CheckpointError, match="cuts text into words in a way that"):
        quantize_model(source, tmp_path / "out.gguf", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_column_order_is_checked_without_values() -> None:
    """Four value heads of 128 for two key heads: super-blocks of 256 columns would hold columns of two heads."""
    model = small_checkpoint({"linear_num_value_heads": 4}).model
    name = "model.language_model.layers.0.linear_attn.out_proj.weight"
    role = tensor_roles(model)[name]
    for scheme, fits in (("Q4_K", False), ("Q8_0", True)):
        placeholder = tensor_scheme(scheme).placeholder(name, (256, 512))
        found = WRITERS["gguf"].problem(name, role, placeholder, model)
        assert (found is None) is fits
        assert fits or "groups of 256 columns do not allow" in (found or "")


def test_a_mixture_that_auto_chose_has_its_bits_as_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What auto measures is replaced by a choice of a larger type for most matrices, which are rounded to nearest."""
    larger = {name: "Q8_0" for name in tensor_roles(tiny_config()) if ".mlp." in name and "language" in name}
    run = Pipeline.run

    def chosen(pipeline: Pipeline) -> Outcome:
        job = pipeline._job
        return run(Pipeline(replace(job, method="rtn", schemes={**job.schemes, **larger}), pipeline._work))

    source, data = write_source(tmp_path / "tiny"), tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"messages": [{"role": "user", "content": "The museum is open on Sunday."}]}))
    options: dict[str, Any] = {"format": "gguf", "scheme": "Q4_0"}
    file = quantize_model(source, tmp_path / "rtn", method="rtn", **options).paths[0]
    monkeypatch.setattr(Pipeline, "run", chosen)
    assert (file.name, read_header(file).metadata["general.file_type"]) == ("tiny-Q4_0.gguf", FILE_TYPES["Q4_0"])
    result = quantize_model(source, tmp_path / "auto", calibration=data, **options)
    file = result.paths[0]
    assert file.name == f"tiny-{round(result.bits_per_weight, 2):g}bpw.gguf"
    assert 4.5 < result.bits_per_weight < 8.5
    assert read_header(file).metadata["general.file_type"] == FILE_TYPES["Q8_0"]
    assert model_name(file) == "tiny"


def test_a_run_that_was_killed_after_it_had_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: WorkFolder) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            quantize_model("nano", out, method="rtn")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.partial"]
    with pytest.raises(OptionError, match=r"out: is finished: .* before it removed out\.partial, which is removed now"):
        quantize_model("nano", out, method="rtn")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OptionError, match="out: exists already"):
        quantize_model("nano", out, method="rtn")
