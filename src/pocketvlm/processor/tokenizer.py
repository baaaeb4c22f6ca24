"""The tokenizer of a checkpoint encodes text and keeps control tokens apart from it (docs/model.md 5)."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pocketvlm.errors import CheckpointError, PromptError
from pocketvlm.processor.bpe import Bpe
from pocketvlm.processor.guard import Spellings
from pocketvlm.processor.vocabulary import Vocabulary, load, token_bytes
from pocketvlm.types import TokenizerSource

if TYPE_CHECKING:
    from pocketvlm.backends.backend import CacheLocation

# Names of docs/model.md 5, used where tokenizer_config.json does not say otherwise.
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


class Tokenizer:
    """Text to ids and back for one checkpoint.

    Control tokens ("added tokens" in tokenizer.json, special or not) are only produced where the caller asks for them:
    `encode_template` finds them in trusted text; `encode_plain` never yields one, whatever the text spells. For text
    without such spellings both give the ids of transformers. Safe to share between threads.
    """

    def __init__(
        self, vocabulary: Vocabulary, config: Mapping[str, Any] | None = None, where: str = "tokenizer.json"
    ) -> None:
        """Over a vocabulary; config is tokenizer_config.json.

        Raises CheckpointError, naming the token, when a token that the processor writes is missing, and for tokenizers
        that are not byte-level.
        """
        self.where = where
        self.config = dict(config or {})
        self._vocabulary = vocabulary
        self._bpe = Bpe(vocabulary, where)
        self.control_ids: dict[str, int] = {token.text: token.id for token in vocabulary.added}
        self._skipped = frozenset(token.id for token in vocabulary.added if token.special)
        self._control_bytes = {token.id: token_bytes(token.text) for token in vocabulary.added}
        self.spellings = Spellings(self.control_ids)
        control = set(self.control_ids.values())
        for text in self.spellings.texts:
            if control.intersection(self.encode_plain(text)):
                raise CheckpointError(f"{where}: cannot encode {text!r} as ordinary text: its characters merge to it")
        self.special = self._find_special()

    @classmethod
    def from_files(
        cls,
        source: str | Path | TokenizerSource,
        config: Mapping[str, Any] | None = None,
        cache: CacheLocation | None = None,
    ) -> Tokenizer:
        """Read tokenizer.json by its path, or its content from elsewhere. Raises CheckpointError.

        config: the content of tokenizer_config.json.

        cache: where its vocabulary is cached for the next start, in a form that loads at once (None: nowhere). Cache
        failures become a CacheWarning.
        """
        if not isinstance(source, TokenizerSource):
            source = TokenizerSource.of_file(Path(source))
        return cls(load(source, cache), config, where=source.where)

    def spelling(self, name: str) -> str:
        """Spelling of a named token ("image_token", "eos_token", ...) from the configuration, else docs/model.md 5.

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
        return self._vocabulary.size

    def encode_plain(self, text: str) -> list[int]:
        """Ids of ordinary text; spellings of control tokens become the ids of their characters.

        Raises PromptError for text that has no UTF-8 form (a lone surrogate).
        """
        if not text:
            return []
        try:
            return self._bpe.encode(text)
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
        control = self._control_bytes.get(token_id)
        return self._vocabulary.token(token_id) if control is None else control

    def vocabulary(self, size: int) -> list[bytes]:
        """`token_bytes` of the ids 0 to size - 1."""
        return [self.token_bytes(token_id) for token_id in range(size)]

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
        """The remaining text: U+FFFD if the last character is incomplete, else empty. Resets the detokenizer."""
        return self._decoder.decode(b"", final=True)
