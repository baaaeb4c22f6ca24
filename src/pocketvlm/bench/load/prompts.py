"""Prompts for load tests are random words of a known token count, and random pictures."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from dataclasses import dataclass
from typing import Any, Literal

Endpoint = Literal["chat", "completions"]

# Short and common words, which are one token each in most tokenizers, so that lengths are met closely.
_WORDS = (
    "the and for are but not you all any can had her was one our out day get has him his how man new now old see two "
    "way who boy did its let put say she too use dad mom act add age ago air arm art ask bad bag bar bed big bit box "
    "bus buy car cat cow cry cup cut dog dry ear eat egg end eye far fat few fly fun gas god gun guy hat hit hot ice "
    "job key kid law lay leg lie lot low map may men met mix net nor oil own pay per pin pot red rich run sea set sit "
    "six sky son sun tax tea ten tie top toy try war wet win yes yet back ball band base bear bird blue body book born "
    "call came camp card care case city club coal cold come cook cool corn dark date dead deal deep door down draw "
    "each east edge else even ever face fact fall farm fast feel feet fell felt file fill find fine fire fish five "
    "food foot form four free full game gave girl give glad gold gone good gray grew grow half hall hand hang hard head"
).split()
_TILE = 8  # side in pixels of the squares in random images


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of prompts. Lengths in tokens; spread: the largest deviation of a length, as a fraction of it."""

    input_len: int = 128
    output_len: int = 128
    spread: float = 0.0
    prefix_len: int = 0
    images: int = 0
    width: int = 448
    height: int = 448


@dataclass(frozen=True, slots=True)
class Cost:
    """The token costs of a server: tokens of a word, and of everything around the words."""

    word: float = 1.3
    around: float = 0.0

    @classmethod
    def of(cls, few: tuple[int, int], many: tuple[int, int]) -> Cost:
        """The cost that explains two prompts, each given as (words, tokens)."""
        word = (many[1] - few[1]) / (many[0] - few[0])
        return cls(max(word, 0.05), few[1] - word * few[0])

    def words(self, tokens: int) -> int:
        """The number of words for so many tokens, at least one."""
        return max(1, round(tokens / self.word))


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: its JSON and its intended token counts. input_len excludes template and images."""

    body: dict[str, Any]
    input_len: int
    output_len: int

    def encode(self) -> bytes:
        """The body as it is sent."""
        return json.dumps(self.body, separators=(",", ":")).encode()


class Prompts:
    """Makes requests; the same seed makes the same."""

    def __init__(self, endpoint: Endpoint, fields: dict[str, Any], seed: int) -> None:
        """fields: of every request, such as the model."""
        self.ask_usage = True  # whether to request the usage; some servers refuse the field but state the usage anyway
        self._endpoint = endpoint
        self._fields = fields
        self._random = random.Random(seed)
        self._prefix = random.Random(seed ^ 0x5F3759DF)
        self._shared: list[str] = []

    def words(self, count: int) -> str:
        """So many random words."""
        return " ".join(self._random.choices(_WORDS, k=count))

    def prefix(self, count: int) -> str:
        """The first words of every prompt that has a prefix."""
        while len(self._shared) < count:
            self._shared.append(self._prefix.choice(_WORDS))
        return " ".join(self._shared[:count])

    def length(self, tokens: int, spread: float) -> int:
        """A length around `tokens`."""
        return self._random.randint(max(1, round(tokens * (1 - spread))), max(1, round(tokens * (1 + spread))))

    def asked(self, sizes: Sizes, cost: Cost) -> Asked:
        """The next request of these sizes."""
        wanted, output = self.length(sizes.input_len, sizes.spread), self.length(sizes.output_len, sizes.spread)
        text = self.words(cost.words(wanted))
        if sizes.prefix_len:
            text = f"{self.prefix(cost.words(sizes.prefix_len))} {text}"
        images = [self.image(sizes.width, sizes.height) for _ in range(sizes.images)]
        return Asked(self.body(text, output, images), sizes.prefix_len + wanted, output)

    def body(self, text: str, output: int, images: list[str] | None = None) -> dict[str, Any]:
        """A request with this text after images given as data URIs."""
        common = {**self._fields, "max_tokens": output, "stream": True}
        if self.ask_usage:
            common["stream_options"] = {"include_usage": True}
        if self._endpoint == "completions":
            return {**common, "prompt": text}
        content: Any = text
        if images:
            content = [{"type": "image_url", "image_url": {"url": url}} for url in images]
            content.append({"type": "text", "text": text})
        return {**common, "messages": [{"role": "user", "content": content}]}

    def image(self, width: int, height: int) -> str:
        """A random image as a data URI: squares of random colours, which are cheap to send and to decode."""
        across, down = -(-width // _TILE), -(-height // _TILE)
        rows = bytearray()
        for row in range(down):
            colours = self._random.randbytes(3 * across)
            line = b"".join(colours[i : i + 3] * _TILE for i in range(0, 3 * across, 3))[: 3 * width]
            rows += (b"\0" + line) * min(_TILE, height - row * _TILE)
        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        parts = _part(b"IHDR", head) + _part(b"IDAT", zlib.compress(bytes(rows), 6)) + _part(b"IEND", b"")
        return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _part(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
