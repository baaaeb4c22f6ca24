"""Makes checkpoints of the released shape in quantized formats, with the formats' own libraries.

Each folder also gets `values.json`: digests of the matrices' values as that library computes them, which the
benchmark compares with ours before it times anything.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from checkpoint import write_settings
from llama_cpp_files import export

import pocketvlm
from checkpoints.digests import digest
from checkpoints.shards import Shards
from checkpoints.source import Source
from pocketvlm.checkpoint.gguf.names import file_name
from pocketvlm.model import tensor_roles
from pocketvlm.tensors import DenseTensor

GROUP = 128  # of AWQ and GPTQ
MLX_GROUP = 64
BNB_BLOCK = 64
NANO = Path(pocketvlm.__file__).parent / "nano"
VALUES = "values.json"
# What AWQ and GPTQ checkpoints of this model quantize: the gates of 16 outputs stay dense.
BLOCKS = [
    ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    ["self_attn.o_proj"],
    ["linear_attn.in_proj_qkv", "linear_attn.in_proj_z"],
    ["linear_attn.out_proj"],
    ["mlp.gate_proj", "mlp.up_proj"],
    ["mlp.down_proj"],
]
_LANGUAGE = tuple(f"{name}.weight" for names in BLOCKS for name in names)
_SHIFTED = ("input_layernorm.weight", "post_attention_layernorm.weight", "q_norm.weight", "k_norm.weight")

Digests = dict[str, list[str]]


@dataclass(frozen=True)
class Format:
    """A format: the name on the hub, the key of its folder, and what is installed to make it."""

    key: str
    title: str
    hub: str
    libraries: str
    make: Callable[[Source, Path, int], Digests]


def is_language_matrix(name: str) -> bool:
    """Whether AWQ and GPTQ quantize this tensor."""
    return ".language_model.layers." in name and name.endswith(_LANGUAGE)


def make_awq(source: Source, directory: Path, threads: int) -> Digests:
    """AWQ as AutoRound packs it: zero points, rounded to nearest; the rest bfloat16."""
    torch = import_module("torch")
    utils = import_module("auto_round.export.export_to_awq.utils")

    def pack(weight: Any) -> tuple[dict[str, Any], list[str]]:
        grouped = weight.reshape(weight.shape[0], -1, GROUP)
        low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
        scales = ((high - low).clamp(min=1e-5) / 15).half().float()
        zeros = torch.round(-low / scales).clamp(0, 15)
        packed = utils.WQLinear_GEMM.from_linear(
            _linear(weight), 4, GROUP, scales=scales.T.contiguous(), zeros=zeros.T.contiguous(), device="cpu"
        )
        parts = {part: getattr(packed, part) for part in ("qweight", "qzeros", "scales")}
        values = utils.dequantize_gemm(packed.qweight, packed.qzeros, packed.scales, 4, GROUP)
        return parts, digest(values.T.contiguous().numpy())

    excluded = ["model.vision_tower", "model.merger", "lm_head", "in_proj_a", "in_proj_b"]
    settings = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": GROUP, "zero_point": True}
    settings["modules_to_not_convert"] = excluded
    return _make_words(source, directory, settings, pack, torch.bfloat16)


def make_gptq(source: Source, directory: Path, threads: int) -> Digests:
    """GPTQ, version 1, as AutoRound packs it: symmetric, rounded to nearest; the rest float16."""
    torch = import_module("torch")
    module = import_module("auto_round_extension.torch.qlinear_torch_zp")

    def pack(weight: Any) -> tuple[dict[str, Any], list[str]]:
        outputs, inputs = weight.shape
        grouped = weight.reshape(outputs, -1, GROUP)
        scales = (2 * grouped.abs().amax(-1).clamp(min=1e-5) / 15).half().float()
        packed = module.QuantLinear(4, GROUP, inputs, outputs, False)
        packed.device = "cpu"
        packed.pack(_linear(weight), scales, 8, None, "cpu")
        parts = {part: getattr(packed, part) for part in ("qweight", "qzeros", "scales")}
        # Its layer has no function that returns the weights. They are the codes that it packed times its scales.
        codes = torch.round(grouped / scales[:, :, None] + 8).clamp(0, 15) - 8
        values = (codes * scales[:, :, None]).reshape(outputs, inputs)
        return {**parts, "g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP}, digest(values.numpy())

    settings = {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": GROUP, "sym": True}
    settings |= {"desc_act": False, "lm_head": False, "modules_in_block_to_quantize": BLOCKS}
    return _make_words(source, directory, settings, pack, torch.float16)


def _make_words(
    source: Source,
    directory: Path,
    settings: dict[str, Any],
    pack: Callable[[Any], tuple[dict[str, Any], list[str]]],
    dtype: Any,
) -> Digests:
    shards, digests = Shards(directory, save_torch), {}
    for name, tensor in source.tensors.items():
        values = torch_tensor(tensor)
        if is_language_matrix(name):
            parts, digests[name] = pack(values.float())
            module = name.removesuffix("weight")
            shards.add({module + part: array.contiguous() for part, array in parts.items()})
        else:
            shards.add({name: values.to(dtype)})
    shards.finish()
    write_settings(NANO, directory, source.shape, quantization_config=settings)
    return digests


def make_nf4(source: Source, directory: Path, threads: int) -> Digests:
    """bitsandbytes: NF4 with double quantization of every linear layer; the rest bfloat16."""
    torch, functional = import_module("torch"), import_module("bitsandbytes").functional
    roles = tensor_roles(source.config)
    shards, digests = Shards(directory, save_torch), {}
    for name, tensor in source.tensors.items():
        values = torch_tensor(tensor)
        if roles[name] not in ("matrix", "gate", "vision_matrix"):
            shards.add({name: values})
            continue
        packed, state = functional.quantize_4bit(
            values, blocksize=BNB_BLOCK, compress_statistics=True, quant_type="nf4"
        )
        shards.add({name: packed} | {f"{name}.{key}": part for key, part in state.as_dict(packed=True).items()})
        # As one row: the library's kernel for CPUs begins a block with each row, where its quantizer continues blocks.
        shape, state.shape, state.dtype = state.shape, torch.Size((1, values.numel())), torch.float32
        digests[name] = digest(functional.dequantize_4bit(packed, state).reshape(shape).numpy())
    shards.finish()
    settings = {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "float16",
        "bnb_4bit_quant_storage": "uint8",
        "llm_int8_skip_modules": ["lm_head"],
    }
    write_settings(NANO, directory, source.shape, quantization_config=settings)
    return digests


def make_mlx(source: Source, directory: Path, threads: int) -> Digests:
    """MLX 4 bits: attention and MLP of the language model, names and layouts as mlx-vlm writes them."""
    mx = import_module("mlx.core")
    shards = Shards(directory, lambda parts, path: mx.save_safetensors(path, parts, metadata={"format": "mlx"}))
    digests = {}
    for name, tensor in source.tensors.items():
        value = mx.array(tensor.data).view(mx.bfloat16)
        base = _mlx_name(name)
        if ".language_model.layers." in name and (".mlp." in name or (".self_attn." in name and "_proj." in name)):
            parts = mx.quantize(value, group_size=MLX_GROUP, bits=4)
            shards.add(
                dict(zip((base, *(base.replace("weight", p) for p in ("scales", "biases"))), parts, strict=True))
            )
            floats = mx.dequantize(parts[0], *(part.astype(mx.float32) for part in parts[1:]), MLX_GROUP, 4)
            digests[name] = digest(np.array(floats.astype(mx.float32)))
            continue
        if name.endswith("conv1d.weight"):
            value = value.transpose(0, 2, 1)
        elif name.endswith("patch_embedding.weight"):
            value = value.transpose(0, 2, 3, 1)
        elif name.endswith(_SHIFTED) or name == "model.language_model.norm.weight":
            value = value + 1.0
        shards.add({base: value})
    shards.finish()
    kind = {"group_size": MLX_GROUP, "bits": 4, "mode": "affine"}
    write_settings(NANO, directory, source.shape, quantization=kind, quantization_config=kind)
    return digests


def _mlx_name(name: str) -> str:
    rest = name.removeprefix("model.")
    if rest.startswith("language_model."):
        return rest.replace("language_model.", "language_model.model.", 1)
    return rest.removeprefix("vision_tower.") if rest.startswith("vision_tower.vit_merger.") else rest


def make_gguf(source: Source, directory: Path, threads: int) -> Digests:
    """Q4_K_M by llama.cpp itself, and the vision file in F16."""
    files = export(source.tensors, source.shape, directory, ["Q4_K_M"], ["F16"], threads)
    for path in directory.glob("*-text-BF16.gguf"):
        path.unlink()
    files["text Q4_K_M"].rename(directory / "model-Q4_K_M.gguf")
    files["mmproj F16"].rename(directory / "mmproj-model-F16.gguf")
    gguf = import_module("gguf")
    names = {file_name(name): name for name in source.tensors if ".language_model." in name}
    digests = {}
    for tensor in gguf.GGUFReader(directory / "model-Q4_K_M.gguf").tensors:
        if tensor.tensor_type.name in ("Q4_K", "Q6_K"):
            digests[names[tensor.name]] = digest(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
    return digests


def save_torch(tensors: dict[str, Any], path: str) -> None:
    import_module("safetensors.torch").save_file(tensors, path, metadata={"format": "pt"})


def torch_tensor(tensor: DenseTensor) -> Any:
    """A bfloat16 tensor in PyTorch, without a copy."""
    torch = import_module("torch")
    return torch.from_numpy(tensor.data).view(torch.bfloat16)


def _linear(weight: Any) -> Any:
    torch = import_module("torch")
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


FORMATS = (
    Format("awq", "AWQ, 4 bits", "openbmb/MiniCPM-V-4.6-AWQ", "formats", make_awq),
    Format("gptq", "GPTQ, 4 bits", "openbmb/MiniCPM-V-4.6-GPTQ", "formats", make_gptq),
    Format("gguf", "GGUF Q4_K_M", "openbmb/MiniCPM-V-4.6-gguf:Q4_K_M", "bench", make_gguf),
    Format("mlx", "MLX, 4 bits", "mlx-community/MiniCPM-V-4.6-4bit", "formats", make_mlx),
    Format("nf4", "bitsandbytes NF4", "openbmb/MiniCPM-V-4.6-BNB", "formats", make_nf4),
)


def make(directory: Path, wanted: Sequence[Format], threads: int, source_of: Callable[[], Source]) -> None:
    """Make the folders that are missing; each is there whole or not at all. source_of: makes the model, if needed."""
    missing = [kind for kind in wanted if not (directory / kind.key).exists()]
    if not missing:
        return
    source = source_of()
    for kind in missing:
        began = time.perf_counter()
        unfinished = directory / f"{kind.key}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            digests = kind.make(source, unfinished, threads)
        except ImportError as error:
            sys.exit(f"{kind.title} cannot be made ({error}): `pip install -e '.[{kind.libraries}]'`")
        (unfinished / VALUES).write_text(json.dumps(digests, indent=1))
        unfinished.replace(directory / kind.key)
        print(f"{kind.title}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
