"""A published diagnoser is scored as it should be: by hand on few rows, and against rows whose truth is drawn."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnscope import catalogue
from attnscope.bench import peers
from attnscope.bench.peers import CATEGORIES, INTENDED, ROOT_CAUSES, Answer, PeerRow, Verdict
from attnscope.bench.peers_page import page
from attnscope.bench.row import FAULT, HEALTHY, Named, Row
from attnscope.errors import RecordError

ROOT = Path(__file__).parents[2]


def answer(margin: float, category: str = "", root_cause: str = "") -> Answer:
    return Answer(margin > 0, 1 / (1 + math.exp(-margin)), margin, category, 0.9, root_cause, 0.8)


def healthy(seed: int, margin: float, **more: object) -> PeerRow:
    return PeerRow(f"h{seed}", HEALTHY, seed=seed, quality=0.7, known=9, shipped=answer(margin), **more)  # type: ignore[arg-type]


def fault(name: str, ids: tuple[str, ...], said: Answer | None, **more: object) -> PeerRow:
    return PeerRow(f"f{name}", FAULT, name, ids, quality=0.6, known=9, shipped=said, **more)  # type: ignore[arg-type]


ROWS = [
    healthy(0, -2.0, aligned=answer(-3.0)),
    healthy(1, 1.0, aligned=answer(-2.0)),
    healthy(6, -1.0, aligned=answer(9.0), bank=True),
    fault("zeroed_query", ("QZQ",), answer(3.0, "qkv", "zero_query"), aligned=answer(2.0, "qkv", "zero_key")),
    fault("logits_scaled", ("OSL",), answer(0.5, "qkv", "zero_query"), aligned=answer(-2.5)),
    fault("classifier_redrawn", ("ORI",), answer(2.0, "output", "out_noise"), aligned=answer(1.0)),
    fault("updated_twice", ("D6",), answer(-3.0), aligned=answer(-4.0)),
    fault("not_finite", ("QZV",), None, why="ValueError: NaN"),
    PeerRow("i0", INTENDED, quality=0.8, known=11, shipped=answer(4.0, "ffn", "ffn_neuron_drop")),
]


def test_detection_by_hand() -> None:
    found = peers.detection(peers.verdicts(ROWS))
    assert (found.faulty, found.healthy) == (4, 3)  # the failed and the intended run are no part of it
    assert found.auroc == pytest.approx((3 + 2 + 3 + 0) / 12)
    assert found.recall == pytest.approx(3 / 4)
    assert found.false_alarms == pytest.approx(1 / 3)
    assert found.f1 == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found.recall_allowed == pytest.approx(2 / 4)  # above the worst healthy run


def test_healthy_runs_that_were_the_reference_are_not_scored() -> None:
    found = peers.detection(peers.verdicts(ROWS, aligned=True))
    assert found.healthy == 2
    assert found.false_alarms == 0.0
    assert found.auroc == pytest.approx((2 + 1 + 2 + 0) / 8)


def test_a_saturated_probability_cannot_rank_what_its_margin_can() -> None:
    rows = [replace(healthy(0, 20.0), shipped=Answer(True, 1.0, 20.0)), fault("a", (), Answer(True, 1.0, 30.0))]
    assert peers.detection(peers.verdicts(rows)).auroc == 1.0
    assert peers.detection(peers.verdicts(rows, by="detection_prob")).auroc == 0.5


def test_calling_everything_faulty_scores_by_prevalence() -> None:
    found = peers.detection(peers.always(ROWS))
    assert found.auroc == 0.5
    assert found.recall == found.false_alarms == 1.0
    assert found.f1 == pytest.approx(2 * 5 / (2 * 5 + 3))


def test_names_count_only_where_its_catalogue_has_them() -> None:
    category = peers.named(ROWS, "category")
    assert (category.n, category.right) == (3, pytest.approx(2 / 3))  # D6 is not in it, QZV failed
    assert category.guess == pytest.approx(2 / 3)  # output twice, qkv once
    cause = peers.named(ROWS, "root_cause")
    assert (cause.n, cause.right) == (2, pytest.approx(1 / 2))  # ORI has no label in its diagnoser
    assert peers.named(ROWS, "category", aligned=True).right == pytest.approx(1 / 3)
    assert math.isnan(peers.named([], "category").right)


def test_a_probability_drawn_without_truth_is_chance() -> None:
    draw = np.random.default_rng(0).normal(size=4000)
    rows = [healthy(n, float(m)) if n % 2 else fault(str(n), (), answer(float(m))) for n, m in enumerate(draw)]
    found = peers.detection(peers.verdicts(rows))
    assert found.auroc == pytest.approx(0.5, abs=0.03)
    assert found.recall_allowed == pytest.approx(peers.ALLOWED, abs=0.02)


def test_ours_is_detected_by_a_warning_and_not_by_a_note() -> None:
    def row(key: str, arm: str, *severities: str) -> Row:
        findings = tuple(Named("X1", "kind", "L0", severity, 0.5) for severity in severities)
        return Row(key, "s", "m", "t", arm, findings=findings)

    rows = [
        row("a", FAULT, "note", "error"), row("b", FAULT, "warning"), row("c", HEALTHY, "note"), row("d", HEALTHY),
        replace(row("e", FAULT, "error"), status="failed"), row("other", FAULT),
    ]  # fmt: skip
    said = peers.ours(rows, "abcde")
    assert {key: verdict.detected for key, verdict in said.items()} == {"a": True, "b": True, "c": False, "d": False}
    assert said["a"].suspicion > said["b"].suspicion > said["c"].suspicion > said["d"].suspicion == 0.0


def test_the_file_gives_back_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    said = {"h0": Verdict(HEALTHY, False, 0.25)}
    path.write_text(peers.text(ROWS, said, {"package": "p 1"}), encoding="utf-8")
    assert peers.read(path) == (sorted(ROWS, key=lambda row: row.key), said, {"package": "p 1"})


@pytest.mark.parametrize("content", [None, "{", "[]", '{"rows": []}', '{"rows": [1], "environment": {}}'])
def test_a_bad_file_is_told(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "peers.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(RecordError, match=r"peers\.json"):
        peers.read(path)


def test_the_page_tells_failures_and_what_is_not_comparable() -> None:
    made = page(ROWS, {"h0": Verdict(HEALTHY, False, 0.0), "fzeroed_query": Verdict(FAULT, True, 2.0)}, {"epochs": 5})
    assert "It failed on 1 of 8 runs: ValueError: NaN." in made
    assert "counted for detection alone: `updated_twice`" in made
    assert "| attnscope, on the same cases | 1 | 1 | 1.00 | 1.00 | 1.00 | 0.00 | 1.00 |" in made
    assert "| pre-trained model, fine-tuned by its recipe | 1 | 0.80 to 0.80 | 1 |" in made
    assert "nan" not in made.lower().replace("valueerror: nan", "")


def test_a_page_of_one_row_is_made() -> None:
    assert page([healthy(0, 1.0)], {}, {}).count("| - |") > 3


def test_the_names_are_of_operators_that_faults_of_ours_bear() -> None:
    assert set(ROOT_CAUSES) <= set(CATEGORIES)
    ids = {each for name in catalogue.names("faults") for each in catalogue.load("faults", name).ids}
    assert len(ids & set(CATEGORIES)) > 25


def test_the_page_in_the_docs_is_that_of_the_stored_answers() -> None:
    stored = ROOT / "benchmarks" / "bench_peers.json"
    if not stored.exists():
        pytest.skip("no answers are stored")
    assert (ROOT / "docs" / "bench_peers.md").read_text(encoding="utf-8") == page(*peers.read(stored))
    assert json.loads(stored.read_text(encoding="utf-8"))["environment"]["package"] == "defaultplusplus 0.4.1"
