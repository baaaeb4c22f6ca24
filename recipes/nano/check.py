"""Compares the training network, its pixels and prompts, and the template with the transformers classes."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from export import TARGET
from model import Nano
from transformers import AutoTokenizer, MiniCPMV4_6ForConditionalGeneration

GRIDS = [(12, 12), (8, 20), (4, 24), (12, 12)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TARGET)
    args = parser.parse_args()
    reference = MiniCPMV4_6ForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32).eval()
    tok = AutoTokenizer.from_pretrained(args.model)
    ours = Nano().eval()
    state = {k.removeprefix("model."): v for k, v in reference.state_dict().items() if not k.startswith("lm_head")}
    ours.load_state_dict(state)
    torch.manual_seed(1)
    pad = tok.convert_tokens_to_ids("<|image_pad|>")
    for coarse, mode in ((True, "16x"), (False, "4x")):
        for grid in GRIDS:
            h, w = grid
            patches = torch.rand(2, h * w, 588) * 2 - 1
            packed = patches.view(-1, 3, 14, 14).permute(1, 2, 0, 3).reshape(1, 3, 14, -1)
            n = h * w // (16 if coarse else 4)
            text = tok("user\nWhat is this?").input_ids
            ids = torch.tensor([text + [pad] * n + text + [pad] * n + text])
            rows = (ids[0] == pad).nonzero()[:, 0]
            with torch.no_grad():
                want = reference(
                    input_ids=ids, pixel_values=packed, target_sizes=torch.tensor([grid, grid]), downsample_mode=mode
                ).logits
                features = torch.cat([f for _, f in ours.see([(patches, grid)], coarse)]).flatten(0, 1)
                got = ours.logits(ours.read(ids, rows, features))
            print(mode, grid, f"max difference {float((want - got).abs().max()):.2e} of {float(want.abs().max()):.2f}")


if __name__ == "__main__":
    main()
