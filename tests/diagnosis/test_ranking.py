"""Ranking: order, causes and consequences, one finding per line of code, selection, broken rules."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from attnscope.anatomy.blocks import Anatomy, Attention, Block, Form, Kind, Role, Source, Step
from attnscope.diagnosis.ranking import Weighed, chosen, rank, source_of, weigh
from attnscope.diagnosis.rules import Evidence, Examination, Rule, Severity, Suspect
from attnscope.errors import CatalogueError
from attnscope.readings import Reading


def attention(layer: int) -> Attention:
    return Attention(
        layer=layer,
        module=f"blocks.{layer}.attention",
        module_class="SelfAttention",
        form=Form.DOT_PRODUCT,
        kind=Kind.SELF,
        n_heads=2,
        n_key_heads=2,
        score_step=Step("bmm", Source("model.py", 10)),
        value_step=Step("bmm", Source("model.py", 20)),
    )


ANATOMY = Anatomy(
    model_class="Model",
    attentions=(attention(0), attention(1)),
    blocks=(
        Block("embedding", Role.EMBEDDING, ()),
        Block("L0.V", Role.VALUE, (), layer=0),
        Block("classifier", Role.CLASSIFIER, ()),
    ),
)
EXAMINATION = Examination(anatomy=ANATOMY)
FACT = (Evidence("it is so", "anatomy", exact=True),)


@dataclass(frozen=True)
class Mistake(Rule):
    """Something is wrong."""

    code: ClassVar[str] = "MSK199"
    remedies: ClassVar[tuple[str, ...]] = ("mend it",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        return []


def weighed(kind: str, place: str, **rest: object) -> Weighed:
    return Weighed(Mistake(), Suspect(kind=kind, place=place, evidence=FACT, **rest))


def places(*items: Weighed) -> list[str]:
    return [finding.block_or_site for finding in rank(EXAMINATION, items)]


def test_severity_comes_before_confidence_and_confidence_before_place() -> None:
    assert places(
        weighed("a", "L0.mask", confidence=0.4),
        weighed("b", "L1.mask", confidence=0.9),
        weighed("c", "L0.Q", severity=Severity.WARNING, confidence=1.0),
    ) == ["L1.mask", "L0.mask", "L0.Q"]


def test_upstream_comes_first() -> None:
    order = ["data", "embedding", "L0.Q", "L0.mask", "L0.O", "L1.V", "classifier", "model"]
    items = [weighed(f"kind{number}", place) for number, place in enumerate(order)]
    assert places(*reversed(items)) == order


def test_a_consequence_is_listed_under_its_cause() -> None:
    cause = weighed("zeroed_projection", "L0.V", effects=("L0.Q", "dead@L0.*"))
    findings = rank(
        EXAMINATION, [weighed("dead", "L0.K"), weighed("dead", "L0H1.O"), cause, weighed("dead", "L1.K")]
    )
    assert [finding.block_or_site for finding in findings] == ["L0.V", "L1.K"]
    assert findings[0].consequences == ("L0.Q", "L0.K", "L0H1.O")
    assert (findings[0].layer, findings[0].role) == (0, "value")


def test_chains_of_consequences_end_at_the_first_cause() -> None:
    first = weighed("axis", "L0.softmax", effects=("leak@*",))
    second = weighed("leak", "L0.mask", effects=("moved@model",))
    findings = rank(EXAMINATION, [weighed("moved", "model"), second, first])
    assert [finding.kind for finding in findings] == ["axis"]
    assert set(findings[0].consequences) == {"L0.mask", "model"}


def test_of_two_that_explain_each_other_the_more_certain_stays() -> None:
    findings = rank(
        EXAMINATION,
        [
            weighed("a", "L0.Q", effects=("b@*",), confidence=0.6),
            weighed("b", "L0.K", effects=("a@*",), confidence=0.9),
        ],
    )
    assert [finding.kind for finding in findings] == ["b"]


def test_a_note_never_hides_an_error() -> None:
    findings = rank(
        EXAMINATION,
        [weighed("note", "L0.Q", severity=Severity.NOTE, effects=("*@*",)), weighed("grave", "L0.K")],
    )
    assert {finding.kind for finding in findings} == {"note", "grave"}


def test_one_line_of_code_gives_one_finding() -> None:
    line = Source("model.py", 63)
    findings = rank(
        EXAMINATION,
        [
            weighed("future_leak", "L1.mask", source=line),
            weighed("future_leak", "L0.mask", source=line),
            weighed("future_leak", "L1.scale", source=Source("model.py", 64)),
        ],
    )
    assert [finding.block_or_site for finding in findings] == ["L0.mask", "L1.scale"]
    assert findings[0].consequences == ("L1.mask",)


def test_places_without_a_line_of_their_own_stay_apart() -> None:
    findings = rank(EXAMINATION, [weighed("zeroed", "L0.K"), weighed("zeroed", "L1.K")])
    assert [finding.block_or_site for finding in findings] == ["L0.K", "L1.K"]
    assert str(findings[0].source) == "model.py:10"  # where the key is used


def test_the_same_suspect_twice_is_one_finding() -> None:
    assert places(weighed("a", "L0.K"), weighed("a", "L0.K")) == ["L0.K"]


def test_fingerprints_are_stable_and_tell_places_apart() -> None:
    def prints(place: str, line: int) -> str:
        return rank(EXAMINATION, [weighed("a", place, source=Source("model.py", line))])[0].fingerprint

    assert prints("L0.mask", 3) == prints("L0.mask", 99) != prints("L1.mask", 3)


def test_source_of_an_unknown_place_is_none() -> None:
    assert source_of("classifier", ANATOMY) is None
    assert source_of("L7.mask", ANATOMY) is None
    assert str(source_of("L1.V", ANATOMY)) == "model.py:20"


@dataclass(frozen=True)
class Broken(Rule):
    """Always fails."""

    code: ClassVar[str] = "CAP999"

    def weigh(self, examination: Examination) -> list[Suspect]:
        raise RuntimeError("boom")


@dataclass(frozen=True)
class Needy(Rule):
    """Needs what is not there."""

    code: ClassVar[str] = "CRV999"
    needs: ClassVar[tuple[str, ...]] = ("curvature",)

    def weigh(self, examination: Examination) -> list[Suspect]:
        return [Suspect(kind="needy", place="model", evidence=FACT)]


@dataclass(frozen=True)
class Symptom(Mistake):
    """Something follows."""

    symptom: ClassVar[bool] = True


def test_a_symptom_yields_to_an_exact_cause_only() -> None:
    guess = Evidence("it seems so", "anatomy")
    symptom = Weighed(Symptom(), Suspect(kind="symptom", place="data", evidence=(guess,)))
    assert [item.kind for item in rank(EXAMINATION, [symptom, weighed("cause", "L0.mask")])] == ["cause"]
    vague = Weighed(Mistake(), Suspect(kind="vague", place="L0.mask", evidence=(guess,)))
    assert {item.kind for item in rank(EXAMINATION, [symptom, vague])} == {"symptom", "vague"}
    proven = Weighed(Symptom(), Suspect(kind="symptom", place="data", evidence=FACT))
    assert len(rank(EXAMINATION, [proven, weighed("cause", "L0.mask")])) == 2


def test_a_broken_rule_is_skipped_with_its_reason() -> None:
    found, skipped = weigh(EXAMINATION, [Broken(), Mistake()])
    assert found == []
    assert list(skipped) == ["test_ranking"] or "boom" in next(iter(skipped.values()))


def test_a_rule_without_its_readings_is_not_asked() -> None:
    assert weigh(EXAMINATION, [Needy()])[0] == []
    read = Examination(anatomy=ANATOMY, readings={"curvature": Reading("curvature", 0.0, (), "1")})
    assert len(weigh(read, [Needy()])[0]) == 1


def test_select_and_ignore_take_codes_groups_and_kinds() -> None:
    rules = [Mistake(), Broken(), Needy()]
    assert chosen(rules, select=["MSK"]) == (rules[0],)
    assert chosen(rules, ignore=["CAP999", "crv"]) == (rules[0],)
    assert chosen(rules) == tuple(rules)
    with pytest.raises(CatalogueError, match="NONSENSE"):
        chosen(rules, select=["NONSENSE"])
