"""How much the most attended tokens say about the label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._label_association import Association, association, example_labels
from attnscope.lenses._labels import IGNORED
from attnscope.lenses._per_head import heads_reading
from attnscope.lenses._rows import Rows, rows
from attnscope.lenses._token_types import Ids, key_tokens, moments, single_batches
from attnscope.probe import Probe
from attnscope.readings import Reading

_SHORTCUT, _FEWEST = 0.8, 8  # share of a label's examples that attend to one token most, and examples needed


@dataclass(frozen=True)
class AttendedPurity(Lens):
    """How one-sided the labels are of the examples that hold the tokens which are attended to most.

    **Measures** per head, for the real token of each example with the largest attention (mean over real
    queries), the smoothed purity of its type: the total variation between the labels of the examples that hold
    it and all labels, over the largest possible; the mean over examples (unit 1; a type seen once counts as a
    third of pure).

    **Reading it** rises while a classifier learns where to look: early on frequent tokens that say little are
    attended to, later rarer and purer ones. Compare with `uniform`, the mean over all tokens, and `chance`,
    the same tokens under shuffled labels: what is not above `chance` is rarity, not knowledge. One token that
    is the most attended in over 80 % of a label's examples is named in the note: a shortcut, unless it is the
    topic.

    **Shapes** [layer, head]; NaN where keys are not tokens. Facts: `uniform` per layer; `chance`, `frequency`
    (mean number of examples that hold the token) [layer][head]; `words` per layer: the tokens most often on
    top, over all heads, as [token, share, purity, examples]; `shortcuts`: list of {layer, head, token, label,
    share}; `n_examples`.

    **Cost** one forward pass per batch, of the first 32; 200 shuffles of the labels, counted.

    **Reference** Lu, Mao, Nayak 2021, arXiv:2011.10036, section 5 (topic purity of the most attended words).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "loss")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """The purity per head."""
        known = association(probe, single_batches(probe))
        if isinstance(known, str):
            return self.not_applicable(known)
        layers = [_Attended(known) for _ in probe.anatomy.attentions]
        with moments(probe) as each:
            for moment in each:
                labels = example_labels(moment)
                for index, layer in enumerate(rows(moment)):
                    ids = key_tokens(moment, index)
                    if ids is not None and labels is not None:
                        layers[index].add(layer, ids, labels)
        tops = [layer.joined() for layer in layers]
        numbers = [item.layer for item in probe.anatomy.attentions]
        shortcuts = [
            item for number, layer, top in zip(numbers, layers, tops, strict=True) if top is not None
            for item in _shortcuts(number, top, np.concatenate(layer.labels), known)
        ]
        return heads_reading(
            self, probe, [layer.mean_purity() for layer in layers],
            why_none="no attention's keys are tokens of the batch", note="; ".join(map(_said, shortcuts[:3])),
            facts={
                "uniform": [layer.purity / layer.n_tokens if layer.n_tokens else None for layer in layers],
                "chance": [None if top is None else known.chance[top].mean(1).tolist() for top in tops],
                "frequency": [None if top is None else known.n[top].mean(1).tolist() for top in tops],
                "words": [None if top is None else _words(top, known) for top in tops],
                "shortcuts": shortcuts, "n_examples": known.n_examples,
            },
        )


@dataclass
class _Attended:
    """One attention over the batches: places in the association of the most attended tokens, and labels."""

    known: Association
    tops: list[Ids] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    labels: list[Ids] = field(default_factory=list)
    purity: float = 0.0
    n_tokens: int = 0

    def add(self, layer: Rows, ids: Tensor, labels: Ids) -> None:
        """The most attended token of each row; where several tie (a uniform pattern), the mean of their purities."""
        known = self.known
        place = torch.from_numpy(known.places(ids.numpy()))
        usable = (place >= 0) if layer.real.keys is None else (place >= 0) & layer.real.keys
        per_row = np.repeat(labels, ids.shape[0] // len(labels)) if len(labels) else labels
        kept = usable.any(-1) & layer.counts.any(-1).any(-1)
        if len(per_row) != ids.shape[0]:
            return
        kept &= torch.from_numpy(per_row != IGNORED)
        received = torch.where(layer.counts[..., None], layer.pattern, torch.zeros_like(layer.pattern)).sum(2)
        received = received.masked_fill(~usable[:, None, :], -1.0)
        tied = received == received.amax(-1, keepdim=True)
        purity = torch.from_numpy(known.purity)[place.clamp(min=0)][:, None, :]
        self.values.append(((tied * purity).sum(-1) / tied.sum(-1))[kept])
        top = place[:, None, :].expand(received.shape).gather(-1, received.argmax(-1, keepdim=True))[..., 0]
        self.tops.append(top[kept].T.numpy())
        self.labels.append(per_row[kept.numpy()])
        self.purity += float(known.purity[place[usable].numpy()].sum())
        self.n_tokens += int(usable.sum())

    def mean_purity(self) -> Tensor | None:
        """`[head]`."""
        return torch.cat(self.values).mean(0) if any(len(part) for part in self.values) else None

    def joined(self) -> Ids | None:
        """`[head, example]`, or None when nothing was seen."""
        return np.concatenate(self.tops, 1) if self.tops and sum(top.shape[1] for top in self.tops) else None


def _words(top: Ids, known: Association) -> list[list[float | int]]:
    places, counts = np.unique(top, return_counts=True)
    found = [(int(places[i]), float(counts[i] / top.size)) for i in np.argsort(-counts, kind="stable")[:10]]
    return [[int(known.ids[place]), share, float(known.purity[place]), int(known.n[place])] for place, share in found]


def _shortcuts(layer: int, top: Ids, labels: Ids, known: Association) -> list[dict[str, Any]]:
    """Tokens that go with one label and are the most attended in nearly all of its examples."""
    found = []
    for head, places in enumerate(top):
        for label in np.unique(labels):
            mine = places[labels == label]
            place, count = max(zip(*np.unique(mine, return_counts=True), strict=True), key=lambda item: int(item[1]))
            if len(mine) >= _FEWEST and count >= _SHORTCUT * len(mine) and known.discriminative[place]:
                found.append({
                    "layer": layer, "head": head, "token": int(known.ids[place]), "label": int(label),
                    "share": float(count / len(mine)),
                })
    return found


def _said(shortcut: dict[str, Any]) -> str:
    return (
        f"token {shortcut['token']} is what L{shortcut['layer']}H{shortcut['head']} attends to most in "
        f"{100 * shortcut['share']:.0f} % of the examples of label {shortcut['label']}: "
        "a shortcut, unless it is the topic"
    )
