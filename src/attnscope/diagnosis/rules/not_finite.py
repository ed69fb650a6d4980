"""NaN or infinity, and where it begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.diagnosis.rules import Evidence, Examination, Rule, Suspect
from attnscope.diagnosis.rules._evidence import block_with, layer_of_module, source_from
from attnscope.readings import Reading

_FOLLOWS = (
    "rows_not_normalised",
    "softmax_wrong_axis",
    "softmax_twice",
    "uniform_attention",
    "saturated_scores",
    "rank_collapse",
    "residual_dropped",
    "cut_gradient",
    "altered_gradient",
    "wrong_cache_position",
    "examples_mixed",
    "not_deterministic",
    "swapped_*",
    "positions_*",
    "labels_*",
    "half_precision_overflow",
    "duplicated_heads",
    "norm_gain",
    "left_out_of_optimizer",
    "beyond_stability_limit",
)


@dataclass(frozen=True)
class NotFinite(Rule):
    """A NaN or an infinity appears: the first place and the operation that makes it.

    **What it means** From this operation on every number that depends on it is lost. All later trouble
    follows from it.

    **Why it matters** One such step destroys the weights, and the optimiser's state with them.

    **Evidence required** A parameter or an input is not finite; or an operation makes a NaN (or an infinity
    that no mask asked for) from finite inputs, and it reaches the output, the loss or a gradient.

    **When it is a false alarm** NaN in rows that are masked entirely and cleaned afterwards do not reach the
    output and are not reported.

    **How to confirm** `torch.autograd.set_detect_anomaly(True)`, or `isfinite()` after the named line.

    **What to try** Give every row a key that it may see; put a small number under roots and logarithms.
    """

    code: ClassVar[str] = "CRV605"
    needs: ClassVar[tuple[str, ...]] = ("non_finite", "weight_norms")
    alternatives: ClassVar[tuple[str, ...]] = (
        "weights that were destroyed by an earlier step",
        "scores that overflow in half precision",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "load the last checkpoint whose weights are finite",
        "fill masks with torch.finfo(dtype).min, so that a row without a key is uniform and not NaN",
        "add a small number under square roots and logarithms; clip gradients",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """At most one suspect: the first place."""
        reading = examination.reading("non_finite")
        if reading is None:
            return []
        parameters = [str(name) for name in reading.facts.get("parameters", ())]
        inputs = [str(path) for path in reading.facts.get("inputs", ())]
        first = reading.facts.get("first")
        if parameters:
            return [_in_parameter(examination, parameters, reading)]
        if inputs:
            return [_suspect("data", f"the input {inputs[0]} holds numbers that are not finite", None, 1.0)]
        gradients = [str(name) for name in reading.facts.get("gradients", ())]
        if isinstance(first, Mapping) and (reading.facts.get("reaches") or gradients):
            return [_in_operation(examination, first)]
        if gradients:
            place = block_with(examination.anatomy, gradients[0])
            return [
                _suspect(
                    place, f"the gradient of {gradients[0]} is not finite, although the loss is", None, 0.9
                )
            ]
        return []


def _in_parameter(examination: Examination, names: list[str], reading: Reading) -> Suspect:
    count = int(reading.at(place="parameters"))
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    place = _part(examination, names[0])
    return _suspect(place, f"{names[0]}{more} hold {count} numbers that are not finite", None, 1.0)


def _part(examination: Examination, name: str) -> str:
    """The block whose numbers are broken: of a fused projection the part that is."""
    reading = examination.readings.get("weight_norms")
    broken = reading.facts.get("not_finite", ()) if reading is not None else ()
    return str(broken[0]["block"]) if broken else block_with(examination.anatomy, name)


def _in_operation(examination: Examination, first: Mapping[str, Any]) -> Suspect:
    op, module = str(first.get("op", "an operation")), str(first.get("module", ""))
    attention = layer_of_module(examination.anatomy, module)
    if attention is None:
        attention = next((item for item in examination.anatomy.attentions if not item.module), None)
    site = "softmax" if "softmax" in op else "scores"
    place = attention.site(site) if attention is not None else "model"
    kind = "a NaN" if first.get("kind") == "nan" else "an infinity"
    what = f"{op} in {module or 'the model'} makes {kind} from finite numbers"
    return _suspect(place, what, first, 0.95)


def _suspect(place: str, what: str, first: Mapping[str, Any] | None, confidence: float) -> Suspect:
    return Suspect(
        kind="not_finite",
        place=place,
        evidence=(Evidence(what, "non_finite", exact=True),),
        confidence=confidence,
        source=source_from(first.get("source"), first.get("text")) if first is not None else None,
        summary=f"{what[0].upper()}{what[1:]}.",
        effects=tuple(f"{kind}@*" for kind in _FOLLOWS),
    )
