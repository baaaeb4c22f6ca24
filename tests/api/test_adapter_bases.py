"""An adapter of another base of the same shapes is noticed; copies of its own base in other formats are not refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nano_adapters import write_adapter
from safetensors_kit import write_json

import pocketvlm
from pocketvlm.checkpoint.adapters.base import difference, sample_of
from pocketvlm.checkpoint.adapters.options import read_notes
from pocketvlm.checkpoint.hub import embedded_directory
from pocketvlm.checkpoint.reader import open_checkpoint
from pocketvlm.errors import AdapterWarning, CheckpointError, ConfigError
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import DenseTensor, StoredDtype, Tensor, float32_to_bfloat16

Q_PROJ = "model.language_model.layers.*.self_attn.q_proj.weight"


def tensors(path: Path) -> dict[str, Tensor]:
    checkpoint = open_checkpoint(path)
    return checkpoint.tensors(expected_tensors(checkpoint.model))


@pytest.fixture(scope="module")
def nano() -> dict[str, Tensor]:
    return tensors(embedded_directory())


@pytest.fixture(scope="module")
def base(nano: dict[str, Tensor]) -> dict[str, Any]:
    """As pocketvlm.json holds it."""
    found: dict[str, Any] = json.loads(json.dumps({"model": "nano", "sample": sample_of(nano)}))
    return found


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: dict[str, Any]) -> Path:
    folder = write_adapter(tmp_path_factory.mktemp("adapters") / "own", 1, strength=0.05)
    write_json(folder / "pocketvlm.json", {"version": 1, "options": {}, "base": base})
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, adapter: Path) -> Path:
    """Another base: nano with the adapter merged into it."""
    out = tmp_path_factory.mktemp("bases") / "other"
    pocketvlm.merge_adapter("nano", adapter, out)
    return out


def changed(base: Mapping[str, Tensor], name: str, values: np.ndarray, dtype: StoredDtype) -> dict[str, Tensor]:
    return {**base, name: DenseTensor(name, dtype, values)}


def test_the_base_is_itself_in_any_dtype(nano: dict[str, Tensor], base: dict[str, Any]) -> None:
    assert difference(base, nano) is None
    assert difference({}, nano) is None
    assert difference({"model": "nano", "sample": {"no such tensor": 1.0}}, nano) is None
    for dtype, numpy in (("f32", np.float32), ("f16", np.float16)):
        copy = {
            name: DenseTensor(name, dtype, tensor.dequantize().astype(numpy))  # type: ignore[arg-type]
            for name, tensor in nano.items()
        }
        assert difference(base, copy) is None
        # What was trained in another dtype, too.
        assert difference({"sample": sample_of(copy)}, nano) is None


def test_a_float32_base_rounded_to_other_dtypes_is_itself(nano: dict[str, Tensor]) -> None:
    random = np.random.default_rng(0)
    values = {
        name: (tensor.dequantize() * (1 + random.normal(0, 1e-3, tensor.shape))).astype(np.float32)
        for name, tensor in nano.items()
    }
    own = {"sample": sample_of({name: DenseTensor(name, "f32", each) for name, each in values.items()})}
    bf16 = {name: DenseTensor(name, "bf16", float32_to_bfloat16(each)) for name, each in values.items()}
    f16 = {name: DenseTensor(name, "f16", each.astype(np.float16)) for name, each in values.items()}
    assert difference(own, bf16) is None
    assert difference(own, f16) is None


def test_one_matrix_that_was_trained_further_is_named(nano: dict[str, Tensor], base: dict[str, Any]) -> None:
    name = Q_PROJ.replace("*", "3")
    values = nano[name].dequantize()
    update = np.random.default_rng(1).normal(0, values.std(), values.shape).astype(np.float32)
    assert difference(base, changed(nano, name, float32_to_bfloat16(values + update / 100), "bf16")) == Q_PROJ
    # Another rounding cannot be told from a small update.
    assert difference(base, changed(nano, name, (values + update / 10).astype(np.float16), "f16")) == Q_PROJ


def test_a_model_without_its_vision_tower_is_compared_by_its_text(
    nano: dict[str, Tensor], base: dict[str, Any]
) -> None:
    text = {name: tensor for name, tensor in nano.items() if "vision" not in name and "merger" not in name}
    assert difference(base, text) is None


@pytest.mark.parametrize(
    ("format", "scheme", "method"),
    [
        ("native", "int4-g64", "rtn"),
        ("gguf", "Q8_0", "rtn"),
        ("awq", "int4-g32", "awq"),
        ("mlx", "int4-g64", "rtn"),
        ("compressed-tensors", "int4-g32", "rtn"),
    ],
)
def test_a_quantized_copy_is_the_base(
    tmp_path: Path, nano: dict[str, Tensor], base: dict[str, Any], format: str, scheme: str, method: str
) -> None:
    calibration: dict[str, Any] = {}
    if method == "awq":  # which scales norms and the matrices that stay dense
        lines = [{"messages": [{"role": "user", "content": text}]} for text in ("hello there", "what is this?")]
        (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        calibration = {"calibration": tmp_path / "c.jsonl", "keep": ("*layers.[023].*", "*mlp*")}
    out = tmp_path / ("q.gguf" if format == "gguf" else "q")
    result = pocketvlm.quantize_model("nano", out, format=format, scheme=scheme, method=method, **calibration)
    copy = tensors(result.paths[0] if format == "gguf" else out)
    assert any(not isinstance(tensor, DenseTensor) for tensor in copy.values())
    assert difference(base, copy) is None
    scaled = "model.language_model.layers.1.input_layernorm.weight"
    assert np.allclose(copy[scaled].dequantize(), nano[scaled].dequantize(), atol=2**-7) == (method != "awq")
    # Another network is noticed in this format, too: the norms of queries are never quantized.
    norm = "model.language_model.layers.1.self_attn.q_norm.weight"
    far = changed(copy, norm, copy[norm].dequantize() + np.float32(0.1), "f32")
    assert difference(base, far) == norm.replace(".1.", ".*.")


def test_loading_warns_once_and_answers(adapter: Path, other: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdapterWarning)
        with pocketvlm.load("nano", adapters={"own": adapter}) as model:
            assert repr(model.adapters).startswith("1 adapters:\n  own (")
    with pytest.warns(AdapterWarning, match="'own' was trained on another base than") as found:
        model = pocketvlm.load(other, adapters={"own": adapter})
    with model:
        assert len([each for each in found if each.category is AdapterWarning]) == 1
        assert str(other) in str(found[0].message)
        assert "(on nano)" in str(found[0].message)
        with pytest.warns(AdapterWarning, match="'again'"):
            model.add_adapter("again", adapter)
        assert model.ask("hello", adapter="again", max_tokens=2).text


def test_merging_refuses_unless_allowed(tmp_path: Path, adapter: Path, other: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trained on another base than .*other .*--allow-other-base"):
        pocketvlm.merge_adapter(other, adapter, tmp_path / "out")
    with pytest.raises(CheckpointError, match="trained on another base"):
        pocketvlm.quantize_model(other, tmp_path / "q", method="rtn", merge_adapter=adapter)
    assert not list(tmp_path.iterdir())
    pocketvlm.merge_adapter(other, adapter, tmp_path / "out", allow_other_base=True)
    pocketvlm.quantize_model(other, tmp_path / "q", method="rtn", merge_adapter=adapter, allow_other_base=True)


@pytest.mark.parametrize("base", [[], "nano", {"sample": 1}, {"sample": {"x": "1"}}])
def test_a_base_that_cannot_be_read_is_named(tmp_path: Path, base: Any) -> None:
    file = tmp_path / "pocketvlm.json"
    write_json(file, {"version": 1, "options": {}, "base": base})
    if base:
        with pytest.raises(ConfigError, match=r"pocketvlm\.json: base"):
            read_notes(file)
    else:
        assert read_notes(file) == ({}, {})
