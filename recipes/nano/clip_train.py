"""Trains nano's text part on clips and pictures; the vision part stays frozen.

A second process draws clips and encodes them; the features of the frozen vision part are cached and used several times, so that
a step is text only.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import queue
import random
import signal
import time
from collections import Counter, deque
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip_data import Seen, about, draw_forever, pictures, predictions, trained, watch
from clips import MAKERS, STATES, Clip, some_clip
from data import Source, Talk
from export import TARGET
from model import TEXT, Nano
from muon import Muon
from tokenizers import Tokenizer
from torch import Tensor, nn
from train import save
from watching import conversation, main_question


class Heads(nn.Module):
    """Auxiliary classifiers after every frame: the state in the frame, and the state of the clip so far.

    The second layer predicts the state in the frame, the last but one predicts both states.
    """

    NOW = ("on", "colour")

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.ModuleDict({name: nn.Linear(TEXT["hidden_size"], STATES[name]) for name in self.NOW})
        self.late = nn.ModuleDict({name: nn.Linear(TEXT["hidden_size"], size) for name, size in STATES.items()})

    def forward(self, inner: list[Tensor], batch: dict[str, Tensor]) -> Tensor:
        names = list(STATES)
        total = torch.zeros(())
        for heads, hidden in ((self.early, inner[1]), (self.late, inner[2])):
            hidden_states = F.rms_norm(hidden.flatten(0, 1)[batch["ends"]].float(), hidden.shape[-1:])
            for name, head in heads.items():
                labels = batch["states"][:, names.index(name)]
                if (known := labels >= 0).any():
                    total = (
                        total
                        + F.cross_entropy(head(hidden_states[known]).float(), labels[known]) * known.float().mean()
                    )
        return total


def clip_loss(model: Nano, heads: Heads, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of the answers about clips, and the loss of the heads."""
    with torch.autocast("cpu", torch.bfloat16):
        inner: list[Tensor] = []
        losses = F.cross_entropy(predictions(model, batch, inner), batch["target"], reduction="none")
        return (losses * batch["weight"]).sum() / batch["weight"].sum(), heads(inner, batch)


def picture_loss(model: Nano, batch: dict[str, Tensor]) -> Tensor:
    """The loss of the answers about pictures, and the distance to the first model's probabilities of every token."""
    with torch.autocast("cpu", torch.bfloat16):
        found = predictions(model, batch).log_softmax(-1)
        losses = F.nll_loss(found, batch["target"], reduction="none")
        losses = losses + F.kl_div(found, batch["wanted"].float(), reduction="none", log_target=True).sum(-1)
        return (losses * batch["weight"]).sum() / batch["weight"].sum()


@torch.no_grad()
def right(model: Nano, batch: dict[str, Tensor]) -> list[bool]:
    """For every conversation of a batch: whether all tokens of its answers are predicted."""
    model.eval()
    wrong = (predictions(model, batch).argmax(-1) != batch["target"]) & (batch["weight"] > 0)
    sample = batch["predict"] // batch["ids"].shape[1]
    missed = set(sample[wrong].tolist())
    return [n not in missed for n in range(len(batch["ids"]))]


