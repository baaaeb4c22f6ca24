"""Measures nano on pictures it has never seen, through pocketvlm itself, and prints a table.

    python recipes/nano/evaluate.py --samples 200 --json recipes/nano/figures.json

Digits are held out by index, words by hash, and clips by thing and event; emoji and shapes get new positions, sizes and
backgrounds. Clips are encoded as video files first.
Answers are greedy, with the checkpoint's own processing unless the row says otherwise.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clips import MAKERS, Clip, some_clip
from data import Source, native_size, pair_questions, shape_questions
from phrases import ask, text_pair
from PIL import Image
from render import MARK, Scene, digit_scene, emoji_scene, shape_scene, text_scene
from watching import ask as ask_clip
from watching import happening, main_question, neighbour_question, order_question

import pocketvlm

Question = tuple[str, str, list[Image.Image] | list[bytes]]  # with pictures, or with video files
Maker = Callable[[random.Random], Question]


def size_of(rng: random.Random, sliced: bool = False) -> tuple[int, int]:
    """Width and height of a picture."""
    height, width = native_size(rng, sliced)
    return width, height


def emoji(rng: random.Random) -> Question:
    """Which emoji is it?"""
    scene = emoji_scene(rng, size_of(rng), True)
    kind, answer = rng.choice([("emoji", scene.answer), ("emoji", scene.answer), ("what", scene.short)])
    return ask(rng, kind), answer, [scene.image]


def digit(rng: random.Random) -> Question:
    """Which digit is it?"""
    scene = digit_scene(rng, size_of(rng), True)
    return ask(rng, "digit"), scene.answer, [scene.image]


def written(kind: str, small: bool = False, sliced: bool = False) -> Maker:
    """What does it say?"""

    def make(rng: random.Random) -> Question:
        while True:
            scene = text_scene(rng, size_of(rng, sliced), True, 6, small)
            if scene.kind == kind:
                return ask(rng, "read"), scene.answer, [scene.image]

    return make


def shapes(wanted: str) -> Maker:
    """One kind of question about shapes."""

    def make(rng: random.Random) -> Question:
        while True:
            scene = shape_scene(rng, size_of(rng), True)
            if question := shape_question(rng, scene, wanted):
                return (*question, [scene.image])

    return make


def shape_question(rng: random.Random, scene: Scene, wanted: str) -> tuple[str, str] | None:
    """A question of the wanted kind, where the picture allows one."""
    colour, shape, place = rng.choice(scene.shapes)
    alone = [s for _, s, _ in scene.shapes].count(shape) == 1
    if wanted == "shape":
        return (ask(rng, "shape"), shape) if len(scene.shapes) == 1 else None
    if wanted == "colour":
        return (ask(rng, "colour", shape), colour) if alone else None
    if wanted == "position":
        return (ask(rng, "where", shape), place) if alone else None
    return next(((q, a) for q, a in shape_questions(rng, scene, [], [("", "")]) if a.isdigit()), None)


def pair(rng: random.Random) -> Question:
    """Two pictures compared."""
    a, b = Source.pair(rng, 6, True)
    question, answer = pair_questions(rng, a, b)[0]
    return question, answer, [a.image, b.image]


def text(rng: random.Random) -> Question:
    """No picture."""
    return (*text_pair(rng), [])


def watched(kind: str, put: Callable[[random.Random, Clip], tuple[str, str]], verbs: str = "") -> Maker:
    """A question about a kind of clip, written as a file first."""

    def make(rng: random.Random) -> Question:
        while True:
            clip = some_clip(rng, kind or rng.choice(list(MAKERS)), True)
            if not verbs or clip.verb in verbs.split():
                return *put(rng, clip), [clip.encoded(rng.choice([8, 10, 12, 15]), rng.randint(18, 30))]

    return make


def happens(rng: random.Random, clip: Clip) -> tuple[str, str]:
    """The whole clip in a sentence."""
    return ask_clip(rng, "happens"), happening(clip)


TASKS: dict[str, tuple[Maker, dict[str, Any]]] = {
    "emoji": (emoji, {}),
    "handwritten digits": (digit, {}),
    "shapes: which": (shapes("shape"), {}),
    "shapes: colour": (shapes("colour"), {}),
    "shapes: count": (shapes("count"), {}),
    "shapes: position": (shapes("position"), {}),
    "printed words, 1-6 letters": (written("word"), {}),
    "printed numbers": (written("number"), {}),
    "words in large pictures (sliced)": (written("word", sliced=True), {}),
    "words in small type, 16x": (written("word", small=True), {"downsample_mode": "16x"}),
    "words in small type, 4x": (written("word", small=True), {"downsample_mode": "4x"}),
    "emoji, 4x": (emoji, {"downsample_mode": "4x"}),
    "two pictures": (pair, {}),
    "text only": (text, {}),
    "clips: direction": (watched("move", main_question), {}),
    "clips: order of colours": (watched("colours", order_question), {}),
    "clips: the colour before or after": (watched("colours", neighbour_question), {}),
    "clips: how often a thing blinks, jumps, the screen flashes": (
        watched("count", main_question, "blink jump flash"),
        {},
    ),
    "clips: how often a thing vanishes, changes colour": (watched("count", main_question, "vanish turn"), {}),
    "clips: what happens": (watched("", happens), {}),
}


def plain(text: str) -> str:
    """Text as it is compared: no marks, no full stop, no outer spaces."""
    return text.replace(MARK, "").strip().rstrip(".")


def measure(model: pocketvlm.Model, samples: int, seed: int, show: int, only: str) -> dict[str, dict[str, float]]:
    """Share of right answers of each task, to the letter and without regard to case."""
    figures = {}
    for name, (make, options) in TASKS.items():
        if only not in name:
            continue
        rng = random.Random(f"{seed} {name.removesuffix(', 4x').removesuffix(', 16x')}")
        right = close = 0
        for number in range(samples):
            question, answer, shown = make(rng)
            media = "videos" if shown and isinstance(shown[0], bytes) else "images"
            said = model.ask(question, temperature=0, max_tokens=40, **{media: shown}, **options).text
            right += plain(said) == plain(answer)
            close += plain(said).lower() == plain(answer).lower()
            if number < show:
                print(f"  {question!r} -> {said!r} ({plain(answer)!r})")
        figures[name] = {"right": right / samples, "right_ignoring_case": close / samples, "samples": samples}
        print(f"| {name} | {100 * right / samples:.1f} % | {100 * close / samples:.1f} % |", flush=True)
    return figures


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="nano, or a folder")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument("--weights", default="auto", help="auto, int4, int8 or bf16")
    parser.add_argument("--precision", help="exact or fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="print so many answers of each task")
    parser.add_argument("--only", default="", help="tasks whose name contains this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("| task | right | ignoring case |\n|---|---|---|")
    model = pocketvlm.load(args.model, threads=args.threads, weights=args.weights, precision=args.precision)
    figures = measure(model, args.samples, args.seed, args.show, args.only)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
