"""Draws the nano training pictures: emoji, printed words and numbers, handwritten digits, shapes."""

from __future__ import annotations

import functools
import math
import random
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from phrases import COLOUR_NAMES, COLOURS, EMOJI, EMOJI_NAMES, PLACES, SHAPES, article, plural
from PIL import Image, ImageDraw, ImageFont

FONT_ROOT = Path("/usr/share/fonts/truetype")
FONTS = [
    "dejavu/DejaVuSans.ttf", "dejavu/DejaVuSans-Bold.ttf", "dejavu/DejaVuSerif.ttf", "dejavu/DejaVuSansMono.ttf",
    "dejavu/DejaVuSansCondensed.ttf", "liberation/LiberationSans-Regular.ttf", "liberation/LiberationSans-Bold.ttf",
    "liberation/LiberationSerif-Regular.ttf", "liberation/LiberationSerif-Bold.ttf",
    "liberation/LiberationMono-Regular.ttf", "liberation/LiberationSansNarrow-Regular.ttf", "freefont/FreeSans.ttf",
    "freefont/FreeSerif.ttf", "freefont/FreeSansBold.ttf",
]  # fmt: skip
EMOJI_FONT = FONT_ROOT / "noto/NotoColorEmoji.ttf"
CHARS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Dense training labels: 0 is nothing, then characters, shapes, emoji and handwritten digits.
SHAPE_AT, EMOJI_AT = 1 + len(CHARS), 1 + len(CHARS) + len(SHAPES)
DIGIT_AT = EMOJI_AT + len(EMOJI)
CLASSES = DIGIT_AT + 10
MARK = "\x00"  # surrounds text which the answer spells letter by letter
CONFUSABLE = set("cosuvwxzpkij")
DICTIONARY = Path("/usr/share/dict/american-english")


@dataclass
class Scene:
    """A picture and what is known about it; things are (x, y, class, colour) at their centres."""

    image: Image.Image
    kind: str
    name: str  # "cat face", "word HELLO", "digit 7", "red circle"
    background: str
    things: list[tuple[float, float, int, int]] = field(default_factory=list)
    answer: str = ""  # the bare answer: "cat face", "HELLO", "7"
    colour: str = ""
    short: str = ""  # "A cat face emoji."
    shapes: list[tuple[str, str, str]] = field(default_factory=list)  # colour, shape, place

    @property
    def long(self) -> str:
        return f"{self.short[:-1]} on {article(self.background)} background."


@functools.cache
def emoji_bitmap(char: str) -> Image.Image:
    font = ImageFont.truetype(str(EMOJI_FONT), 109)
    canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((10, 10), char, font=font, embedded_color=True)
    return canvas.crop(canvas.getbbox())


@functools.cache
def font_of(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT_ROOT / path), size)


@functools.cache
def digit_images() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images, data.target


@functools.cache
def noise_tile() -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1, (1024, 1024)).astype(np.float32)


def shade(rng: random.Random, name: str) -> tuple[int, int, int]:
    base = rng.choice(COLOURS[name])
    r, g, b = (min(255, max(0, c + rng.randint(-10, 10))) for c in base)
    return r, g, b


def contrast(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    light = [0.3 * r + 0.59 * g + 0.11 * b for r, g, b in (a, b)]
    return 0.5 * math.dist(a, b) + 1.3 * abs(light[0] - light[1])


def canvas_of(rng: random.Random, size: tuple[int, int]) -> tuple[Image.Image, str, tuple[int, int, int]]:
    """A background with the name and value of its colour: plain, a gentle gradient, or grainy."""
    name = "white" if rng.random() < 0.3 else rng.choice(COLOUR_NAMES)
    rgb = shade(rng, name)
    image = Image.new("RGB", size, rgb)
    draw = rng.random()
    if draw < 0.25:
        other = tuple(min(255, max(0, c + d)) for c, d in zip(rgb, [rng.choice((-24, 24))] * 3, strict=True))
        ramp = Image.linear_gradient("L").rotate(90 * rng.randrange(4)).resize(size)
        image = Image.composite(Image.new("RGB", size, other), image, ramp)
    return image, name, rgb


def finish(rng: random.Random, image: Image.Image) -> Image.Image:
    """Sometimes grain, as a camera would add."""
    if rng.random() > 0.3:
        return image
    w, h = image.size
    if max(w, h) > 700:
        return image
    y, x = rng.randrange(1024 - h + 1), rng.randrange(1024 - w + 1)
    grain = noise_tile()[y : y + h, x : x + w, None] * rng.uniform(2, 9)
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8))


