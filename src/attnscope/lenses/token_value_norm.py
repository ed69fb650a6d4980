"""The norm of what each token type brings when it is attended to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.lenses import STANDARD, Lens
from attnscope.lenses._token_types import token_types, token_types_at_start
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class TokenValueNorm(Lens):
    """The norm of what each token type brings through an attention's value path.

    **Measures** per attention and token type, the mean over its real occurrences of |sum over heads of
    v_h W_O,h|: what the attention would write if every head attended to this token alone (|v| where no W_O was
    found; unit: of the hidden state).

    **Reading it** in a model that learns to attend, tokens that decide the label gain norm and score together;
    `at_start` in the facts is where they began, when that is known. All as at the start: the embeddings and
    the value path do not learn.

    **Shapes** [layer, token]; NaN where the values were not found, or an attention's keys are not tokens. The
    most frequent `most` types of the first 32 batches. Facts: `counts` per type; `at_start` [layer][token] or
    None.

    **Cost** one forward pass per batch, two when the start is known; shared with `token_score`.

    **Reference** Lu, Mao, Nayak 2021, arXiv:2011.10036; Kobayashi et al. 2020, arXiv:2004.10102 (norms).
    """

    most: int = 256

    unit: ClassVar[str] = "norm"
    dims: ClassVar[tuple[str, ...]] = ("layer", "token")
    needs: ClassVar[tuple[str, ...]] = ("pattern", "weights")
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """The norm of each type's value path."""
        now, before = token_types(probe), token_types_at_start(probe)
        if now is None:
            return self.not_applicable("no attention's keys are tokens of the batch")
        where = now.chosen(self.most)
        return self.reading(
            now.norms[:, where],
            coords={
                "layer": tuple(item.layer for item in probe.anatomy.attentions),
                "token": tuple(int(token) for token in now.ids[where]),
            },
            step=probe.step,
            facts={
                "counts": now.counts[where].tolist(),
                "at_start": None if before is None else before.norms[:, where].tolist(),
            },
        )
