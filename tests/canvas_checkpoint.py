"""A random MiniCPM-V 4.7 checkpoint in a directory, with the small tokenizer of the processor's tests."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import processor_kit
from oracle import TINY_VISION, Oracle, config_dict, make_oracle

from pocketvlm.families import MINICPMV4_7, Markers
from pocketvlm.processor import Tokenizer


def write_checkpoint(directory: Path, tower: dict[str, Any] | None = None) -> Oracle:
    """Write a checkpoint whose config.json names all marker ids. tower: other sizes of the vision tower."""
    tokenizer = Tokenizer.from_files(processor_kit.write_tokenizer(directory), processor_kit.SETTINGS)
    special = tokenizer.special
    (newline,) = tokenizer.encode_plain("\n")
    markers = Markers(special.image_start, special.image_end, special.slice_start, special.slice_end, newline)
    oracle = make_oracle(
        config_dict(
            text={"vocab_size": tokenizer.vocab_size},
            vision={**TINY_VISION, "model_type": MINICPMV4_7.vision_type, **(tower or {})},
            family=MINICPMV4_7,
            image_token_id=special.image,
            video_token_id=special.video,
            eos_token_id=tokenizer.control_ids["<|im_end|>"],
            **{f"{name}_id": value for name, value in asdict(markers).items()},
        ),
        seed=8,
    )
    oracle.model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    assert [config[f"{name}_id"] for name in asdict(markers)] == list(asdict(markers).values())
    (directory / "tokenizer_config.json").write_text(json.dumps(processor_kit.SETTINGS))
    (directory / "preprocessor_config.json").write_text(json.dumps(processor_kit.PREPROCESSOR))
    (directory / "chat_template.jinja").write_text(processor_kit.TEMPLATE)
    return oracle
