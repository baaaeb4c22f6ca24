"""Adapters that peft makes are read as peft computes them, and merged as peft merges them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle, assert_close, config_dict, make_oracle, make_prompt, reference_inputs, reference_logits

from pocketvlm import backends
from pocketvlm.backends.options import choose
from pocketvlm.checkpoint.adapters import read_adapter
from pocketvlm.checkpoint.adapters.merge import MergedFormat
from pocketvlm.checkpoint.formats.format import DenseFormat
from pocketvlm.checkpoint.names import EMBEDDING, HEAD
from pocketvlm.model import expected_tensors
from pocketvlm.tensors import DenseTensor

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

# "lora_target: all" of LLaMA-Factory: full names of the language model's linear layers; vision and merger are frozen.
FACTORY = "language model, by full names"
# The regular expression that ms-swift writes.
SWIFT = (
    r"^(model\.language_model(?=\.).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|in_proj_qkv|in_proj_z"
    r"|in_proj_b|in_proj_a|out_proj))$"
)
TOWER = r"^(model\.(vision_tower|merger)(?=\.).*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2|linear_1|linear_2))$"
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CASES: dict[str, dict[str, Any]] = {
    "all linear layers": {"target_modules": "all-linear"},
    "LLaMA-Factory": {"target_modules": FACTORY},
    "ms-swift": {"target_modules": SWIFT},
    "ms-swift, vision tower and merger": {"target_modules": TOWER, "use_rslora": True},
    "attention with rslora": {"target_modules": ATTENTION, "use_rslora": True, "lora_alpha": 16},
    "patterns": {
        "target_modules": "all-linear",
        "rank_pattern": {"self_attn.q_proj": 2, r"layers\.[01]\.mlp\.up_proj": 6},
        "alpha_pattern": {"q_proj": 3, "language_model.layers.2.linear_attn.in_proj_z": 12},
        "use_rslora": True,
    },
    "other layers and excluded modules": {
        "target_modules": ["up_proj", "down_proj"],
        "layers_to_transform": [1, 3],
        "exclude_modules": ["down_proj"],
        "layers_pattern": "layers",
    },
    "saved modules": {"target_modules": ATTENTION, "modules_to_save": ["lm_head", "model.merger", "input_layernorm"]},
    "adapted layers of a saved module": {"target_modules": ATTENTION, "modules_to_save": ["vit_merger"]},
    "a saved mixer": {"target_modules": ["up_proj"], "modules_to_save": ["linear_attn"]},
    "a saved embedding": {"target_modules": ["up_proj"], "modules_to_save": ["embed_tokens"]},
    "embedding and head, saved": {
        "target_modules": ["up_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "an embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "embedding and head": {"target_modules": ["embed_tokens", "lm_head"]},
    "embedding and head, tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [11, 60, 12]},
    "patches and positions": {"target_modules": ["patch_embedding", "position_embedding"]},
    "biases of adapted layers": {"target_modules": ["fc1", "linear_1"], "bias": "lora_only"},
    "all biases": {"target_modules": ["fc1"], "bias": "all"},
    "a gaussian start": {"target_modules": ATTENTION, "init_lora_weights": "gaussian"},
    "with fan_in_fan_out": {"target_modules": ATTENTION, "fan_in_fan_out": True},
}
# There peft's merge also changes the tied head, which its adapter leaves alone; the adapter's own logits count here.
UNTIED = {"an embedding", "a saved embedding", "saved modules"}
# There peft adds both updates to the one tied tensor.
ADDED_TWICE = {"embedding and head", "embedding and head, tied"}


@dataclass
class Trained:
    """A network of transformers with an adapter of peft, and the folder that the adapter was saved in."""

    oracle: Oracle
    model: Any
    folder: Path


def train(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Trained:
    """An adapter whose every value is random, as if it were trained."""
    oracle = make_oracle(config_dict(), dtype=dtype)
    modules = config["target_modules"]
    if modules == FACTORY:
        names = [name for name, module in oracle.model.named_modules() if isinstance(module, torch.nn.Linear)]
        modules = [name for name in names if "language_model" in name]
    model = peft.get_peft_model(oracle.model, peft.LoraConfig(**{"r": 4, **config, "target_modules": modules}))
    generator = torch.Generator().manual_seed(1)
    marks = ("lora_", "modules_to_save", "trainable_tokens_delta")
    for name, parameter in model.named_parameters():
        if any(mark in name for mark in marks) or (parameter.requires_grad and name.endswith("bias")):
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(parameter.data + noise if "lora_" not in name else noise)
    model.save_pretrained(folder)
    return Trained(oracle, model.eval(), folder)


def merged_tensors(trained: Trained, **adapter: Any) -> dict[str, DenseTensor]:
    """The tensors of the network with the adapter merged into them."""
    expected, base = expected_tensors(trained.oracle.config), trained.oracle.tensors
    found = read_adapter(trained.folder, expected, base=base, **adapter)

    class Stored(DenseFormat):
        def tensors(self, entries: Any, expected: Any, where: str, sparse: bool) -> Any:
            return {name: base[name] for name in expected}

    shapes = {**expected, HEAD: expected[EMBEDDING]}
    return MergedFormat(Stored(), found, 1.0, True).tensors({}, shapes, "", False)  # type: ignore[return-value]


def logits(trained: Trained, tensors: dict[str, DenseTensor]) -> np.ndarray:
    """Logits of our network, untied, with these tensors."""
    from dataclasses import replace

    from pocketvlm.engine import Engine
    from pocketvlm.model import MiniCPMV

    config = trained.oracle.config
    untied = replace(config, text=replace(config.text, tie_word_embeddings=False))
    ops = backends.create("torch", threads=2, scheme=choose("torch", precision="exact"))
    return Engine(MiniCPMV(untied, ops, tensors)).prompt_logits(make_prompt(config, [(4, 8)]))


@pytest.mark.parametrize("case", CASES)
def test_merged_tensors_give_the_logits_of_the_adapter(tmp_path: Path, case: str) -> None:
    trained = train(tmp_path / "a", **CASES[case])
    prompt = make_prompt(trained.oracle.config, [(4, 8)])
    with torch.no_grad():
        reference = trained.model(**reference_inputs(prompt, trained.oracle.config)).logits[0].float().numpy()
    with trained.model.disable_adapter(), torch.no_grad():
        base = trained.model(**reference_inputs(prompt, trained.oracle.config)).logits[0].float().numpy()
    assert np.abs(reference - base).max() > 0.05
    assert_close(logits(trained, merged_tensors(trained)), reference, 2e-4)


# Of the case left out, peft merges nothing in the saved module.
@pytest.mark.parametrize("case", [case for case in CASES if case != "adapted layers of a saved module"])
def test_merged_tensors_are_those_that_peft_merges(tmp_path: Path, case: str) -> None:
    trained = train(tmp_path / "a", torch.bfloat16, **CASES[case])
    ours = merged_tensors(trained)
    theirs = dict(trained.model.merge_and_unload().named_parameters(remove_duplicate=False))
    compared = 0
    for name, tensor in ours.items():
        if (case in UNTIED and name == HEAD) or (case in ADDED_TWICE and name in (EMBEDDING, HEAD)):
            continue
        assert tensor.dtype == "bf16"
        expected = theirs[name].detach().float().numpy()
        # One rounding to bfloat16: half a unit in the last place of 8 bits.
        assert (np.abs(tensor.float32() - expected) <= np.abs(expected) * 2.0**-8 + 1e-6).all(), name
        compared += 1
    assert compared >= len(trained.oracle.tensors) - 1


def test_an_adapter_of_bfloat16_factors_is_read(tmp_path: Path) -> None:
    trained = train(tmp_path / "a", target_modules="all-linear")
    before = read_adapter(trained.folder, expected_tensors(trained.oracle.config))
    trained.model.to(torch.bfloat16).save_pretrained(tmp_path / "b")
    after = read_adapter(tmp_path / "b", expected_tensors(trained.oracle.config))
    assert set(after.updates) == set(before.updates)
    for name, update in after.updates.items():
        assert np.allclose(update.a, before.updates[name].a, rtol=2.0**-8)


def test_an_adapter_under_another_name_is_read(tmp_path: Path) -> None:
    oracle = make_oracle(config_dict())
    model = peft.PeftModel(oracle.model, peft.LoraConfig(r=4, target_modules=ATTENTION), adapter_name="invoices")
    model.save_pretrained(tmp_path)
    adapter = read_adapter(tmp_path / "invoices", expected_tensors(oracle.config))
    assert len(adapter.updates) == 8 + 3 * 3 + 3


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa"}, "PiSSA"),
        ({"init_lora_weights": "olora"}, "OLoRA"),
    ],
)
def test_variants_that_peft_writes_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    from pocketvlm.errors import ConfigError

    trained = train(tmp_path / "a", target_modules=["up_proj"], **config)
    with pytest.raises(ConfigError, match=words):
        read_adapter(trained.folder, expected_tensors(trained.oracle.config))


def test_a_converted_pissa_adapter_is_a_plain_one(tmp_path: Path) -> None:
    oracle = make_oracle(config_dict())
    prompt = make_prompt(oracle.config, [(4, 8)])
    config = peft.LoraConfig(r=4, target_modules=["up_proj", "q_proj"], init_lora_weights="pissa")
    model = peft.get_peft_model(oracle.model, config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    reference = reference_logits(Oracle(model, oracle.config, {}), prompt)
    model.save_pretrained(tmp_path / "a", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    trained = Trained(oracle, model, tmp_path / "a")
    assert_close(logits(trained, merged_tensors(trained)), reference, 2e-4)


def test_peft_loads_what_is_written(tmp_path: Path) -> None:
    from pocketvlm.checkpoint.adapters import write_adapter

    trained = train(tmp_path / "a", **CASES["patterns"])
    state = {key: value.numpy() for key, value in peft.get_peft_model_state_dict(trained.model).items()}
    given = trained.model.peft_config["default"].to_dict()
    settings = {key: list(value) if isinstance(value, set) else value for key, value in given.items()}
    write_adapter(tmp_path / "b", updates_as_peft_state=state, config=settings, options={})
    prompt = make_prompt(trained.oracle.config, [(4, 8)])
    expected = reference_logits(Oracle(trained.model, trained.oracle.config, {}), prompt)
    loaded = peft.PeftModel.from_pretrained(make_oracle(config_dict()).model, tmp_path / "b").eval()
    assert np.array_equal(reference_logits(Oracle(loaded, trained.oracle.config, {}), prompt), expected)
