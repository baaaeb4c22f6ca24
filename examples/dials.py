"""Draws images of dials whose needle points in one of four directions: data for docs/finetune.md."""

import json
import math
import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw

DIRECTIONS = ("north", "east", "south", "west")
QUESTION = "Where does the needle point?"


def draw(chance: random.Random) -> tuple[Image.Image, str]:
    """A dial of some size, place and colour, and where its needle points."""
    side = chance.randint(150, 220)
    image = Image.new("RGB", (side, side), tuple(chance.randint(200, 255) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    number = chance.randrange(len(DIRECTIONS))
    angle = math.radians(360 / len(DIRECTIONS) * number + chance.uniform(-20, 20))
    radius = side * chance.uniform(0.30, 0.42)
    x, y = (side / 2 + chance.uniform(-0.06, 0.06) * side for _ in range(2))
    face = tuple(chance.randint(150, 255) for _ in range(3))
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=face, outline="black", width=4)
    tip = (x + 0.85 * radius * math.sin(angle), y - 0.85 * radius * math.cos(angle))
    pen.line((x, y, *tip), fill=(200, 0, 0), width=max(6, side // 20))
    pen.ellipse((x - 9, y - 9, x + 9, y + 9), fill="black")
    return image, DIRECTIONS[number]


def write(folder: Path, name: str, count: int, seed: int) -> None:
    """Images folder/name/*.png, and a conversation about each in folder/name.jsonl."""
    chance = random.Random(seed)
    (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
        for number in range(count):
            image, direction = draw(chance)
            path = f"{name}/{number:04d}.png"
            image.save(folder / path)
            question = {"role": "user", "content": f"<image>{QUESTION}"}
            messages = [question, {"role": "assistant", "content": direction}]
            file.write(json.dumps({"messages": messages, "images": [path]}) + "\n")
    print(f"{folder / name}.jsonl: {count} images")


folder = Path(sys.argv[1] if len(sys.argv) > 1 else "dials")
write(folder, "train", 480, seed=1)
write(folder, "test", 100, seed=2)
