"""The same input gives another output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import epsilon, layer_of_module, shown, source_from


@dataclass(frozen=True)
class NotDeterministic(Rule):
    """In eval mode the same batch gives another output, loss or gradient.

    **What it means** Something in the forward pass is random, or remembers earlier calls: noise that does not
    look at `self.training`, a cache or counter carried over, batch statistics in use.

    **Why it matters** Results cannot be repeated, and every comparison (also of this tool) measures noise.

    **Evidence required** Two evaluations of one batch in eval mode with the same seed differ; or two that
    differ only in the seed do, by a random operation that is no dropout.

    **When it is a false alarm** Models that sample on purpose (variational layers, diffusion noise); kernels
    that add in no fixed order differ by rounding only, which is not reported.

    **How to confirm** Run the same batch twice after `model.eval()` and `torch.manual_seed(0)`.

    **What to try** Guard the noise by `if self.training:`; reset caches between calls.
    """

    code: ClassVar[str] = "CAP901"
    needs: ClassVar[tuple[str, ...]] = ("determinism", "dropout_seed", "mode_flags")
    alternatives: ClassVar[tuple[str, ...]] = (
        "the model samples on purpose",
        "a dropout is active in eval mode",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "guard random operations by self.training",
        "reset caches and counters at the start of the forward pass",
        "torch.use_deterministic_algorithms(True) names kernels that add in no fixed order",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per random operation, else one for the model."""
        suspects = _random(examination)
        reading = examination.reading("determinism")
        if reading is None or suspects:
            return suspects
        moved = {
            str(name): float(value)
            for name, value in zip(reading.labels("quantity"), reading.values, strict=True)
        }
        bound = 1e4 * epsilon(examination)  # what an unordered sum over a long batch may leave
        wrong = {name: value for name, value in moved.items() if value > bound}
        if not wrong:
            return []
        name, value = next(iter(wrong.items()))
        state = reading.facts.get("changed_state") or ()
        why = f": it changes its own state ({', '.join(map(str, state[:3]))})" if state else ""
        return [
            Suspect(
                kind="not_deterministic",
                place="model",
                evidence=(
                    Evidence(
                        f"between two identical evaluations the {name} moves by {shown(value)}",
                        "determinism",
                        value,
                        0.0,
                        True,
                    ),
                ),
                confidence=1.0,
                summary=f"The model is not deterministic in eval mode: its {name} moves by "
                f"{shown(value)} between two identical evaluations{why}.",
                effects=(
                    "altered_gradient@*",
                    "wrong_cache_position@*",
                    "examples_mixed@model",
                    "future_leak@model",
                    "padding_attended@model",
                    "cut_gradient@*",
                ),
            )
        ]


def _random(examination: Examination) -> list[Suspect]:
    """Random operations, no dropout, that move the output in eval mode."""
    reading = examination.reading("dropout_seed")
    if reading is None or not reading.at(mode="eval") > 0:
        return []
    moved = reading.at(mode="eval")
    steps = list(reading.facts.get("random_steps", ()))
    suspects = []
    for step in steps:
        if step.get("rate") is not None:
            continue
        module = str(step.get("module", ""))
        attention = layer_of_module(examination.anatomy, module)
        place = attention.site("scores") if attention is not None else _residual(examination, step)
        suspects.append(_noise(place, moved, f"{step.get('op')} in {module or 'the model'}", step))
    if not suspects and not steps:
        suspects.append(_noise("model", moved, "an operation that the trace does not name", {}))
    return suspects


def _residual(examination: Examination, step: Mapping[str, object]) -> str:
    """The residual whose line draws the numbers, in the one block that holds them; else the model."""
    module, line = str(step.get("module", "")), step.get("source")
    sites = [
        attention.site("residual")
        for attention in examination.anatomy.attentions
        if attention.residual
        and attention.residual_step is not None
        and str(attention.residual_step.source) == line
        and attention.module.startswith(f"{module}.")
    ]
    return sites[0] if len(sites) == 1 else "model"


def _noise(place: str, moved: float, what: str, step: dict[str, object]) -> Suspect:
    return Suspect(
        kind="not_deterministic",
        place=place,
        evidence=(
            Evidence(
                f"with another seed the output moves by {shown(moved)} in eval mode",
                "dropout_seed",
                moved,
                0.0,
                True,
            ),
        ),
        confidence=1.0,
        severity=Severity.ERROR,
        source=source_from(step.get("source"), step.get("text")),
        summary=f"The model is random in eval mode: {what} moves its output by {shown(moved)} from seed to seed.",
        effects=(
            "altered_gradient@*",
            "wrong_cache_position@*",
            "not_deterministic@model",
            "cut_gradient@*",
            "unused_parameter@*",
        ),
    )
