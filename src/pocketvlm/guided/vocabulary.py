"""The tokenizer is converted for the grammar library: the bytes of each id, with control tokens apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketvlm.errors import OptionError

if TYPE_CHECKING:
    from llguidance import LLTokenizer

    from pocketvlm.processor.tokenizer import Tokenizer


def require_library() -> None:
    """Raise OptionError where llguidance is not installed."""
    try:
        import llguidance  # noqa: F401
    except ImportError:
        raise OptionError(
            'guided output needs llguidance, which is not installed: pip install "pocketvlm[serve]"'
        ) from None


class _Words:
    """The tokenizer interface of the library. Control tokens never match text, only grammars that name them."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end_ids: Sequence[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self.eos_token_id = end_ids[0]
        self.special_token_ids = sorted({*tokenizer.control_ids.values(), *end_ids})
        # Ids without a token get no bytes, so that the library never allows them.
        self.tokens = tokenizer.vocabulary(vocab_size)
        self.greedy: LLTokenizer | None = None

    def __call__(self, text: str) -> list[int]:
        """The ids of a text that the grammar forces: those of the model's own tokenizer, if they keep its bytes."""
        ids = self._tokenizer.encode_plain(text)
        if b"".join([self._tokenizer.token_bytes(token_id) for token_id in ids]) == text.encode():
            return ids
        assert self.greedy is not None  # the tokenizer normalised the text (NFC)
        return list(self.greedy.greedy_tokenize(text))


def build(tokenizer: Tokenizer, end_ids: Sequence[int], vocab_size: int) -> LLTokenizer:
    """The library's tokenizer for `vocab_size` ids, of which `end_ids` end an answer. Half a second for 248 000 ids.

    Raises OptionError without the library, without an end id, or with more tokens than ids.
    """
    require_library()
    from llguidance import LLTokenizer

    if not end_ids or not all(0 <= token_id < vocab_size for token_id in end_ids):
        raise OptionError(f"guided output needs ids below {vocab_size} that end an answer, not {list(end_ids)}")
    if tokenizer.vocab_size > vocab_size:
        raise OptionError(f"the tokenizer has {tokenizer.vocab_size} ids, the model only {vocab_size}")
    words = _Words(tokenizer, end_ids, vocab_size)
    built = LLTokenizer(words, eos_token=list(end_ids))  # type: ignore[arg-type]
    words.greedy = built
    words.tokens = []
    return built
