"""Oracles for tests: transformers models with random weights, and prompts that need no tokenizer."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import transformers

from pocketvlm.backends.backend import AnyBackend
from pocketvlm.config import ModelConfig
from pocketvlm.families import FAMILIES, MINICPMV4_6, Family, Markers
from pocketvlm.model import MiniCPMV, tensor_roles
from pocketvlm.quantize import quantized
from pocketvlm.tensors import DenseTensor
from pocketvlm.types import DownsampleMode, Prompt, View

IMAGE_TOKEN, VIDEO_TOKEN = 7, 8
MARKERS = Markers(image_start=3, image_end=4, slice_start=5, slice_end=6, newline=9)

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


def config_dict(
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
    family: Family = MINICPMV4_6,
    **top: Any,
) -> dict[str, Any]:
    """A config.json of a tiny checkpoint of a family, with overrides."""
    own_text: dict[str, Any] = {}
    if family.positions is not None:
        own_text = {"head_dim": 40, "rope_parameters": {**TINY_TEXT["rope_parameters"], "mrope_section": [2, 2, 2]}}
        top = {**{f"{name}_id": value for name, value in asdict(MARKERS).items()}, **top}
    found = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "tie_word_embeddings": True,
        "text_config": {**TINY_TEXT, **own_text, **(text or {})},
        "vision_config": {**TINY_VISION, "model_type": family.vision_type, **(vision or {})},
        "insert_layer_id": 0,
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": VIDEO_TOKEN,
        "eos_token_id": 2,
        **top,
    }
    return copy.deepcopy(found)  # callers change sections of it


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


def hub_config(data: dict[str, Any]) -> Any:
    """The configuration of transformers for a config.json."""
    name = FAMILIES[data["model_type"]].architecture.replace("ForConditionalGeneration", "Config")
    return getattr(transformers, name)(**{k: v for k, v in data.items() if k not in ("architectures", "model_type")})


def make_oracle(data: dict[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Oracle:
    """Random transformers model (float32 arithmetic) whose weights are representable in `dtype`."""
    with torch.device("meta"):
        model = getattr(transformers, FAMILIES[data["model_type"]].architecture)(hub_config(data))
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


@dataclass(frozen=True)
class Layout:
    """A picture of a prompt: sizes in patches, its grid of slices, and the tokens after it.

    breaks: line breaks after it, then `words` random ids. id_tag: an id tag before it.
    """

    overview: tuple[int, int]
    grid: tuple[int, int] | None = None
    slice_size: tuple[int, int] = (4, 4)
    video: bool = False
    words: int = 0
    breaks: int = 0
    id_tag: bool = False


def canvas_prompt(
    layouts: list[Layout], mode: DownsampleMode = "16x", seed: int = 0, lead: int = 3, patch_dim: int = 1
) -> Prompt:
    """Pictures with markers as the processor writes them, `lead` random ids before; positions are left out.

    There is a cache breakpoint after each picture. Pixels are random, with `patch_dim` values a patch.
    """
    random = np.random.default_rng(seed)
    ids, views, marks = random.integers(10, 131, lead).tolist(), [], []

    def crop(placeholder: int, size: tuple[int, int], start: int, stop: int) -> None:
        ids.append(start)
        rows, cols = size
        patches = random.uniform(-1, 1, (rows * cols, patch_dim)).astype(np.float32)
        tokens = rows * cols // (16 if mode == "16x" else 4)
        digest = hashlib.sha256(patches.tobytes() + repr((size, mode)).encode()).hexdigest()
        views.append(View(patches, rows, cols, mode, len(ids), tokens, digest))
        ids.extend([placeholder] * tokens + [stop])

    for layout in layouts:
        placeholder = VIDEO_TOKEN if layout.video else IMAGE_TOKEN
        if layout.id_tag:
            ids.extend(random.integers(10, 131, 3).tolist())
        crop(placeholder, layout.overview, MARKERS.image_start, MARKERS.image_end)
        rows, cols = layout.grid or (0, 0)
        for index in range(rows * cols):
            if index and index % cols == 0:
                ids.append(MARKERS.newline)
            crop(placeholder, layout.slice_size, MARKERS.slice_start, MARKERS.slice_end)
        marks.append(len(ids))
        ids.extend([MARKERS.newline] * layout.breaks + random.integers(10, 131, layout.words).tolist())
    return Prompt(np.array(ids, np.int32), tuple(views), (), "", marks=tuple(marks))


def placed(prompt: Prompt, family: Family) -> Prompt:
    """The prompt with the positions of a family."""
    if family.positions is None or not prompt.views:
        return prompt
    return replace(prompt, positions=family.positions(prompt.ids, prompt.views, MARKERS))


def modalities(prompt: Prompt, config: ModelConfig | None = None) -> torch.Tensor:
    """1 for each placeholder of an image, 2 for one of a video, else 0: int64 [1, tokens]."""
    image, video = (IMAGE_TOKEN, VIDEO_TOKEN) if config is None else (config.image_token_id, config.video_token_id)
    ids = torch.from_numpy(prompt.ids.astype(np.int64))[None]
    return (ids == image).long() + 2 * (ids == video).long()


def reference_inputs(prompt: Prompt, config: ModelConfig) -> dict[str, Any]:
    """The same prompt as transformers takes it."""
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(prompt.ids.astype(np.int64))[None]}
    patch = config.vision.patch_size
    for kind, placeholder in (("", config.image_token_id), ("_videos", config.video_token_id)):
        views = [view.load() for view in prompt.views if prompt.ids[view.start] == placeholder]
        if not views:
            continue
        packed = [v.patches.reshape(-1, 3, patch, patch).transpose(1, 2, 0, 3).reshape(3, patch, -1) for v in views]
        inputs[f"pixel_values{kind}"] = torch.from_numpy(np.concatenate(packed, axis=-1))[None]
        inputs[f"target_sizes{kind}"] = torch.tensor([(v.rows, v.cols) for v in views], dtype=torch.int32)
        inputs["downsample_mode"] = views[0].downsample_mode
    if prompt.views and config.family.positions is not None:
        inputs["mm_token_type_ids"] = modalities(prompt, config)
    return inputs


def reference_answer(oracle: Oracle, prompt: Prompt, count: int) -> list[int]:
    """The `count` most likely ids, one after the other, of transformers' generate."""
    inputs = reference_inputs(prompt, oracle.config)
    if hasattr(oracle.model.model, "rope_deltas"):
        oracle.model.model.rope_deltas = None  # those of the prompt before would be used for a text
    oracle.model.generation_config.eos_token_id = None
    with torch.no_grad():
        made = oracle.model.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            do_sample=False,
            max_new_tokens=count,
        )
    return made[0, len(prompt.ids) :].tolist()


