"""Writes the nano checkpoint folder: configs, tokenizer, chat template and bf16 weights under their hub names."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import tokenizer as nano_tokenizer
import torch
from model import INSERT_LAYER, TEXT, VISION, Nano, initialise
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "src" / "pocketvlm" / "nano"
SCALE, SLICES = 168, 4


def write_configs(folder: Path) -> None:
    """config.json, generation_config.json, preprocessor_config.json, tokenizer files and the template."""
    tok = nano_tokenizer.write(folder)
    ids = {name: tok.token_to_id(name) for name in nano_tokenizer.BASE}
    config = {
        "architectures": ["MiniCPMV4_6ForConditionalGeneration"],
        "bos_token_id": None,
        "drop_vision_last_layer": False,
        "dtype": "bfloat16",
        "eos_token_id": ids["<|endoftext|>"],
        "image_size": VISION["image_size"],
        "model_type": "minicpmv4_6",
        "pad_token_id": None,
        "tie_word_embeddings": True,
        "transformers_version": "5.7.0",
        "use_cache": True,
        "vision_config": VISION,
        "text_config": TEXT,
        "insert_layer_id": INSERT_LAYER,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
    }
    generation = {
        "bos_token_id": ids["<|im_start|>"],
        "do_sample": False,
        "eos_token_id": [ids["<|endoftext|>"], ids["<|im_end|>"]],
        "repetition_penalty": 1.0,
        "transformers_version": "5.7.0",
    }
    preprocessor = {
        "image_processor_type": "MiniCPMV4_6ImageProcessor",
        "processor_class": "MiniCPMV4_6Processor",
        "max_slice_nums": SLICES,
        "scale_resolution": SCALE,
        "patch_size": VISION["patch_size"],
        "use_image_id": True,
        "slice_mode": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    files = {"config": config, "generation_config": generation, "preprocessor_config": preprocessor}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    shutil.copyfile(HERE / "chat_template.jinja", folder / "chat_template.jinja")


def export(model: Nano, folder: Path) -> None:
    """Write everything; the weights last and atomically, so that a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(folder)
    tensors = {f"model.{k}": v.detach().to(torch.bfloat16).contiguous().cpu() for k, v in model.state_dict().items()}
    partial = folder / "model.safetensors.part"
    save_file(tensors, str(partial), metadata={"format": "pt"})
    partial.chmod(0o644)
    partial.replace(folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--state", type=Path, help="training state; without it the weights are random")
    parser.add_argument("--out", type=Path, default=TARGET)
    parser.add_argument("--raw", action="store_true", help="the last weights instead of their moving average")
    args = parser.parse_args()
    model = initialise(Nano())
    if args.state:
        state = torch.load(args.state, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model" if args.raw else "ema"])
    export(model, args.out)
    print(f"{args.out}: {sum(p.stat().st_size for p in args.out.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
