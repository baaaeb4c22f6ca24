"""Random weights of the released shape as the GGUF files that llama.cpp reads.

    python benchmarks/peers/gguf_export.py DIRECTORY --text BF16 Q4_K_M --mmproj BF16

Writes the text model (arch qwen35) and the vision file (arch clip) in 16-bit floats with the `gguf` package, and lets
llama.cpp itself quantize the text model, so both packages must be importable. Files are named after a digest of the
weights and made once. The vocabulary is a stand-in of the right size, made of random words; the template is nano's.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from checkpoint import random_words
from numpy.typing import NDArray

import pocketvlm

if TYPE_CHECKING:
    from pocketvlm.config import ModelConfig
    from pocketvlm.tensors import DenseTensor

Tensors = Mapping[str, "DenseTensor"]

# Kind of text file: (llama_ftype, whether every matrix, the tied head too, takes the one type).
TEXT_KINDS: Mapping[str, tuple[int, bool]] = {
    "F32": (0, False),
    "BF16": (32, False),
    "Q8_0": (7, False),
    "Q4_K_M": (15, False),
    "Q4_0": (2, False),
    "Q4_0-pure": (2, True),
}
MMPROJ_KINDS = ("BF16", "F16", "BF16-4x", "F16-4x")
SPECIAL_TOKENS: Mapping[int, str] = {
    248044: "<|endoftext|>",
    248045: "<|im_start|>",
    248046: "<|im_end|>",
    248056: "<|image_pad|>",
    248057: "<|video_pad|>",
    248077: "<image>",
    248078: "</image>",
    248079: "<slice>",
    248080: "</slice>",
    248081: "<image_id>",
    248082: "</image_id>",
}
RELEASED_TOKENS = 248094
NORMAL, CONTROL, UNUSED = 1, 3, 5
TEXT_PREFIX = "model.language_model."
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_ONE_ADDED = ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm")
_VISION_NAMES = {
    "model.vision_tower.embeddings.patch_embedding": "v.patch_embd",
    "model.vision_tower.embeddings.position_embedding": "v.position_embd",
    "model.vision_tower.post_layernorm": "v.post_ln",
    "model.vision_tower.vit_merger.layer_norm1": "v.vit_merger.ln1",
    "model.vision_tower.vit_merger.self_attn.q_proj": "v.vit_merger.attn_q",
    "model.vision_tower.vit_merger.self_attn.k_proj": "v.vit_merger.attn_k",
    "model.vision_tower.vit_merger.self_attn.v_proj": "v.vit_merger.attn_v",
    "model.vision_tower.vit_merger.self_attn.out_proj": "v.vit_merger.attn_out",
    "model.vision_tower.vit_merger.pre_norm": "v.vit_merger.ds_ln",
    "model.vision_tower.vit_merger.linear_1": "v.vit_merger.ds_ffn_up",
    "model.vision_tower.vit_merger.linear_2": "v.vit_merger.ds_ffn_down",
    "model.merger.mlp.0.pre_norm": "mm.input_norm",
    "model.merger.mlp.0.linear_1": "mm.up",
    "model.merger.mlp.0.linear_2": "mm.down",
}
_VISION_LAYER_NAMES = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def _package(name: str) -> Any:
    """Import a package of the comparison, or say what to install."""
    try:
        return __import__(name, fromlist=["*"])
    except ImportError as error:
        root = name.partition(".")[0]
        install = {"llama_cpp": "llama-cpp-python"}.get(root, root)
        sys.exit(f"{root} cannot be imported ({error}): `pip install {install}`, or put its folder on PYTHONPATH")


def digest(tensors: Tensors) -> str:
    """Ten hex digits that tell apart sets of weights: names, shapes and the first and last values of each."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.data.reshape(-1)
        state.update(f"{name} {tensor.shape} {tensor.dtype}\n".encode())
        state.update(flat[:64].tobytes() + flat[-64:].tobytes())
    return state.hexdigest()[:10]


def vocabulary(size: int) -> tuple[list[str], list[int], list[str]]:
    """Stand-in tokens, their types and the merges: random words, the special tokens at the released end, fillers."""
    special = {number + size - RELEASED_TOKENS: text for number, text in SPECIAL_TOKENS.items()}
    words, merges = random_words(min(special))
    tokens, types = list(words), [NORMAL] * len(words)
    for number in range(len(tokens), size):
        tokens.append(special.get(number, f"[PAD{number}]"))
        types.append(CONTROL if number in special else UNUSED)
    return tokens, types, [" ".join(pair) for pair in merges]


def text_name(name: str) -> str:
    """The GGUF name of a tensor of the language model."""
    rest = name.removeprefix(TEXT_PREFIX)
    if rest in ("embed_tokens.weight", "norm.weight"):
        return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[rest]
    _, layer, module = rest.split(".", 2)
    if module == "linear_attn.A_log":
        return f"blk.{layer}.ssm_a"
    if module == "linear_attn.dt_bias":
        return f"blk.{layer}.ssm_dt.bias"
    stem, suffix = module.rsplit(".", 1)
    return f"blk.{layer}.{_LAYER_NAMES[stem]}.{suffix}"


