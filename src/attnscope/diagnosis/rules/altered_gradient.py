"""A gradient that does not fit the function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Attention
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import attention_of, first_source, shown
from attnscope.readings import Reading

_SIDES = {
    "query_key_gradient_identity": ("K", "queries and keys"),
    "value_output_gradient_identity": ("V", "values and output"),
}

# Digits of a layer's weights -> what rounding to them leaves of an identity: the lenses' own bounds per precision.
_ROUNDED = ((8.0, 5e-2), (11.0, 5e-3))


@dataclass(frozen=True)
class AlteredGradient(Rule):
    """The gradient of a projection does not fit the function: it is scaled, detached in part, or misdirected.

    **What it means** Scores depend on W_Q and W_K through their product alone, so per head W_Q (dL/dW_Q)^T
    equals (dL/dW_K) W_K^T, for every loss, batch, mask and kernel. Here the two differ: something between
    forward and backward changes one of the gradients. The same law holds for values and the output
    projection.

    **Why it matters** The model learns from a wrong gradient, while the loss and the outputs look right.

    **Evidence required** The relative difference of the two sides exceeds what the precision's rounding
    leaves (1e-4 in float32). 0.667 is a halved gradient, 1.42 one that lands in another head, 0.75 half of
    the keys detached, 2.0 a side that gets none.

    **When it is a false alarm** Attentions that use a projection for more than its product (a key that also
    weighs positions); those with normalised queries are left out by themselves.

    **How to confirm** Compare the gradient with a finite difference.

    **What to try** Look for hooks, detach, no_grad, or a custom backward in this layer.
    """

    code: ClassVar[str] = "GRD502"
    needs: ClassVar[tuple[str, ...]] = (
        "query_key_gradient_identity",
        "value_output_gradient_identity",
        "key_bias_gradient",
        "lora_gradient_identity",
        "pattern_bits",
    )
    alternatives: ClassVar[tuple[str, ...]] = (
        "a projection that serves a second purpose (positions, another attention)",
        "a gradient penalty or a straight-through estimator, on purpose",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "look for register_hook, detach and no_grad between this projection and the scores",
        "check a custom autograd function with torch.autograd.gradcheck",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per layer and law that is broken."""
        suspects = []
        for lens in _SIDES:
            reading = examination.reading(lens)
            heads: dict[int, list[int]] = {}
            for layer, head in reading.facts.get("violated", ()) if reading is not None else ():
                heads.setdefault(int(layer), []).append(int(head))
            for layer, found in heads.items():
                attention = attention_of(examination.anatomy, layer)
                if attention is None or reading is None or _shared(attention):
                    continue
                bound = _left_by_rounding(examination, layer)
                broken = [head for head in found if reading.at(layer=layer, head=head) > bound]
                if broken:
                    suspects.append(_suspect(examination, attention, broken, reading))
        lora = examination.reading("lora_gradient_identity")
        for name in lora.facts.get("violated", ()) if lora is not None else ():
            suspects.append(_adapter(str(name), lora))
        return suspects


def _left_by_rounding(examination: Examination, layer: int) -> float:
    """What a layer's own rounding leaves of an identity when its weights are coarser than the model's numbers."""
    reading = examination.reading("pattern_bits")
    digits = reading.at(layer=layer) if reading is not None else float("nan")
    return next((bound for most, bound in _ROUNDED if digits <= most), 0.0)


def _shared(attention: Attention) -> bool:
    """Whether one block serves two roles: then the law is about their sum and says nothing here."""
    return len(set(attention.blocks.values())) < len(attention.blocks)


def _suspect(examination: Examination, attention: Attention, heads: list[int], reading: Reading) -> Suspect:
    letter, sides = _SIDES[reading.lens]
    largest = max(reading.at(layer=attention.layer, head=head) for head in heads)
    tolerance = float(reading.facts.get("tolerance", 0.0))
    evidence = [
        Evidence(
            f"the gradients of {sides} of L{attention.layer} miss their identity by {shown(largest)} in "
            f"{len(heads)} heads{_meaning(largest)}",
            reading.lens,
            largest,
            tolerance,
            True,
        )
    ]
    bias = examination.reading("key_bias_gradient")
    if bias is not None and letter == "K" and [attention.layer, heads[0]] in bias.facts.get("violated", ()):
        ratio = bias.at(layer=attention.layer, head=heads[0])
        evidence.append(
            Evidence(
                f"the key bias gets {shown(ratio)} of the query bias's gradient, where a softmax gives none",
                "key_bias_gradient",
                ratio,
                0.0,
                True,
            )
        )
    block = attention.blocks.get({"K": "key", "V": "value"}[letter], f"L{attention.layer}.{letter}")
    all_heads = len(heads) == attention.n_key_heads
    place = block if all_heads else f"L{attention.layer}H{heads[0]}.{letter}"
    other = {"K": "query", "V": "output"}[letter]
    return Suspect(
        kind="altered_gradient",
        place=place,
        evidence=tuple(evidence),
        confidence=0.85,
        severity=Severity.ERROR,
        source=first_source(attention.score_step if letter == "K" else attention.value_step),
        summary=f"The gradients of {sides} in L{attention.layer} do not fit the function: they miss their identity "
        f"by {shown(largest)}{_meaning(largest)}.",
        effects=tuple(name for name in (attention.blocks.get(other, ""),) if name),
    )


def _adapter(name: str, reading: Reading | None) -> Suspect:
    value = reading.at(block=name) if reading is not None else float("nan")
    return Suspect(
        kind="altered_gradient",
        place=name,
        evidence=(
            Evidence(
                f"the factors' gradients miss their identity by {shown(value)}",
                "lora_gradient_identity",
                value,
                0.0,
                True,
            ),
        ),
        confidence=0.85,
        summary=f"The gradients of the adapter of {name} do not fit the function.",
    )


def _meaning(residual: float) -> str:
    """What the size of the miss is known to stand for."""
    known = {
        2 / 3: "one side's gradient is halved",
        2.0: "one side gets none",
        1.42: "one lands in another head",
    }
    for value, words in known.items():
        if abs(residual - value) < 0.02:
            return f", as if {words}"
    return ""
