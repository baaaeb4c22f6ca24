"""Draws pictures, documents and clips from a seed, with questions about them and their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Size = tuple[int, int]  # width, height
Colour = tuple[int, int, int]
Pair = tuple[str, str]  # question, answer

COLOURS: dict[str, Colour] = {
    "red": (220, 30, 30), "orange": (250, 140, 20), "yellow": (250, 220, 40), "green": (40, 160, 60),
    "blue": (35, 80, 210), "purple": (130, 40, 170), "pink": (255, 150, 190), "brown": (120, 70, 30),
    "black": (15, 15, 15), "white": (252, 252, 250), "grey": (128, 128, 130),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
PLACES = (("top left", "top", "top right"), ("left", "centre", "right"), ("bottom left", "bottom", "bottom right"))
_WORDS = (
    "open closed exit river bread music garden tiger number seven market stone cloud paper bridge salt north train "
    "coffee window summer letter silver orange yellow table friend island copper ticket morning engine"
).split()
_ITEMS = "tea milk apples rice soap bread cheese pencils batteries honey lamp scarf notebook olives".split()
_SERIES = ("sales", "visitors", "rainfall", "votes", "tonnes", "members", "errors", "trips")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """A picture, uint8 [height, width, 3], and questions about it with their answers."""

    pixels: Pixels
    questions: tuple[Pair, ...]


def shapes(rng: Random, size: Size) -> Drawing:
    """One to five coloured shapes on a plain or shaded background."""
    ground, image = _canvas(rng, size)
    count = rng.choice((1, 1, 2, 2, 3, 4, 5))
    cells = rng.sample([(row, col) for row in range(3) for col in range(3)], count) if count > 1 else [(1, 1)]
    things = []
    for row, col in cells:
        colour, shape = rng.choice(_others(ground)), rng.choice(SHAPES)
        side = int(min(size) * (rng.uniform(0.4, 0.8) if count == 1 else rng.uniform(0.2, 0.3)))
        centre = (int(size[0] * (2 * col + 1) / 6), int(size[1] * (2 * row + 1) / 6))
        _stamp(image, shape, centre, side, COLOURS[colour])
        things.append((colour, shape, PLACES[row][col]))
    colour, shape, place = rng.choice(things)
    names = [f"{colour} {shape}" for colour, shape, _ in things]
    listed = _join([f"a {name}" if name[0] not in "aeiou" else f"an {name}" for name in names])
    pairs = [
        ("What is this?", f"{listed[0].upper()}{listed[1:]}."),
        ("Describe this image.", f"{listed[0].upper()}{listed[1:]} on a {ground} background."),
        ("What colour is the background?", ground),
        ("How many shapes are there?", str(count)),
    ]
    if [thing[1] for thing in things].count(shape) == 1:
        pairs += [(f"What colour is the {shape}?", colour), (f"Where is the {shape}?", place)]
    return Drawing(np.asarray(image), tuple(rng.sample(pairs, 3)))


def word(rng: Random, size: Size) -> Drawing:
    """One printed word or number, as large as fits or smaller."""
    ground, image = _canvas(rng, size)
    text = str(rng.randint(1, 99999)) if rng.random() < 0.3 else rng.choice(_WORDS)
    text = rng.choice((text, text.upper(), text.capitalize()))
    colour = rng.choice(_others(ground))
    fit = min(size[0] * 0.9 / max(_width(text, 100) / 100, 0.1), size[1] * 0.7)
    height = int(fit * rng.uniform(0.5, 1.0))
    x = rng.randint(0, max(0, size[0] - int(_width(text, height))))
    _pen(image).text((x, rng.randint(0, max(0, int(size[1] - 1.3 * height)))), text, COLOURS[colour], _font(height))
    pairs = [("Read the text.", text), ("What does it say?", text), ("What colour is the text?", colour)]
    return Drawing(np.asarray(image), tuple(rng.sample(pairs, 2)))


def document(rng: Random, size: Size, paragraph: str) -> Drawing:
    """A page: a heading, a paragraph in lines, and a receipt with a sum."""
    image = _new(size, (253, 252, 248))
    pen, margin = _pen(image), size[0] // 14
    height = max(9, min(size[0] // 26, size[1] // 26))
    heading = f"{rng.choice(_WORDS).capitalize()} {rng.choice(_WORDS)} no. {rng.randint(2, 980)}"
    pen.text((margin, margin), heading, (20, 20, 60), _font(int(1.7 * height)))
    y, line = margin + 3 * height, ""
    for part in (*paragraph.split(), ""):
        if not part or _width(f"{line} {part}", height) > size[0] - 2 * margin:
            pen.text((margin, y), line, (30, 30, 30), _font(height))
            y, line = y + int(1.4 * height), part
            if y > size[1] * 0.55:
                break
        else:
            line = f"{line} {part}".strip()
    y += height
    total = 0
    for item in rng.sample(_ITEMS, rng.randint(3, 6)):
        if y > size[1] - 4 * height:
            break
        cents = rng.randint(45, 2999)
        total += cents
        pen.text((margin, y), f"{rng.randint(1, 4)} x {item}", (0, 0, 0), _font(height))
        pen.text((size[0] * 0.7, y), f"{cents / 100:.2f}", (0, 0, 0), _font(height))
        y += int(1.4 * height)
    pen.line((margin, y, size[0] - margin, y), (60, 60, 60), 1)
    pen.text((margin, y + height // 2), "Total", (0, 0, 0), _font(height))
    pen.text((size[0] * 0.7, y + height // 2), f"{total / 100:.2f}", (0, 0, 0), _font(height))
    pairs = [
        ("What is the heading of this page?", heading),
        ("What is the total?", f"{total / 100:.2f}"),
        ("Transcribe the first words.", " ".join(paragraph.split()[:6])),
    ]
    return Drawing(np.asarray(image), tuple(rng.sample(pairs, 2)))


def chart(rng: Random, size: Size) -> Drawing:
    """A bar chart of some months."""
    image = _new(size, (255, 255, 255))
    pen, height = _pen(image), max(8, min(size) // 16)
    title, first, count = rng.choice(_SERIES), rng.randrange(12), rng.randint(3, 7)
    months = [_MONTHS[(first + step) % 12] for step in range(count)]
    values = rng.sample(range(5, 100), count)
    colour = rng.choice(("red", "green", "blue", "purple", "orange", "grey"))
    pen.text((height, height // 3), f"Monthly {title}", (0, 0, 0), _font(height))
    base, step = size[1] - int(1.8 * height), size[0] // (count + 1)
    pen.line((step // 2, base, size[0] - step // 2, base), (0, 0, 0), 2)
    for index, (month, value) in enumerate(zip(months, values, strict=True)):
        x, top = step // 2 + index * step + step // 4, base - int(value / 100 * (base - 3 * height))
        pen.rectangle((x, top, x + step // 2, base), COLOURS[colour])
        pen.text((x, top - height), str(value), (0, 0, 0), _font(int(0.8 * height)))
        pen.text((x, base + height // 4), month, (0, 0, 0), _font(int(0.8 * height)))
    best = months[values.index(max(values))]
    index = rng.randrange(count)
    pairs = [
        (f"Which month has the highest {title}?", best),
        (f"What is the value of {months[index]}?", str(values[index])),
        ("Describe this chart.", f"A {colour} bar chart of monthly {title} with {count} bars; {best} is the highest."),
    ]
    return Drawing(np.asarray(image), tuple(rng.sample(pairs, 2)))


def frames(rng: Random, size: Size, count: int) -> tuple[list[Pixels], tuple[Pair, ...]]:
    """Frames of a clip, one a second: a shape moves in one direction, or changes its colour."""
    ground = rng.choice(list(COLOURS))
    colours = rng.sample(_others(ground), 3)
    shape, side = rng.choice(SHAPES), min(size) // 4
    moves = rng.random() < 0.6
    name, dx, dy = rng.choice((("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1)))
    made = []
    for index in range(count):
        image = _new(size, COLOURS[ground])
        way = (index / max(count - 1, 1) - 0.5) * 0.6 if moves else 0.0
        centre = (int(size[0] * (0.5 + way * dx)), int(size[1] * (0.5 + way * dy)))
        colour = colours[0] if moves else colours[index * len(colours) // count]
        _stamp(image, shape, centre, side, COLOURS[colour])
        made.append(np.asarray(image))
    if moves:
        return made, ((f"Which way does the {shape} move?", name), ("What moves?", f"a {colours[0]} {shape}"))
    return made, (("Which colour comes first?", colours[0]), ("Which colour comes last?", colours[-1]))


def _others(ground: str) -> list[str]:
    """Colours that stand out from a background."""
    return [
        name
        for name, value in COLOURS.items()
        if sum(abs(a - b) for a, b in zip(value, COLOURS[ground], strict=True)) > 180
    ]


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _new(size: Size, colour: Colour) -> Image:
    import PIL.Image

    return PIL.Image.new("RGB", size, colour)


def _canvas(rng: Random, size: Size) -> tuple[str, Image]:
    """A background with the name of its colour: plain, or a little darker towards one side."""
    import PIL.Image

    name = rng.choice(list(COLOURS))
    image = _new(size, COLOURS[name])
    if rng.random() < 0.4:
        dark = _new(size, tuple(int(0.85 * part) for part in COLOURS[name]))  # type: ignore[arg-type]
        image = PIL.Image.composite(dark, image, PIL.Image.linear_gradient("L").resize(size))
    return name, image


def _pen(image: Image) -> Any:
    import PIL.ImageDraw

    return PIL.ImageDraw.Draw(image)


def _font(height: int) -> Any:
    """Pillow's own font: which fonts a machine has must not matter."""
    import PIL.ImageFont

    return PIL.ImageFont.load_default(max(6, height))