def ink(rng: random.Random, back: tuple[int, int, int], min_contrast: float = 130) -> tuple[str, tuple[int, int, int]]:
    """A colour which stands out from the background."""
    best: tuple[float, str, tuple[int, int, int]] = (0.0, "black", (0, 0, 0))
    for _ in range(20):
        name = "black" if rng.random() < 0.25 else rng.choice(COLOUR_NAMES)
        rgb = shade(rng, name)
        value = contrast(rgb, back)
        if value >= min_contrast:
            return name, rgb
        best = max(best, (value, name, rgb))
    return best[1], best[2]


def place_of(x: float, y: float, size: tuple[int, int]) -> str:
    return PLACES[min(2, int(3 * y / size[1]))][min(2, int(3 * x / size[0]))]


def emoji_scene(rng: random.Random, size: tuple[int, int], held_out: bool = False, wanted: str = "") -> Scene:
    image, back, _ = canvas_of(rng, size)
    index = EMOJI_NAMES.index(wanted) if wanted else rng.randrange(len(EMOJI))
    char, name = EMOJI[index]
    bitmap = emoji_bitmap(char)
    side = min(size) * rng.uniform(0.36, 0.97)
    if rng.random() < 0.3:
        bitmap = bitmap.rotate(rng.uniform(-14, 14), Image.Resampling.BICUBIC, expand=True)
    w, h = (max(4, round(v * side / max(bitmap.size))) for v in bitmap.size)
    bitmap = bitmap.resize((w, h), Image.Resampling.BICUBIC)
    x, y = rng.randint(0, max(0, size[0] - w)), rng.randint(0, max(0, size[1] - h))
    image.paste(bitmap, (x, y), bitmap)
    things = [(x + w / 2, y + h / 2, EMOJI_AT + index, 0)]
    scene = Scene(finish(rng, image), "emoji", name, back, things, answer=name)
    scene.short = f"{article(name).capitalize()} emoji."
    return scene


def digit_scene(rng: random.Random, size: tuple[int, int], held_out: bool = False) -> Scene:
    pictures, labels = digit_images()
    while True:
        index = rng.randrange(len(labels))
        if (index % 5 == 0) == held_out:
            break
    image, back, rgb = canvas_of(rng, size)
    name, colour = ink(rng, rgb)
    side = max(10, round(min(size) * rng.uniform(0.5, 1.0)))
    array = np.clip(pictures[index] / 16 * rng.uniform(1.0, 1.35), 0, 1)
    mask = Image.fromarray((array * 255).astype(np.uint8))
    mask = mask.resize((side, side), Image.Resampling.BICUBIC)
    x, y = rng.randint(0, size[0] - side), rng.randint(0, size[1] - side)
    image.paste(Image.new("RGB", (side, side), colour), (x, y), mask)
    value = int(labels[index])
    things = [(x + side / 2, y + side / 2, DIGIT_AT + value, 1 + COLOUR_NAMES.index(name))]
    scene = Scene(finish(rng, image), "digit", f"digit {value}", back, things, answer=str(value), colour=name)
    scene.short = f"A handwritten digit {value}."
    return scene


@functools.cache
def dictionary() -> list[str]:
    """English words of one to six letters."""
    return [word for word in DICTIONARY.read_text().split() if re.fullmatch("[a-z]{1,6}", word)]


def is_held_out(word: str) -> bool:
    """One word in ten is never shown in training."""
    return zlib.crc32(word.lower().encode()) % 10 == 0


