"""The questions of nano's recipe as prepared prompts, the same for each model, and which of them a model answers."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pocketvlm
from pocketvlm.processor.messages import as_messages

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "nano"
SEED = 20_000
_MAX_TOKENS, _TOGETHER = 40, 16


@dataclass(frozen=True)
class Question:
    """A prompt with loaded views, and the right answer without marks."""

    prompt: pocketvlm.Prompt
    answer: str


def recipe() -> Any:
    """The module recipes/nano/evaluate.py. Needs the fonts and packages of recipes/nano/README.md."""
    sys.path.insert(1, str(RECIPE))
    import evaluate

    return evaluate


def tasks(processor: Any, count: int) -> Iterator[tuple[str, list[Question]]]:
    """Each task's name and its first `count` questions, as `evaluate.py` asks them."""
    evaluate = recipe()
    for name, (make, options) in evaluate.TASKS.items():
        rng = random.Random(f"{SEED} {name.removesuffix(', 4x').removesuffix(', 16x')}")
        found = []
        for _ in range(count):
            question, answer, shown = make(rng)
            media = {"videos" if shown and isinstance(shown[0], bytes) else "images": shown}
            prompt = processor(as_messages(question, media.get("images", ()), None, media.get("videos", ())), **options)
            views = tuple(view.load() for view in prompt.views)
            found.append(Question(replace(prompt, views=views), evaluate.plain(answer)))
        yield name, found


def right(model: pocketvlm.Model, questions: Sequence[Question]) -> list[bool]:
    """Whether each answer is right to the letter; answers are greedy and generated together."""
    plain = recipe().plain

    def answer(question: Question) -> bool:
        said = model.generate(question.prompt, temperature=0, max_tokens=_MAX_TOKENS).text
        return bool(plain(said) == question.answer)

    with ThreadPoolExecutor(_TOGETHER) as pool:
        return list(pool.map(answer, questions))
