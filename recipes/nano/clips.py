"""Draws short clips and knows what happens in them: a thing moves, colours change, something happens several times.

Every second of a clip is one frame to the model (the processor's rate), so things take about a second each.
"""

from __future__ import annotations

import io
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
from phrases import COLOUR_NAMES, EMOJI, SHAPES
from PIL import Image
from render import canvas_of, contrast, emoji_bitmap, ink, noise_tile, place_of, shade, shape_mask

Colour = tuple[int, int, int]
Size = tuple[int, int]  # width, height
State = dict[str, int]  # the state of a clip at a time: see STATES
FRAMES = 11  # the longest clip, in seconds
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
STATES = {  # the facts about a frame, and the number of possible values
    "on": 2,  # whether it happens now
    "number": 6,  # how often it has happened
    "index": 4,  # of the colour
    "colour": len(COLOUR_NAMES),
    "before": 1 + len(COLOUR_NAMES),  # the colour before this one; 0: none
    "direction": 1 + len(STEPS),  # in which the thing has moved so far; 0: not yet
}
SIZES = [(168, 168)] * 3 + [(224, 224), (200, 200), (240, 180), (320, 240), (320, 180), (256, 144), (180, 240)]


@dataclass
class Thing:
    """An object in a frame: an emoji, or a shape in any colour."""

    name: str  # "star", "penguin"
    side: int
    colour: str = ""
    rgb: Colour = (0, 0, 0)
    emoji: str = ""

    @property
    def full(self) -> str:
        return f"{self.colour} {self.name}" if self.colour else self.name

    def stamp(self, frame: Image.Image, x: float, y: float, rgb: Colour | None = None) -> None:
        """Draw it into the frame with its centre at x, y."""
        if self.emoji:
            bitmap = emoji_bitmap(self.emoji)
            scale = self.side / max(bitmap.size)
            bitmap = bitmap.resize([max(4, round(v * scale)) for v in bitmap.size], Image.Resampling.BICUBIC)
            frame.paste(bitmap, (round(x - bitmap.width / 2), round(y - bitmap.height / 2)), bitmap)
        else:
            at = (round(x - self.side / 2), round(y - self.side / 2))
            frame.paste(rgb or self.rgb, at, shape_mask(self.name, self.side))


def no_state(time: float) -> State:
    """Nothing is known."""
    return {}


def no_picture(time: float) -> Image.Image:
    """Stands for the drawing function of clips that were encoded already."""
    raise ValueError("this clip's pictures are gone")


