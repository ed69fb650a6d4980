"""Which token types go with which label, measured from the data and honest about small counts.

For a token type in n examples of which k_c have label c, the smoothed share of label c is
(k_c + a b_c) / (n + a), with b_c the label's share of all examples: a type seen once says little. Its *purity*
is how far these shares are from b, in total variation, over the furthest they could be: 0 says nothing about
the label, 1 decides it (with two labels of equal share and a = 0 it is |N+ - N-| / (N+ + N-), as in Lu et al.).

A type is *discriminative* when its likelihood ratio (G) against b is larger than that of any type in 95 % of
the data's permutations with shuffled labels: however many types there are, one in twenty data sets without
any signal shows one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from attnscope.lenses._batch import tensors
from attnscope.lenses._labels import IGNORED, labels_path
from attnscope.lenses._sequence import main_sequence
from attnscope.lenses._token_types import MOST_BATCHES, Array, Ids
from attnscope.probe import Probe

SMOOTHING = 2.0
SHUFFLES, LEVEL = 200, 0.05
MOST_LABELS = 100


@dataclass(frozen=True)
class Association:
    """Per token type, what it says about the label.

    Attributes:
        ids: the types, in order of their ids.
        n: examples that hold it.
        label: the label it speaks for.
        purity: smoothed, 0 to 1.
        chance: mean smoothed purity of the type when labels are shuffled.
        discriminative: associated beyond chance.
        n_examples, n_labels: how many there are.
    """

    ids: Ids
    n: Ids
    label: Ids
    purity: Array
    chance: Array
    discriminative: npt.NDArray[np.bool_]
    n_examples: int
    n_labels: int

    def places(self, ids: Ids) -> Ids:
        """Where these token ids stand; -1 for one that no example holds."""
        place = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.asarray(np.where(self.ids[place] == ids, place, -1))


def example_labels(probe: Probe) -> Ids | None:
    """`[example]` of the first batch: its label; None unless there is one whole number per example."""
    path = labels_path(probe.batch)
    sequence = main_sequence(probe)
    if path is None or sequence is None:
        return None
    labels = tensors(probe.batch)[path].detach().cpu()
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.is_floating_point() and bool((labels == labels.round()).all()):
        labels = labels.long()  # a binary cross-entropy wants its labels as floats
    if labels.ndim != 1 or labels.is_floating_point() or labels.shape[0] != sequence.size:
        return None
    return np.asarray(labels.long().numpy())


def association(probe: Probe, each: Iterator[Probe]) -> Association | str:
    """The association over the batches of `each`, or why there is none."""
    key = "label association"
    if key not in probe.shared:
        probe.shared[key] = _measured(probe, each)
    found: Association | str = probe.shared[key]
    return found


def _measured(probe: Probe, each: Iterator[Probe]) -> Association | str:
    types: list[Ids] = []
    owners: list[Ids] = []
    labels: list[int] = []
    for moment in each:
        sequence, known = main_sequence(moment), example_labels(moment)
        if sequence is None or sequence.use != "tokens":
            return "the batch holds no tokens"
        if known is None:
            return "the batch does not say one label per example"
        ids = sequence.laid_out(sequence.tensor).detach().cpu().long().numpy()
        real = sequence.real.numpy()
        for row, label in enumerate(known):
            if label == IGNORED:
                continue
            present = np.unique(ids[row][real[row]])
            types.append(present[present >= 0])
            owners.append(np.full(len(types[-1]), len(labels), dtype=np.int64))
            labels.append(int(label))
    values, label_of = np.unique(np.array(labels, dtype=np.int64), return_inverse=True)
    n_labels = len(values)
    if n_labels < 2:
        return f"the labels of {min(len(probe.batches), MOST_BATCHES)} batches are all the same"
    if n_labels > MOST_LABELS or 2 * n_labels > len(labels):
        return f"{len(labels)} examples are too few for {n_labels} labels; pass more batches"
    every, places = np.unique(np.concatenate(types), return_inverse=True)
    return _counted(every, places.astype(np.int64), np.concatenate(owners), values, label_of)


def _counted(every: Ids, places: Ids, owners: Ids, values: Ids, label_of: Ids) -> Association:
    n_labels = len(values)
    base = np.bincount(label_of, minlength=n_labels) / len(label_of)
    size = len(every) * n_labels

    def table(labels: Ids) -> Array:
        found = np.bincount(places * n_labels + labels[owners], minlength=size)
        return np.asarray(found.reshape(len(every), n_labels).astype(np.float64))

    counts = table(label_of)
    random = np.random.default_rng(0)
    largest, chance = [], np.zeros(len(every))
    for _ in range(SHUFFLES):
        shuffled = table(random.permutation(label_of))
        largest.append(float(_likelihood_ratio(shuffled, base).max()))
        chance += purity_of(shuffled, base) / SHUFFLES
    bound = float(np.quantile(largest, 1 - LEVEL, method="higher"))
    shares = (counts + SMOOTHING * base) / (counts.sum(1, keepdims=True) + SMOOTHING)
    return Association(
        ids=every, n=counts.sum(1).astype(np.int64), label=values[np.argmax(shares / base, 1)],
        purity=purity_of(counts, base), chance=chance,
        discriminative=_likelihood_ratio(counts, base) > bound,
        n_examples=len(label_of), n_labels=n_labels,
    )


def purity_of(counts: Array, base: Array, smoothing: float = SMOOTHING) -> Array:
    """The smoothed purity of types from their counts `[type, label]`."""
    shares = (counts + smoothing * base) / (counts.sum(1, keepdims=True) + smoothing)
    return np.asarray(0.5 * np.abs(shares - base).sum(1) / (1 - base.min()))


def _likelihood_ratio(counts: Array, base: Array) -> Array:
    """G = 2 sum k log(k / (n b)) per type."""
    expected = counts.sum(1, keepdims=True) * base
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(counts > 0, counts * np.log(counts / expected), 0.0)
    return np.asarray(2 * terms.sum(1))
