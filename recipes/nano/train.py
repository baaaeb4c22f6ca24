"""Trains nano from random weights: one background process draws, this one learns."""

from __future__ import annotations

import argparse
import multiprocessing as mp
import os
import queue
import random
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from data import Source
from export import TARGET
from model import TEXT, VISION, Nano, initialise
from mosaic import mosaic
from muon import Muon
from phrases import COLOUR_NAMES, EMOJI_NAMES, PLACES, SHAPES
from render import CHARS, CLASSES
from tokenizers import Tokenizer
from torch import Tensor, nn
from views import FINE, SLOTS, patchify

os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")  # many sizes of matrices, each set up once


class Heads(nn.Module):
    """Auxiliary classifiers on the vision tokens, which make pictures legible long before the text part can."""

    def __init__(self) -> None:
        super().__init__()
        dim, tower = TEXT["hidden_size"], VISION["hidden_size"]
        self.cell = nn.Linear(dim, SLOTS * CLASSES)
        self.fine = nn.Linear(tower, FINE * CLASSES)
        self.tint = nn.Linear(dim, 1 + len(COLOUR_NAMES))
        self.place = nn.Linear(dim, 1 + sum(map(len, PLACES)))
        self.main = nn.Linear(tower, CLASSES)
        self.back = nn.Linear(tower, len(COLOUR_NAMES))

    def forward(self, tower: Tensor, merged: Tensor, labels: tuple[Tensor, ...]) -> Tensor:
        slots, fine, colour, place, main, back = labels
        cells = self.places(self.cell(merged), slots) + self.places(self.fine(tower), fine)
        tint = self.shown(self.tint(merged), colour) + self.shown(self.place(merged), place)
        pooled = tower.mean(1)
        background = F.cross_entropy(self.back(pooled).float(), back)
        known = main > 0
        if known.any():
            pick = F.cross_entropy(self.main(pooled[known]).float(), main[known])
        else:
            pick = torch.zeros((), device=merged.device)
        return cells + 0.5 * pick + 0.3 * tint + 0.3 * background

    @staticmethod
    def shown(logits: Tensor, labels: Tensor) -> Tensor:
        """A property of the cells which show something."""
        losses, seen = (
            F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none"),
            labels.flatten() > 0,
        )
        return losses[seen].mean() if seen.any() else losses.mean()

    @staticmethod
    def places(logits: Tensor, labels: Tensor) -> Tensor:
        """Which things are centred in a cell, from left to right; empty places count little."""
        flat = labels.flatten()
        loss = F.cross_entropy(logits.reshape(-1, CLASSES).float(), flat, reduction="none", ignore_index=-1)
        full, empty = flat > 0, flat == 0
        return (loss * full).sum() / full.sum().clamp(min=1) + 0.3 * (loss * empty).sum() / empty.sum().clamp(min=1)


def whiten(model: Nano, seed: int) -> None:
    """Start the patch embedding from the main components of real patches, all made equally strong."""
    rng = random.Random(seed)
    scenes = [mosaic(rng, (168, 168), False) for _ in range(300)]
    patches = torch.from_numpy(np.concatenate([patchify(s.image) for s in scenes])).float() / 127.5 - 1
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    conv = model.vision_tower.embeddings.patch_embedding
    with torch.no_grad():
        take = conv.weight.shape[0]
        weight = 0.5 * vectors[:, -take:].T / (values[-take:, None] + 0.02).sqrt()
        conv.weight.copy_(weight.view_as(conv.weight))
        conv.bias.copy_(-weight @ mean)


