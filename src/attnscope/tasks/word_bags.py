"""Sentences as bags of words: a vocabulary, a sparse matrix of counts, and labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse

from attnscope.errors import CaseError

PADDING = "$PAD$"
_NOT_A_WORD = re.compile(r"[^\w\s]")


def words(text: str) -> list[str]:
    """The tokenisation of Lu et al.: drop every character that is neither word nor blank, split on blanks."""
    return _NOT_A_WORD.sub("", text).split()


@dataclass(frozen=True)
class WordBags:
    """Sentences of one split over a shared vocabulary.

    Attributes:
        counts: `[sentence, word]`, how often each word occurs (sparse).
        labels: `[sentence]`, class indices.
        vocabulary: the words, in the order of the columns.
    """

    counts: sparse.csr_matrix
    labels: npt.NDArray[np.int64]
    vocabulary: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        """One more than the largest label."""
        return int(self.labels.max()) + 1

    def column(self, word: str) -> int:
        """The column of a word.

        Raises:
            CaseError: the word does not occur in the vocabulary.
        """
        try:
            return self.vocabulary.index(word)
        except ValueError:
            raise CaseError(f"the word {word!r} is never seen: it is not among {len(self.vocabulary)} words") from None


def bags(splits: Sequence[Sequence[tuple[str, int]]], *, pad_to: int | None = None) -> tuple[WordBags, ...]:
    """One `WordBags` per split, over the vocabulary of all of them.

    Args:
        splits: (text, label) pairs of each split; the first is for training.
        pad_to: pad each sentence to this length with one further word, `$PAD$` (as Lu et al. do); None
            leaves padding out.

    Raises:
        CaseError: no sentences, a sentence without words, one class only, a label that training never shows,
            or a sentence beyond `pad_to`.
    """
    if not splits or not splits[0]:
        raise CaseError("there are no training sentences")
    tokens = [[words(text) for text, _ in split] for split in splits]
    for part, split in zip(tokens, splits, strict=True):
        for index, sentence in enumerate(part):
            if not sentence:
                raise CaseError(f"sentence {index} has no words: {split[index][0]!r}; leave it out")
    known = {label for _, label in splits[0]}
    if len(known) < 2:
        raise CaseError("the training sentences have one class only; attention has nothing to tell apart")
    for split in splits[1:]:
        for text, label in split:
            if label not in known:
                raise CaseError(
                    f"label {label} of {text[:40]!r} is none of the training sentences' labels "
                    f"({', '.join(map(str, sorted(known)))})"
                )
    vocabulary = tuple(dict.fromkeys(word for part in tokens for sentence in part for word in sentence))
    if pad_to is not None:
        longest = max(len(sentence) for part in tokens for sentence in part)
        if longest > pad_to:
            raise CaseError(f"a sentence has {longest} words, more than pad_to={pad_to}")
        vocabulary = (*vocabulary, PADDING)
    column = {word: index for index, word in enumerate(vocabulary)}
    return tuple(
        WordBags(_counts(part, column, pad_to), np.array([label for _, label in split], dtype=np.int64), vocabulary)
        for part, split in zip(tokens, splits, strict=True)
    )


def _counts(sentences: list[list[str]], column: dict[str, int], pad_to: int | None) -> sparse.csr_matrix:
    rows, columns, values = [], [], []
    for row, sentence in enumerate(sentences):
        rows += [row] * len(sentence)
        columns += [column[word] for word in sentence]
        values += [1.0] * len(sentence)
        if pad_to is not None and len(sentence) < pad_to:
            rows.append(row)
            columns.append(column[PADDING])
            values.append(float(pad_to - len(sentence)))
    # Duplicate entries of a word in a sentence are summed by the conversion.
    return sparse.coo_matrix((values, (rows, columns)), shape=(len(sentences), len(column))).tocsr()
