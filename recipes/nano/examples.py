"""Draws the sample pictures of examples/: emoji, words, a digit, shapes and a large picture."""

from __future__ import annotations

import random
from pathlib import Path

from PIL import Image, ImageDraw
from render import digit_images, emoji_bitmap, font_of, shape_mask

TARGET = Path(__file__).resolve().parents[2] / "examples"
SANS = "dejavu/DejaVuSans.ttf"
Colour = tuple[int, int, int]


def emoji(char: str, size: tuple[int, int], back: tuple[int, int, int], share: float = 0.7) -> Image.Image:
    """One emoji in the middle of a plain picture."""
    image = Image.new("RGB", size, back)
    bitmap = emoji_bitmap(char)
    side = round(min(size) * share)
    bitmap = bitmap.resize((side, round(side * bitmap.height / bitmap.width)), Image.Resampling.BICUBIC)
    image.paste(bitmap, ((size[0] - bitmap.width) // 2, (size[1] - bitmap.height) // 2), bitmap)
    return image


def written(text: str, size: tuple[int, int], em: int, ink: str, back: str) -> Image.Image:
    """A line of type in the middle."""
    image = Image.new("RGB", size, back)
    ImageDraw.Draw(image).text((size[0] / 2, size[1] / 2), text, font=font_of(SANS, em), fill=ink, anchor="mm")
    return image


def digit(value: int, held_out: int = 0) -> Image.Image:
    """A handwritten digit of the held-out part."""
    pictures, labels = digit_images()
    index = [i for i in range(0, len(labels), 5) if labels[i] == value][held_out]
    mask = Image.fromarray((pictures[index] / 16 * 255).astype("uint8")).resize((130, 130), Image.Resampling.BICUBIC)
    image = Image.new("RGB", (168, 168), (250, 250, 250))
    image.paste((20, 50, 170), (19, 19), mask)
    return image


def shapes(things: list[tuple[str, Colour, tuple[int, int]]], back: Colour | str, side: int = 72) -> Image.Image:
    """Shapes (name, colour, centre) on a plain picture of 252 x 252."""
    image = Image.new("RGB", (252, 252), back)
    for shape, colour, (x, y) in things:
        image.paste(Image.new("RGB", (side, side), colour), (x - side // 2, y - side // 2), shape_mask(shape, side))
    return image


def main() -> None:
    """Write all of them."""
    random.seed(0)
    TARGET.mkdir(exist_ok=True)
    white = (250, 250, 250)
    emoji("🐧", (200, 200), white, 0.75).save(TARGET / "penguin.png")
    emoji("🍎", (200, 200), white, 0.75).save(TARGET / "apple.png")
    emoji("🦄", (960, 640), white, 0.75).save(TARGET / "unicorn_large.jpg", quality=92)
    written("DOG", (300, 110), 72, "black", "white").save(TARGET / "dog.png")
    written("HELLO", (320, 120), 72, "navy", "white").save(TARGET / "hello.png")
    written("silver", (252, 252), 36, "black", "white").save(TARGET / "small_type.png")
    digit(7).save(TARGET / "digit.png")
    red, blue, yellow = (220, 30, 30), (35, 80, 210), (250, 220, 40)
    pair = [("circle", red, (42, 42)), ("square", blue, (210, 210))]
    shapes(pair, "white").save(TARGET / "shapes.png")
    stars = [("star", yellow, at) for at in ((42, 42), (126, 126), (210, 42))]
    shapes(stars, blue).save(TARGET / "stars.png")


if __name__ == "__main__":
    main()
