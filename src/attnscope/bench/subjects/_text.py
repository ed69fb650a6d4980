"""Words of real reviews as numbers: a vocabulary of the frequent ones, and texts cut and padded to one size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from attnscope.errors import CaseError
from attnscope.tasks.movie_reviews import reviews_file

PAD, UNKNOWN, FIRST = 0, 1, 2
_RESERVED = 3
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|<br />")


def words_of(text: str) -> list[str]:
    """Words in lower case; of the punctuation, only what carries feeling."""
    return _WORD.findall(text.lower())


def sentences_of(text: str) -> list[list[str]]:
    """The words of each sentence that has any."""
    return [words for part in _SENTENCE_END.split(text) if (words := words_of(part))]


def vocabulary_of(texts: Iterable[Sequence[str]], size: int) -> dict[str, int]:
    """Word -> its number, for the most frequent words; ties go to the one that comes first in the alphabet."""
    counts = Counter(word for words in texts for word in words)
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: size - _RESERVED]
    return {word: _RESERVED + rank for rank, (word, _) in enumerate(ranked)}


def numbered(words: Sequence[str], vocabulary: dict[str, int], length: int, *, first: bool = False) -> list[int]:
    """The words' numbers, cut and padded to `length`; `first` puts a token of its own before them."""
    found = [FIRST] * first + [vocabulary.get(word, UNKNOWN) for word in words]
    return (found + [PAD] * length)[:length]


def sequences(texts: Sequence[Sequence[str]], vocabulary: dict[str, int], length: int) -> Tensor:
    """Texts as rows of numbers that begin with the token `FIRST`."""
    return torch.tensor([numbered(words, vocabulary, length, first=True) for words in texts])


def as_encoder_batch(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """A batch in the form of Hugging Face."""
    return {"input_ids": inputs, "attention_mask": (inputs != PAD).long(), "labels": labels}


def reviews_unavailable() -> str:
    """Empty when the package of the reviews is installed, else what to install."""
    try:
        reviews_file()
    except CaseError as error:
        return str(error)
    return ""