def draw_forever(out: mp.Queue, progress: mp.Value, tokenizer: str, seed: int, batch: int, layout: int) -> None:
    """The background process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    source = Source(Tokenizer.from_file(tokenizer), seed, batch, layout)
    while True:
        out.put(source.next(progress.value))


def content_loss(model: Nano, features: Tensor, slots: Tensor, tokens: Tensor) -> Tensor:
    """Vision tokens point to the text tokens of what they show, so that answering starts as copying."""
    there = slots > 0
    busy = there.any(-1)
    if not busy.any():
        return torch.zeros((), device=features.device)
    chance = model.logits(features[busy]).float().log_softmax(-1)
    wanted = tokens[slots[busy].clamp(min=0)]
    return -(chance.gather(1, wanted) * there[busy]).sum() / there[busy].sum()


def class_tokens(tokenizer: Tokenizer, names: list[str]) -> Tensor:
    """The first text token of every name."""
    return torch.tensor([tokenizer.encode(name).ids[0] if name else 0 for name in names])


def step_loss(model: Nano, heads: Heads, batch: dict, device: torch.device, aux: float) -> tuple[Tensor, float, float]:
    side = torch.zeros((), device=device)
    features = None
    groups = [(grid, *(torch.from_numpy(a).to(device) for a in rest)) for grid, *rest in batch["groups"]]
    with torch.autocast(device.type, torch.bfloat16):
        if groups:
            pixels = [(g[1].float().div_(127.5).sub_(1), g[0]) for g in groups]
            seen = model.see(pixels, batch["coarse"])
            views = sum(len(g[1]) for g in groups)
            for (tower, merged), group in zip(seen, groups, strict=True):
                side = side + heads(tower, merged, group[2:]) * (len(group[1]) / views)
            features = torch.cat([merged.flatten(0, 1) for _, merged in seen])
            slots, tints = (torch.cat([group[n].flatten(0, 1) for group in groups]) for n in (2, 4))
            side = side + content_loss(model, features, slots, batch["tokens"].to(device))
            if (painted := tints > 0).any():
                shades = model.logits(features[painted])[:, batch["colours"].to(device)]
                side = side + 0.5 * F.cross_entropy(shades.float(), tints[painted] - 1)
            places = torch.cat([group[5].flatten(0, 1) for group in groups])
            if (placed := places > 0).any():
                where = model.logits(features[placed])[:, batch["places"].to(device)].sum(-1)
                side = side + 0.3 * F.cross_entropy(where.float(), places[placed] - 1)
            for (_, merged), group in zip(seen, groups, strict=True):
                if (known := group[6] > 0).any():  # the same for the mean over a picture of one thing
                    wanted = batch["tokens"].to(device)[group[6][known]]
                    side = side + F.cross_entropy(model.logits(merged[known].mean(1)).float(), wanted) / len(groups)
        ids, rows, predict, target, weight = (
            torch.from_numpy(batch[k]).to(device) for k in ("ids", "rows", "predict", "target", "weight")
        )
        if batch["quiet"]:
            return aux * side, 0.0, float(side.detach())
        hidden = model.read(ids, rows, features).flatten(0, 1)[predict]
        losses = F.cross_entropy(model.logits(hidden).float(), target, reduction="none")
        loss = (losses * weight).sum() / weight.sum()
    return loss + aux * side, float(loss.detach()), float(side.detach())


def rate(progress: float, step: int) -> float:
    """Warm-up over 100 steps, then two straight lines to almost nothing at the end."""
    return min(1.0, (step + 1) / 100) * max(0.01, 0.8 * (1 - progress), min(0.25, 1.6 * (1 - progress)))


def share(weights: list[nn.Parameter], world: int, rank: int, done: float, stopping: bool) -> tuple[float, bool]:
    """Average the gradients over all processes; rank 0's clock counts for all, and any process can stop all."""
    if world == 1:
        return done, stopping
    for p in weights:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    news = torch.tensor([done if rank == 0 else 0.0, float(stopping)])
    flat = torch.cat([news, *(p.grad.flatten() / world for p in weights)])
    dist.all_reduce(flat)
    parts = flat[2:].split([p.numel() for p in weights])
    for p, part in zip(weights, parts, strict=True):
        p.grad.copy_(part.view_as(p))
    return float(flat[0]), bool(flat[1])


