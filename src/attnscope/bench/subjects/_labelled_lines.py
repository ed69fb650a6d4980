"""Texts that a folder of the user holds: one a line, its label before it, in latin-1."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import torch

from attnscope.bench.subjects._encoders import N_TOKENS
from attnscope.bench.subjects._tables import Table, split
from attnscope.bench.subjects._text import sequences, vocabulary_of, words_of

FOLDER = "ATTNSCOPE_DATA"


def file_of(name: str) -> Path:
    """Where a file of that name would be."""
    return Path(os.environ.get(FOLDER, "")) / name


def file_unavailable(name: str, what: str) -> str:
    """Empty when the file is there, else what to do."""
    if not os.environ.get(FOLDER):
        return f"{what} is not part of any package; set {FOLDER} to a folder that holds {name}"
    return "" if file_of(name).is_file() else f"{FOLDER} is {os.environ[FOLDER]}, which does not hold {name}"


@cache
def tables(training: Path, testing: Path, n_held_out: int, length: int) -> tuple[Table, Table]:
    """Training and testing: the first lines of the shuffled test file are held out, the words are of the training."""
    held_out, train = _lines(testing)[:n_held_out], _lines(training)
    texts = [words_of(text) for _, text in held_out + train]
    vocabulary = vocabulary_of(texts[n_held_out:], N_TOKENS)
    labels = torch.tensor([label for label, _ in held_out + train])
    return split(sequences(texts, vocabulary, length), labels, n_held_out)


def _lines(path: Path) -> list[tuple[int, str]]:
    rows = [line.split(" ", 1) for line in path.read_text(encoding="latin-1").splitlines() if line.strip()]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    return [(int(rows[place][0]), rows[place][1]) for place in order]
