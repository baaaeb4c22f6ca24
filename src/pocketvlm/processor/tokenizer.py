"""The byte-level BPE tokenizer of a checkpoint, with control tokens kept apart from ordinary text (facts 5)."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import CheckpointError, PromptError
from pocketvlm.processor.guard import Spellings

if TYPE_CHECKING:
    import tokenizers

# Names of facts 5, used where tokenizer_config.json does not say otherwise.
_SPELLINGS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids of the tokens that the processor writes itself; `image` and `video` are the placeholders."""

    image: int
    video: int | None
    image_start: int
    image_end: int
    slice_start: int
    slice_end: int
    image_id_start: int
    image_id_end: int


def _byte_alphabet() -> dict[str, int]:
    """Character of the byte-level alphabet to byte: printable bytes stand for themselves, the rest from U+0100 on."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in plain}
    rest = [byte for byte in range(256) if byte not in set(plain)]
    table.update({chr(256 + index): byte for index, byte in enumerate(rest)})
    return table


class Tokenizer:
    """Text to ids and back for one checkpoint.

    Control tokens ("added tokens" in tokenizer.json, special or not) are only produced where the caller asks for them:
    `encode_template` finds them in trusted text; `encode_plain` never yields one, whatever the text spells. For text
    without such spellings both give the ids of transformers. Safe to share between threads.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any] | None = None, where: str = "tokenizer.json"
    ) -> None:
        """Take over a freshly loaded `tokenizers.Tokenizer` (it is changed); config is tokenizer_config.json.

        Raises CheckpointError, naming the token, when a token that the processor writes is missing, and for tokenizers
        that are not byte-level.
        """
        from tokenizers import AddedToken
        from tokenizers.decoders import ByteLevel

        self.where = where
        self.config = dict(config or {})
        if not isinstance(backend.decoder, ByteLevel):
            kind = type(backend.decoder).__name__
            raise CheckpointError(f"{where}: decoder {kind} is not supported: pocketvlm reads byte-level BPE only")
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        added = backend.get_added_tokens_decoder()
        for token in added.values():
            if token.lstrip or token.rstrip or token.single_word:
                raise CheckpointError(
                    f"{where}: token {token.content!r} uses lstrip, rstrip or single_word, which is not supported"
                )
        self.control_ids: dict[str, int] = {token.content: id_ for id_, token in sorted(added.items())}
        self._skipped = frozenset(id_ for id_, token in added.items() if token.special)
        # From here on the library treats every added token as text: it skips those it knows as special, so all of them
        # are made special. Splitting at control tokens is done here, where we know who wrote the text.
        backend.add_special_tokens(
            [AddedToken(text, special=True, normalized=False) for text in self.control_ids if text]
        )
        backend.encode_special_tokens = True
        self.spellings = Spellings(self.control_ids)
        self._bytes_of_char = _byte_alphabet()
        self._bytes: dict[int, bytes] = {}
        control = set(self.control_ids.values())
        for text in self.spellings.texts:
            if control.intersection(self.encode_plain(text)):
                raise CheckpointError(
                    f"{where}: cannot encode {text!r} as ordinary text; update the tokenizers package"
                )
        self.special = self._find_special()

    @classmethod
    def from_files(cls, path: str | Path, config: Mapping[str, Any] | None = None) -> Tokenizer:
        """Read tokenizer.json; config is the content of tokenizer_config.json. Raises CheckpointError."""
        import tokenizers

        if not Path(path).is_file():
            raise CheckpointError(f"{path}: no such file; a checkpoint needs its tokenizer.json")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{path}: not a tokenizer: {error}") from error
        return cls(backend, config, where=str(path))

    def spelling(self, name: str) -> str:
        """Spelling of a named token ("image_token", "eos_token", ...) from the configuration, else facts 5.

        Raises CheckpointError when neither names one.
        """
        extra = self.config.get("extra_special_tokens")
        named = extra.get(name) if isinstance(extra, Mapping) else None
        value = named if named is not None else self.config.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if value is None:
            value = _SPELLINGS.get(name)
        if not isinstance(value, str):
            raise CheckpointError(f"{self.where}: tokenizer_config.json names no {name}")
        return value

    def token_id(self, text: str) -> int:
        """Id of a control token by its spelling. Raises CheckpointError naming the token."""
        if text not in self.control_ids:
            raise CheckpointError(f"{self.where}: token {text!r} is missing from the added tokens")
        return self.control_ids[text]

    def _find_special(self) -> SpecialTokens:
        ids = {
            name.removesuffix("_token"): self.token_id(self.spelling(name))
            for name in _SPELLINGS
            if name != "video_token"
        }
        return SpecialTokens(video=self.control_ids.get(self.spelling("video_token")), **ids)

    @property
    def vocab_size(self) -> int:
        """Number of ids that have a token."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode_plain(self, text: str) -> list[int]:
        """Ids of ordinary text; spellings of control tokens become the ids of their characters.

        Raises PromptError for text that has no UTF-8 form (a lone surrogate).
        """
        if not text:
            return []
        try:
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeError):
            at = next((i for i, char in enumerate(text) if 0xD800 <= ord(char) < 0xE000), None)
            if at is None:
                raise
            raise PromptError(f"text holds a lone surrogate U+{ord(text[at]):04X}, which has no UTF-8 form") from None

    def encode_template(self, text: str) -> list[int]:
        """Ids of trusted text: spellings of control tokens become those tokens."""
        ids: list[int] = []
        position = 0
        for match in self.spellings.pattern.finditer(text):
            ids += self.encode_plain(text[position : match.start()])
            ids.append(self.control_ids[match.group()])
            position = match.end()
        return ids + self.encode_plain(text[position:])

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes that a token stands for; empty for an id without a token."""
        known = self._bytes.get(token_id)
        if known is None:
            token = self._backend.id_to_token(token_id) if token_id >= 0 else None
            known = self._bytes[token_id] = self._spelled(token or "")
        return known

    def _spelled(self, token: str) -> bytes:
        try:
            return bytes([self._bytes_of_char[char] for char in token])
        except KeyError:  # an added token with characters outside the alphabet stands for itself
            return token.encode()

    def vocabulary(self, size: int) -> list[bytes]:
        """`token_bytes` of the ids 0 to size - 1, in a list that is not kept here."""
        words = [b""] * size
        for token, token_id in self._backend.get_vocab(with_added_tokens=True).items():
            if token_id < size:
                words[token_id] = self._spelled(token)
        return words

    def is_skipped(self, token_id: int) -> bool:
        """Whether decoding leaves this id out by default (it is flagged special in tokenizer.json)."""
        return token_id in self._skipped

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD. Equals transformers' decode without clean-up."""
        detokenizer = Detokenizer(self, skip_special_tokens)
        return "".join([detokenizer.add(int(token_id)) for token_id in ids]) + detokenizer.flush()


class Detokenizer:
    """Ids to text, one at a time: `add` returns the text that is final, never half a character.

    The concatenation of all returned pieces and `flush()` equals `Tokenizer.decode` of all ids. Each call costs the
    bytes of one token.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        """Start with nothing decoded."""
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        """Text that became final with this token, possibly empty."""
        if self._skip and self._tokenizer.is_skipped(token_id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """The rest: U+FFFD if the last character is incomplete, else empty. Ready for new text afterwards."""
        return self._decoder.decode(b"", final=True)
