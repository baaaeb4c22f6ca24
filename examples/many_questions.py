"""Many questions at once: they share the engine's steps, results come in order, and each has its own error."""

from pathlib import Path

import pocketvlm

HERE = Path(__file__).parent
pictures = [HERE / name for name in ("penguin.png", "missing.png", "apple.png", "open.png")]

with pocketvlm.load("nano") as model:
    questions = ["What is this?"] * len(pictures)
    results = model.ask(questions, [[picture] for picture in pictures], temperature=0, max_tokens=16)
    for picture, result in zip(pictures, results, strict=True):
        print(f"{picture.name}: {result.error or result.text}")

    # An iterator is read as answers are needed, so that a folder of any size can go through.
    stream = ({"text": "Describe this image.", "images": [path]} for path in sorted(HERE.glob("*.png")))
    for result in model.ask(stream, temperature=0, max_tokens=16):
        print(result.text)
