"""Questions about clips, in ten phrasings and more each, and their answers.

They are not part of the tokenizer's corpus: its vocabulary was made before nano could watch.
"""

from __future__ import annotations

import random

from clips import Clip
from phrases import article, vary
from phrases import ask as ask_picture

ASK: dict[str, list[str]] = {
    "direction": [
        "Which way does the {x} move?", "In which direction does the {x} move?", "Which way does the {x} go?",
        "Which direction does the {x} go?", "Where does the {x} go?", "Where is the {x} moving?",
        "What is the direction of the {x}?", "Does the {x} move left, right, up or down?",
        "Which way is the {x} going?", "Tell me the direction of the {x}.", "In what direction is the {x} moving?",
        "Name the direction in which the {x} moves.", "What direction does the {x} move in?",
        "Which way does it move?", "In which direction does it go?", "Left, right, up or down?",
        "Which direction is the movement?", "Where does it move?",
    ],
    "start": [
        "Where is the {x} at the beginning?", "Where does the {x} start?", "Where is the {x} in the first frame?",
        "Where is the {x} at first?", "Where does the {x} begin?", "What is the first position of the {x}?",
        "Where is the {x} at the start?", "Where does the {x} come from?", "In which place does the {x} start?",
        "Tell me where the {x} starts.",
    ],
    "end": [
        "Where is the {x} at the end?", "Where does the {x} stop?", "Where is the {x} in the last frame?",
        "Where does the {x} end?", "What is the last position of the {x}?", "Where does the {x} end up?",
        "Where is the {x} in the end?", "Tell me where the {x} stops.", "In which place does the {x} end?",
        "Where does the {x} arrive?",
    ],
    "mover": [
        "What moves?", "What is moving?", "Which thing moves?", "What moves in this video?", "Which object moves?",
        "Which thing is moving?", "Name what moves.", "Tell me what moves.", "What is it that moves?",
        "What does move in the clip?",
    ],
    "first": [
        "Which colour comes first?", "What is the first colour?", "Which colour is first?", "Name the first colour.",
        "What colour does the {x} have at first?", "What colour is the {x} at the beginning?",
        "What colour is the {x} at the start?", "Which colour does the {x} have first?", "Tell me the first colour.",
        "Which colour do you see first?", "What colour comes first in the video?", "Which colour is shown first?",
        "With which colour does it begin?",
    ],
    "last": [
        "Which colour comes last?", "What is the last colour?", "Which colour is last?", "Name the last colour.",
        "What colour does the {x} have at the end?", "What colour is the {x} at the end?",
        "What colour is the {x} in the end?", "Which colour does the {x} have last?", "Tell me the last colour.",
        "Which colour do you see last?", "What colour comes last in the video?", "Which colour is shown last?",
        "With which colour does it end?",
    ],
    "nth": [
        "Which colour comes {n}?", "What is the {n} colour?", "Which colour is {n}?", "Name the {n} colour.",
        "Which is the {n} colour of the {x}?", "What {n} colour does the {x} have?", "Tell me the {n} colour.",
        "Which {n} colour do you see?", "What is the {n} colour in the video?", "Which colour is shown {n}?",
    ],
    "list": [
        "In which order do the colours come?", "List the colours in order.", "Which colours do you see, in order?",
        "What is the order of the colours?", "Name the colours from first to last.", "Tell me the colours in order.",
        "Which colours does the {x} have, one after another?", "In what order does the {x} change colour?",
        "Give the order of the colours.", "What is the sequence of colours?", "Which colours come one after another?",
        "What colours does the {x} have?", "Name the colours in order.", "List the colours.",
    ],
    "after": [
        "Which colour comes after {c}?", "What colour follows {c}?", "What comes after {c}?",
        "Which colour is next after {c}?", "What colour is the {x} after {c}?", "After {c}, which colour comes?",
        "What is the colour after {c}?", "Which colour follows {c}?", "{c} is followed by which colour?",
        "Tell me the colour after {c}.",
    ],
    "before": [
        "Which colour comes before {c}?", "What colour is before {c}?", "What comes before {c}?",
        "Which colour is just before {c}?", "What colour is the {x} before {c}?", "Before {c}, which colour comes?",
        "What is the colour before {c}?", "Which colour is followed by {c}?", "{c} comes after which colour?",
        "Tell me the colour before {c}.",
    ],
    "colours": [
        "How many colours does the {x} have?", "How many colours are there?", "Count the colours.",
        "How many different colours does the {x} have?", "How many colours do you see?", "Number of colours?",
        "How many colours come one after another?", "Tell me how many colours there are.",
        "How many different colours are in the video?", "What is the number of colours?",
    ],
    "times": [
        "How many times does the {x} {v}?", "How often does the {x} {v}?", "Count how many times the {x} {s}.",
        "How many times does it {v}?", "How often does it {v}?", "Tell me how often the {x} {s}.",
        "What is the number of times the {x} {s}?", "How many times do you see the {x} {v}?",
        "Please count how often the {x} {s}.", "How many times does the {x} {v} in this video?",
        "Tell me how many times the {x} {s}.", "In this clip, how many times does the {x} {v}?",
    ],
    "nouns": [
        "Count the {n}.", "How many {n} are there?", "How many {n} do you see?", "Please count the {n}.",
        "Number of {n}?", "How many {n} are in the video?", "What is the number of {n}?", "How many {n} can you count?",
        "Tell me how many {n} there are.", "How many {n} does the clip show?",
    ],
    "happens": [
        "What happens?", "What happens in this video?", "What happens in the clip?", "Describe the video.",
        "Describe this video.", "Describe this clip.", "What do you see in this video?", "What happens here?",
        "Please describe the video.", "Tell me what happens.", "What does the video show?", "Summarize the video.",
        "What is going on?", "What is happening?", "What is shown in the video?",
    ],
}  # fmt: skip
ORDINALS = ["first", "second", "third", "fourth"]
VERBS = {
    "blink": ["blink", "flash", "appear", "show up"],
    "vanish": ["vanish", "disappear", "go away"],
    "jump": ["jump", "bounce", "hop"],
    "flash": ["flash", "blink", "turn {c}", "become {c}"],
    "turn": ["turn {c}", "become {c}", "change to {c}"],
}
NOUNS = {"blink": ["blinks", "flashes"], "jump": ["jumps", "bounces", "hops"], "flash": ["flashes", "blinks"]}


