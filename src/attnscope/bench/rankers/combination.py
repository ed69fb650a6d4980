"""Findings and all families of readings together, weighed as training folds taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from attnscope.bench.learned import FAMILIES, FINDING, SITE, Learned
from attnscope.bench.places import coarse
from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._families import UsualFamilies
from attnscope.bench.rankers._findings import first_kind, graver, ordered
from attnscope.bench.row import Named, Row


@dataclass
class Combination(Ranker):
    """Findings first, then the places whose readings are odd in families that training folds taught to trust.

    **Suspicion**: the stated confidence of the surest finding and, family by family, the mean oddness of the
    three oddest blocks beside that of healthy runs, weighed as learnt.

    **Places**: the calibrated confidence of the place's finding (halved for each finding before it), plus
    ln(1 + distance from healthy runs, beyond what all places share) of each family of readings, weighed as
    learnt. Unlearnt, findings come first. Only readings that no rescaling of the same function changes are asked.

    **Reference**: McFadden 1974 (the conditional logit that the weights are learnt with).
    """

    family: ClassVar[str] = "combination"
    lenses: ClassVar[tuple[str, ...]] = (
        "diagnosis", "gradient_norm", "gradient_variance", "update_to_weight", "activation_norm", "block_ablation",
        "relative_curvature", "negative_share", "preconditioned_top_eigenvalue", "coupling", "entropy",
        "largest_score", "head_contribution",
    )  # fmt: skip
    learned: Learned = field(default_factory=Learned)
    usual: UsualFamilies | None = field(default=None, repr=False)

    def fit(self, bank: Sequence[Row]) -> None:
        """Median and spread of every family, per place."""
        self.usual = UsualFamilies.of(bank)

    def suspicion(self, row: Row) -> float:
        """The log-odds, as learnt, that something is wrong."""
        weights = np.array([self.learned.detection[name] for name in (FINDING, *FAMILIES, "intercept")])
        return float(weights @ np.array([*self.evidence(row), 1.0]))

    def evidence(self, row: Row) -> tuple[float, ...]:
        """The confidence of the surest finding as stated, and how odd the oddest blocks are, family by family.

        As stated: a finding of the wrong kind says that something is wrong all the same.
        """
        surest = max((finding.confidence for finding in graver(row.findings)), default=0.0)
        return surest, *self._usual.peaks(row).tolist()

    def order(self, row: Row) -> Mapping[str, float]:
        """The weighed score of each block, site and head."""
        places, features = self._usual.features(row)
        scores = dict(zip(places, (features @ self._weights()).tolist(), strict=True))
        for place, confidence in self.named(row).items():
            scores[place] = scores.get(place, 0.0) + self.learned.places.get(FINDING, 0.0) * confidence
        return scores

    def kind(self, row: Row) -> str:
        """The first finding's."""
        found = graver(row.findings)
        return first_kind(found, self._confidences(found))

    def named(self, row: Row) -> dict[str, float]:
        """Place -> what findings say of it: under the name that the row has for it, and as it was said."""
        found = row.findings
        said = ordered(found, self._confidences(found))
        known = frozenset((*row.blocks, *row.sites))
        both = dict(said)
        for place, confidence in said.items():
            whole = coarse(place, known)
            both[whole] = max(both.get(whole, 0.0), confidence)
        return both

    def _confidences(self, findings: Sequence[Named]) -> list[float]:
        calibration = self.learned.calibration
        return [calibration.probability(finding.kind, finding.confidence) for finding in findings]

    def _weights(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([self.learned.places.get(family, 0.0) for family in (*FAMILIES, SITE)])

    @property
    def _usual(self) -> UsualFamilies:
        return self.usual or UsualFamilies.of(())