def vision_name(name: str) -> str:
    """The GGUF name of a tensor of the vision tower or the merger."""
    stem, suffix = name.rsplit(".", 1)
    layers = "model.vision_tower.encoder.layers."
    if stem.startswith(layers):
        layer, module = stem.removeprefix(layers).split(".", 1)
        return f"v.blk.{layer}.{_VISION_LAYER_NAMES[module]}.{suffix}"
    return f"{_VISION_NAMES[stem]}.{suffix}"


def text_value(name: str, tensor: DenseTensor) -> NDArray[Any]:
    """What the text file holds of a tensor: bfloat16 bits of matrices, float32 of all else in llama.cpp's terms."""
    stem = name.removesuffix(".weight")
    if name.endswith("A_log"):
        return -np.exp(tensor.float32())
    if name.endswith("conv1d.weight"):
        return tensor.float32().reshape(tensor.shape[0], tensor.shape[-1])
    if stem == TEXT_PREFIX + "norm" or stem.endswith(_ONE_ADDED):
        return tensor.float32() + np.float32(1)
    return tensor.data if len(tensor.shape) == 2 else tensor.float32()


def _check_bf16(tensors: Tensors) -> None:
    other = next((tensor for tensor in tensors.values() if tensor.dtype != "bf16"), None)
    if other is not None:
        raise ValueError(f"{other.name} is {other.dtype}: the export takes bfloat16 weights")


def _add(writer: Any, gguf: Any, name: str, value: NDArray[Any]) -> None:
    """Hand a tensor to the writer; uint16 stands for bfloat16 bits."""
    if value.dtype == np.uint16:
        rows = np.ascontiguousarray(value).view(np.uint8)
        writer.add_tensor(name, rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    else:
        writer.add_tensor(name, np.ascontiguousarray(value))


def _write(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_text(tensors: Tensors, config: ModelConfig, path: Path, kind: str | None = None) -> None:
    """Write the language model in bfloat16; kind: the type that llama.cpp quantizes every matrix to, the head too."""
    gguf, text = _package("gguf"), config.text
    _check_bf16(tensors)
    if text.linear_num_value_heads != text.linear_num_key_heads:
        raise ValueError("value heads outnumber key heads: llama.cpp reorders them, which this export does not do")
    writer = gguf.GGUFWriter(path, "qwen35")
    writer.add_string("general.type", "model")
    writer.add_string("general.name", "MiniCPM-V 4.6 shape, random weights")
    writer.add_uint32("general.file_type", TEXT_KINDS["BF16"][0])
    writer.add_uint32("general.quantization_version", 2)
    for key, value in {
        "block_count": len(text.layer_types),
        "context_length": text.max_position_embeddings,
        "embedding_length": text.hidden_size,
        "feed_forward_length": text.intermediate_size,
        "attention.head_count": text.num_attention_heads,
        "attention.head_count_kv": text.num_key_value_heads,
        "attention.key_length": text.head_dim,
        "attention.value_length": text.head_dim,
        "rope.dimension_count": text.rotary_dim,
        "ssm.conv_kernel": text.linear_conv_kernel_dim,
        "ssm.state_size": text.linear_key_head_dim,
        "ssm.group_count": text.linear_num_key_heads,
        "ssm.time_step_rank": text.linear_num_value_heads,
        "ssm.inner_size": text.value_dim,
        "full_attention_interval": text.layer_types.index("full_attention") + 1,
    }.items():
        writer.add_uint32(f"qwen35.{key}", value)
    writer.add_float32("qwen35.attention.layer_norm_rms_epsilon", text.rms_norm_eps)
    writer.add_float32("qwen35.rope.freq_base", text.rope_theta)
    writer.add_array("qwen35.rope.dimension_sections", [11, 11, 10, 0])
    tokens, types, merges = vocabulary(text.vocab_size)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "qwen35")
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", types)
    writer.add_array("tokenizer.ggml.merges", merges)
    template = Path(pocketvlm.__file__).parent / "nano" / "chat_template.jinja"
    writer.add_string("tokenizer.chat_template", template.read_text(encoding="utf-8"))
    for name, text_of in (("bos", "<|im_start|>"), ("eos", "<|im_end|>"), ("padding", "<|endoftext|>")):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", tokens.index(text_of))
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    for name, tensor in tensors.items():
        if not name.startswith(TEXT_PREFIX):
            continue
        if kind and len(tensor.shape) == 2:
            rows = quantize_rows(tensor.float32(), gguf.GGMLQuantizationType[kind])
            writer.add_tensor(text_name(name), rows, raw_dtype=gguf.GGMLQuantizationType[kind])
        else:
            _add(writer, gguf, text_name(name), text_value(name, tensor))
    _write(writer)


def quantize_rows(values: NDArray[np.float32], kind: Any) -> NDArray[np.uint8]:
    """Let llama.cpp quantize a matrix to a type of the `gguf` package: uint8 [rows, bytes of a row]."""
    rows, columns = values.shape
    block, nbytes = _package("gguf.constants").GGML_QUANT_SIZES[kind]
    found = np.empty((rows, columns // block * nbytes), np.uint8)
    function = _package("llama_cpp._ggml").libggml.ggml_quantize_chunk
    function.restype, pointer = ctypes.c_size_t, ctypes.c_void_p
    function.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    written = function(kind.value, values.ctypes.data, found.ctypes.data, 0, rows, columns, None)
    if written != found.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes of {kind.name}, {found.nbytes} were expected")
    return found


def write_mmproj(tensors: Tensors, config: ModelConfig, path: Path, kind: str) -> None:
    """Write the vision tower and mergers; kind is BF16 or F16, with "-4x" for the mode without the tower's merger."""
    gguf, vision = _package("gguf"), config.vision
    _check_bf16(tensors)
    dtype, _, mode = kind.partition("-")
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("general.type", "mmproj")
    writer.add_string("general.name", "MiniCPM-V 4.6 shape, random weights")
    writer.add_uint32("general.file_type", {"BF16": 32, "F16": 1}[dtype])
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "minicpmv4_6")
    writer.add_bool("clip.use_gelu", True)
    for key, value in {
        "image_size": 448,
        "patch_size": vision.patch_size,
        "embedding_length": vision.hidden_size,
        "feed_forward_length": vision.intermediate_size,
        "block_count": vision.num_hidden_layers,
        "attention.head_count": vision.num_attention_heads,
        "projection_dim": config.text.hidden_size,
        "projector.scale_factor": 2 if mode == "4x" else 4,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", vision.layer_norm_eps)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.wa_layer_indexes", [vision.insert_layer_id])
    for name, tensor in tensors.items():
        if name.startswith(TEXT_PREFIX) or (mode == "4x" and ".vit_merger." in name):
            continue
        if len(tensor.shape) == 1 or "position_embedding" in name:
            value = tensor.float32()
        elif dtype == "F16":
            value = tensor.float32().astype(np.float16)
        else:
            value = tensor.float32() if "patch_embedding" in name else tensor.data
        _add(writer, gguf, vision_name(name), value)
    _write(writer)


def quantize(source: Path, path: Path, kind: str, threads: int) -> None:
    """Let llama.cpp quantize a text file."""
    lib = _package("llama_cpp.llama_cpp")
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.pure = TEXT_KINDS[kind]
    params.nthread = threads
    quiet = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(quiet, ctypes.c_void_p(None))
    lib.llama_backend_init()
    status = lib.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params))
    lib.llama_log_set(lib.llama_log_callback(), ctypes.c_void_p(None))
    if status:
        raise RuntimeError(f"llama.cpp could not quantize {source} to {kind} (status {status})")


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """Make a file under another name and put it in place, unless it is there."""
    if not path.exists():
        began = time.perf_counter()
        unfinished = path.with_suffix(".unfinished")
        try:
            make(unfinished)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        print(
            f"{path.name}: {path.stat().st_size / 2**20:.0f} MiB, {time.perf_counter() - began:.0f} s", file=sys.stderr
        )
    return path


