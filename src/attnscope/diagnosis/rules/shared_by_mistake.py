"""Two places of the architecture use the same weights, and it does not look meant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from attnscope.anatomy.blocks import Anatomy, Attention, Role, parse_place
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.diagnosis.rules._evidence import attention_of, peers_of

_SAME_PARAMETER = "same parameter"
_ROLES = {"Q": "query", "K": "key", "V": "value", "O": "output", "QK": "query-key"}


@dataclass(frozen=True)
class SharedByMistake(Rule):
    """Two places that should differ hold the same weights: query and key, two layers, or two recurrent encoders.

    **What it means** Either both places use one parameter (a module was reused, `[layer] * n` instead of n
    layers), or two parameters hold the same numbers (a copied line when weights are loaded).

    **Why it matters** With W_Q = W_K scores are symmetric, and each token mostly attends to itself. Layers
    that share learn one layer's worth.

    **Evidence required** The same parameter serves both places, or their matrices agree bit for bit, while
    other layers or roles differ. Whole layers that share are reported only when the model registers them as
    several layers. Of recurrent modules: two modules hold some of their parameters in common.

    **When it is a false alarm** Siamese encoders are one module used twice: not reported; two modules that share every
    parameter get a warning. ALBERT registers one layer and runs it many times: not reported. Layers
    cloned at construction (`nn.TransformerEncoder`) are equal until they are trained: not reported. Models
    that share queries and keys in every layer on purpose (Reformer): a warning.

    **How to confirm** Compare `id()` of the parameters, and their numbers.

    **What to try** Build each projection with its own module: `nn.ModuleList(make() for _ in range(n))`.
    """

    code: ClassVar[str] = "PRJ302"
    needs: ClassVar[tuple[str, ...]] = ("duplicate_blocks",)
    alternatives: ClassVar[tuple[str, ...]] = (
        "weights are shared on purpose (Reformer shares queries and keys, universal transformers share layers)",
        "layers were copied to start a deeper model",
    )
    remedies: ClassVar[tuple[str, ...]] = (
        "give each place its own module; [layer] * n repeats one module, a comprehension makes n",
        "check the line that loads or copies the weights",
    )

    def weigh(self, examination: Examination) -> list[Suspect]:
        """One suspect per pair of places that share."""
        reading = examination.reading("duplicate_blocks")
        if reading is None:
            return []
        anatomy, facts = examination.anatomy, reading.facts
        alike = {tuple(item["layers"]): str(item["how"]) for item in facts.get("layers_alike", ())}
        suspects = []
        for pair in facts.get("pairs", ()):
            first, second = _place(anatomy, str(pair["a"])), _place(anatomy, str(pair["b"]))
            if first is None or second is None:
                continue
            if first[0] == second[0]:
                suspects.append(_within(anatomy, pair, facts))
            elif _one_module(anatomy, first, second):
                continue
            elif tuple(sorted((first[0], second[0]))) not in alike:
                suspects.append(
                    _between(pair, "while the rest of the two layers differs", Severity.ERROR, 0.9)
                )
        for layers, how in alike.items():
            found = _layers(anatomy, layers, how, facts, alike)
            suspects += [found] if found is not None else []
        return [*suspects, *map(_recurrent, facts.get("recurrent", ()))]


def _place(anatomy: Anatomy, name: str) -> tuple[int, str] | None:
    """Layer and letter of a projection of an attention; None for every other block."""
    layer, head, letter = parse_place(name)
    if layer is None or head is not None or letter not in _ROLES or attention_of(anatomy, layer) is None:
        return None
    return layer, letter


def _one_module(anatomy: Anatomy, first: tuple[int, str], second: tuple[int, str]) -> bool:
    """Whether both are parts of one attention (a loop over heads) that share its output projection."""
    one, two = attention_of(anatomy, first[0]), attention_of(anatomy, second[0])
    if one is None or two is None or first[1] != second[1]:
        return False
    if one.module == two.module:
        return True
    block = next((block for block in anatomy.blocks if block.name == one.blocks.get("output")), None)
    inside = block is not None and any(
        piece.parameter.startswith((f"{one.module}.", f"{two.module}.")) for piece in block.slices
    )
    return first[1] == "O" and not inside


def _within(anatomy: Anatomy, pair: Mapping[str, Any], facts: Mapping[str, Any]) -> Suspect:
    """Two roles of one layer."""
    layer, _, a = parse_place(str(pair["a"]))
    _, _, b = parse_place(str(pair["b"]))
    everywhere = sum(
        {parse_place(str(other["a"]))[2], parse_place(str(other["b"]))[2]} == {a, b}
        and parse_place(str(other["a"]))[0] == parse_place(str(other["b"]))[0]
        for other in facts.get("pairs", ())
    )
    in_all = everywhere == len(anatomy.attentions) and everywhere > 1 and pair["how"] == _SAME_PARAMETER
    places = sorted((f"L{layer}.{a}", f"L{layer}.{b}"), key=lambda place: "QKVO".find(place[-1]))
    how = "are one parameter" if pair["how"] == _SAME_PARAMETER else "hold the same numbers"
    return Suspect(
        kind="shared_by_mistake",
        place=places[1],
        evidence=(
            Evidence(f"the weights of {places[0]} and {places[1]} {how}", "duplicate_blocks", 1.0, 0.0, True),
        ),
        counter_evidence=(Evidence("they do in every layer, which may be the design", "duplicate_blocks"),)
        if in_all
        else (),
        confidence=0.6 if in_all else 0.95,
        severity=Severity.WARNING if in_all else Severity.ERROR,
        summary=f"The {_ROLES[a]} and {_ROLES[b]} projections of L{layer} {how}.",
        effects=(places[0], f"altered_gradient@L{layer}*"),
    )


def _between(pair: Mapping[str, Any], why: str, severity: Severity, confidence: float) -> Suspect:
    """The same role, or two roles, of two layers."""
    a, b = str(pair["a"]), str(pair["b"])
    how = "are one parameter" if pair["how"] == _SAME_PARAMETER else "hold the same numbers"
    return Suspect(
        kind="shared_by_mistake",
        place=b,
        evidence=(Evidence(f"the weights of {a} and {b} {how}, {why}", "duplicate_blocks", 1.0, 0.0, True),),
        confidence=confidence,
        severity=severity,
        summary=f"The projections {a} and {b} {how}, {why}.",
        effects=(a,),
    )


def _layers(
    anatomy: Anatomy,
    layers: tuple[int, ...],
    how: str,
    facts: Mapping[str, Any],
    alike: Mapping[tuple[int, ...], str],
) -> Suspect | None:
    """Two whole layers; None where that is a design or a clone that has not been trained."""
    first, second = attention_of(anatomy, layers[0]), attention_of(anatomy, layers[1])
    if first is None or second is None:
        return None
    if how == _SAME_PARAMETER:
        if not _registered_twice(anatomy, first, facts):
            return None
        why = "although the model registers them as two layers"
    else:
        if _cloned(anatomy, first, facts, alike):
            return None
        why = "while the rest of their stack differs"
    pair = {"a": f"L{layers[0]}.Q", "b": f"L{layers[1]}.Q", "how": how}
    suspect = _between(pair, why, Severity.WARNING, 0.8)
    return Suspect(
        **{
            **vars(suspect),
            "summary": f"L{layers[0]} and L{layers[1]} use the same weights, {why}.",
            "effects": tuple(f"L{layers[1]}.{letter}" for letter in "KVO"),
        }
    )


def _registered_twice(anatomy: Anatomy, attention: Attention, facts: Mapping[str, Any]) -> bool:
    """Whether the layer's parameters go by several names: the module list holds one module several times."""
    names = {name for group in facts.get("tied", ()) for name in group}
    blocks = {name for name in attention.blocks.values()}
    return any(
        piece.parameter in names for block in anatomy.blocks if block.name in blocks for piece in block.slices
    )


