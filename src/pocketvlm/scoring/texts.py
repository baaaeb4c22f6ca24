"""Metrics of texts: exact match, containment, and the average normalized Levenshtein similarity (ANLS)."""

from __future__ import annotations

import unicodedata

import numpy as np

ANLS_THRESHOLD = 0.5
_FULL_STOPS = (".", "。", "．", "｡")
# Letters of scripts that put no blank between words: there a word may begin after any character.
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x9FFF),  # Chinese, Japanese
    (0xA960, 0xABFF),
    (0xAC00, 0xD7FF),  # Korean puts particles after words without a blank
    (0xF900, 0xFAFF),
    (0xFF66, 0xFFDC),
    (0x1B000, 0x1B16F),
    (0x20000, 0x3FFFF),
)


def normalized(text: str) -> str:
    """The text in NFC, case folded, with single blanks, none at its ends, and without one full stop at its end."""
    folded = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    return folded[:-1].rstrip() if folded.endswith(_FULL_STOPS) else folded


def exact(answer: str, reference: str) -> float:
    """1 if both texts are the same once normalized."""
    return float(normalized(answer) == normalized(reference))


def contains(answer: str, reference: str) -> float:
    """1 if the reference stands in the answer as whole words, both normalized: "red" is not in "covered"."""
    text, wanted = normalized(answer), normalized(reference)
    start = text.find(wanted) if wanted else -1
    while start >= 0:
        end = start + len(wanted)
        if not _joined(text, start) and not _joined(text, end):
            return 1.0
        start = text.find(wanted, start + 1)
    return 0.0


def anls(answer: str, reference: str) -> float:
    """1 - NL if NL < 0.5, else 0. NL: edits over the longer text's characters (Biten et al. 2019, ICCV, equation 1).

    As the challenges on DocVQA do it (Mathew et al. 2021), case does not count, and runs of blanks are one blank.
    """
    first, second = (" ".join(text.lower().split()) for text in (answer, reference))
    longest = max(len(first), len(second))
    if longest == 0:
        return 1.0
    if abs(len(first) - len(second)) >= ANLS_THRESHOLD * longest:
        return 0.0
    distance = levenshtein(first, second) / longest
    return 1.0 - distance if distance < ANLS_THRESHOLD else 0.0


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions of characters that make one text the other (Levenshtein 1966)."""
    short, long = sorted((first, second), key=len)
    letters = np.array([ord(letter) for letter in long], np.int64)
    index = np.arange(len(long) + 1)
    row = index.copy()
    for number, letter in enumerate(short, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (letters != ord(letter)))
        # Insertions run along the row: the minimum over all starts, each as many edits away as characters.
        row = np.minimum.accumulate(np.concatenate(([number], best)) - index) + index
    return int(row[-1])


def _joined(text: str, index: int) -> bool:
    """Whether the characters on both sides of an index belong to one word."""
    return 0 < index < len(text) and _in_word(text[index - 1]) and _in_word(text[index])


def _in_word(letter: str) -> bool:
    code = ord(letter)
    return letter.isalnum() and not any(low <= code <= high for low, high in _UNSPACED)
