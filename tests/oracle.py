"""Oracles for tests: transformers models with random weights, and prompts that need no tokenizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.config import ModelConfig
from pocketvlm.model import MiniCPMV, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.tensors import DenseTensor
from pocketvlm.types import Prompt, View

IMAGE_TOKEN = 7

# Odd on purpose: head counts and widths that no vector register divides.
TINY_TEXT: dict[str, Any] = {
    "model_type": "qwen3_5_text",
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 20,
    "vocab_size": 131,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.3},
    "partial_rotary_factor": 0.3,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 12,
    "linear_value_head_dim": 9,
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 6,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
TINY_VISION: dict[str, Any] = {
    "model_type": "minicpmv4_6_vision",
    "hidden_size": 30,
    "intermediate_size": 43,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "image_size": 98,
    "patch_size": 14,
}


def config_dict(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A config.json of a tiny checkpoint, with overrides."""
    return {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
        "model_type": "minicpmv4_6",
        "tie_word_embeddings": True,
        "text_config": {**TINY_TEXT, **(text or {})},
        "vision_config": {**TINY_VISION, **(vision or {})},
        "insert_layer_id": 0,
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": 8,
        "eos_token_id": 2,
        **top,
    }


@dataclass(frozen=True)
class Oracle:
    """A transformers model and the same weights in our terms."""

    model: Any
    config: ModelConfig
    tensors: dict[str, DenseTensor]


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights that keep activations near unit scale and every mechanism at work (no zero gates, no dead decay)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("A_log"):
            value = noise * 0.5
        elif parameter.ndim == 1:
            centre = 1.0 if "linear_attn.norm" in name or _is_layer_norm_weight(name) else 0.0
            value = centre + 0.2 * noise
        elif "embed_tokens" in name:
            value = noise * 0.1
        else:
            value = noise / (parameter[0].numel() ** 0.5)
        parameter.data.copy_(value)


def _is_layer_norm_weight(name: str) -> bool:
    return ("vision_tower" in name or "merger" in name) and "norm" in name and name.endswith("weight")


def make_oracle(data: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Oracle:
    """Random transformers model (float32 arithmetic) whose weights are representable in `dtype`."""
    config = MiniCPMV4_6Config(**{k: v for k, v in data.items() if k not in ("architectures", "model_type")})
    with torch.device("meta"):
        model = MiniCPMV4_6ForConditionalGeneration(config)
    model = model.to_empty(device="cpu").eval().float()
    model.tie_weights()
    _restore_buffers(model)
    randomise(model, seed)
    tensors = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.to(dtype).float())
            if name == "lm_head.weight" and data["tie_word_embeddings"]:
                continue
            tensors[name] = stored(name, parameter.detach(), dtype)
    return Oracle(model, ModelConfig.from_dict(data), tensors)


def _restore_buffers(model: Any) -> None:
    """Buffers are not parameters: recompute the rotary frequencies that `to_empty` left undefined."""
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            fresh = type(module)(module.config)
            module.inv_freq = fresh.inv_freq
            module.original_inv_freq = fresh.inv_freq


def stored(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> DenseTensor:
    """A torch tensor as a file of that type would hold it."""
    if dtype == torch.bfloat16:
        return DenseTensor(name, "bf16", tensor.to(dtype).view(torch.uint16).numpy())
    kind = {torch.float32: "f32", torch.float16: "f16"}[dtype]
    return DenseTensor(name, kind, tensor.to(dtype).numpy())  # type: ignore[arg-type]


def make_network(oracle: Oracle, ops: AnyBackend) -> MiniCPMV:
    """The network of an oracle on a backend, its weights stored as the backend's scheme says."""
    return MiniCPMV(oracle.config, ops, quantized(oracle.tensors, tensor_roles(oracle.config), ops.scheme))


def make_prompt(
    config: ModelConfig,
    sizes: list[tuple[int, int]],
    mode: str = "16x",
    text: int = 9,
    seed: int = 0,
    video: bool = False,
) -> Prompt:
    """Random ids with one run of placeholders per view of `sizes` (rows, cols) and `text` ids around each.

    There is a cache breakpoint after each view. video: the views are pictures of a video.
    """
    placeholder = config.video_token_id if video else config.image_token_id
    random = np.random.default_rng(seed)
    views: list[View] = []
    ids: list[int] = []
    marks: list[int] = []

    def words() -> None:
        ids.extend(int(i) for i in random.integers(10, config.text.vocab_size, text))

    words()
    for rows, cols in sizes:
        tokens = rows * cols // (16 if mode == "16x" else 4)
        patches = random.uniform(-1, 1, (rows * cols, config.vision.patch_dim)).astype(np.float32)
        digest = hashlib.sha256(patches.tobytes()).hexdigest()
        views.append(View(patches, rows, cols, mode, len(ids), tokens, digest))  # type: ignore[arg-type]
        ids.extend([placeholder] * tokens)
        marks.append(len(ids))
        words()
    return Prompt(np.array(ids, dtype=np.int32), tuple(views), (), "", marks=tuple(marks))


def reference_inputs(prompt: Prompt, config: ModelConfig) -> dict[str, Any]:
    """The same prompt as transformers takes it."""
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(prompt.ids.astype(np.int64))[None]}
    if prompt.views:
        patch = config.vision.patch_size
        packed = [
            v.patches.reshape(-1, 3, patch, patch).transpose(1, 2, 0, 3).reshape(3, patch, -1) for v in prompt.views
        ]
        kind = "_videos" if prompt.ids[prompt.views[0].start] == config.video_token_id else ""
        inputs[f"pixel_values{kind}"] = torch.from_numpy(np.concatenate(packed, axis=-1))[None]
        inputs[f"target_sizes{kind}"] = torch.tensor([(v.rows, v.cols) for v in prompt.views], dtype=torch.int32)
        inputs["downsample_mode"] = prompt.views[0].downsample_mode
    return inputs


def reference_logits(oracle: Oracle, prompt: Prompt) -> np.ndarray:
    """Logits float32 [tokens, vocab] of transformers."""
    with torch.no_grad():
        return oracle.model(**reference_inputs(prompt, oracle.config)).logits[0].float().numpy()


def reference_features(oracle: Oracle, prompt: Prompt) -> np.ndarray:
    """Features float32 [image tokens, hidden] of transformers, of images or of a video."""
    inputs = reference_inputs(prompt, oracle.config)
    del inputs["input_ids"]
    model = oracle.model.model
    features = model.get_video_features if "pixel_values_videos" in inputs else model.get_image_features
    with torch.no_grad():
        return torch.cat(features(**inputs).pooler_output).float().numpy()


def assert_close(ours: np.ndarray, reference: np.ndarray, tolerance: float) -> None:
    """Within tolerance, and the same best token wherever the reference's lead is larger than that."""
    assert ours.dtype == np.float32
    assert ours.shape == reference.shape
    assert 0.3 < reference.std() < 30
    assert np.abs(ours - reference).max() <= tolerance
    best = np.sort(reference, axis=-1)
    clear = best[:, -1] - best[:, -2] > tolerance
    assert clear.any()
    assert (ours.argmax(-1) == reference.argmax(-1))[clear].all()