def _cloned(
    anatomy: Anatomy, attention: Attention, facts: Mapping[str, Any], alike: Mapping[tuple[int, ...], str]
) -> bool:
    """Whether the whole stack is equal, networks included: layers cloned at construction and not yet trained."""
    stack = [attention.layer, *(other.layer for other in peers_of(anatomy, attention))]
    if not all(any(layer in layers for layers in alike) for layer in stack):
        return False
    networks = [block.name for block in anatomy.blocks if block.role is Role.MLP and block.layer in stack]
    equal = {str(pair[side]) for pair in facts.get("pairs", ()) for side in ("a", "b")}
    return all(name in equal for name in networks)


def _recurrent(pair: Mapping[str, Any]) -> Suspect:
    """Two recurrent modules; when nothing sets them apart they may be twins on purpose."""
    shared, apart = list(pair["shared"]), int(pair["apart"])
    rest = f"while the other {apart} are their own" if apart else "all that they have"
    shown = ", ".join(shared[:3]) + (f" and {len(shared) - 3} more" if len(shared) > 3 else "")
    said = f"{pair['a']} and {pair['b']} use the same parameters ({shown}), {rest}"
    return Suspect(
        kind="shared_by_mistake",
        place=str(pair["block_b"]),
        evidence=(Evidence(said, "duplicate_blocks", float(len(shared)), 0.0, True),),
        confidence=0.9 if apart else 0.6,
        severity=Severity.ERROR if apart else Severity.WARNING,
        summary=f"The recurrent modules {said}.",
        effects=tuple(dict.fromkeys([str(pair["block_a"]), "left_out_of_optimizer@*"])),
    )
