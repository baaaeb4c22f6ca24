"""Turns scenes into training batches: questions and answers, prompts with placeholders, pixels, labels."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np
from mosaic import mosaic
from phrases import COLOUR_NAMES, SHAPES, SYSTEM, ask, plural, text_pair
from render import MARK, Scene, digit_scene, emoji_scene, shape_scene, text_scene
from tokenizers import Tokenizer
from views import FINE, PATCH, SCALE, SLOTS, Plan, Size, cell_labels, placeholder, plan, views_of

OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def questions(rng: random.Random, scene: Scene) -> list[tuple[str, str]]:
    """A few question-answer pairs about one picture, the important ones first."""
    own: list[tuple[str, str]] = []
    generic = [(ask(rng, "what"), scene.short), (ask(rng, "describe"), scene.long)]
    extra = [(ask(rng, "background"), scene.background)]
    if scene.kind == "emoji":
        own = [(ask(rng, "emoji"), scene.answer)]
        other = rng.choice([scene.name, rng.choice(["cat face", "dog face", "car", "pizza", "rose", "ghost", "key"])])
        extra.append((ask(rng, "exists", other), "yes" if other == scene.name else "no"))
    elif scene.kind == "digit":
        own = [(ask(rng, "digit"), scene.answer)]
        extra.append((ask(rng, "colour", "digit"), scene.colour))
    elif scene.kind in ("word", "number"):
        own = [(ask(rng, "read"), scene.answer)] * 2
        if scene.kind == "number":
            own.append((ask(rng, "number"), scene.answer))
        extra.append((ask(rng, "colour", rng.choice(["text", scene.kind, "text"])), scene.colour))
    else:
        return shape_questions(rng, scene, generic, extra)
    if rng.random() < 0.75:
        generic = [rng.choice(generic)]
    pool = [rng.choice(own) if rng.random() < 0.62 else rng.choice(generic)]
    return pool + rng.sample(own[:1] + generic + extra, 2)


def shape_questions(rng: random.Random, scene: Scene, generic: list, extra: list) -> list[tuple[str, str]]:
    full = [f"{colour} {shape}" for colour, shape, _ in scene.shapes]
    kinds = [shape for _, shape, _ in scene.shapes]
    colour, shape, place = rng.choice(scene.shapes)
    own: list[tuple[str, str]] = []
    if len(full) == 1:
        own += [(ask(rng, "shape"), shape), (ask(rng, "where", shape), place)]
    if kinds.count(shape) == 1:
        own.append((ask(rng, "colour", shape), colour))
    if full.count(f"{colour} {shape}") == 1:
        for _ in range(2 if len(full) > 1 else 1):
            name = f"{colour} {shape}" if kinds.count(shape) > 1 or rng.random() < 0.4 else shape
            own.append((ask(rng, "where", name), place))
    places = [p for _, _, p in scene.shapes]
    for side in ("left", "right", "top", "bottom"):
        if len(full) == 2 and side in places and OPPOSITE[side] in places:
            own.append((ask(rng, "side", side), full[places.index(side)]))
    counted = rng.choice(["all", "full", "kind", "full"])
    if counted == "all":
        own.append((ask(rng, "count", "shapes"), str(len(full))))
    elif counted == "kind":
        own.append((ask(rng, "count", plural(shape)), str(kinds.count(shape))))
    else:
        name = f"{colour} {shape}" if rng.random() < 0.75 else f"{rng.choice(COLOUR_NAMES)} {rng.choice(SHAPES)}"
        own.append((ask(rng, "count", plural(name)), str(full.count(name))))
    if len(full) > 2:
        own.append(own[-1])
    name = rng.choice(
        [f"{colour} {shape}", shape, f"{rng.choice(COLOUR_NAMES)} {rng.choice(SHAPES)}", rng.choice(SHAPES)]
    )
    extra = [*extra, (ask(rng, "exists", name), "yes" if name in full or name in kinds else "no")]
    pool = [rng.choice(own) if rng.random() < 0.8 else rng.choice(generic + extra)]
    return [*pool, rng.choice(own), rng.choice(generic + extra)]


def conversation(rng: random.Random, scene: Scene, turns: int) -> list[tuple[str, str]]:
    """Questions about one picture, none of them twice; only shapes may have the same answer more than once."""
    told: dict[str, tuple[str, str]] = {}
    for _ in range(3 * turns):
        question, answer = questions(rng, scene)[0]
        told.setdefault(question if scene.shapes else MARK if MARK in answer else answer, (question, answer))
        if len(told) == turns:
            break
    return list(told.values())


def pair_questions(rng: random.Random, a: Scene, b: Scene) -> list[tuple[str, str]]:
    same = a.name == b.name
    out = [
        (ask(rng, "same"), "yes" if same else "no"),
        (ask(rng, "differ"), "no" if same else "yes"),
        (ask(rng, "first"), a.short),
        (ask(rng, "second"), b.short),
        (ask(rng, "both"), f"{a.short} {b.short}"),
    ]
    if not same:
        first = rng.random() < 0.5
        which = (ask(rng, "which", (a if first else b).name), "the first" if first else "the second")
        out += [which, which]
    rng.shuffle(out)
    return out


class Talk:
    """Builds the token ids of a conversation and marks the answer tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pad = tokenizer.token_to_id("<|image_pad|>")
        self.end = self.encode("<|im_end|>\n")

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def answer(self, text: str) -> list[int]:
        """Marked parts are spelled in single-character tokens, so that any string can be read."""
        out: list[int] = []
        for index, part in enumerate(text.split(MARK)):
            if index % 2:
                for char in part:
                    out += self.encode(char)
            elif part:
                if text.count(MARK) and part.endswith(" "):
                    out += self.encode(part[:-1]) + self.encode(" ")
                else:
                    out += self.encode(part)
        return out

    def build(
        self, rng: random.Random, turns: list[tuple[str, str]], pictures: list[str]
    ) -> tuple[list[int], list[bool]]:
        ids: list[int] = []
        keep: list[bool] = []
        head = f"<|im_start|>system\n{rng.choice(SYSTEM)}<|im_end|>\n" if rng.random() < 0.12 else ""
        for number, (question, answer) in enumerate(turns):
            question = question.replace(MARK, "")
            parts = [question] if number else [*pictures, question]
            if number == 0 and pictures and rng.random() < 0.06:
                parts = [question, *pictures]
            text = head + "<|im_start|>user\n" + "\n".join(parts) + "<|im_end|>\n<|im_start|>assistant\n"
            if number == len(turns) - 1:
                text += "<think>\n\n</think>\n\n"
            head = ""
            prompt = self.encode(text)
            reply = [*self.answer(answer), self.end[0]]
            ids += prompt + reply
            keep += [False] * len(prompt) + [True] * len(reply)
            if number < len(turns) - 1:
                ids.append(self.end[1])
                keep.append(False)
        return ids, keep