def save(path: Path, **state: object) -> None:
    partial = path.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=180, help="total training time, over all resumed runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the state and the log")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--muon", type=float, default=0.02, help="learning rate of the orthogonal updates")
    parser.add_argument("--start", type=Path, help="weights of an earlier run to begin from; its minutes count")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--world", type=int, default=1, help="processes that share the work, each with its --rank")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps (for profiling)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "state.pt"
    if args.world > 1:
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:29511", rank=args.rank, world_size=args.world)
    model, heads = initialise(Nano(), args.seed).to(device), Heads().to(device)
    weights = [*model.parameters(), *heads.parameters()]
    wide = 1200 * 600  # the two widest matrices of the mergers are left to Adam: their iteration would cost too much
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and p.numel() <= wide]
    fast = {id(p) for p in inner}
    others = [p for p in weights if id(p) not in fast]
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": 0.03},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True)
    muon = Muon(inner, args.muon, args.world, args.rank)
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    step, seconds, samples, views = 0, 0.0, 0, 0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        adam.load_state_dict(state["adam"])
        muon.load_state_dict(state["muon"])
        average = state["ema"]
        step, seconds, samples, views = (
            int(state["step"]),
            state["seconds"],
            int(state["samples"]),
            int(state["views"]),
        )
    else:
        whiten(model, args.seed)
    if args.start and not path.exists():
        state = torch.load(args.start, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        heads.load_state_dict(state["heads"])
        seconds = state["seconds"]
        samples, views = int(state["samples"]), int(state["views"])
    stopping = [False]
    signal.signal(signal.SIGTERM, lambda *_: stopping.__setitem__(0, True))
    signal.signal(signal.SIGINT, lambda *_: stopping.__setitem__(0, True))
    batches: mp.Queue = mp.Queue(maxsize=6)
    progress = mp.Value("d", seconds / 60 / args.minutes)
    workers: list[mp.Process] = []
    seed = args.seed + 1000 * (step + 1)
    for n in range(args.workers):
        job = (batches, progress, str(TARGET / "tokenizer.json"), seed + 100 * args.rank + n, args.batch, seed + n)
        workers.append(mp.Process(target=draw_forever, args=job, daemon=True))
        workers[-1].start()

    def snapshot() -> dict:
        parts = {"model": model, "heads": heads, "adam": adam, "muon": muon}
        counts = {"ema": average, "step": step, "seconds": seconds, "samples": samples, "views": views}
        return {name: part.state_dict() for name, part in parts.items()} | counts

    tokenizer = Tokenizer.from_file(str(TARGET / "tokenizer.json"))
    tokens = class_tokens(tokenizer, ["", *CHARS, *SHAPES, *EMOJI_NAMES, *"0123456789"])
    colours = class_tokens(tokenizer, COLOUR_NAMES)
    places = torch.tensor([[(ids := tokenizer.encode(place).ids)[0], ids[-1]] for row in PLACES for place in row])
    log = (args.out / "log.txt").open("a")
    smooth: dict[str, float] = {}
    saved = shown = seconds
    budget = 60 * args.minutes
    first, ends = True, False
    while progress.value < 1 and not ends and not (args.steps and step >= args.steps):
        began = time.perf_counter()
        try:
            batch = batches.get(timeout=60)
        except queue.Empty:
            continue
        waited = time.perf_counter() - began
        batch |= {"tokens": tokens, "colours": colours, "places": places}
        aux = min(1.0, max(0.3, 1.0 - 2 * (progress.value - 0.6)))
        loss, text, side = step_loss(model, heads, batch, device, aux)
        loss.backward()
        done, ends = share(weights, args.world, args.rank, seconds / budget, stopping[0])
        progress.value = done
        for optimiser, peak in ((adam, args.lr), (muon, args.muon)):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate(done, step)
        nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
        adam.step()
        muon.step()
        for p in weights:
            p.grad = None
        step += 1
        samples += len(batch["ids"]) * args.world
        views += sum(len(g[1]) for g in batch["groups"]) * args.world
        if step % 4 == 0:
            keep = min(0.99, step / (step + 400))
            own = model.state_dict()
            torch._foreach_lerp_(list(average.values()), [own[k] for k in average], 1 - keep)
        took = time.perf_counter() - began
        seconds += min(took, 4.0) if not first else 1.0  # a paused process must not eat the budget
        first = False
        key = "text" if not batch["groups"] else ("16x" if batch["coarse"] else "4x")
        if batch["quiet"]:
            key += " crowd"
        for name, value in ((key, text), (f"side {key}", side), ("wait", waited / took)):
            smooth[name] = value if name not in smooth else 0.97 * smooth[name] + 0.03 * value
        if seconds - shown > 20:
            shown = seconds
            notes = " ".join(f"{k} {v:.3f}" for k, v in sorted(smooth.items()) if "side text" not in k and v)
            line = f"{time.strftime('%H:%M:%S')} step {step} min {seconds / 60:.1f} n {samples} {samples / seconds:.0f}/s {notes}"
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()
        if seconds - saved > 240 and args.rank == 0:
            saved = seconds
            save(path, **snapshot())
    if args.rank == 0:
        save(path, **snapshot())
    for worker in workers:
        worker.kill()
    print(f"stopped at step {step}, {seconds / 60:.1f} minutes, {samples} samples, {views} views", flush=True)


if __name__ == "__main__":
    main()