def random_word(rng: random.Random, longest: int, held_out: bool) -> str:
    """A word of a dictionary; in training also what only looks like one, and letters in any order."""
    while True:
        draw = rng.random()
        if draw < 0.6 or held_out:
            word = rng.choice(dictionary())
        elif draw < 0.85:
            word = ""
            for _ in range(rng.randint(1, 3)):
                word += rng.choice(["", *"bcdfghjklmnprstvwyz", "ch", "st", "tr", "qu", "x", "br", "sh"])
                word += rng.choice([*"aeiou", "ee", "oo", "y"]) + rng.choice(["", "", *"bdgklmnprstxz", "ck", "nd"])
            word = word[: rng.randint(2, 6)]
        else:
            word = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 6)))
        if not 1 <= len(word) <= longest or is_held_out(word) != held_out:
            continue
        style = rng.random()
        if style < 0.5:
            word = word.upper()
        elif style < 0.62 and len(word) > 1 and word[0] not in "il":
            word = word.capitalize()
        if set(word.lower()) <= CONFUSABLE and (len(word) < 3 or word.islower()):
            word = word.upper() if len(word) > 2 else word
            if len(word) < 3 and rng.random() < 0.7:
                continue
        return word


def text_scene(
    rng: random.Random, size: tuple[int, int], held_out: bool = False, longest: int = 6, small: bool = False
) -> Scene:
    if rng.random() < 0.2:
        while True:
            word = str(rng.randrange(10 ** rng.randint(1, min(5, longest))))
            if len(word) < 3 or is_held_out(word) == held_out:
                break
        kind, name = "number", f"number {word}"
    else:
        word = random_word(rng, longest, held_out)
        kind, name = "word", f"word {word}"
    image, back, rgb = canvas_of(rng, size)
    colour, value = ink(rng, rgb)
    path = rng.choice(FONTS)
    # Sizes are chosen as the vision encoder will see them: pictures are scaled to an area of 168 x 168 pixels.
    zoom = 168 / math.sqrt(size[0] * size[1])
    unit = font_of(path, 100)
    room = min(size[0] * 0.94 / (unit.getlength(word) / 100), size[1] * 0.8)
    if small:
        seen = rng.uniform(16, 24)
    elif held_out or rng.random() < 0.85:
        seen = rng.uniform(30, 110) if rng.random() < 0.5 else rng.uniform(30, 60)
    else:
        seen = rng.uniform(20, 30)
    em = max(6, int(min(room, seen / zoom)))
    font = font_of(path, em)
    left, top, right, bottom = font.getbbox(word)
    w, h = right - left, bottom - top
    x, y = rng.randint(0, max(0, size[0] - w)), rng.randint(0, max(0, size[1] - h))
    ImageDraw.Draw(image).text((x - left, y - top), word, font=font, fill=value)
    things = []
    for i, char in enumerate(word):
        start, end = font.getlength(word[:i]), font.getlength(word[: i + 1])
        middle = x - left + (start + end) / 2
        things.append((middle, y + h / 2, 1 + CHARS.index(char), 1 + COLOUR_NAMES.index(colour)))
    scene = Scene(finish(rng, image), kind, name, back, things, answer=MARK + word + MARK, colour=colour)
    scene.short = f"The {kind} {MARK}{word}{MARK}."
    return scene


