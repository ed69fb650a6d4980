"""Rules at their borders: what each weighs, on anatomies and readings made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from attnscope import catalogue
from attnscope.anatomy.blocks import (
    Anatomy,
    Attention,
    Block,
    Form,
    Kind,
    MaskStep,
    ParameterSlice,
    Role,
    SoftmaxStep,
    Source,
    Step,
)
from attnscope.diagnosis.rules import Examination, Severity, Suspect
from attnscope.readings import Reading

LINE = Source("model.py", 7)
SCALE = 8**-0.5


def attention(layer: int = 0, **changes: Any) -> Attention:
    made = Attention(
        layer=layer,
        module=f"blocks.{layer}.attention",
        module_class="SelfAttention",
        form=Form.DOT_PRODUCT,
        kind=Kind.SELF,
        n_heads=2,
        n_key_heads=2,
        d_head=8,
        d_value=8,
        scale=SCALE,
        scale_factors=(SCALE,),
        expected_scale=SCALE,
        score_step=Step("bmm", LINE),
        softmax=SoftmaxStep("softmax", LINE),
        n_queries=6,
        n_keys=6,
        batch_size=3,
        positions=("absolute",),
        blocks={role.value: f"L{layer}.{letter}" for role, letter in zip(ROLES, "QKVO", strict=True)},
    )
    return replace(made, **changes)


ROLES = (Role.QUERY, Role.KEY, Role.VALUE, Role.OUTPUT)


def blocks(layers: int) -> tuple[Block, ...]:
    return tuple(
        Block(
            f"L{layer}.{letter}",
            role,
            (ParameterSlice(f"blocks.{layer}.attention.{role.value}.weight", (16, 16)),),
            layer=layer,
        )
        for layer in range(layers)
        for role, letter in zip(ROLES, "QKVO", strict=True)
    )


def per_head(lens: str, rows: list[list[float]], **facts: Any) -> Reading:
    values = np.asarray(rows, dtype=float)
    return Reading(
        lens,
        values,
        ("layer", "head"),
        "1",
        coords={"layer": tuple(range(values.shape[0])), "head": tuple(range(values.shape[1]))},
        facts=facts,
    )


def per_block(lens: str, values: dict[str, float], **facts: Any) -> Reading:
    return Reading(
        lens, np.asarray(list(values.values())), ("block",), "1", coords={"block": tuple(values)}, facts=facts
    )


def asked(
    kind: str,
    *attentions: Attention,
    readings: tuple[Reading, ...] = (),
    unused: tuple[str, ...] = (),
    extra: tuple[Block, ...] = (),
    **rest: Any,
) -> list[Suspect]:
    anatomy = Anatomy("Model", attentions, (*blocks(len(attentions)), *extra), unused=unused)
    examination = Examination(anatomy, {reading.lens: reading for reading in readings}, **rest)
    return catalogue.load("rules", kind)().weigh(examination)


def sums(deviation: float, **facts: Any) -> Reading:
    given = {
        "tolerance": [1e-6],
        "softmax_deviation": [[0.0, 0.0]],
        "sums_to_one": [["keys"]],
        "cleared_after": [False],
        "lowest_sum": [[1.0, 1.0]],
        "highest_sum": [[1.0, 1.0]],
        "widest_ratio": [[9.0, 9.0]],
        "scores_are_a_distribution": [False],
    }
    return per_head("row_sums", [[deviation, deviation]], **{**given, **facts})


# --- every rule is silent when there is nothing to see -----------------------------------------------------------


@pytest.mark.parametrize("kind", catalogue.names("rules"))
def test_silent_without_readings(kind: str) -> None:
    assert asked(kind, attention(0, residual=True), attention(1, residual=True)) == []


@pytest.mark.parametrize("kind", catalogue.names("rules"))
def test_silent_on_an_empty_anatomy(kind: str) -> None:
    assert asked(kind) == []


# --- masks -----------------------------------------------------------------------------------------------------------


def causal_mask(**changes: Any) -> MaskStep:
    return MaskStep("masked_fill", Source("model.py", 9), how="masked_fill", fill=-1e9, **changes)


def future(seen: float, furthest: int = 5) -> Reading:
    return per_head("future_mass", [[seen, 0.0]], furthest=[furthest])


def test_the_future_must_carry_no_weight() -> None:
    expects = {"causal": True}
    assert asked("future_leak", attention(), readings=(future(0.0),), expects=expects) == []
    assert asked("future_leak", attention(), readings=(future(1e-9),), expects=expects) == []
    assert len(asked("future_leak", attention(), readings=(future(1e-3),), expects=expects)) == 1


@pytest.mark.parametrize("expects", [{}, {"causal": False}, {"causal": {0: False}}, {"causal": {1: True}}])
def test_an_attention_that_need_not_be_causal_may_see_the_future(expects: dict[str, Any]) -> None:
    assert asked("future_leak", attention(), readings=(future(0.5),), expects=expects) == []


@pytest.mark.parametrize(
    ("mask", "furthest", "words"),
    [
        ((), 5, "no causal mask"),
        ((causal_mask(),), 1, "off by 1"),
        ((replace(causal_mask(), fill=-5.0),), 5, "fills with -5"),
        ((causal_mask(),), 5, "does not forbid"),
    ],
)
def test_the_leak_says_what_is_wrong_with_the_mask(
    mask: tuple[MaskStep, ...], furthest: int, words: str
) -> None:
    (suspect,) = asked(
        "future_leak", attention(mask=mask), readings=(future(0.2, furthest),), expects={"causal": True}
    )
    assert words in suspect.summary
    assert suspect.source is not None
    assert suspect.source.line == (9 if mask else 7)


def test_an_inferred_intention_is_counter_evidence() -> None:
    (suspect,) = asked(
        "future_leak", attention(), readings=(future(0.2),), expects={"causal": True}, inferred=("causal",)
    )
    assert suspect.confidence < 1
    assert "inferred" in suspect.counter_evidence[0].statement


def test_padding_that_is_seen_alone_is_an_inverted_mask() -> None:
    some = per_head("padding_mass", [[0.3, 0.2]], share_of_keys=[0.4])
    all_of_it = per_head("padding_mass", [[1.0, 0.9999999]], share_of_keys=[0.4])
    nothing = per_head("padding_mass", [[0.0, 0.0]], share_of_keys=[0.4])
    only_padding = per_head("padding_mass", [[1.0, 1.0]], share_of_keys=[1.0])
    answers = {
        "padding_attended": [
            len(asked("padding_attended", attention(), readings=(reading,)))
            for reading in (some, all_of_it, nothing)
        ],
        "padding_mask_inverted": [
            len(asked("padding_mask_inverted", attention(), readings=(reading,)))
            for reading in (some, all_of_it, nothing, only_padding)
        ],
    }
    assert answers == {"padding_attended": [1, 0, 0], "padding_mask_inverted": [0, 1, 0, 0]}


def test_a_mask_after_the_softmax_is_judged_by_the_rows_it_leaves() -> None:
    after = MaskStep("mul", LINE, how="multiply", when="after_softmax")
    kind = "mask_after_softmax"
    assert len(asked(kind, attention(mask=(after,)), readings=(sums(0.4),))) == 1
    assert asked(kind, attention(mask=(after,)), readings=(sums(0.0),)) == []  # the rows are normalised again
    assert asked(kind, attention(mask=(after, causal_mask())), readings=(sums(0.4),)) == []
    assert len(asked(kind, attention(), readings=(sums(0.4, cleared_after=[True]),))) == 1


# --- softmax and scale -----------------------------------------------------------------------------------------------


def test_the_wrong_axis_is_one_that_sums_to_one_while_the_keys_do_not() -> None:
    over_queries = sums(0.7, softmax_deviation=[[0.7, 0.7]], sums_to_one=[["queries"]])
    (suspect,) = asked("softmax_wrong_axis", attention(), readings=(over_queries,))
    assert "queries" in suspect.summary
    slots = sums(
        0.0, softmax_deviation=[[0.7, 0.7]], sums_to_one=[["queries"]]
    )  # normalised over keys afterwards
    assert asked("softmax_wrong_axis", attention(), readings=(slots,)) == []
    assert asked("rows_not_normalised", attention(), readings=(over_queries,)) == []


def test_talking_heads_are_no_fault() -> None:
    mixed = sums(0.3, lowest_sum=[[1.3, 0.8]], highest_sum=[[1.3, 0.8]])
    scaled = sums(0.5, lowest_sum=[[0.5, 0.5]], highest_sum=[[0.5, 0.5]])
    assert asked("rows_not_normalised", attention(), readings=(mixed,)) == []
    assert len(asked("rows_not_normalised", attention(), readings=(scaled,))) == 1


def variance(*heads: float) -> Reading:
    return per_head("score_variance", [list(heads)])


@pytest.mark.parametrize(
    ("changes", "heads", "found"),
    [
        ({}, (1.0, 1.0), 0),
        ({"scale": None, "scale_factors": ()}, (1.0, 1.0), 0),  # learned
        ({"scale": 1.0, "scale_factors": ()}, (5.0, 9.0), 1),  # nothing stands for the missing scale
        ({"scale": 1.0, "scale_factors": ()}, (0.1, 0.2), 0),  # the weights are small enough
        ({"scale": 1.0, "scale_factors": (), "scale_note": "query weights are small"}, (5.0, 9.0), 0),  # T5
        ({"scale": 1 / 8, "scale_factors": (1 / 8,)}, (1.0, 1.0), 0),  # muP
        ({"scale": 1 / 8, "scale_factors": (SCALE, SCALE)}, (1.0, 1.0), 1),  # twice
        ({"scale": 16**-0.5, "scale_factors": (16**-0.5,)}, (1.0, 1.0), 1),  # d_model
        (
            {"scale": 16**-0.5, "scale_factors": (16**-0.5,), "kind": Kind.LEARNED_QUERY},
            (1.0, 1.0),
            0,
        ),  # sets
        ({"scale": 0.6, "scale_factors": (0.6,)}, (1.0, 1.0), 0),  # somebody's choice
        ({"scale": 8**0.5, "scale_factors": (8**0.5,)}, (40.0, 60.0), 1),  # multiplied
        ({"scale": 0.02, "scale_factors": (0.02,)}, (1e-5, 1e-4), 1),  # flat
        ({"scale": 0.002, "scale_factors": (0.002,)}, (1e-5, 1e-4), 0),  # uniform_attention names it
    ],
)
def test_a_scale_is_a_fault_on_evidence_only(
    changes: dict[str, Any], heads: tuple[float, ...], found: int
) -> None:
    suspects = asked("wrong_scale", attention(**changes), readings=(variance(*heads),))
    assert len(suspects) == found


def test_one_layer_with_another_scale_is_an_error() -> None:
    odd = attention(1, scale=1.0, scale_factors=())
    (suspect,) = asked("wrong_scale", attention(0), odd, attention(2))
    assert (suspect.place, suspect.severity) == ("L1.scale", Severity.ERROR)


def test_saturation_is_wide_scores_and_one_hot_rows() -> None:
    def scores(widest: list[float], one_hot: list[float]) -> Reading:
        return per_head("largest_score", [widest], widest_row=[widest], saturated_share=[one_hot])

    def places(widest: list[float], one_hot: list[float]) -> list[str]:
        suspects = asked("saturated_scores", attention(n_heads=4), readings=(scores(widest, one_hot),))
        return [suspect.place for suspect in suspects]

    assert places([20.0, 30.0, 60.0, 9.0], [0.9, 0.9, 0.9, 0.9]) == []  # sinks
    assert places([900.0, 30.0, 60.0, 9.0], [0.1, 0.9, 0.9, 0.9]) == []
    assert places([20.0, 900.0, 60.0, 9.0], [0.9, 0.9, 0.9, 0.9]) == ["L0.scores"]
    assert places([900.0, 700.0, 600.0, 9.0], [0.9, 0.9, 0.9, 0.9]) == ["L0.scores"]


def distances(rows: list[list[float]], exact: list[list[int]]) -> Reading:
    return per_head("distance_to_uniform", rows, exact=exact)


def test_uniform_attention_is_exact_or_out_of_line() -> None:
    kind = "uniform_attention"
    untrained = distances([[1e-4, 2e-4], [1e-4, 3e-4]], [])
    assert asked(kind, attention(0), attention(1), readings=(untrained,)) == []
    one_layer = distances([[1e-4, 2e-4], [0.4, 0.3]], [])
    assert [item.place for item in asked(kind, attention(0), attention(1), readings=(one_layer,))] == [
        "L0.scores"
    ]
    exact = distances([[0.0, 0.0], [1e-4, 3e-4]], [[0, 0], [0, 1]])
    (suspect,) = asked(kind, attention(0), attention(1), readings=(exact,))
    assert suspect.severity is Severity.ERROR


# --- projections -------------------------------------------------------------------------------------------------


def zeros(*names: str) -> Reading:
    return per_block("zero_blocks", {name: 1.0 for name in names}, zero=list(names))


def test_zero_values_explain_their_dead_neighbours() -> None:
    dead = per_block("dead_gradient", {"L0.Q": 0.0}, dead=["L0.Q", "L0.K", "L0.O", "L1.K"], state={})
    (suspect,) = asked("zeroed_projection", attention(0), attention(1), readings=(zeros("L0.V"), dead))
    assert suspect.place == "L0.V"
    assert suspect.effects[:3] == ("L0.Q", "L0.K", "L0.O")


def test_output_projections_may_start_at_zero_everywhere() -> None:
    fresh = per_block("initial_blocks", {"L0.Q": 0.5}, initial=[block.name for block in blocks(2)])
    everywhere = asked(
        "zeroed_projection", attention(0), attention(1), readings=(zeros("L0.O", "L1.O"), fresh)
    )
    assert {suspect.severity for suspect in everywhere} == {Severity.NOTE}
    one = asked("zeroed_projection", attention(0), attention(1), readings=(zeros("L0.O"), fresh))
    assert [suspect.severity for suspect in one] == [Severity.ERROR]


def duplicates(
    pairs: list[tuple[str, str, str]],
    alike: tuple[tuple[int, int], ...] = (),
    tied: tuple[list[str], ...] = (),
    how: str = "same parameter",
) -> Reading:
    return per_block(
        "duplicate_blocks",
        {"L0.Q": 0.0},
        heads=[],
        tied=list(tied),
        pairs=[{"a": a, "b": b, "how": how} for a, b, how in pairs],
        layers_alike=[{"layers": list(layers), "how": how} for layers in alike],
    )


def test_sharing_that_is_the_architecture_is_no_mistake() -> None:
    both = (attention(0), attention(1))
    albert = duplicates([(f"L0.{letter}", f"L1.{letter}", "same parameter") for letter in "QKVO"], ((0, 1),))
    assert asked("shared_by_mistake", *both, readings=(albert,)) == []
    cloned = duplicates(
        [(f"L0.{letter}", f"L1.{letter}", "equal values") for letter in "QKVO"], ((0, 1),), how="equal values"
    )
    assert asked("shared_by_mistake", *both, readings=(cloned,)) == []
    repeated = duplicates(
        [(f"L0.{letter}", f"L1.{letter}", "same parameter") for letter in "QKVO"],
        ((0, 1),),
        tied=(["blocks.0.attention.query.weight", "blocks.1.attention.query.weight"],),
    )
    assert len(asked("shared_by_mistake", *both, readings=(repeated,))) == 1


def test_a_single_shared_projection_is_a_mistake() -> None:
    both = (attention(0), attention(1))
    for pair in (("L0.Q", "L0.K", "equal values"), ("L0.K", "L1.K", "same parameter")):
        (suspect,) = asked("shared_by_mistake", *both, readings=(duplicates([pair]),))
        assert suspect.severity is Severity.ERROR
        assert {suspect.place, *suspect.effects} >= set(pair[:2])


def test_queries_shared_with_keys_everywhere_may_be_the_design() -> None:
    pairs = [(f"L{layer}.Q", f"L{layer}.K", "same parameter") for layer in range(2)]
    suspects = asked("shared_by_mistake", attention(0), attention(1), readings=(duplicates(pairs),))
    assert {suspect.severity for suspect in suspects} == {Severity.WARNING}


def test_a_layer_that_hurts_is_no_exchange() -> None:
    """Any exchange in it saves something; one of queries and keys must save twice what that of values saves."""

    def exchanges(of_values: float) -> Reading:
        facts = {
            "loss": 2.0, "pairs": [["L0.Q", "L0.K"], ["L0.V", "L0.O"], ["L0.Q", "L0.V"]],
            "kinds": ["roles"] * 3, "falls_everywhere": [True] * 3,
        }  # fmt: skip
        return Reading("exchanged_blocks", np.asarray([-0.5, of_values, -0.4]), ("exchange",), "loss", facts=facts)

    assert asked("swapped_query_key", attention(), readings=(exchanges(-0.3),)) == []
    assert len(asked("swapped_query_key", attention(), readings=(exchanges(-0.2),))) == 1
    assert len(asked("swapped_query_key", attention(), readings=(exchanges(0.1),))) == 1


def test_an_exchange_must_save_much_on_every_batch() -> None:
    def exchange(change: float, everywhere: bool = True, loss: float = 2.0) -> Reading:
        return Reading(
            "exchanged_blocks",
            np.asarray([change]),
            ("exchange",),
            "loss",
            facts={
                "loss": loss,
                "pairs": [["L0.Q", "L0.K"]],
                "kinds": ["roles"],
                "falls_everywhere": [everywhere],
            },
        )

    kind = "swapped_query_key"
    assert len(asked(kind, attention(), readings=(exchange(-1.0),))) == 1
    assert asked(kind, attention(), readings=(exchange(-1.0, everywhere=False),)) == []
    assert asked(kind, attention(), readings=(exchange(-0.05),)) == []
    assert asked(kind, attention(), readings=(exchange(-0.03, loss=0.04),)) == []
    assert asked(kind, attention(), readings=(exchange(0.5),)) == []
    # what any harm would save, too, is no sign of an exchange
    zeroed = per_block("block_ablation", {"L0.Q": 0.3}, loss_change={"L0.Q": -0.8})
    assert asked(kind, attention(), readings=(exchange(-1.0), zeroed)) == []
    harmless = per_block("block_ablation", {"L0.Q": 0.3}, loss_change={"L0.Q": -0.4})
    assert len(asked(kind, attention(), readings=(exchange(-1.0), harmless))) == 1
    # nor is a loss that stays at what a guess among the labels gives
    two_classes = Reading(
        "label_signal", np.zeros(1), ("batch",), "loss", facts={"entropy": 0.69, "n_distinct": 2, "n_labels": 32}
    )
    assert asked(kind, attention(), readings=(exchange(-1.0), two_classes)) == []
    assert len(asked(kind, attention(), readings=(exchange(-1.5), two_classes))) == 1


# --- residual, norms, gradients ------------------------------------------------------------------------------------


def test_a_missing_residual_is_one_that_others_have() -> None:
    with_one, without = attention(0, residual=True), attention(1, residual=False)
    (suspect,) = asked("residual_dropped", with_one, without)
    assert (suspect.place, suspect.severity) == ("L1.residual", Severity.ERROR)
    pooled = attention(1, residual=False, kind=Kind.LEARNED_QUERY, module="pool")
    assert asked("residual_dropped", with_one, pooled) == []
    assert asked("residual_dropped", attention(0, residual=False)) == []


def test_an_optimizer_that_holds_a_part_only_is_a_plan() -> None:
    def coverage(left_out: set[str], **facts: Any) -> Reading:
        values = {block.name: 0.0 if block.name in left_out else 1.0 for block in blocks(2)}
        return per_block("optimizer_coverage", values, optimizer="AdamW", **facts)

    kind, both = "left_out_of_optimizer", (attention(0), attention(1))
    assert asked(kind, *both, readings=(coverage(set()),)) == []
    (suspect,) = asked(kind, *both, readings=(coverage({"L1.K"}),))
    assert suspect.place == "L1.K"
    backbone = {block.name for block in blocks(2)} - {"L1.O"}
    assert asked(kind, *both, readings=(coverage(backbone),)) == []


def rates(**values: float) -> Reading:
    given = {block.name: 1.0 for block in blocks(4)}
    return per_block(
        "learning_rates", {**given, **{name.replace("_", "."): value for name, value in values.items()}}
    )


def test_a_rate_is_compared_with_its_neighbours() -> None:
    layers = tuple(attention(layer) for layer in range(4))
    kind = "learning_rate_out_of_line"
    assert asked(kind, *layers, readings=(rates(),)) == []
    assert [item.place for item in asked(kind, *layers, readings=(rates(L1_Q=100.0),))] == ["L1.Q"]
    decayed = rates(**{f"L{layer}_{letter}": 0.2 ** (3 - layer) for layer in range(4) for letter in "QKVO"})
    assert asked(kind, *layers, readings=(decayed,)) == []
    assert asked(kind, *layers, readings=(rates(L1_V=16.0),)) == []


def test_a_frozen_block_is_not_cut_off() -> None:
    dead = per_block("dead_gradient", {"L0.K": 0.2}, dead=["L0.K"], state={"L0.K": "cut"}, cuts=[])
    assert [item.place for item in asked("cut_gradient", attention(), readings=(dead,))] == ["L0.K"]
    silent = per_block("dead_gradient", {"L0.K": 0.0}, dead=["L0.K"], state={"L0.K": "no effect"}, cuts=[])
    assert asked("cut_gradient", attention(), readings=(silent,)) == []


def test_the_edge_of_stability_is_healthy() -> None:
    def sharp(share: float) -> Reading:
        return per_block("preconditioned_top_eigenvalue", {"L0.Q": share})

    def trial(rose: float) -> Reading:
        facts = {"rose": rose, "first": 1.0, "last": 0.5 + rose}
        return Reading("trial_steps", np.asarray([1.0, 0.5 + rose]), ("step",), "nat", facts=facts)

    def suspects(*readings: Reading) -> int:
        return len(asked("beyond_stability_limit", attention(), readings=readings))

    assert suspects(sharp(1.3), trial(1.0)) == 0
    assert suspects(sharp(5.0), trial(1.0)) == 1
    assert suspects(sharp(5.0), trial(0.2)) == 0
    assert suspects(sharp(5.0)) == 0


# --- positions and data --------------------------------------------------------------------------------------------


def order(moved: float, first: float = 0.5) -> Reading:
    return Reading(
        "token_order",
        np.asarray([first]),
        ("layer",),
        "1",
        facts={"moved": moved, "tolerance": 1e-6, "first_attention_moved": first},
    )


def test_positions_are_missing_where_order_matters_only() -> None:
    positions = Block("positions", Role.POSITIONS, (ParameterSlice("positions.weight", (20, 16)),))
    kind = "positions_missing"
    blind, sees = order(1e-8, 1e-8), order(0.3)
    assert asked(kind, attention(), readings=(blind,)) == []
    assert asked(kind, attention(), readings=(sees,), expects={"order_matters": True}) == []
    (suspect,) = asked(kind, attention(), readings=(blind,), expects={"order_matters": True})
    assert suspect.severity is Severity.ERROR
    assert (
        asked(kind, attention(), readings=(blind,), expects={"order_matters": True}, extra=(positions,)) == []
    )
    (constant,) = asked(
        "positions_constant",
        attention(),
        readings=(blind,),
        expects={"order_matters": True},
        extra=(positions,),
    )
    assert constant.place == "positions"
    (unused,) = asked(
        kind,
        attention(),
        readings=(blind,),
        expects={"order_matters": True},
        extra=(positions,),
        unused=("positions.weight",),
    )
    assert "positions" in unused.effects


def alignment(best: int, language_model: bool = True) -> Reading:
    return Reading(
        "label_alignment",
        np.asarray([2.0, 0.1, 2.0, 2.0]),
        ("offset",),
        "loss",
        coords={"offset": (-1, 0, 1, 2)},
        facts={"best": best, "uniform": 2.8, "language_model": language_model},
    )


def test_an_auto_encoder_may_have_its_input_as_target() -> None:
    causal = attention(causal_source="its mask")
    kind = "labels_unshifted"
    assert len(asked(kind, causal, readings=(alignment(0),))) == 1
    assert asked(kind, attention(), readings=(alignment(0),)) == []
    assert asked(kind, causal, readings=(alignment(0),), expects={"next_token": False}) == []
    assert asked(kind, causal, readings=(alignment(1),)) == []
    assert asked(kind, causal, readings=(alignment(0, language_model=False),)) == []


def test_labels_are_judged_on_trained_models_only() -> None:
    def signal(rise: float, **facts: Any) -> Reading:
        return Reading(
            "label_signal",
            np.asarray([rise]),
            ("batch",),
            "loss",
            stderr=np.asarray([0.01]),
            facts={"n_labels": 32, **facts},
        )

    start = Reading("loss_at_start", np.asarray([1.0]), ("batch",), "1")
    trained = per_block("optimizer_coverage", {"L0.Q": 1.0}, steps=200)
    fresh = per_block("optimizer_coverage", {"L0.Q": 1.0}, steps=None)
    kind = "labels_without_signal"
    assert len(asked(kind, attention(), readings=(signal(0.0), start, trained))) == 1
    assert asked(kind, attention(), readings=(signal(0.0), start, fresh)) == []
    assert asked(kind, attention(), readings=(signal(0.5), start, trained)) == []
    assert len(asked(kind, attention(), readings=(signal(0.0, constant=True), start, fresh))) == 1