@dataclass
class Draft:
    """A batch under construction."""

    coarse: bool
    views: dict[Size, list] = field(default_factory=dict)  # grid -> (patches, labels ...)
    owners: dict[Size, list] = field(default_factory=dict)  # grid -> (sample, order of the view in the sample)
    texts: list = field(default_factory=list)

    def add(self, cuts: list[tuple[Scene, Plan]], ids: list[int], keep: list[bool]) -> None:
        sample, order = len(self.texts), 0
        for scene, cut in cuts:
            main = scene.things[0][2] if len(scene.things) == 1 and scene.kind != "word" else 0
            for index, (patches, frame) in enumerate(views_of(scene.image, cut)):
                grid = (frame[4] // PATCH, frame[5] // PATCH)
                unit = PATCH * (4 if self.coarse else 2)
                slots, colour, place = cell_labels(scene.things, frame, unit, SLOTS)
                fine, _, _ = cell_labels(scene.things, frame, unit // 2, FINE)
                back = COLOUR_NAMES.index(scene.background)
                target = (main, back) if index == 0 else (0, back)
                self.views.setdefault(grid, []).append((patches, slots, fine, colour, place * (index == 0), *target))
                self.owners.setdefault(grid, []).append((sample, order))
                order += 1
        self.texts.append((ids, keep))

    def pack(self, pad: int) -> dict:
        length = -(-max(len(ids) for ids, _ in self.texts) // 8) * 8  # few distinct sizes: each costs set-up time
        ids = np.zeros((len(self.texts), length), np.int64)
        predict, target, sample_of = [], [], []
        starts = []
        for n, (tokens, keep) in enumerate(self.texts):
            ids[n, : len(tokens)] = tokens
            where = [i for i, k in enumerate(keep) if k]
            predict += [n * length + i - 1 for i in where]
            target += [tokens[i] for i in where]
            sample_of += [1 / math.sqrt(len(where))] * len(where)
            starts.append(list(np.flatnonzero(np.asarray(tokens) == pad) + n * length))
        spare = -len(predict) % 32
        predict, target, sample_of = predict + [0] * spare, target + [0] * spare, sample_of + [0.0] * spare
        taken: dict[tuple[int, int], list[int]] = {}
        sizes = {}
        for grid, owners in self.owners.items():
            for owner in owners:
                sizes[owner] = grid[0] * grid[1] // (16 if self.coarse else 4)
        for sample, order in sorted(sizes):
            count = sizes[sample, order]
            taken[sample, order], starts[sample] = starts[sample][:count], starts[sample][count:]
        groups, rows = [], []
        for grid, views in self.views.items():
            *arrays, main, back = zip(*views, strict=True)
            groups.append((grid, *(np.stack(v) for v in arrays), np.array(main), np.array(back)))
            for owner in self.owners[grid]:
                rows += taken[owner]
        return {
            "coarse": self.coarse,
            "quiet": False,  # no text loss, because pictures have to be learnt first
            "groups": groups,
            "ids": ids,
            "rows": np.array(rows, np.int64),
            "predict": np.array(predict),
            "target": np.array(target),
            "weight": np.array(sample_of, np.float32),
        }


def some_scene(
    rng: random.Random, size: Size, held_out: bool, longest: int, small: bool, single: bool = False
) -> Scene:
    """A picture of a random kind; size is height, width."""
    wh = (size[1], size[0])
    draw = rng.random()
    if max(wh) > 1.7 * min(wh):
        draw *= 0.8
    if draw < 0.38 or small:
        return text_scene(rng, wh, held_out, longest, small)
    if draw < 0.80:
        return shape_scene(rng, wh, held_out, single)
    if draw < 0.91:
        return emoji_scene(rng, wh, held_out)
    return digit_scene(rng, wh, held_out)


def native_size(rng: random.Random, sliced: bool) -> Size:
    """The size of the picture before the processor touches it (height, width)."""
    ratio = (
        1.0
        if rng.random() < 0.55
        else math.exp(rng.uniform(-0.4, 0.4) if rng.random() < 0.35 else rng.uniform(0.5, 1.35))
    )
    if sliced:
        ratio = rng.choice([1.0, 4 / 3, 4 / 3, 3 / 4, 16 / 9, 3 / 2, math.exp(rng.uniform(-0.9, 1.1))])
        area = rng.uniform(1.05, 14) * SCALE**2
    else:
        area = rng.uniform(0.25, 1.0) * SCALE**2
    height = max(16, int(math.sqrt(area / ratio)))
    return height, max(16, int(height * ratio))


def like(rng: random.Random, size: Size, coarse: bool, cut: Plan) -> Size:
    """Another native size which is cut in the same way."""
    for _ in range(6):
        zoom, stretch = rng.uniform(0.55, 1.5), rng.uniform(0.93, 1.07)
        other = (max(16, int(size[0] * zoom)), max(16, int(size[1] * zoom * stretch)))
        if plan(other, coarse) == cut and other[0] * other[1] < 16 * SCALE**2:
            return other
    return size


class Source:
    """An endless, seeded stream of batches; progress runs from 0 to 1 over the training."""

    def __init__(self, tokenizer: Tokenizer, seed: int, batch: int = 40, layout_seed: int = 0) -> None:
        """Sources of equal layout_seed give batches of equal layout, so that processes in step do not wait."""
        self.rng, self.talk, self.batch = random.Random(seed), Talk(tokenizer), batch
        self.layout = random.Random(layout_seed)

    def next(self, progress: float) -> dict:
        rng, layout = self.rng, random.Random(self.layout.random())
        longest = min(6, 3 + int(progress * 12))
        if layout.random() < (0.75 if progress < 0.2 else 0.4 if progress < 0.7 else 0.13):
            return self.crowded(layout, progress)
        draw, cut_up = layout.random(), layout.random() < 0.1
        if draw < (0.1 if progress < 0.8 else 0.03):
            return self.text_only()
        if progress > 0.1 and draw < 0.18:
            return self.pairs(layout, longest, progress)
        sliced = progress > 0.4 and cut_up
        coarse = layout.random() > (0.02 if sliced else 0.17)
        size = native_size(layout, sliced)
        cut = plan(size, coarse)
        views = (1 + cut.rows * cut.cols) * (1 if coarse else 1.6)
        draft = Draft(coarse)
        turns = layout.choice([1, 1, 2, 4, 4]) if progress > 0.2 else 1
        for _ in range(max(6, int(self.batch / (1 + 0.62 * (views - 1))))):
            other = like(rng, size, coarse, cut)
            small = progress > 0.1 and rng.random() < (0.08 if coarse else 0.45)
            scene = some_scene(rng, other, False, longest, small)
            talk = conversation(rng, scene, turns if scene.shapes else min(3, turns))
            draft.add([(scene, cut)], *self.talk.build(rng, talk, [placeholder(cut, 0, coarse)]))
        return draft.pack(self.talk.pad)

    def crowded(self, layout: random.Random, progress: float) -> dict:
        """Pictures full of things and no questions."""
        coarse = layout.random() > 0.35
        draft = Draft(coarse)
        height, width = layout.choice([(168, 168)] * 4 + [(112, 280), (112, 224), (224, 112)])
        cut = Plan((height, width))
        for _ in range(self.batch * 3 // 2 if coarse else self.batch * 2 // 3):
            draft.add([(mosaic(self.rng, (width, height), progress < 0.12, coarse), cut)], [0, 0], [False, True])
        return draft.pack(self.talk.pad) | {"quiet": True}

    def pairs(self, layout: random.Random, longest: int, progress: float) -> dict:
        rng, coarse = self.rng, layout.random() > 0.1
        draft, several = Draft(coarse), progress > 0.3 and layout.random() < 0.2
        cut = plan((150, 150), coarse)
        for _ in range(max(8, self.batch // 2)):
            a, b = self.pair(rng, longest, False)
            turns = pair_questions(rng, a, b)[: 2 if several else 1]
            pictures = [placeholder(cut, 0, coarse), placeholder(cut, 1, coarse)]
            draft.add([(a, cut), (b, cut)], *self.talk.build(rng, turns, pictures))
        return draft.pack(self.talk.pad)

    @staticmethod
    def pair(rng: random.Random, longest: int, held_out: bool) -> tuple[Scene, Scene]:
        """Two pictures, the same thing about half of the time."""
        sizes = [(side, side) for side in (rng.randint(90, 168), rng.randint(90, 168))]
        a = some_scene(rng, sizes[0], held_out, longest, False, True)
        want = rng.random() < 0.45
        if want and a.kind in ("word", "number"):
            return a, Scene(**{**a.__dict__, "image": a.image.copy()})
        if want and a.kind == "emoji":
            return a, emoji_scene(rng, sizes[1], held_out, a.name)
        for _ in range(150):
            if a.kind == "digit":
                b = digit_scene(rng, sizes[1], held_out)
            else:
                b = some_scene(rng, sizes[1], held_out, longest, False, True)
            if (b.name == a.name) == want and (b.kind == a.kind or rng.random() < 0.1):
                break
        return a, b

    def text_only(self) -> dict:
        draft = Draft(True)
        for _ in range(self.batch * 2):
            turns = [text_pair(self.rng) for _ in range(self.rng.choice([1, 1, 1, 2]))]
            draft.add([], *self.talk.build(self.rng, turns, []))
        return draft.pack(self.talk.pad)
