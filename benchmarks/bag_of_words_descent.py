"""Epochs a second: the closed algebra of `Descent` against a straightforward PyTorch loop, same run, same numbers.

Run: python benchmarks/bag_of_words_descent.py [--data FOLDER_OF_STSA_FILES]
Without the files of SST-2 it takes the movie reviews of an installed package, padded to the same 52 words.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from attnscope.models.bag_of_words_attention import BagOfWordsAttention
from attnscope.models.bag_of_words_descent import Descent
from attnscope.tasks.movie_reviews import MovieReviews
from attnscope.tasks.stanford_sentiment import StanfordSentiment
from attnscope.tasks.word_bags import WordBags, bags, words

WIDTH = {"FC": 200, "TC": 100}


def sentences(data: Path | None) -> tuple[str, WordBags]:
    if data is not None:
        return "SST-2", bags(StanfordSentiment(data).splits(), pad_to=52)[0]
    rows, _ = MovieReviews().read()
    return "movie reviews", bags([[(text, label) for text, label in rows if 0 < len(words(text)) <= 52]], pad_to=52)[0]


def torch_epoch(bag: WordBags, head: str) -> Callable[[], float]:
    """What one would write first: an embedding look-up, a softmax, autograd, torch's SGD."""
    model = BagOfWordsAttention(len(bag.vocabulary), bag.n_classes, head, d_embedding=WIDTH[head])
    rows = [
        np.repeat(bag.counts.indices[a:b], bag.counts.data[a:b].astype(int))
        for a, b in zip(bag.counts.indptr, bag.counts.indptr[1:], strict=False)
    ]
    tokens, labels = torch.tensor(np.stack(rows)), torch.tensor(bag.labels)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def epoch() -> float:
        loss = torch.nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return epoch


def fast_epoch(bag: WordBags, head: str) -> Callable[[], float]:
    model = BagOfWordsAttention(len(bag.vocabulary), bag.n_classes, head, d_embedding=WIDTH[head])
    return Descent(model, bag.counts, bag.labels, from_zero=True).step


def median_seconds(epoch: Callable[[], float], repeats: int) -> float:
    epoch()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        epoch()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    name, bag = sentences(options.data)
    rows = []
    for head in WIDTH:
        slow, fast = median_seconds(torch_epoch(bag, head), 5), median_seconds(fast_epoch(bag, head), 50)
        rows.append(
            {
                "data": name,
                "head": head,
                "torch_epochs_per_second": 1 / slow,
                "descent_epochs_per_second": 1 / fast,
                "ratio": slow / fast,
            }
        )
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{name}: {bag.counts.shape[0]} sentences, {len(bag.vocabulary)} words, {torch.get_num_threads()} threads")
    for row in rows:
        print(
            f"{row['head']}: torch {row['torch_epochs_per_second']:.2f} epochs/s, closed algebra "
            f"{row['descent_epochs_per_second']:.0f} epochs/s, {row['ratio']:.0f} times faster"
        )


if __name__ == "__main__":
    main()
