"""Makes checkpoints of a few layers in every format that is read, for the table of errors."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from checkpoint import write_settings
from llama_cpp_files import write_text

from checkpoints.digests import digest
from checkpoints.make import FORMATS, NANO, Digests, Format, is_language_matrix, save_torch, torch_tensor
from checkpoints.source import Source
from pocketvlm.checkpoint.gguf.names import file_name

GGUF_TYPES = (
    *("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"),
    *("IQ4_NL", "IQ4_XS", "MXFP4", "NVFP4", "Q3_K", "Q2_K"),
)
FP8_BLOCK = 128
_GROUPS: dict[str, dict[str, Any]] = {
    "pack-quantized": {"num_bits": 4, "group_size": 128, "strategy": "group"},
    "nvfp4-pack-quantized": {
        "num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "scale_dtype": "float8_e4m3fn"
    },
    "mxfp4-pack-quantized": {
        "num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "uint8"
    },
    "mxfp8-quantized": {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "uint8"},
}  # fmt: skip


def make_gguf_type(source: Source, directory: Path, threads: int, kind: str) -> Digests:
    """A text file whose every matrix, the gates and the head too, llama.cpp quantized to one type."""
    gguf = import_module("gguf")
    path = directory / f"model-{kind}.gguf"
    write_text(source.tensors, source.shape, path, kind)
    names = {file_name(name): name for name in source.tensors if ".language_model." in name}
    return {
        names[tensor.name]: digest(gguf.quants.dequantize(tensor.data, tensor.tensor_type))
        for tensor in gguf.GGUFReader(path).tensors
        if tensor.tensor_type.name == kind
    }


def make_fp8(source: Source, directory: Path, threads: int) -> Digests:
    """FP8 with a scale for each block of 128 x 128, as DeepSeek's files have it; PyTorch casts."""
    torch = import_module("torch")
    tensors, digests = {}, {}
    for name, tensor in source.tensors.items():
        weight = tensors[name] = torch_tensor(tensor)
        if not is_language_matrix(name):
            continue
        blocks = weight.float().unflatten(0, (-1, FP8_BLOCK)).unflatten(2, (-1, FP8_BLOCK))
        scales = blocks.abs().amax((1, 3)) / torch.finfo(torch.float8_e4m3fn).max
        codes = (blocks / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        tensors[name], tensors[f"{name}_scale_inv"] = codes.reshape(weight.shape), scales
        digests[name] = digest((codes.float() * scales[:, None, :, None]).reshape(weight.shape).numpy())
    save_torch(tensors, str(directory / "model.safetensors"))
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    write_settings(NANO, directory, source.shape, quantization_config=settings)
    return digests


def make_compressed(source: Source, directory: Path, threads: int, format_: str) -> Digests:
    """A format of compressed-tensors; the tests of formats have its writer."""
    sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "formats"))
    writer = import_module("compressed_writer")
    tensors = {name: torch_tensor(tensor) for name, tensor in source.tensors.items()}
    group = writer.scheme(format_, _GROUPS[format_], ["Linear"])
    names = [name for name in tensors if is_language_matrix(name)]
    digests = {name: digest(values) for name, values in writer.compress(tensors, names, group).items()}
    save_torch({name: tensor.contiguous() for name, tensor in tensors.items()}, str(directory / "model.safetensors"))
    write_settings(NANO, directory, source.shape, **writer.config([group], ["lm_head"], format_))
    return digests


SMALL_FORMATS = (
    *(Format(kind, kind, "", "bench", partial(make_gguf_type, kind=kind)) for kind in GGUF_TYPES),
    *(kind for kind in FORMATS if kind.key != "gguf"),
    Format("fp8", "FP8, blocks of 128 x 128", "", "formats", make_fp8),
    *(
        Format(key, title, "", "formats", partial(make_compressed, format_=format_))
        for key, title, format_ in (
            ("mxfp8", "MXFP8", "mxfp8-quantized"),
            ("int4", "compressed-tensors int4", "pack-quantized"),
            ("nvfp4", "compressed-tensors NVFP4", "nvfp4-pack-quantized"),
            ("mxfp4", "compressed-tensors MXFP4", "mxfp4-pack-quantized"),
        )
    ),
)