def _width(text: str, height: int) -> float:
    return float(_font(height).getlength(text))


def _stamp(image: Image, shape: str, centre: Size, side: int, colour: Colour) -> None:
    """Draw a shape with its centre at a point, smooth at the edges."""
    import PIL.Image

    big = max(8, 3 * side)
    mask = PIL.Image.new("L", (big, big), 0)
    _OUTLINES[shape](_pen(mask), big)
    mask = mask.resize((max(2, side),) * 2)
    image.paste(colour, (centre[0] - side // 2, centre[1] - side // 2), mask)


def _cross(pen: Any, n: int) -> None:
    pen.rectangle((n * 0.36, 0, n * 0.64, n), 255)
    pen.rectangle((0, n * 0.36, n, n * 0.64), 255)


def _ring(pen: Any, n: int) -> None:
    pen.ellipse((0, 0, n - 1, n - 1), 255)
    pen.ellipse((n * 0.25, n * 0.25, n * 0.75, n * 0.75), 0)


_OUTLINES: dict[str, Callable[[Any, int], None]] = {
    "circle": lambda pen, n: pen.ellipse((0, 0, n - 1, n - 1), 255),
    "square": lambda pen, n: pen.rectangle((n * 0.06, n * 0.06, n * 0.94, n * 0.94), 255),
    "triangle": lambda pen, n: pen.polygon(((n / 2, 0), (n - 1, n * 0.9), (0, n * 0.9)), 255),
    "diamond": lambda pen, n: pen.polygon(((n / 2, 0), (n - 1, n / 2), (n / 2, n - 1), (0, n / 2)), 255),
    "cross": _cross,
    "ring": _ring,
}
