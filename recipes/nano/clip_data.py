"""Draws clips and pictures for `clip_train.py` and encodes them with the frozen vision part."""

from __future__ import annotations

import multiprocessing as mp
import random
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from clips import STATES, Clip, some_clip
from data import Source, Talk
from model import Nano
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from views import PATCH, Plan, plan, views_of

PAD = "<|video_pad|>"
SHARES = {"move": 2, "colours": 4, "count": 4}
UNKNOWN = -100  # the label that cross_entropy ignores


@dataclass
class Seen:
    """A clip, the vision tokens of its frames, float16 [frames, tokens, width], and their states [frames, STATES]."""

    clip: Clip
    features: np.ndarray
    states: np.ndarray

    @property
    def placeholder(self) -> str:
        """The text which stands for it in the prompt."""
        frames, tokens, _ = self.features.shape
        return f"<image>{PAD * tokens}</image>" * frames


def overview(size: tuple[int, int]) -> Plan:
    """The plan for a frame of this width and height: an overview without slices."""
    return plan((size[1], size[0]), True, 1)


@torch.no_grad()
def watch(model: Nano, clips: list[Clip], rng: random.Random) -> list[Seen]:
    """Draw the frames of clips and encode them."""
    groups: dict[tuple[int, int], list[tuple[int, np.ndarray]]] = {}
    states = []
    for number, clip in enumerate(clips):
        cut = overview(clip.size)
        grid = (cut.overview[0] // PATCH, cut.overview[1] // PATCH)
        frames, known = clip.sampled(rng)
        groups.setdefault(grid, []).extend((number, views_of(f, cut)[0][0]) for f in frames)
        states.append(np.array([[one.get(name, UNKNOWN) for name in STATES] for one in known]))
    features: list[list[np.ndarray]] = [[] for _ in clips]
    for grid, views in groups.items():
        for at in range(0, len(views), 48):
            part = views[at : at + 48]
            pixels = torch.from_numpy(np.stack([v for _, v in part])).float().div_(127.5).sub_(1)
            (_, merged) = model.see([(pixels, grid)], True)[0]
            for (number, _), one in zip(part, merged.half().numpy(), strict=True):
                features[number].append(one)
    return [Seen(clip.facts(), np.stack(f), s) for clip, f, s in zip(clips, features, states, strict=True)]


def pack(texts: list[tuple[list[int], list[bool]]], pad: int) -> dict[str, Tensor]:
    """Padded ids, positions of the vision tokens, and targets with their positions and weights."""
    length = -(-max(len(ids) for ids, _ in texts) // 8) * 8
    ids = np.zeros((len(texts), length), np.int64)
    predict: list[int] = []
    weight: list[float] = []
    for n, (tokens, keep) in enumerate(texts):
        ids[n, : len(tokens)] = tokens
        where = [n * length + i - 1 for i, k in enumerate(keep) if k]
        predict += where
        weight += [len(where) ** -0.5] * len(where)
    flat = torch.from_numpy(ids).flatten()
    at = torch.tensor(predict)
    rows = (flat == pad).nonzero()[:, 0]
    return {
        "ids": torch.from_numpy(ids),
        "rows": rows,
        "predict": at,
        "target": flat[at + 1],
        "weight": torch.tensor(weight),
    }


def about(talk: Talk, rng: random.Random, seen: list[Seen], turns: list[list[tuple[str, str]]]) -> dict[str, Tensor]:
    """A batch of conversations about clips; ends are the flat positions after the frames."""
    texts = [talk.build(rng, told, [s.placeholder]) for s, told in zip(seen, turns, strict=True)]
    batch = pack(texts, talk.tokenizer.token_to_id(PAD))
    width = seen[0].features.shape[-1]
    return batch | {
        "features": torch.from_numpy(np.concatenate([s.features.reshape(-1, width) for s in seen])),
        "ends": (batch["ids"].flatten() == talk.tokenizer.token_to_id("</image>")).nonzero()[:, 0],
        "states": torch.from_numpy(np.concatenate([s.states for s in seen])),
    }


@torch.no_grad()
def look(model: Nano, batch: dict) -> dict[str, Tensor]:
    """A batch of pictures with vision tokens in place of pixels."""
    out = {key: torch.from_numpy(batch[key]) for key in ("ids", "rows", "predict", "target", "weight")}
    told = out["weight"] > 0
    out |= {key: out[key][told] for key in ("predict", "target", "weight")}
    pixels = [(torch.from_numpy(g[1]).float().div_(127.5).sub_(1), g[0]) for g in batch["groups"]]
    if pixels:
        out["features"] = torch.cat([m.flatten(0, 1).half() for _, m in model.see(pixels, batch["coarse"])])
    return out


def pictures(model: Nano, source: Source) -> dict[str, Tensor]:
    """The next batch of questions about pictures; those without questions are left out."""
    while (batch := source.next(0.9))["quiet"]:
        pass
    return look(model, batch)


def predictions(model: Nano, batch: dict[str, Tensor], inner: list[Tensor] | None = None) -> Tensor:
    """Logits of all tokens of the answers; appends the outputs of the inner layers to `inner`."""
    features = batch["features"].float() if "features" in batch else None
    length = batch["ids"].shape[1]
    sample, place = batch["predict"] // length, batch["predict"] % length
    counts = torch.bincount(sample, minlength=len(batch["ids"]))
    turn = torch.arange(len(sample)) - (counts.cumsum(0) - counts)[sample]
    at = torch.zeros(len(counts), int(counts.max()), dtype=torch.int64)  # the last layer is for the answers only
    at[sample, turn] = place
    hidden = model.read(batch["ids"], batch["rows"], features, at, inner)[sample, turn]
    return model.logits(hidden).float()


def trained(weights: Path) -> Nano:
    """The network with the weights from a file."""
    model = Nano()
    model.load_state_dict({k.removeprefix("model."): v.float() for k, v in load_file(weights).items()})
    return model.requires_grad_(False)


def draw_forever(out: mp.Queue, weights: Path, tokenizer: str, seed: int, fresh: int, batch: int) -> None:
    """The drawing process: new clips, and pictures with the first model's probabilities of every answer token."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    model, rng = trained(weights), random.Random(seed)
    source = Source(Tokenizer.from_file(tokenizer), seed + 1, batch, seed + 2)
    while True:
        kinds = rng.choices(list(SHARES), list(SHARES.values()), k=fresh)
        pages = pictures(model, source)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            pages["wanted"] = predictions(model, pages).log_softmax(-1).half()
        seen = watch(model, [some_clip(rng, kind) for kind in kinds], rng)
        out.put((seen, {key: value.numpy() for key, value in pages.items()}))
