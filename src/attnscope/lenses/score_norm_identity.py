"""How far a word's embedding is from the norm that its score implies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._free_keys import FreeKeys, free_keys, identity_norm
from attnscope.lenses._parameters import named
from attnscope.lenses._rows import rows
from attnscope.lenses._token_types import Array, Ids, key_tokens, moments, token_types, token_types_at_start
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class ScoreNormIdentity(Lens):
    """How far a word's value norm is from what its score implies, in attention with free keys.

    **Measures** per word whose score s has risen by at least `least` since the start, (||q|| ||v|| - n) / n with
    n = sqrt(2 [s + exp(s) / m] since the start / rate_ratio + start), the identity of Lu et al.; m is the mean
    number of other words in the sentences that hold it (unit 1).

    **Reading it** within 2 % for topic words of synthetic sentences; 4 to 14 % above on real ones, whose words
    are not alike. Far below: scores rise without the embeddings (embeddings frozen, padding shares the
    dynamics). Far above: embeddings grow without the scores (keys frozen: then no score rises and all is NaN).
    Holds for gradient descent with one learning rate; `rate_ratio` is the keys' over the embeddings'.

    **Shapes** [layer, token]; NaN where keys are no free table, and for words that did not rise. Facts:
    `worst`, `median` of the absolute deviations per layer; `n_words`: how many rose.

    **Cost** one forward pass per batch, two when the start is known; shared.

    **Reference** Lu, Mao, Nayak 2021, arXiv:2011.10036, section 3 (the score-norm relationship).
    """

    least: float = 0.1
    rate_ratio: float = 1.0
    most: int = 256

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer", "token")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "weights")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """The deviation of each word."""
        found = [free_keys(probe, index) for index in range(len(probe.anatomy.attentions))]
        types = token_types(probe)
        if types is None or not any(found):
            return self.not_applicable("no attention's keys are a free table of words scored by one query")
        values = np.full((len(found), len(types.ids)), np.nan)
        for index, keys in enumerate(found):
            if keys is not None:
                values[index] = self._deviation(probe, index, keys, types.ids)
        if not np.isfinite(values).any():
            return self.not_applicable(f"no word's score has risen by {self.least:g} since the start")
        where = types.chosen(self.most)
        size = [np.abs(row[np.isfinite(row)]) for row in values]
        return self.reading(
            values[:, where],
            coords={
                "layer": tuple(item.layer for item in probe.anatomy.attentions),
                "token": tuple(int(token) for token in types.ids[where]),
            },
            step=probe.step,
            facts={
                "worst": [float(row.max()) if row.size else None for row in size],
                "median": [float(np.median(row)) if row.size else None for row in size],
                "n_words": [int(row.size) for row in size],
            },
        )

    def _deviation(self, probe: Probe, index: int, keys: FreeKeys, ids: Ids) -> Array:
        now, before = token_types(probe), token_types_at_start(probe)
        assert now is not None
        parameters = named(probe.model)
        scores, query = keys.scores(probe, parameters)[ids], keys.query_norm(probe, parameters)
        start_score, start_norm = np.zeros_like(scores), np.zeros_like(scores)
        if before is not None and probe.start is not None and keys.known_in(probe, probe.start):
            start_score = keys.scores(probe, probe.start)[ids]
            start_norm = before.norms[index] * keys.query_norm(probe, probe.start)
        implied = identity_norm(
            scores, _beside(probe, index, ids), start_score=start_score, start_norm=start_norm,
            rate_ratio=self.rate_ratio,
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            deviation = now.norms[index] * query / implied - 1
        return np.asarray(np.where(scores - start_score >= self.least, deviation, np.nan))


def _beside(probe: Probe, index: int, ids: Ids) -> Array:
    """`[type]`: the mean number of other words in the sentences that hold the type."""
    total, count = np.zeros(len(ids)), np.zeros(len(ids))
    with moments(probe) as each:
        for moment in each:
            tokens = key_tokens(moment, index)
            layer = list(rows(moment))[index]
            if tokens is None:
                continue
            real = layer.allowed[:, 0, 0] if layer.real.keys is None else layer.allowed[:, 0, 0] & layer.real.keys
            for row, kept in zip(tokens.numpy(), real.numpy(), strict=True):
                places = np.searchsorted(ids, np.unique(row[kept & (row >= 0)]))
                total[places] += kept.sum() - 1
                count[places] += 1
    return np.asarray((total / count.clip(min=1)).clip(min=1.0))