def reference_logits(oracle: Oracle, prompt: Prompt) -> np.ndarray:
    """Logits float32 [tokens, vocab] of transformers."""
    with torch.no_grad():
        return oracle.model(**reference_inputs(prompt, oracle.config)).logits[0].float().numpy()


def reference_features(oracle: Oracle, prompt: Prompt) -> np.ndarray:
    """Features float32 [image tokens, hidden] of transformers, of images or of a video."""
    inputs = reference_inputs(prompt, oracle.config)
    for name in ("input_ids", "mm_token_type_ids"):
        inputs.pop(name, None)
    model = oracle.model.model
    features = model.get_video_features if "pixel_values_videos" in inputs else model.get_image_features
    with torch.no_grad():
        return torch.cat(features(**inputs).pooler_output).float().numpy()


def assert_close(ours: np.ndarray, reference: np.ndarray, tolerance: float) -> None:
    """Within tolerance, and the same best token wherever the reference's lead is larger than that."""
    assert ours.dtype == np.float32
    assert ours.shape == reference.shape
    assert 0.3 < reference.std() < 30
    assert np.abs(ours - reference).max() <= tolerance, np.abs(ours - reference).max()
    best = np.sort(reference, axis=-1)
    clear = best[:, -1] - best[:, -2] > tolerance
    assert clear.any()
    assert (ours.argmax(-1) == reference.argmax(-1))[clear].all()
