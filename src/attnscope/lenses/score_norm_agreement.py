"""Whether the tokens whose scores grew are those whose values grew, and what is suggested when not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from attnscope.anatomy.blocks import Attention
from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._parameters import flat, named
from attnscope.lenses._rows import rows
from attnscope.lenses._token_types import Array, TokenTypes, token_types, token_types_at_start
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, Reading

_FEWEST = 8  # types under which a correlation says nothing
_ROUNDING = 1e-6  # a change of scores or norms, relative to the largest, that is no training


@dataclass(frozen=True)
class ScoreNormAgreement(Lens):
    """Whether scores and values grow together: the correlation of their growth over token types.

    **Measures** per attention, the correlation over token types between the growth of the score
    (`token_score`) and the growth of the norm of the value path (`token_value_norm`) since the start of the
    run; between the score and the norm themselves when the start is not known (unit 1). 0 where one of the two
    did not move at all.

    **Reading it** in a model that learns which words decide, score and norm promote each other and the
    correlation is well above zero (above 0.9 in a bag of words, where an identity ties them). Near zero in deep models,
    where scores serve more than one purpose: it is no fault by itself. The facts say what departs exactly:
    `keys frozen`, `embeddings frozen`, `query dead`, `padding attended`.

    **Shapes** [layer]; NaN with fewer than 8 types, or when neither moved. Facts: `since_start`; `n_types`;
    `departures`: list of {layer, what, because}; `top`: per layer, the ten types of largest score as [token,
    score growth, norm growth, count].

    **Cost** one forward pass per batch, two when the start is known; shared.

    **Reference** Lu, Mao, Nayak 2021, arXiv:2011.10036, section 3 (mutual promotion).
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("layer",)
    needs: ClassVar[tuple[str, ...]] = ("pattern", "weights")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """The correlation per attention, and the departures."""
        now, before = token_types(probe), token_types_at_start(probe)
        if now is None:
            return self.not_applicable("no attention's keys are tokens of the batch")
        scores = now.scores if before is None else now.scores - before.scores
        norms = now.norms if before is None else now.norms - before.norms
        layers = [item.layer for item in probe.anatomy.attentions]
        found = [departure for index in range(len(layers)) for departure in _departures(probe, index, now, before)]
        said = "; ".join(f"L{item['layer']}: {item['what']}, {item['because']}" for item in found)
        reading = self.reading(
            [_correlation(*pair) for pair in zip(scores, norms, strict=True)],
            coords={"layer": tuple(layers)}, step=probe.step, note=said,
            facts={
                "since_start": before is not None, "n_types": len(now.ids), "departures": found,
                "top": [_top(now, *pair) for pair in zip(scores, norms, strict=True)],
            },
        )
        if not np.isfinite(reading.values).any():
            why = said or f"nothing has moved since the start, or fewer than {_FEWEST} token types were seen"
            return replace(reading, status=NOT_APPLICABLE, note=why)
        return reading


def _correlation(one: Array, other: Array) -> float:
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < _FEWEST:
        return float("nan")
    still = [_still(values[both]) for values in (one, other)]
    if any(still):
        return float("nan") if all(still) else 0.0
    return float(np.corrcoef(one[both], other[both])[0, 1])


def _still(values: Array) -> bool:
    return float(np.ptp(values)) <= _ROUNDING * max(float(np.abs(values).max()), 1e-12)


def _top(types: TokenTypes, scores: Array, norms: Array) -> list[list[float | int | None]]:
    order = [int(place) for place in np.argsort(-np.nan_to_num(scores, nan=-np.inf))[:10] if np.isfinite(scores[place])]
    return [
        [
            int(types.ids[place]), float(scores[place]),
            float(norms[place]) if np.isfinite(norms[place]) else None, int(types.counts[place]),
        ]
        for place in order
    ]


def _departures(probe: Probe, index: int, now: TokenTypes, before: TokenTypes | None) -> list[dict[str, Any]]:
    """What cannot be otherwise explained: compared with the start bit for bit, or zero, or an identity broken."""
    attention = probe.anatomy.attentions[index]
    found = []
    if before is not None:
        moved = [_moved(*pair, index) for pair in ((now.scores, before.scores), (now.norms, before.norms))]
        found += _frozen(probe, attention, *moved)
    query = _of_role(probe, attention, "query")
    if query is not None and not bool(query.any()):
        found.append(("query dead", "its query is zero, so no key can be preferred"))
    mass = _padding_mass(probe, index)
    if mass > _ROUNDING:
        found.append(("padding attended", f"{mass:.2g} of its attention falls on padding"))
    return [{"layer": attention.layer, "what": what, "because": because} for what, because in found]


def _frozen(probe: Probe, attention: Attention, scores_moved: bool, norms_moved: bool) -> list[tuple[str, str]]:
    same = {role: _unchanged(probe, attention, role) for role in ("key", "query_key", "value", "output")}
    own_keys = [same[role] for role in ("key", "query_key") if same[role] is not None]
    found = []
    if norms_moved and (any(own_keys) or not scores_moved):
        found.append(("keys frozen", "what its tokens bring has changed since the start and its keys have not"))
    own_values = [same[role] for role in ("value", "output") if same[role] is not None]
    if scores_moved and not norms_moved and (not own_values or all(own_values)):
        found.append(("embeddings frozen", "its scores have changed since the start and what its tokens bring has not"))
    return found


def _moved(now: Array, before: Array, index: int) -> bool:
    both = np.isfinite(now[index]) & np.isfinite(before[index])
    apart = np.abs(now[index] - before[index])[both]
    return bool(apart.size) and float(apart.max()) > _ROUNDING * max(float(np.abs(now[index])[both].max()), 1e-30)


def _of_role(probe: Probe, attention: Attention, role: str) -> torch.Tensor | None:
    name = attention.blocks.get(role)
    return None if name is None else flat(named(probe.model), probe.anatomy.block(name))


def _unchanged(probe: Probe, attention: Attention, role: str) -> bool | None:
    """Whether the block of that role is as at the start, bit for bit; None when there is none, or it is unknown."""
    name = attention.blocks.get(role)
    if name is None or probe.start is None:
        return None
    block = probe.anatomy.block(name)
    if any(piece.parameter not in probe.start for piece in block.slices):
        return None
    return bool(torch.equal(flat(named(probe.model), block), flat(probe.start, block)))


def _padding_mass(probe: Probe, index: int) -> float:
    """The mean weight of real queries on padding, in the first batch."""
    layer = list(rows(probe))[index]
    real = layer.real.keys
    if real is None or bool(real.all()) or not bool(layer.counts.any()):
        return 0.0
    mixed = (~real.all(-1) & real.any(-1))[:, None, None] & layer.counts
    if not bool(mixed.any()):
        return 0.0
    mass = torch.where(~real[:, None, None, :], layer.pattern, torch.zeros_like(layer.pattern)).sum(-1)
    return float(mass[mixed].mean())
