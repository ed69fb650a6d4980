"""A step of the optimiser that does not come from the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import attention_of, layer_fact, shown


@dataclass(frozen=True)
class ForeignUpdate(Rule):
    """A step of plain gradient descent moves queries and keys in a way that the gradient of this loss cannot.

    **What it means** One step with rate eta and L2 decay lambda takes C = W_K W_K^T - W_Q W_Q^T of a head to exactly
    (1 - eta lambda)^2 C + eta^2 (G_K G_K^T - G_Q G_Q^T), for the gradients G of any loss. A step on trial does not.
    The gradients themselves fit the function, so they are changed after the backward pass, or the step adds
    something to them.

    **Why it matters** The model does not descend this loss.

    **Evidence required** The difference exceeds what rounding of the weights leaves.

    **When it is a false alarm** Clipping per parameter in a hook, on purpose.

    **How to confirm** Compare the weights before and after one step with -lr times the gradient.

    **What to try** Look for register_post_accumulate_grad_hook, and for clipping or noise that names one projection.
    """

    code: ClassVar[str] = "GRD507"
    needs: ClassVar[tuple[str, ...]] = ("balance_step",)
    alternatives: ClassVar[tuple[str, ...]] = ("clipping or noise per parameter, on purpose",)
    remedies: ClassVar[tuple[str, ...]] = (
        "look for hooks that run after gradients are accumulated",
        "compare one step with -lr times the gradient of the loss",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention whose step breaks the law."""
        reading = examination.reading("balance_step")
        if reading is None:
            return []
        heads: dict[int, list[int]] = {}
        for layer, head in reading.facts.get("violated", ()):
            heads.setdefault(int(layer), []).append(int(head))
        suspects = []
        for layer, broken in heads.items():
            attention = attention_of(examination.anatomy, layer)
            if attention is None:
                continue
            worst = max(broken, key=lambda head: reading.at(layer=layer, head=head))
            value, tolerances = reading.at(layer=layer, head=worst), layer_fact(reading, "tolerance", layer)
            all_heads = len(broken) == attention.n_key_heads
            place = attention.blocks.get("key", f"L{layer}.K") if all_heads else f"L{layer}H{worst}.K"
            suspects.append(
                Suspect(
                    kind="foreign_update",
                    place=place,
                    evidence=(
                        Evidence(
                            f"a step of plain descent misses its law for the balance by {shown(value)} of the "
                            f"movement in {len(broken)} heads",
                            "balance_step",
                            value,
                            float(tolerances[worst]) if tolerances else None,
                            True,
                        ),
                    ),
                    confidence=0.85,
                    summary=f"A step moves queries and keys of L{layer} as no gradient of this loss does: it is "
                    "changed after the backward pass.",
                    effects=(attention.blocks.get("query", f"L{layer}.Q"),),
                )
            )
        return suspects