@functools.cache
def shape_mask(shape: str, side: int) -> Image.Image:
    big = side * 3
    mask = Image.new("L", (big, big), 0)
    pen, c, r = ImageDraw.Draw(mask), big / 2, big / 2 - 1
    if shape == "circle":
        pen.ellipse((1, 1, big - 2, big - 2), fill=255)
    elif shape == "ring":
        pen.ellipse((1, 1, big - 2, big - 2), fill=255)
        pen.ellipse((big * 0.24, big * 0.24, big * 0.76, big * 0.76), fill=0)
    elif shape == "square":
        pen.rectangle((big * 0.08, big * 0.08, big * 0.92, big * 0.92), fill=255)
    elif shape == "triangle":
        pen.polygon([(c, big * 0.05), (big * 0.97, big * 0.92), (big * 0.03, big * 0.92)], fill=255)
    elif shape == "diamond":
        pen.polygon([(c, 0), (big * 0.88, c), (c, big), (big * 0.12, c)], fill=255)
    elif shape == "cross":
        pen.rectangle((big * 0.35, big * 0.05, big * 0.65, big * 0.95), fill=255)
        pen.rectangle((big * 0.05, big * 0.35, big * 0.95, big * 0.65), fill=255)
    elif shape == "star":
        points = []
        for i in range(10):
            radius, angle = (r if i % 2 == 0 else r * 0.42), math.pi * (i / 5 - 0.5)
            points.append((c + radius * math.cos(angle), c * 1.05 + radius * math.sin(angle)))
        pen.polygon(points, fill=255)
    else:  # heart
        pen.ellipse((big * 0.04, big * 0.1, big * 0.53, big * 0.58), fill=255)
        pen.ellipse((big * 0.47, big * 0.1, big * 0.96, big * 0.58), fill=255)
        pen.polygon([(big * 0.085, big * 0.46), (big * 0.915, big * 0.46), (c, big * 0.96)], fill=255)
    return mask.resize((side, side), Image.Resampling.BOX)


def shape_scene(rng: random.Random, size: tuple[int, int], held_out: bool = False, single: bool = False) -> Scene:
    image, back, rgb = canvas_of(rng, size)
    side = min(size)
    layout: list[tuple[str, str, tuple[int, int, int]]] = []
    draw = rng.random()
    one, two = (0.4, 0.65) if held_out else (0.15, 0.65)  # in training, more from which to choose
    if single or draw < one:
        count = 1
    elif draw < two:
        count = 2
    else:
        count = rng.randint(2, 6)
    variants = []
    for _ in range(1 if count > 2 and rng.random() < 0.4 else rng.choice([1, 2, 2, 3])):
        colour, value = ink(rng, rgb, 100)
        variants.append((colour, rng.choice(SHAPES), value))
    if count == 2 and len(variants) == 1:
        variants.append((*ink(rng, rgb, 100), ""))
        variants[1] = (variants[1][0], rng.choice(SHAPES), variants[1][1])
    layout = [variants[i % len(variants)] for i in range(count)] if count < 3 else rng.choices(variants, k=count)
    if count == 1 and rng.random() < 0.5:
        cells = [(1, 1)]
    elif count == 2 and rng.random() < 0.7:
        cells = rng.choice([[(0, 1), (2, 1)], [(1, 0), (1, 2)]])
    else:
        cells = rng.sample([(i, j) for i in range(3) for j in range(3)], count)
    scene = Scene(image, "shapes", "", back)
    for (colour, shape, value), (i, j) in zip(layout, cells, strict=True):
        big = rng.uniform(0.3, 0.9) if cells == [(1, 1)] else rng.uniform(0.2, 0.31)
        px = max(6, round(side * big))
        jitter = 0.04 if cells == [(1, 1)] else 0.33 - big if big < 0.33 else 0
        x = size[0] * ((i + 0.5) / 3 + rng.uniform(-0.5, 0.5) * jitter * 0.9)
        y = size[1] * ((j + 0.5) / 3 + rng.uniform(-0.5, 0.5) * jitter * 0.9)
        image.paste(value, (round(x - px / 2), round(y - px / 2)), shape_mask(shape, px))
        scene.things.append((x, y, SHAPE_AT + SHAPES.index(shape), 1 + COLOUR_NAMES.index(colour)))
        scene.shapes.append((colour, shape, PLACES[j][i]))
    scene.image = finish(rng, image)
    kinds: dict[str, int] = {}
    order = sorted(range(count), key=lambda n: (cells[n][1], cells[n][0]))
    for n in order:
        key = f"{layout[n][0]} {layout[n][1]}"
        kinds[key] = kinds.get(key, 0) + 1
    parts = [article(key) if number == 1 else f"{number} {plural(key)}" for key, number in kinds.items()]
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    scene.short = text[0].upper() + text[1:] + "."
    if count == 1:
        scene.name, scene.colour, scene.answer = f"{layout[0][0]} {layout[0][1]}", layout[0][0], layout[0][1]
    return scene
