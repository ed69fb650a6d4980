"""The score that each token type receives, and how it grew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._token_types import token_types, token_types_at_start
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class TokenScore(Lens):
    """The score that each token type receives as a key: its growth since the start, when the start is known.

    **Measures** per attention and token type, the mean over its real occurrences, queries and heads of the
    score, each query's mean over its keys taken off (for a learned query, which is the same everywhere, the
    mean over token types); less the same at the start of the run, when that is known (unit: of the scores).

    **Reading it** tokens that decide the label rise, the others stay or sink a little. All at exactly zero
    growth: keys and queries do not learn. One frequent token far above all others: a sink or a shortcut.

    **Shapes** [layer, token]; NaN for an attention whose keys are not tokens. The most frequent `most` types of
    the first 32 batches. Facts: `counts`: real occurrences per type; `since_start`: whether it is growth.

    **Cost** one forward pass per batch, two when the start is known; shared with `token_value_norm`.

    **Reference** Lu, Mao, Nayak 2021, On the Dynamics of Training Attention Models, arXiv:2011.10036.
    """

    most: int = 256

    unit: ClassVar[str] = "score"
    dims: ClassVar[tuple[str, ...]] = ("layer", "token")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """The score of each type."""
        now, before = token_types(probe), token_types_at_start(probe)
        if now is None:
            return self.not_applicable("no attention's keys are tokens of the batch")
        where = now.chosen(self.most)
        values = now.scores[:, where] - (0.0 if before is None else before.scores[:, where])
        return self.reading(
            values,
            coords={
                "layer": tuple(item.layer for item in probe.anatomy.attentions),
                "token": tuple(int(token) for token in now.ids[where]),
            },
            step=probe.step,
            facts={"counts": now.counts[where].tolist(), "since_start": before is not None},
        )