def ask(rng: random.Random, kind: str, **fields: str) -> str:
    """One phrasing of a question of this kind."""
    text = rng.choice(ASK[kind])
    for name, value in fields.items():
        text = text.replace(f"{{{name}}}", value)
    return vary(rng, text[0].upper() + text[1:])


def third(verb: str) -> str:
    """The verb after he, she or it: "flashes", "turns red"."""
    word, *rest = verb.split()
    return " ".join([word + ("es" if word.endswith(("sh", "o")) else "s"), *rest])


def listed(names: list[str]) -> str:
    return ", ".join(names)


def happening(clip: Clip) -> str:
    """One sentence about the whole clip."""
    if clip.kind == "colours":
        return f"The {clip.short} is {', then '.join(clip.colours)}."
    if clip.kind == "move":
        return f"{article(clip.thing).capitalize()} moves {clip.direction}."
    verb = {"blink": "appears", "vanish": "vanishes", "jump": "jumps", "flash": "flashes"}.get(clip.verb)
    who = "The screen" if clip.verb == "flash" else article(clip.thing).capitalize()
    return f"{who} {verb or f'turns {clip.end}'} {clip.times} time{'s' * (clip.times > 1)}."


def named(rng: random.Random, clip: Clip) -> str:
    """A name of what the clip is about."""
    if clip.short == "screen":
        return rng.choice(["screen", "screen", "background", "picture"])
    if clip.kind == "colours" or (clip.kind == "count" and clip.verb == "turn"):
        return rng.choice([clip.short, clip.short, "thing", "object"])
    return rng.choice([clip.short, clip.short, clip.thing, "thing", "object"])


def main_question(rng: random.Random, clip: Clip) -> tuple[str, str]:
    """What the kind of clip is there for: the direction, the order of colours, or how often."""
    x = named(rng, clip)
    if clip.kind == "move":
        return ask(rng, "direction", x=x), clip.direction
    if clip.kind == "count":
        if clip.verb in NOUNS and rng.random() < 0.25:
            return ask(rng, "nouns", n=rng.choice(NOUNS[clip.verb])), str(clip.times)
        verb = rng.choice(VERBS[clip.verb]).replace("{c}", clip.end)
        return ask(rng, "times", x=x, v=verb, s=third(verb)), str(clip.times)
    return neighbour_question(rng, clip) if rng.random() < 0.24 else order_question(rng, clip)


def order_question(rng: random.Random, clip: Clip) -> tuple[str, str]:
    """All colours in order, or the first, the last or another one by its number."""
    x, draw, order = named(rng, clip), rng.random(), clip.colours
    if draw < 0.4:
        return ask(rng, "list", x=x), listed(order)
    if draw < 0.55:
        return ask(rng, "first", x=x), order[0]
    if draw < 0.7:
        return ask(rng, "last", x=x), order[-1]
    n = rng.randrange(1, len(order))
    return ask(rng, "nth", x=x, n=ORDINALS[n]), order[n]


def neighbour_question(rng: random.Random, clip: Clip) -> tuple[str, str]:
    """The colour before or after another one."""
    x, order = named(rng, clip), clip.colours
    n = rng.randrange(len(order) - 1)
    if rng.random() < 0.5:
        return ask(rng, "after", x=x, c=order[n]), order[n + 1]
    return ask(rng, "before", x=x, c=order[n + 1]), order[n]


def side_question(rng: random.Random, clip: Clip) -> tuple[str, str]:
    """Other questions about the clip."""
    pool = [(ask(rng, "happens"), happening(clip))] * 2
    if clip.background:
        pool.append((ask_picture(rng, "background"), clip.background))
    if clip.colour:
        pool.append((ask_picture(rng, "colour", clip.short), clip.colour))
    if clip.kind == "move":
        pool += [(ask(rng, "start", x=clip.short), clip.start), (ask(rng, "end", x=clip.short), clip.end)] * 2
        pool.append((ask(rng, "mover"), clip.thing))
    if clip.kind == "colours":
        pool.append((ask(rng, "colours", x=named(rng, clip)), str(len(clip.colours))))
    return rng.choice(pool)


def conversation(rng: random.Random, clip: Clip, turns: int) -> list[tuple[str, str]]:
    """Questions about one clip with different answers; those that tell all of it come last.

    An answer can be copied from an answer before it; then nothing is learnt from looking.
    """
    told: dict[str, tuple[str, str]] = {}
    for _ in range(4 * turns):
        main = rng.random() < (0.7 if clip.kind == "colours" or not told else 0.3)
        question, answer = main_question(rng, clip) if main else side_question(rng, clip)
        told.setdefault(answer, (question, answer))
        if len(told) == turns:
            break
    out = list(told.values())
    rng.shuffle(out)
    shown = (clip.direction, str(clip.times))
    return sorted(out, key=lambda turn: -1 if turn[1] in shown else len(turn[1].split()) > 3 or ", " in turn[1])