@dataclass
class Clip:
    """A clip and the facts about it."""

    kind: str  # "move", "colours", "count"
    size: Size
    seconds: float
    draw: Callable[[float], Image.Image]  # the frame at a time
    thing: str  # "red star", "penguin", "screen"
    short: str  # "star", "penguin", "screen"
    background: str = ""  # where it stays the same
    colour: str = ""  # of the thing, where it stays the same
    direction: str = ""
    start: str = ""
    end: str = ""
    colours: list[str] = field(default_factory=list)
    verb: str = ""  # "blink"
    times: int = 0
    grain: float = 0.0
    state: Callable[[float], State] = no_state  # the state at a time

    def frame(self, time: float) -> Image.Image:
        image = self.draw(time)
        if not self.grain:
            return image
        w, h = image.size
        y, x = (int(7919 * time * n) % (1024 - side) for n, side in ((13, h), (29, w)))
        noise = noise_tile()[y : y + h, x : x + w, None] * self.grain
        return Image.fromarray(np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8))

    def sampled(self, rng: random.Random) -> tuple[list[Image.Image], list[State]]:
        """Roughly the frames that the processor samples, as a lossy codec decodes them, and the state of each."""
        late = rng.uniform(0, 0.12)  # a video's frames do not fall on whole seconds
        times = [max(0.0, second - late) for second in range(-int(-self.seconds // 1))]
        frames, states = [self.frame(time) for time in times], [self.state(time) for time in times]
        if rng.random() < 0.1:
            return frames, states
        quality, out = rng.randint(55, 95), []
        for frame in frames:
            data = io.BytesIO()
            frame.save(data, "JPEG", quality=quality)
            out.append(Image.open(data).convert("RGB"))
        return out, states

    def facts(self) -> Clip:
        """The clip without its drawing function, so that it can be sent to another process."""
        return replace(self, draw=no_picture, state=no_state)

    def encoded(self, fps: int = 10, crf: int = 23) -> bytes:
        """H.264 in MP4."""
        target = io.BytesIO()
        with av.open(target, "w", format="mp4") as output:
            stream = output.add_stream("libx264", rate=Fraction(fps))
            stream.width, stream.height = self.size
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "veryfast"}
            stream.codec_context.thread_count = 1
            for number in range(round(self.seconds * fps)):
                output.mux(stream.encode(av.VideoFrame.from_image(self.frame(number / fps))))
            output.mux(stream.encode())
        return target.getvalue()


def is_held_out(key: str) -> bool:
    """Whether a combination of a thing and its event is held out: one in eight is never shown in training."""
    return zlib.crc32(key.encode()) % 8 == 0


def backdrop(rng: random.Random) -> tuple[Image.Image, str, Colour]:
    return canvas_of(rng, rng.choice(SIZES))


def length(rng: random.Random, frames: int) -> float:
    """The length in seconds of a clip with so many sampled frames."""
    return frames - rng.choice([0.0, rng.uniform(0.0, 0.7)])


def some_thing(rng: random.Random, back: Colour, side: float, min_contrast: float = 120) -> Thing:
    if rng.random() < 0.3:
        char, name = rng.choice(EMOJI)
        return Thing(name, round(side), emoji=char)
    colour, rgb = ink(rng, back, min_contrast)
    return Thing(rng.choice(SHAPES), round(side), colour, rgb)


def ease(value: float) -> float:
    return min(1.0, max(0.0, value))


def move_clip(rng: random.Random, held_out: bool = False) -> Clip:
    """One thing crosses a third of the picture or more; sometimes another one stays where it is."""
    image, back, rgb = backdrop(rng)
    size = image.size
    while True:
        thing = some_thing(rng, rgb, min(size) * rng.uniform(0.22, 0.42))
        direction = rng.choice(list(STEPS))
        if is_held_out(f"{thing.full} {direction}") == held_out:
            break
    frames = rng.choice([3, 3, 4, 4, 5, 5, 6])
    dx, dy = STEPS[direction]
    axis = 0 if dx else 1
    half, long = thing.side / 2, size[axis]
    span = rng.uniform(0.38 * long, long - thing.side)
    low = rng.uniform(half, long - half - span)
    ends = (low, low + span) if dx + dy > 0 else (low + span, low)
    across = rng.uniform(half, size[1 - axis] - half)
    drift = rng.uniform(-0.05, 0.05) * size[1 - axis]
    begin, stop = rng.uniform(0, 0.5), frames - 1 - rng.uniform(0, 0.5)
    still: tuple[Thing, float, float] | None = None
    if rng.random() < 0.3:
        other = some_thing(rng, rgb, min(size) * rng.uniform(0.2, 0.27))
        far = [v for v in (rng.uniform(0.15, 0.85) * size[1 - axis] for _ in range(8))
               if abs(v - across) > 0.55 * (other.side + thing.side) + abs(drift)]  # fmt: skip
        if far and other.name != thing.name:
            along = rng.uniform(0.15, 0.85) * long
            still = (other, along, far[0]) if axis == 0 else (other, far[0], along)

    def where(time: float) -> tuple[float, float]:
        done = ease((time - begin) / (stop - begin))
        along = ends[0] + (ends[1] - ends[0]) * done
        side = min(size[1 - axis] - half, max(half, across + drift * done))
        return (along, side) if axis == 0 else (side, along)

    def draw(time: float) -> Image.Image:
        frame = image.copy()
        if still:
            still[0].stamp(frame, *still[1:])
        thing.stamp(frame, *where(time))
        return frame

    def state(time: float) -> State:
        gone = abs(where(time)[axis] - where(0)[axis]) > 0.1 * long
        return {"direction": gone * (1 + list(STEPS).index(direction))}

    clip = Clip("move", size, length(rng, frames), draw, thing.full, thing.name, back, thing.colour, direction)
    return replace(clip, state=state, start=place_of(*where(0), size), end=place_of(*where(frames - 1), size))


def colours_clip(rng: random.Random, held_out: bool = False) -> Clip:
    """The screen or a thing has two to four colours, one after another; sometimes the thing changes too."""
    image, back, rgb = backdrop(rng)
    size = image.size
    screen = rng.random() < 0.4
    while True:
        names = rng.sample(COLOUR_NAMES, rng.choice([2, 3, 3, 4]))
        shades = [shade(rng, name) for name in names]
        if is_held_out(" ".join(names)) == held_out and (screen or all(contrast(c, rgb) >= 110 for c in shades)):
            break
        if not screen:
            image, back, rgb = canvas_of(rng, size)
    counts = [rng.choice([[1, 2, 3], [1, 1, 2], [1, 1, 1, 2]][len(names) - 2]) for _ in names]
    frames = sum(counts)
    changes = [sum(counts[: n + 1]) - 0.5 + rng.uniform(-0.25, 0.25) for n in range(len(counts) - 1)]
    char, name = rng.choice(EMOJI)
    side = round(min(size) * rng.uniform(0.3, 0.7))
    shape = rng.choice(SHAPES)
    shapes = [rng.choice(SHAPES) for _ in names] if rng.random() < 0.25 else [shape] * len(names)
    x, y = (rng.uniform(side / 2, v - side / 2) for v in size)
    guest = Thing(name, round(min(size) * rng.uniform(0.25, 0.45)), emoji=char) if rng.random() < 0.35 else None

    def draw(time: float) -> Image.Image:
        now = sum(time >= change for change in changes)
        if screen:
            frame = Image.new("RGB", size, shades[now])
            if guest:
                guest.stamp(frame, min(size[0] - guest.side / 2, x), min(size[1] - guest.side / 2, y))
            return frame
        frame = image.copy()
        Thing(shapes[now], side).stamp(frame, x, y, shades[now])
        return frame

    def state(time: float) -> State:
        now = sum(time >= change for change in changes)
        known = [COLOUR_NAMES.index(name) for name in names]
        return {"index": now, "colour": known[now], "before": 1 + known[now - 1] if now else 0}

    what = "screen" if screen else shape if len(set(shapes)) == 1 else "thing"
    clip = Clip("colours", size, length(rng, frames), draw, what, what, "" if screen else back, colours=names)
    return replace(clip, state=state, start=names[0], end=names[-1])


def count_clip(rng: random.Random, held_out: bool = False) -> Clip:
    """Something happens one to five times: a thing appears, vanishes, jumps or turns another colour, or the screen does."""
    image, back, rgb = backdrop(rng)
    size = image.size
    while True:
        thing = some_thing(rng, rgb, min(size) * rng.uniform(0.25, 0.5))
        verb = rng.choice(["blink", "blink", "vanish", "jump", "flash", "turn"])
        times = rng.randint(1, 5) if held_out else rng.choice([1, 2, 3, 3, 4, 4, 4, 5, 5, 5])  # more is harder
        if verb == "flash" or (verb == "turn" and thing.emoji):
            base = rgb if verb == "flash" else shade(rng, "grey")
            colour, tint = ink(rng, base, 110)
            if verb == "turn":
                thing = replace(thing, name=rng.choice(SHAPES), emoji="", colour="grey", rgb=base)
        else:
            colour, tint = ink(rng, rgb, 110)
        if verb == "turn" and (
            colour == thing.colour or contrast(tint, thing.rgb) < 110 or contrast(thing.rgb, rgb) < 70
        ):
            continue
        who = f"{back} {colour}" if verb == "flash" else thing.full
        if is_held_out(f"{who} {verb} {times}") == held_out:
            break
    frames = FRAMES + 1
    while frames > FRAMES:
        peaks = [rng.choice([1, 1, 2])]
        while len(peaks) < times:
            peaks.append(peaks[-1] + rng.choice([2, 2, 2, 2, 3]))
        frames = peaks[-1] + rng.choice([1, 2, 2])
    spans = [(p - 0.5 + rng.uniform(-0.2, 0.2), p + 0.5 + rng.uniform(-0.2, 0.2)) for p in peaks]
    if verb == "jump":
        thing.side = round(min(thing.side, min(size) * 0.36))
    half = thing.side / 2
    x, y = (rng.uniform(half, v - half) for v in size)
    floor = size[1] - half - rng.uniform(0, 0.08) * size[1]
    height = rng.uniform(0.45 * size[1], floor - half)
    guest = rng.random() < 0.4

    def draw(time: float) -> Image.Image:
        now = any(a <= time < b for a, b in spans)
        if verb == "flash":
            frame = Image.new("RGB", size, tint) if now else image.copy()
            if guest and thing.emoji:
                thing.stamp(frame, x, y)
            return frame
        frame = image.copy()
        if verb == "jump":
            up = max(max(0.0, 1 - (2 * (time - peak)) ** 2) for peak in peaks)
            thing.stamp(frame, x, floor - height * up)
        elif verb == "turn":
            thing.stamp(frame, x, y, tint if now else None)
        elif now == (verb == "blink"):
            thing.stamp(frame, x, y)
        return frame

    def state(time: float) -> State:
        return {"on": any(a <= time < b for a, b in spans), "number": sum(a <= time for a, _ in spans)}

    name, short = ("screen", "screen") if verb == "flash" else (thing.full, thing.name)
    own = "" if verb in ("flash", "turn") else thing.colour
    clip = Clip("count", size, length(rng, frames), draw, name, short, "" if verb == "flash" else back, own)
    return replace(clip, state=state, verb=verb, times=times, end=colour if verb in ("flash", "turn") else "")


MAKERS: dict[str, Callable[[random.Random, bool], Clip]] = {
    "move": move_clip,
    "colours": colours_clip,
    "count": count_clip,
}


def some_clip(rng: random.Random, kind: str, held_out: bool = False) -> Clip:
    """A clip of a kind, sometimes with grain."""
    clip = MAKERS[kind](rng, held_out)
    return replace(clip, grain=rng.uniform(2, 7) if rng.random() < 0.25 else 0.0)