class Exam:
    """Held-out clips with one question each, and fresh pictures."""

    def __init__(self, model: Nano, talk: Talk, size: int) -> None:
        rng = random.Random(99)
        self.clips = {kind: watch(model, [some_clip(rng, kind, True) for _ in range(size)], rng) for kind in MAKERS}
        self.asked: dict[str, list[tuple[Clip, str]]] = {}
        self.batches: dict[str, list[dict[str, Tensor]]] = {}
        for kind, seen in self.clips.items():
            seen.sort(key=lambda s: len(s.features))
            turns = [main_question(rng, s.clip) for s in seen]
            self.asked[kind] = [(s.clip, q) for s, (q, _) in zip(seen, turns, strict=True)]
            self.batches[kind] = []
            for at in range(0, size, 30):
                part = seen[at : at + 30]
                self.batches[kind].append(about(talk, rng, part, [[t] for t in turns[at : at + 30]]))
        source = Source(talk.tokenizer, 77, 24, 78)
        self.batches["pictures"] = [pictures(model, source) for _ in range(24)]

    def report(self, model: Nano) -> str:
        """Shares of right answers; for clips also by their content."""
        lines = []
        for kind, batches in self.batches.items():
            good = [ok for batch in batches for ok in right(model, batch)]
            line = f"{kind} {np.mean(good):.3f}"
            if kind in self.asked:
                for title, key in (("what", self.what), ("frames", lambda c: -int(-c.seconds // 1))):
                    total, hit = Counter(), Counter()
                    for ok, (clip, _) in zip(good, self.asked[kind], strict=True):
                        total[key(clip)] += 1
                        hit[key(clip)] += ok
                    line += f" | {title} " + " ".join(f"{k}:{hit[k] / total[k]:.2f}" for k in sorted(total))
            lines.append(line)
        model.train()
        return "\n".join(lines)

    @staticmethod
    def what(clip: Clip) -> str:
        return clip.direction or (
            f"{clip.verb[:2]}{clip.times}" if clip.times else f"{clip.short[:6]}{len(clip.colours)}"
        )


def rate(done: float, step: int) -> float:
    """Warm-up over 100 steps, flat, then a straight line to almost nothing."""
    return min(1.0, (step + 1) / 100) * max(0.01, min(1.0, 2.2 * (1 - done)))


def main() -> None:
    """Train, resume, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the state and the log")
    parser.add_argument("--minutes", type=float, default=130, help="the learner's processor time, over resumed runs")
    parser.add_argument("--start", type=Path, default=TARGET / "model.safetensors", help="weights to begin from")
    parser.add_argument("--batch", type=int, default=24, help="clips of a step")
    parser.add_argument("--pictures", type=int, default=24, help="pictures of a step, roughly")
    parser.add_argument("--fresh", type=int, default=12, help="new clips of a step")
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--muon", type=float, default=0.006)
    parser.add_argument("--aid", type=float, default=0.5, help="weight of the heads after every frame")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--exam", type=int, default=150, help="held-out clips of a kind")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps (for profiling)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    path, tokenizer = args.out / "state.pt", str(TARGET / "tokenizer.json")
    model, heads = trained(args.start), Heads()
    text = model.language_model.requires_grad_(True)
    inner = [p for n, p in text.named_parameters() if p.ndim == 2 and "embed" not in n]
    fast = {id(p) for p in inner}
    others = [p for p in text.parameters() if id(p) not in fast]
    muon = Muon(inner, args.muon)
    adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    aid = torch.optim.AdamW(heads.parameters(), lr=2e-3, weight_decay=0.0, fused=True)
    parts = {"model": model, "heads": heads, "adam": adam, "muon": muon, "aid": aid}
    average = {k: v.detach().clone() for k, v in model.state_dict().items()}
    step, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        average, step, seconds = state["ema"], int(state["step"]), state["seconds"]
    talk, rng = Talk(Tokenizer.from_file(tokenizer)), random.Random(args.seed + step)
    drawings: mp.Queue = mp.Queue(maxsize=8)
    job = (drawings, args.start, tokenizer, args.seed + 3 * step + 1, args.fresh, args.pictures)
    worker = mp.Process(target=draw_forever, args=job, daemon=True)
    worker.start()
    stopping = [False]
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.__setitem__(0, True))
    log = (args.out / "log.txt").open("a")

    def tell(line: str) -> None:
        stamp = f"{time.strftime('%H:%M:%S')} step {step} min {seconds / 60:.1f} {line}"
        print(stamp, flush=True)
        log.write(stamp + "\n")
        log.flush()

    def keep() -> None:
        own = {name: part.state_dict() for name, part in parts.items()}
        save(path, ema=average, step=step, seconds=seconds, **own)

    exam = Exam(model, talk, args.exam)
    if not step:
        tell("\n" + exam.report(model))
    pool: deque[Seen] = deque(maxlen=25 * args.batch)
    budget = 60 * args.minutes
    while len(pool) < 8 * args.batch and not stopping[0]:
        pool.extend(drawings.get()[0])
    clock = time.process_time()
    saved = shown = judged = seconds
    smooth: dict[str, float] = {}
    while seconds < budget and not stopping[0] and not (args.steps and step >= args.steps):
        began = time.perf_counter()
        try:
            seen, pages = drawings.get(timeout=60)
        except queue.Empty:
            continue
        waited = time.perf_counter() - began
        pool.extend(seen)
        near = sorted(rng.sample(range(len(pool)), 4 * args.batch), key=lambda n: len(pool[n].features))
        at, turns = rng.randrange(3 * args.batch), rng.choice([1, 1, 2, 3])
        chosen = [pool[n] for n in near[at : at + args.batch]]
        batch = about(talk, rng, chosen, [conversation(rng, s.clip, turns) for s in chosen])
        clips, frames = clip_loss(model, heads, batch)
        (clips + args.aid * frames).backward()
        album = picture_loss(model, {key: torch.from_numpy(value) for key, value in pages.items()})
        album.backward()
        for optimiser, peak in ((adam, args.lr), (muon, args.muon)):
            for group in optimiser.param_groups:
                group["lr"] = peak * rate(seconds / budget, step)
        nn.utils.clip_grad_norm_(text.parameters(), 1.0, foreach=True)
        for optimiser in (adam, muon, aid):
            optimiser.step()
        for p in (*text.parameters(), *heads.parameters()):
            p.grad = None
        step += 1
        if step % 4 == 0:
            own = model.state_dict()
            torch._foreach_lerp_(list(average.values()), [own[k] for k in average], 0.01)
        now = time.process_time()
        seconds, clock = seconds + now - clock, now
        losses = {"clips": clips.detach(), "frames": frames.detach(), "pictures": album.detach()}
        told = losses | {"wait": waited / (time.perf_counter() - began)}
        for name, value in told.items():
            smooth[name] = 0.98 * smooth.get(name, float(value)) + 0.02 * float(value)
        if seconds - shown > 20:
            shown = seconds
            tell(" ".join(f"{k} {v:.3f}" for k, v in smooth.items()))
        if seconds - judged > 240:
            judged = seconds
            tell("\n" + exam.report(model))
            clock = time.process_time()  # the exam is not training
        if seconds - saved > 180:
            saved = seconds
            keep()
    keep()
    worker.kill()
    tell("end\n" + exam.report(model))


if __name__ == "__main__":
    main()
