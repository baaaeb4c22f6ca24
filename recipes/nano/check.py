"""Compares the training network, its pixels and prompts, and the template with the transformers classes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from clip_data import PAD, watch
from clips import MAKERS, some_clip
from data import Talk
from export import TARGET
from model import Nano
from tokenizers import Tokenizer
from transformers import AutoTokenizer, MiniCPMV4_6ForConditionalGeneration
from watching import conversation

import pocketvlm

GRIDS = [(12, 12), (8, 20), (4, 24), (12, 12)]


def check_clips(ours: Nano, folder: Path) -> None:
    """Check that prompts and vision tokens of training clips equal those that pocketvlm makes of the files."""
    model = pocketvlm.load(folder, threads=1, precision="exact")
    talk = Talk(Tokenizer.from_file(str(folder / "tokenizer.json")))
    apart = []
    for number in range(60):
        clip = some_clip(random.Random(number), list(MAKERS)[number % len(MAKERS)])
        (seen,) = watch(ours, [clip], random.Random(number))
        turns = conversation(random.Random(number), clip, 1 + number % 3)
        messages = [{"role": "user", "content": [{"type": "video", "video": clip.encoded(12, 18)}]}]
        for question, answer in turns:
            messages[-1]["content"] = [*messages[-1]["content"], {"type": "text", "text": question}]
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": []}]
        prompt = model.processor(messages[:-2])
        trained, _ = talk.build(Plain(number), turns, [seen.placeholder])
        ids = [int(i) for i in prompt.ids]
        if ids != trained[: len(ids)]:
            raise SystemExit(f"clip {number}: the prompt in training differs from that of the processor")
        if trained.count(talk.tokenizer.token_to_id(PAD)) != np.prod(seen.features.shape[:2]):
            raise SystemExit(f"clip {number}: {seen.features.shape[:2]} vision tokens do not fill the prompt")
        files = [v.load() for v in prompt.views]
        with torch.no_grad():
            pixels = torch.stack([torch.from_numpy(v.patches) for v in files])
            got = ours.see([(pixels, (files[0].rows, files[0].cols))], True)[0][1].numpy()
        apart.append(float(np.linalg.norm(got - seen.features) / np.linalg.norm(got)))
    print(f"clips: prompts are equal; vision tokens of H.264 and in training {np.median(apart):.2f} apart, at most"
          f" {max(apart):.2f}")  # fmt: skip


class Plain(random.Random):
    """Leaves out the system prompt and the question before the pictures."""

    def random(self) -> float:
        return 0.99


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
    check_clips(ours, args.model)


if __name__ == "__main__":
    main()
