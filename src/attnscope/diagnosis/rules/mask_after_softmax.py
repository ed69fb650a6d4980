"""The mask is applied after the softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown


@dataclass(frozen=True)
class MaskAfterSoftmax(Rule):
    """The mask is applied after the softmax, so forbidden keys take weight before it is thrown away.

    **What it means** The softmax runs over all keys, and the mask then sets forbidden weights to zero. The
    rows that are left sum to less than one, by as much as the forbidden keys had taken.

    **Why it matters** The size of a token's output depends on how many forbidden keys there are and on what
    they hold, so information of the future or of padding still leaks through the normalisation.

    **Evidence required** The trace sees a mask between the softmax and the values, none before the softmax,
    and the rows it leaves do not sum to one.

    **When it is a false alarm** The rows are normalised again afterwards (their sums are one, and nothing is
    reported), or the mask only clears rows that may see nothing.

    **How to confirm** Sum the pattern over the keys.

    **What to try** Move the mask before the softmax and fill with -inf.
    """

    code: ClassVar[str] = "MSK104"
    needs: ClassVar[tuple[str, ...]] = ("row_sums",)
    alternatives: ClassVar[tuple[str, ...]] = ("dropout of whole keys on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "apply the mask to the scores, before the softmax, filled with -inf or torch.finfo(dtype).min",
        "if it must come after, divide each row by its sum",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that masks its pattern instead of its scores."""
        reading = examination.reading("row_sums")
        deviations = by_layer(reading)
        suspects = []
        for attention in examination.anatomy.attentions:
            after = [step for step in attention.mask if step.when == "after_softmax"]
            before = [step for step in attention.mask if step.when == "before_softmax"]
            cleared = bool(layer_fact(reading, "cleared_after", attention.layer))
            if not ((after and not before) or cleared) or attention.layer not in deviations:
                continue
            off = float(deviations[attention.layer].max())
            if off <= (layer_fact(reading, "tolerance", attention.layer) or 0.0):
                continue
            layer = f"L{attention.layer}"
            suspects.append(
                Suspect(
                    kind="mask_after_softmax",
                    place=attention.site("mask"),
                    evidence=(
                        Evidence(
                            "weights are set to zero behind the softmax, the others stay as they are"
                            if cleared
                            else "the mask acts on the pattern, after the softmax",
                            "row_sums" if cleared else "anatomy",
                            exact=True,
                        ),
                        Evidence(
                            f"rows of {layer} miss one by up to {shown(off)}", "row_sums", off, 0.0, True
                        ),
                    ),
                    source=first_source(*after, attention.softmax),
                    summary=f"{layer} masks after the softmax: its rows miss one by up to {shown(off)}.",
                    effects=(
                        f"*@{layer}.softmax",
                        f"*@{layer}.mask",
                        "future_leak@model",
                        "padding_attended@model",
                        "wrong_cache_position@*",
                    ),
                )
            )
        return suspects
