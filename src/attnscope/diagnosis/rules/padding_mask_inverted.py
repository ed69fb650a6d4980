"""The padding mask is applied the wrong way round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import by_layer, first_source, layer_fact, shown

_ALL = 0.999  # an inverted mask leaves exactly nothing for real keys; the rest is rounding of the weakest precision


@dataclass(frozen=True)
class PaddingMaskInverted(Rule):
    """The padding mask is inverted: real tokens attend to padding and to nothing else.

    **What it means** All weight of real queries falls on padded keys: the mask forbids what it should allow.
    PyTorch has both conventions: `key_padding_mask` is True where a key is *ignored*,
    `scaled_dot_product_attention` and Hugging Face masks are True (1) where a key is *used*.

    **Why it matters** The attention reads nothing of the text. What the model still learns comes from the
    residual path.

    **Evidence required** In examples that have padding, real queries put their whole weight on padded keys.

    **When it is a false alarm** The mask given as the author's statement is itself inverted. State
    `expects=dict(padding_mask=...)` with a mask that is 1 on real tokens.

    **How to confirm** Negate the mask and look at the loss.

    **What to try** `~mask`, or `(1 - mask) * torch.finfo(dtype).min` for an added mask.
    """

    code: ClassVar[str] = "MSK103"
    needs: ClassVar[tuple[str, ...]] = ("padding_mass",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "the mask in the batch is 1 on padding: state expects=dict(padding_mask=...)",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "negate the mask where it is applied",
        "check the convention: key_padding_mask is True where a key is ignored, attn_mask of "
        "scaled_dot_product_attention is True where it is used",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per attention that reads padding only."""
        reading = examination.reading("padding_mass")
        suspects = []
        for layer, masses in by_layer(reading).items():
            share = layer_fact(reading, "share_of_keys", layer)
            if float(masses.min()) < _ALL or (share is not None and share >= _ALL):
                continue
            attention = next(item for item in examination.anatomy.attentions if item.layer == layer)
            if attention.softmax is not None and attention.softmax.over not in ("keys", "unknown"):
                continue  # another softmax than over the keys leaves no mask its meaning
            seen = float(masses.min())
            suspects.append(
                Suspect(
                    kind="padding_mask_inverted",
                    place=attention.site("mask"),
                    evidence=(
                        Evidence(
                            f"every head of L{layer} gives at least {shown(seen)} of its attention to padding",
                            "padding_mass",
                            seen,
                            0.0,
                            True,
                        ),
                    ),
                    source=first_source(*attention.mask, attention.softmax, attention.score_step),
                    summary=f"The padding mask of L{layer} is inverted: real tokens give {shown(seen)} of their "
                    "attention to padding.",
                    effects=(
                        f"*@L{layer}.softmax",
                        f"*@L{layer}.scores",
                        f"uniform_attention@L{layer}",
                        "*@model",
                    ),
                )
            )
        return suspects