def places(tensors: Tensors, directory: Path, text: Iterable[str], mmproj: Iterable[str]) -> dict[str, Path]:
    """Where the files of these weights are, or will be: {"text Q4_K_M": path, "mmproj BF16": path, ...}."""
    stem = directory / f"random-{digest(tensors)}"
    names = [*(f"text {kind}" for kind in text), *(f"mmproj {kind}" for kind in mmproj)]
    return {name: Path(f"{stem}-{name.replace(' ', '-')}.gguf") for name in names}


def export(
    tensors: Tensors,
    config: ModelConfig,
    directory: Path,
    text: Iterable[str] = ("BF16",),
    mmproj: Iterable[str] = ("BF16",),
    threads: int = 2,
) -> dict[str, Path]:
    """The files asked for, made where they are missing: {"text Q4_K_M": path, "mmproj BF16": path, ...}."""
    directory.mkdir(parents=True, exist_ok=True)
    found = places(tensors, directory, text, mmproj)
    for name, path in found.items():
        part, _, kind = name.partition(" ")
        if part == "mmproj":
            _once(path, partial(write_mmproj, tensors, config, kind=kind))
        elif kind == "BF16":
            _once(path, lambda to: write_text(tensors, config, to))
        elif not path.exists():
            source = export(tensors, config, directory, ("BF16",), ())["text BF16"]
            _once(path, partial(quantize, source, kind=kind, threads=threads))
    return found


def main() -> None:
    """Write the files that are asked for and print their paths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--text", nargs="*", choices=list(TEXT_KINDS), default=["BF16", "Q8_0", "Q4_K_M", "Q4_0"])
    parser.add_argument("--mmproj", nargs="*", choices=MMPROJ_KINDS, default=["BF16", "F16"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from pocketvlm.bench.shape import random_tensors, released_config

    config = released_config()
    tensors = random_tensors(config, options.seed)
    files = export(tensors, config, options.directory, options.text, options.mmproj, options.threads)
    for name, path in files.items():
        print(f"{name}\t{path}")


if __name__ == "__main__":
    main()
