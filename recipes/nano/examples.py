"""Draws the samples of examples/: emoji, words, a digit, shapes, a large picture, and three short clips."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from clips import Clip, Thing
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


def clip(name: str, seconds: float, draw: Callable[[Image.Image, float], object], back: Colour) -> None:
    """A clip of 320 x 240 at ten frames a second; draw puts into a frame what is there at a time."""
    size = (320, 240)

    def frame(time: float) -> Image.Image:
        image = Image.new("RGB", size, back)
        draw(image, time)
        return image

    (TARGET / name).write_bytes(Clip("", size, seconds, frame, "", "").encoded())


def clips() -> None:
    """A penguin that moves right, a circle that is red, blue and yellow, a star that blinks three times."""
    white, tints = (250, 250, 250), [(220, 30, 30), (35, 80, 210), (250, 220, 40)]
    penguin, circle = Thing("penguin", 84, emoji="🐧"), Thing("circle", 120)
    star = Thing("star", 110, "yellow", tints[2])

    def slide(image: Image.Image, time: float) -> None:
        penguin.stamp(image, 52 + 216 * min(1.0, time / 4.5), 120)

    def turn(image: Image.Image, time: float) -> None:
        circle.stamp(image, 160, 120, tints[min(2, int((time + 0.5) / 2))])

    def blink(image: Image.Image, time: float) -> None:
        if any(abs(time - peak) <= 0.5 for peak in (1, 3, 5)):
            star.stamp(image, 160, 120)

    clip("penguin.mp4", 5, slide, white)
    clip("colours.mp4", 6, turn, white)
    clip("blinks.mp4", 7, blink, (20, 50, 170))


def main() -> None:
    """Write all of them."""
    random.seed(0)
    TARGET.mkdir(exist_ok=True)
    white = (250, 250, 250)
    emoji("🐧", (200, 200), white, 0.75).save(TARGET / "penguin.png")
    emoji("🍎", (200, 200), white, 0.75).save(TARGET / "apple.png")
    emoji("🦄", (960, 640), white, 0.75).save(TARGET / "unicorn_large.jpg", quality=92)
    written("DOG", (300, 110), 72, "black", "white").save(TARGET / "dog.png")
    written("OPEN", (320, 120), 72, "navy", "white").save(TARGET / "open.png")
    written("pepper", (252, 252), 30, "black", "white").save(TARGET / "small_type.png")
    digit(7).save(TARGET / "digit.png")
    red, blue, yellow = (220, 30, 30), (35, 80, 210), (250, 220, 40)
    pair = [("circle", red, (42, 42)), ("square", blue, (210, 210))]
    shapes(pair, "white").save(TARGET / "shapes.png")
    stars = [("star", yellow, at) for at in ((42, 210), (126, 42), (210, 210))]
    shapes(stars, blue).save(TARGET / "stars.png")
    clips()


if __name__ == "__main__":
    main()
