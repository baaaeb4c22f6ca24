"""Crowded pictures for the first part of the training: many labelled things each, so that every view teaches a lot."""

from __future__ import annotations

import random

import numpy as np
from phrases import COLOUR_NAMES, EMOJI, SHAPES
from PIL import Image, ImageDraw
from render import (
    CHARS,
    DIGIT_AT,
    EMOJI_AT,
    FONTS,
    SHAPE_AT,
    Scene,
    canvas_of,
    digit_images,
    emoji_bitmap,
    finish,
    font_of,
    ink,
    random_word,
    shape_mask,
)  # fmt: skip

Thing = tuple[float, float, int, int]


def text_line(
    rng: random.Random, image: Image.Image, rgb: tuple[int, int, int], top: int, em: int, easy: bool
) -> list[Thing]:
    """Words on one line from left to right, as many as fit."""
    pen, things = ImageDraw.Draw(image), []
    font = font_of(rng.choice(FONTS[:9:2] if easy else FONTS), em)
    x = rng.uniform(0, em)
    while True:
        word = random_word(rng, 6, False) if rng.random() < 0.8 else str(rng.randrange(10 ** rng.randint(1, 4)))
        while word and x + font.getlength(word) > image.width:
            word = word[:-1]
        if not word:
            return things
        name, value = ink(rng, rgb, 200 if easy else 130)
        pen.text((x, top), word, font=font, fill=value)
        _, upper, _, lower = font.getbbox(word)
        for i, char in enumerate(word):
            middle = x + (font.getlength(word[:i]) + font.getlength(word[: i + 1])) / 2
            things.append((middle, top + (upper + lower) / 2, 1 + CHARS.index(char), 1 + COLOUR_NAMES.index(name)))
        x += font.getlength(word) + em * rng.uniform(0.35, 1.5)


def thing_row(rng: random.Random, image: Image.Image, rgb: tuple[int, int, int], top: int, side: int) -> list[Thing]:
    """Emoji, shapes and handwritten digits side by side."""
    things, x = [], rng.randint(0, side // 2)
    while x + side <= image.width:
        px = max(12, int(side * rng.uniform(0.75, 1)))
        left, upper = x + rng.randint(0, side - px), top + rng.randint(0, side - px)
        draw, tint = rng.random(), 0
        if draw < 0.45:
            index = rng.randrange(len(EMOJI))
            bitmap = emoji_bitmap(EMOJI[index][0])
            w, h = (max(4, round(v * px / max(bitmap.size))) for v in bitmap.size)
            bitmap = bitmap.resize((w, h), Image.Resampling.BICUBIC)
            image.paste(bitmap, (left + (px - w) // 2, upper + (px - h) // 2), bitmap)
            label = EMOJI_AT + index
        else:
            name, value = ink(rng, rgb, 110)
            tint = 1 + COLOUR_NAMES.index(name)
            if draw < 0.75:
                pictures, labels = digit_images()
                index = rng.choice([n for n in rng.sample(range(len(labels)), 8) if n % 5] or [1])
                array = (np.clip(pictures[index] / 16 * rng.uniform(1.0, 1.35), 0, 1) * 255).astype(np.uint8)
                mask = Image.fromarray(array).resize((px, px), Image.Resampling.BICUBIC)
                label = DIGIT_AT + int(labels[index])
            else:
                shape = rng.choice(SHAPES)
                mask, label = shape_mask(shape, px), SHAPE_AT + SHAPES.index(shape)
            image.paste(value, (left, upper), mask)
        things.append((left + px / 2, upper + px / 2, label, tint))
        x += side + rng.randint(0, side // 2)
    return things


def mosaic(rng: random.Random, size: tuple[int, int], easy: bool, coarse: bool = True) -> Scene:
    """Rows of type and rows of things on one background; size is width, height, drawn at the size of the view."""
    image, back, rgb = canvas_of(rng, size)
    scene, y = Scene(image, "mosaic", "", back), rng.randint(0, 20)
    while y < size[1] - 20:
        if rng.random() < 0.68:
            em = int(rng.uniform(*((30, 72) if easy else (24, 64) if coarse else (14, 44))))
            if y + em * 1.2 > size[1]:
                em = int((size[1] - y) / 1.2)
            if em < 13:
                break
            scene.things += text_line(rng, image, rgb, y, em, easy)
            y += int(em * rng.uniform(1.25, 1.8))
        else:
            side = min(rng.randint(40, 120), size[1] - y)
            if side < 36:
                break
            scene.things += thing_row(rng, image, rgb, y, side)
            y += side + rng.randint(0, 12)
    scene.image = finish(rng, image)
    return scene
