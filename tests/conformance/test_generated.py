"""Attentions that nobody wrote: assembled by hypothesis, compared with how they were assembled."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from attnscope.anatomy.observe import observe
from attnscope.anatomy.trace import trace
from attnscope.case import default_forward

from .truth import Row, differences
from .zoo_generated import Generated, Plan, batch_of, truth_of


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any plan that makes sense: a causal mask only in self-attention, no 0 * -inf in a computed one."""
    n_memory = draw(st.sampled_from((0, 0, 2, 3, 5)))
    mask = draw(st.sampled_from(("none", "add", "masked_fill", "where", "computed")))
    fills = (-1e9, -1e4) if mask == "computed" else (float("-inf"), -1e9, -1e4)
    return Plan(
        n_heads=draw(st.integers(1, 4)), d_head=draw(st.integers(2, 5)), d_input=draw(st.integers(4, 9)),
        batch=draw(st.integers(1, 4)), n_queries=draw(st.integers(2, 5)), n_memory=n_memory,
        layout=draw(st.sampled_from(("separate", "chunks", "by head", "heads fastest"))),
        product=draw(st.sampled_from(("matmul", "bmm", "einsum"))),
        scale=draw(st.sampled_from(("after", "divided", "query", "both", "none"))),
        mask=mask, causal=not n_memory and draw(st.booleans()), fill=draw(st.sampled_from(fills)),
        softmax=draw(st.sampled_from(("function", "module", "hand"))), transposed=draw(st.booleans()),
        bias=draw(st.booleans()), residual=draw(st.booleans()),
    )


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(plans())
@example(Plan(n_heads=3, d_head=3, d_input=3, batch=3, n_queries=3, layout="heads fastest"))
@example(Plan(n_heads=4, d_head=4, d_input=4, batch=4, n_queries=4, transposed=True))
@example(Plan(n_heads=2, d_head=2, d_input=4, batch=2, n_queries=2, mask="where", causal=True, product="bmm"))
def test_generated_attention(plan: Plan) -> None:
    torch.manual_seed(0)
    model, batch = Generated(plan).eval(), batch_of(plan)
    anatomy = trace(model, batch)
    row = Row("generated", lambda: (model, batch), (truth_of(plan),))
    assert not (found := differences(row, model, anatomy)), "\n  " + "\n  ".join(found)
    keep: list = []
    with torch.no_grad():
        model(**batch, keep=keep)
    observed = observe(model, batch, anatomy=anatomy, forward=default_forward).attentions[0]
    torch.testing.assert_close(observed.pattern, keep[0]["pattern"], rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(observed.scores, keep[0]["scores"], rtol=1e-4, atol=2e-6)
