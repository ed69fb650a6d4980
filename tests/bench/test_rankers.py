"""Every ranker on every kind of row; what each must and must not see; places; what is learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bench_rows
from attnscope import catalogue
from attnscope.bench.banks import PAIRED, UNPAIRED, Banks
from attnscope.bench.learned import FAMILIES, Learned
from attnscope.bench.learning import claims
from attnscope.bench.places import LEVELS, at_level, candidates, scores_at, truth
from attnscope.bench.rankers import Ranker
from attnscope.bench.rankers._families import UsualFamilies
from attnscope.bench.row import Named, Row
from attnscope.bench.scores import Bench, learned_from

NAMES = catalogue.names("rankers")
BANK = [bench_rows.healthy(seed=seed) for seed in range(6, 14)]


def fitted(name: str, bank: list[Row] | None = None) -> Ranker:
    ranker: Ranker = catalogue.load("rankers", name)()
    ranker.fit(BANK if bank is None else bank)
    return ranker


def first(order: Mapping[str, float]) -> str:
    return max(order, key=lambda place: order[place])


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_has_its_sections(name: str) -> None:
    said = catalogue.load("rankers", name).__doc__ or ""
    for section in ("**Suspicion**", "**Places**", "**Reference**"):
        assert section in said
    assert catalogue.load("rankers", name).family in ("baseline", "curvature", "exact", "diagnosis", "combination")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", bench_rows.FAULTS)
def test_it_never_looks_at_the_truth(name: str, change: str) -> None:
    row = bench_rows.faulty(change)
    blind = replace(
        row, arm="healthy", change="", places=(), recognised_as=(), visibility="", ids=(), where="", layer=None,
        strength=None, quality=None,
    )  # fmt: skip
    ranker, other = fitted(name), fitted(name)
    assert ranker.order(row) == other.order(blind)
    assert ranker.suspicion(row) == other.suspicion(blind)
    assert ranker.kind(row) == other.kind(blind)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bank", [[], BANK[:1], BANK])
def test_it_lives_with_rows_that_hold_nothing_or_nonsense(name: str, bank: list[Row]) -> None:
    row = bench_rows.healthy()
    bare = replace(row, block_values={}, layer_values={}, head_values={}, pair_values={}, findings=(), losses=())
    nonsense = tuple(math.nan if i % 2 else math.inf for i in range(len(row.blocks)))
    broken = replace(
        row,
        block_values=dict.fromkeys(row.block_values, nonsense),
        pair_values=dict.fromkeys(row.pair_values, math.nan),
        losses=(1.0, math.nan),
    )  # fmt: skip
    for case in (bare, broken, replace(row, blocks=(), roles=(), layers=(), sizes=(), sites=(), block_values={})):
        ranker = fitted(name, bank)
        assert not math.isnan(ranker.suspicion(case))
        assert not any(math.isnan(score) for score in ranker.order(case).values())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_row_gets_the_same_answer(name: str) -> None:
    row = bench_rows.faulty("frozen_key")
    assert fitted(name).order(row) == fitted(name).order(row)


@pytest.mark.parametrize("name", ["gradient_z", "update_ratio"])
def test_a_frozen_block_is_the_oddest_for_what_reads_it(name: str) -> None:
    assert first(fitted(name).order(bench_rows.faulty("frozen_key", seed=3))) == "L1.K"


def test_suspicion_is_two_sided() -> None:
    row, ranker = bench_rows.healthy(), fitted("relative_trace")
    for factor in (1e-3, 1e3, 0.0):
        assert first(ranker.order(bench_rows.scaled(row, "relative_curvature", "L2.V", factor))) == "L2.V"


def test_negative_curvature_is_as_far_as_its_size() -> None:
    row = bench_rows.scaled(bench_rows.healthy(), "relative_curvature", "L0.Q", -1.0)
    assert first(fitted("relative_trace").order(row)) == "L0.Q"


def test_a_rescaling_moves_raw_curvature_and_no_scale_free_reading() -> None:
    moved, still = bench_rows.control("query_key_rescaled"), bench_rows.healthy()
    for name in ("relative_trace", "coupling", "negative_share", "gradient_z", "combination"):
        assert fitted(name).order(moved) == fitted(name).order(still)
    assert first(fitted("top_eigenvalue").order(moved)) == "L1.K"


def test_a_coupling_that_is_not_defined_is_odd() -> None:
    row = bench_rows.healthy()
    row = replace(row, pair_values={**row.pair_values, "L2.V L2.O": math.nan})
    assert first(fitted("coupling").order(row)) in ("L2.V", "L2.O")


def test_a_block_comes_just_before_the_sites_that_borrow_from_it() -> None:
    row = bench_rows.scaled(bench_rows.healthy(), "gradient_norm", "L1.K", 1e3)
    order = sorted(fitted("gradient_z").order(row).items(), key=lambda item: -item[1])
    assert order[0][0] == "L1.K"
    assert {place for place, _ in order[1:8]} == {f"L1.{site}" for site in bench_rows.SITES}
    assert order[1][1] == pytest.approx(order[0][1])


def test_a_layer_that_is_no_attention_lends_no_more_than_its_own() -> None:
    row = bench_rows.scaled(bench_rows.healthy(), "gradient_norm", "layer.1.mlp", 1e6)
    order = fitted("gradient_z").order(row)
    assert order["L1.mask"] < order["layer.1.mlp"] / 2
    assert "model" not in order


def test_heads_are_told_by_what_reads_them() -> None:
    row = bench_rows.faulty("zeroed_head")
    heads = {place: score for place, score in fitted("attention_statistics").order(row).items() if "H" in place}
    assert first(heads) == "L1H1"


def test_symptoms_of_autotrainer() -> None:
    row, ranker = bench_rows.healthy(), fitted("autotrainer_rules")
    flat = replace(row, losses=(1.0,) * 50)
    assert ranker.suspicion(flat) == ranker.suspicion(replace(row, losses=())) + 1
    small = replace(row, block_values={"gradient_norm": (1e-6, *[1.0] * (len(row.blocks) - 1))})
    assert ranker.order(small)["tokens"] == 1.0
    large = replace(row, block_values={"weight_norm": (6.0, *[1.0] * (len(row.blocks) - 1))})
    assert first(ranker.order(large)) == "tokens"
    diverged = replace(row, losses=(1.0, 2e3), block_values={})
    assert ranker.suspicion(diverged) == 1.0


def test_symptoms_of_deepdiagnosis() -> None:
    n = len(bench_rows.healthy().blocks)
    row, ranker = replace(bench_rows.healthy(), block_values={}), fitted("deepdiagnosis_rules")
    assert ranker.suspicion(row) == 0.0
    for lens, value in (("weight_distance", 0.0), ("update_to_weight", 0.5), ("gradient_norm", 1e-9)):
        odd = replace(row, block_values={lens: (0.01, value, *[0.01] * (n - 2))})
        assert ranker.suspicion(odd) == 1.0
        assert ranker.order(odd)[row.blocks[1]] == 1.0
        assert ranker.order(odd)["tokens"] == 0.0
    assert ranker.suspicion(replace(row, losses=(2.0,) * 9)) == 1.0


def test_findings_come_in_the_order_of_the_diagnosis_and_notes_do_not_count() -> None:
    said = (Named("A1", "one", "L0.K", "error", 0.5), Named("B1", "two", "L1.mask", "note", 1.0))
    row = replace(bench_rows.healthy(), findings=said)
    ranker = fitted("diagnosis")
    assert list(ranker.order(row)) == ["L0.K", "L1.mask"]
    assert ranker.kind(row) == "one"
    assert ranker.suspicion(replace(row, findings=said[1:])) == 0.0


def test_only_findings_from_identities_are_exact() -> None:
    said = (Named("A1", "one", "L0.K", "error", 0.5), Named("B1", "two", "L1.mask", "error", 1.0, exact=True))
    row = replace(bench_rows.healthy(), findings=said)
    ranker = fitted("exact_identities")
    assert list(ranker.order(row)) == ["L1.mask"]
    assert ranker.kind(row) == "two"
    assert ranker.suspicion(replace(row, findings=said[:1])) == 0.0


def test_banks_never_mix_the_settings() -> None:
    rows = bench_rows.bench(subjects=bench_rows.SUBJECTS[:2], layers=(1,))
    row = bench_rows.faulty("frozen_key", seed=2)
    unpaired, paired = Banks.of(rows, UNPAIRED).bank(row), Banks.of(rows, PAIRED).bank(row)
    assert {item.subject for item in (*unpaired, *paired)} == {row.subject}
    assert 2 not in {item.seed for item in unpaired}
    assert [item.seed for item in paired] == [2]
    assert not Banks.of(rows, PAIRED).speaks_of(bench_rows.healthy())


def test_places_are_looked_up_in_the_coarsest_name_a_level_has() -> None:
    row = bench_rows.healthy()
    assert at_level(row, "place", ["L1H2.K", "L1H2", "L1.mask", "elsewhere"]) == ("L1.K", "L1.heads", "L1.mask", None)
    assert at_level(row, "layer", ["L1H2.K", "layer.2.mlp", "tokens", "data"]) == ("L1", "L2", None, None)
    assert at_level(row, "head", ["L1H2.K", "L1.K"]) == ("L1H2", None)
    fused = replace(row, blocks=("L0.QK",), roles=("query_key",), layers=(0,), sizes=(1,))
    assert at_level(fused, "block", ["L0.K", "L0H1.Q", "L0.V"]) == ("L0.QK", "L0.QK", None)
    assert truth(bench_rows.faulty("zeroed_head"), "head") == {"L1H1"}
    assert truth(bench_rows.faulty("zeroed_head"), "place") == {"L1.V", "L1.heads"}


def test_what_an_order_does_not_name_comes_last() -> None:
    row = bench_rows.healthy()
    for level in LEVELS:
        scores = scores_at(row, level, {"L1.K": 2.0, "L1H3": 1.0, "L0.V": math.nan})
        assert set(scores) == set(candidates(row, level))
    assert scores_at(row, "layer", {"L1.K": 2.0, "L1.mask": 3.0}) == {"L0": -math.inf, "L1": 3.0, "L2": -math.inf}


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="place, block"):
        candidates(bench_rows.healthy(), "neuron")


def test_a_finding_is_right_when_kind_and_place_are() -> None:
    row = bench_rows.faulty("missing_scale", seed=1)
    assert [claim.right for claim in claims(row)] == [True]
    elsewhere = replace(row, findings=(replace(row.findings[0], place="L0.scale"),))
    other = replace(row, findings=(replace(row.findings[0], kind="future_leak"),))
    healthy = replace(row, arm="healthy")
    assert [claim.right for item in (elsewhere, other, healthy) for claim in claims(item)] == [False] * 3


def test_what_is_learnt_is_a_small_readable_file_that_reads_back(tmp_path: Path) -> None:
    learned = learned_from(bench_rows.bench(subjects=bench_rows.SUBJECTS[:2], layers=(0, 1)), about={"command": "x"})
    path = learned.save(tmp_path / "learned.json")
    assert path.stat().st_size < 20_000
    back = Learned.open(path)
    assert back.places == pytest.approx(dict(learned.places), abs=1e-4)
    assert back.calibration == learned.calibration
    assert back.about["command"] == "x"
    assert all(value >= 0 for name, value in back.places.items() if name in FAMILIES)
    with pytest.raises(ValueError, match="schema"):
        Learned.from_dict({"schema": 0})


def test_learning_trusts_the_families_that_show_the_faults() -> None:
    rows = bench_rows.bench(subjects=bench_rows.SUBJECTS[:3], faults=("frozen_key",))
    rows = [replace(row, findings=()) for row in rows]
    weights = learned_from(rows).places
    telling = weights["gradient"] + weights["update"]
    assert telling > 3 * sum(weights[name] for name in ("turn", "ablation", "activation", "preconditioned"))


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.integers(0, 2))
def test_the_combination_does_not_see_a_rescaling(factor: float, layer: int) -> None:
    """Queries times c and keys over c, values times c and output over c: as its lenses read them."""
    row = bench_rows.healthy(seed=1)
    moved = row
    for grown, shrunk in (("Q", "K"), ("V", "O")):
        for block, c in ((f"L{layer}.{grown}", factor), (f"L{layer}.{shrunk}", 1 / factor)):
            moved = bench_rows.scaled(moved, "weight_norm", block, c)
            moved = bench_rows.scaled(moved, "gradient_norm", block, 1 / c)
            moved = bench_rows.scaled(moved, "gradient_variance", block, 1 / c**2)
            moved = bench_rows.scaled(moved, "update_to_weight", block, 1 / c)
            moved = bench_rows.scaled(moved, "preconditioned_top_eigenvalue", block, 1 / c**2)
        for block, c in ((f"L{layer}.Q", factor), (f"L{layer}.K", 1 / factor), (f"L{layer}.V", factor)):
            if block[-1] == grown or block[-1] == shrunk:
                moved = bench_rows.scaled(moved, "activation_norm", block, c)
    usual = UsualFamilies.of(BANK)
    assert np.allclose(usual.features(replace(moved, key="moved"))[1], usual.features(row)[1], atol=1e-6)


def test_a_projection_that_is_dead_is_told_from_its_partner() -> None:
    dead = bench_rows.scaled(bench_rows.healthy(seed=1), "update_to_weight", "L1.K", 0.0)
    places, features = UsualFamilies.of(BANK).features(dead)
    update = dict(zip(places, features[:, FAMILIES.index("update")].tolist(), strict=True))
    assert update["L1.K"] > 3 * update["L1.Q"]


def test_what_moves_every_block_alike_is_no_place() -> None:
    row = bench_rows.healthy(seed=1)
    louder = replace(row, key="louder")
    for block in row.blocks:
        louder = bench_rows.scaled(louder, "gradient_norm", block, 50.0)
    usual, column = UsualFamilies.of(BANK), FAMILIES.index("gradient")
    assert usual.features(louder)[1][:, column].max() < usual.features(row)[1][:, column].max() + 1.5


def test_learning_distrusts_a_finding_that_is_always_wrong() -> None:
    wrong = Named("X1", "false_friend", "L0.mask", "warning", 0.9)
    rows = [replace(row, findings=(*row.findings, wrong)) for row in bench_rows.bench(layers=(1,))]
    learned = learned_from(rows)
    assert learned.calibration.probability("false_friend", 0.9) < 0.2
    assert learned.calibration.probability("padding_attended", 1.0) > 0.8


def test_a_held_out_subject_teaches_nothing_about_itself() -> None:
    rows = bench_rows.bench(subjects=bench_rows.SUBJECTS[:3], layers=(0, 1))
    _, taught = Bench.of(rows).combined(UNPAIRED, "subject")
    lied = [
        replace(row, places=("classifier",), findings=()) if row.subject == "han_keyed" and row.arm == "fault" else row
        for row in rows
    ]
    _, again = Bench.of(lied).combined(UNPAIRED, "subject")
    assert again["han_keyed"] == taught["han_keyed"]
    assert again["conv3d_digits"] != taught["conv3d_digits"]


def test_a_kind_that_is_held_out_is_not_named_by_its_own_rule() -> None:
    rows = bench_rows.bench(subjects=bench_rows.SUBJECTS[:2], layers=(1,))
    by_kind = {item.row.key: item for item in Bench.of(rows).combined(UNPAIRED, "kind")[0]}
    by_subject = {item.row.key: item for item in Bench.of(rows).combined(UNPAIRED, "subject")[0]}
    named = [key for key, item in by_kind.items() if item.row.change == "padding_attended"]
    assert named
    assert {by_subject[key].kind for key in named} == {"padding_attended"}
    assert {by_kind[key].kind for key in named} == {""}
    assert {by_kind[key].suspicion < by_subject[key].suspicion for key in named} == {True}


def test_learning_without_faults_leaves_the_prior() -> None:
    rows = [bench_rows.healthy(seed=seed) for seed in range(4)]
    learned = learned_from(rows)
    assert dict(learned.places) == dict(Learned().places)
    assert np.isfinite(list(learned.detection.values())).all()
