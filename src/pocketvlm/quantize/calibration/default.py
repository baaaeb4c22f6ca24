"""The default calibration set and the held-out set: text, chat, tool calls, drawn pictures and clips, from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pocketvlm.errors import PromptError
from pocketvlm.processor import drawing
from pocketvlm.processor.drawing import Drawing, Size
from pocketvlm.processor.processor import Processor
from pocketvlm.quantize.calibration import conversations
from pocketvlm.quantize.calibration.lazy import LazyViews
from pocketvlm.quantize.calibration.sample import Sample, within
from pocketvlm.types import DownsampleMode, Prompt

# Aspect ratios (width by height) of drawn pictures; areas are multiples of the area of one view.
_RATIOS = (1.0, 1.0, 4 / 3, 3 / 4, 16 / 9, 0.6)
_CALIBRATION_SEED, _HELD_OUT_SEED = 20_260_401, 977
# Tokens of the default calibration set: more did not lower the error of nano, and cost time on the released shape.
DEFAULT_TOKENS = 12_000


def default_set(
    processor: Processor, *, tokens: int = DEFAULT_TOKENS, max_length: int = 2048, seed: int = 0
) -> list[Sample]:
    """The default calibration set of about `tokens` tokens; the same for the same seed and processor.

    max_length: tokens of the longest prompt; longer texts are cut.
    """
    rng = Random(_CALIBRATION_SEED + seed)
    samples = [*_texts(processor, rng, "calibration.txt"), *_chats(processor, rng, 24, False)]
    samples += _pictures(processor, rng, "calibration.txt", 28)
    samples += _clips(processor, rng, 3)
    rng.shuffle(samples)
    return within(samples, tokens, max_length)


def held_out(processor: Processor, *, tokens: int = 8000, max_length: int = 2048, seed: int = 0) -> list[Sample]:
    """Prompts of all kinds that share no text, picture or question of facts with the calibration set.

    max_length: tokens of the longest prompt; longer texts are cut.
    """
    rng = Random(_HELD_OUT_SEED + seed)
    samples = [*_texts(processor, rng, "held_out.txt"), *_chats(processor, rng, 8, True)]
    samples += _pictures(processor, rng, "held_out.txt", 24)
    samples += _clips(processor, rng, 6)
    return within(samples, tokens, max_length)


def _paragraphs(file: str) -> list[str]:
    return Path(__file__).with_name(file).read_text(encoding="utf-8").strip().split("\n\n")


def _texts(processor: Processor, rng: Random, file: str) -> Iterator[Sample]:
    """Paragraphs, several to a text, without a chat template."""
    paragraphs = _paragraphs(file)
    rng.shuffle(paragraphs)
    for start in range(0, len(paragraphs), 3):
        yield Sample("text", _plain(processor, "\n\n".join(paragraphs[start : start + 3])))


def _plain(processor: Processor, text: str) -> Prompt:
    import numpy as np

    return Prompt(np.array(processor.tokenizer.encode_plain(text), np.int32), (), (), text)


def _chats(processor: Processor, rng: Random, count: int, held_out: bool) -> Iterator[Sample]:
    paragraphs = _paragraphs("held_out.txt" if held_out else "calibration.txt")
    for index in range(count):
        if index % 4 == 3:
            messages, tools = conversations.tool_call(rng)
            prompt = with_answer(processor, messages, tools)
        elif index % 4 == 2:
            prompt = with_answer(processor, conversations.about(rng, rng.choice(paragraphs)))
        else:
            prompt = with_answer(processor, conversations.chat(rng, held_out))
        yield Sample("text", prompt)


def with_answer(processor: Processor, messages: Any, tools: Any = None, **options: Any) -> Prompt:
    """The prompt of a conversation that ends with an answer, or else of one that waits for it."""
    last = messages[-1] if isinstance(messages, Sequence) and messages else {}
    answered = isinstance(last, dict) and last.get("role") == "assistant"
    return processor(messages, tools=tools, add_generation_prompt=not answered, **options)


def _pictures(processor: Processor, rng: Random, file: str, count: int) -> Iterator[Sample]:
    """Drawn pictures in each mode that the model has; one in seven large enough to be sliced."""
    modes = processor.config.downsample_modes
    paragraphs = [text for text in _paragraphs(file) if text.isascii()]
    lazy = LazyViews()
    for index in range(count if modes else 0):
        mode: DownsampleMode = modes[index % len(modes)]
        size = _size(rng, processor.config.scale_resolution, sliced=index % 7 == 5)
        kind = (index // len(modes)) % 5
        if kind == 2:
            found = drawing.document(rng, size, rng.choice(paragraphs))
        elif kind == 3:
            found = drawing.chart(rng, size)
        else:
            found = (drawing.shapes if kind in (0, 4) else drawing.word)(rng, size)
        yield Sample.of(lazy.prompt(partial(_asked, processor, found, mode)))


def _asked(processor: Processor, found: Drawing, mode: DownsampleMode) -> Prompt:
    messages: list[dict[str, Any]] = []
    for number, (question, answer) in enumerate(found.questions):
        picture = [] if number else [{"type": "image", "image": found.pixels, "downsample_mode": mode}]
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": answer})
    return with_answer(processor, messages)


def _size(rng: Random, side: int, sliced: bool) -> Size:
    area = side * side * (rng.uniform(2.2, 4.0) if sliced else rng.uniform(0.35, 1.0))
    ratio = rng.choice(_RATIOS)
    return int((area * ratio) ** 0.5), int((area / ratio) ** 0.5)


def _clips(processor: Processor, rng: Random, count: int) -> Iterator[Sample]:
    """Drawn clips of a few frames; none for a tokenizer or a tower that cannot watch."""
    if not processor.config.downsample_modes or processor.tokenizer.special.video is None:
        return
    for _ in range(count):
        side = processor.config.scale_resolution
        made, pairs = drawing.frames(rng, (side, side), rng.randint(3, 6))
        question, answer = rng.choice(pairs)
        content = [{"type": "video", "video": made}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        try:
            yield Sample.of(with_answer(processor, messages))
        except PromptError:  # a template that knows no videos
            return
