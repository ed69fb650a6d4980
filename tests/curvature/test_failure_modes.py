"""What breaks other curvature libraries, or quietly makes them wrong."""

from __future__ import annotations

import copy
import random
import types

import pytest
import torch
from torch import nn

from attnscope.anatomy.blocks import Block, ParameterSlice, Role
from attnscope.curvature.hessian import Hessian
from attnscope.errors import CaseError, NotDeterministicError
from reference.curvature_cases import TinyAttention, tiny_batch, tiny_blocks, tiny_loss
from reference.dense_curvature import DenseOperator, dense_hessian


def whole_blocks(model):
    return tuple(
        Block(name, Role.ENCODER, (ParameterSlice(name, tuple(parameter.shape)),))
        for name, parameter in model.named_parameters()
    )


def assert_equals_dense(model, batches, loss, weights=None, tolerance=1e-10, dense_model=None, **options):
    """Every block column of the operator is that of the dense matrix."""
    blocks = options.pop("blocks", None) or whole_blocks(model)
    options.setdefault("dtype", torch.float64)
    operator = Hessian(model, batches, loss, blocks, **options)
    matrix, index = dense_hessian(dense_model or model, batches_in(batches, torch.float64), loss, weights)
    dense = DenseOperator.cut(matrix, blocks, index)
    assert float(matrix.norm()) > 0
    for name in operator.names:
        vector = torch.randn(operator.sizes[name], dtype=torch.float64,
                             generator=torch.Generator().manual_seed(1))
        found, expected = operator.matvec({name: vector.to(operator.dtype)}), dense.matvec({name: vector})
        error = sum(float((found[b].double() - expected[b]).square().sum()) for b in found) ** 0.5
        assert error <= tolerance * float(matrix.norm()) * float(vector.norm()), name
    return operator


def batches_in(batches, dtype):
    def change(item):
        if isinstance(item, torch.Tensor) and item.is_floating_point():
            return item.to(dtype)
        if isinstance(item, dict):
            return {key: change(value) for key, value in item.items()}
        if isinstance(item, list | tuple):
            return type(item)(change(value) for value in item)
        return item

    return [change(batch) for batch in batches]


def state(model):
    return {
        "tensors": {name: (id(tensor), tensor.clone(), tensor.requires_grad)
                    for name, tensor in [*model.named_parameters(), *model.named_buffers()]},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "random": (torch.get_rng_state(), random.getstate()),
        "switches": (torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled,
                     torch.backends.mha.get_fastpath_enabled(), torch.backends.cuda.flash_sdp_enabled(),
                     torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_float32_matmul_precision()),
    }


def assert_same_state(one, other):
    for name, (identity, value, requires) in one["tensors"].items():
        assert other["tensors"][name][0] == identity
        assert torch.equal(value, other["tensors"][name][1])
        assert requires == other["tensors"][name][2]
    for name, gradient in one["gradients"].items():
        after = other["gradients"][name]
        assert (gradient is None) == (after is None)
        assert gradient is None or torch.equal(gradient, after)
    assert one["modes"] == other["modes"]
    assert torch.equal(one["random"][0], other["random"][0])
    assert one["random"][1] == other["random"][1]
    assert one["switches"] == other["switches"]


# --- the model is left alone -------------------------------------------------------------------------------


def test_nothing_is_disturbed():
    model = TinyAttention(dropout=0.5).train()
    model.norm.eval()
    model.embedding.weight.requires_grad_(False)
    tiny_loss(model, tiny_batch()).backward()
    before = state(model)
    operator = Hessian(model, [tiny_batch()], tiny_loss, tiny_blocks(model))
    assert_same_state(before, state(model))
    operator.matvec({"L0.Q": torch.ones(20)})
    assert_same_state(before, state(model))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [1, 3, 5])
def test_nothing_is_disturbed_by_an_interruption(error, call):
    model = TinyAttention(dropout=0.5).train()
    before = state(model)
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = tiny_loss(model, batch)
        if len(calls) == call:
            raise error("stop")
        return value

    with pytest.raises(error, match="stop"):
        Hessian(model, [tiny_batch()], loss, tiny_blocks(model)).matvec({"L0.Q": torch.ones(20)})
    assert_same_state(before, state(model))


# --- modes, kernels, precision -----------------------------------------------------------------------------


def test_dropout_is_off_in_train_mode():
    assert_equals_dense(TinyAttention(dropout=0.5).train(), [tiny_batch()], tiny_loss)


def test_dropout_that_stays_on_is_one_fixed_draw_and_is_named():
    class Always(TinyAttention):
        def forward(self, tokens):
            return nn.functional.dropout(super().forward(tokens), 0.5, training=True)

    model = Always()
    operator = Hessian(model, [tiny_batch()], tiny_loss)
    assert any("test_failure_modes.py" in line for line in operator.objective.random), operator.objective.random
    vector = {"classifier.weight": torch.ones(12)}
    torch.manual_seed(99)
    one = operator.matvec(vector)
    again = Hessian(model, [tiny_batch()], tiny_loss).matvec(vector)
    assert all(torch.equal(one[name], again[name]) for name in one)
    other = Hessian(model, [tiny_batch()], tiny_loss, seed=1).matvec(vector)
    assert not torch.allclose(one["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention_and_the_encoder_fast_path(batch_first):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.3, batch_first=batch_first)
            self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.encoder(x))

    torch.manual_seed(0)
    batch = (torch.randn(3, 4, 4), torch.randn(3, 4, 2))
    assert_equals_dense(Encoder().eval(), [batch], lambda m, b: (m(b[0]) - b[1]).square().mean())


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_recurrent_layers(kind, dtype):
    class Han(nn.Module):
        """Words through a recurrent layer, then additive attention, as in a hierarchical attention network."""

        def __init__(self):
            super().__init__()
            self.recurrent = kind(3, 2, bidirectional=True, batch_first=True)
            self.hidden = nn.Linear(4, 3)
            self.context = nn.Parameter(torch.randn(3))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            states, _ = self.recurrent(x)
            pattern = (torch.tanh(self.hidden(states)) @ self.context).softmax(-1)
            return self.head((pattern[..., None] * states).sum(1))

    torch.manual_seed(0)
    model, batch = Han(), (torch.randn(3, 4, 3), torch.tensor([0, 1, 1]))
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert_equals_dense(
        model, [batch], lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]), dtype=dtype, tolerance=tolerance
    )


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_precision_models_are_probed_in_full_precision(low, dtype):
    model = TinyAttention().to(low)
    before = state(model)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-5
    assert_equals_dense(model, [tiny_batch()], tiny_loss, dtype=dtype, tolerance=tolerance)
    assert_same_state(before, state(model))


def test_low_precision_inputs_are_cast_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).bfloat16()
    batch = {"x": torch.randn(4, 3).bfloat16(), "y": torch.randn(4, 1).bfloat16()}
    assert_equals_dense(model, [batch], lambda m, b: (m(b["x"]) - b["y"]).square().mean())


@pytest.mark.parametrize("ambient", ["autocast", "no_grad", "inference_mode", "default_dtype", "math_off"])
def test_what_the_caller_has_switched_on_does_not_matter(ambient):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    model = TinyAttention()
    plain = Hessian(model, [tiny_batch()], tiny_loss).matvec({"in_proj.weight": torch.ones(48)})
    contexts = {
        "autocast": torch.autocast("cpu", torch.bfloat16), "no_grad": torch.no_grad(),
        "inference_mode": torch.inference_mode(), "math_off": sdpa_kernel(SDPBackend.FLASH_ATTENTION),
    }
    if ambient == "default_dtype":
        torch.set_default_dtype(torch.float64)
        try:
            found = Hessian(model, [tiny_batch()], tiny_loss).matvec(
                {"in_proj.weight": torch.ones(48, dtype=torch.float32)}
            )
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with contexts[ambient]:
            found = Hessian(model, [tiny_batch()], tiny_loss).matvec({"in_proj.weight": torch.ones(48)})
    for name in plain:
        assert torch.equal(plain[name], found[name]), name


def test_autocast_inside_the_model_is_neutralised():
    class Mixed(TinyAttention):
        def forward(self, tokens):
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(tokens).float()

    torch.manual_seed(0)
    mixed = Mixed()
    plain = TinyAttention()
    plain.load_state_dict(mixed.state_dict())
    vector = {"in_proj.weight": torch.ones(48)}
    one, other = (Hessian(model, [tiny_batch()], tiny_loss).matvec(vector) for model in (mixed, plain))
    for name in one:
        torch.testing.assert_close(one[name], other[name])


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_models_run_uncompiled(how):
    torch.manual_seed(0)
    model = TinyAttention()
    plain = Hessian(model, [tiny_batch()], tiny_loss).matvec({"in_proj.weight": torch.ones(48)})
    compiled = copy.deepcopy(model)
    if how == "wrapped":
        compiled = torch.compile(compiled, backend="aot_eager")
    else:
        compiled.compile(backend="aot_eager")
    found = Hessian(compiled, [tiny_batch()], tiny_loss).matvec({"in_proj.weight": torch.ones(48)})
    assert all(torch.equal(plain[name], found[name]) for name in plain)


def test_data_parallel_is_looked_through():
    model = TinyAttention()
    assert Hessian(nn.DataParallel(model), [tiny_batch()], tiny_loss).names == Hessian(
        model, [tiny_batch()], tiny_loss).names


def checkpointed(reentrant):
    class Checkpointed(TinyAttention):
        def forward(self, tokens):
            from torch.utils.checkpoint import checkpoint

            hidden = self.embedding(tokens)
            hidden = hidden + checkpoint(lambda x: self.mlp(self.norm(x)), hidden, use_reentrant=reentrant)
            return self.classifier(hidden.mean(1))

    torch.manual_seed(0)
    return Checkpointed().train()


def test_activation_checkpointing():
    used = ("embedding", "mlp", "norm", "classifier")
    model = checkpointed(False)
    blocks = tuple(block for block in tiny_blocks(model) if block.name in used)
    operator = assert_equals_dense(model, [tiny_batch()], tiny_loss, blocks=blocks)
    model.mlp[0].weight.data.mul_(2)  # what is recomputed must be of the operator's moment
    vector = {"mlp": torch.ones(operator.sizes["mlp"], dtype=torch.float64)}
    model_then = copy.deepcopy(model)
    model_then.mlp[0].weight.data.div_(2)
    fresh = Hessian(model_then, [tiny_batch()], tiny_loss, blocks, dtype=torch.float64)
    one, other = operator.matvec(vector), fresh.matvec(vector)
    for name in one:
        torch.testing.assert_close(one[name], other[name])


def test_reentrant_checkpointing_is_refused_with_the_way_out():
    with pytest.raises(CaseError, match="use_reentrant=False"):
        Hessian(checkpointed(True), [tiny_batch()], tiny_loss).matvec({"mlp.0.weight": torch.ones(24)})


def test_an_operation_without_double_backward_is_named():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.sin()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient * ctx.saved_tensors[0].cos()

    model = nn.Linear(2, 2)
    with pytest.raises(CaseError, match=r"^Once cannot be differentiated twice"):
        Hessian(model, [torch.ones(3, 2)], lambda m, b: Once.apply(m(b)).square().mean()).matvec(
            {"weight": torch.ones(4)}
        )


# --- parameters --------------------------------------------------------------------------------------------


def test_tied_weights_count_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 3)
            self.mix = nn.Linear(3, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(torch.tanh(self.mix(self.embedding(tokens))))

    torch.manual_seed(0)
    tokens = torch.randint(0, 5, (6, 4))
    operator = assert_equals_dense(
        Tied(), [tokens], lambda m, b: nn.functional.cross_entropy(m(b)[:, :-1].flatten(0, 1), b[:, 1:].flatten())
    )
    assert set(operator.names) == {"embedding.weight", "mix.weight", "mix.bias"}


def test_frozen_parameters_have_their_curvature_when_asked_for():
    model = TinyAttention()
    model.in_proj.requires_grad_(False)
    assert "in_proj.weight" not in Hessian(model, [tiny_batch()], tiny_loss).names
    assert_equals_dense(model, [tiny_batch()], tiny_loss, blocks=tiny_blocks(model))


def test_unused_parameters_have_zero_curvature():
    model = TinyAttention()
    model.spare = nn.Linear(2, 2)
    operator = assert_equals_dense(model, [tiny_batch()], tiny_loss)
    product = operator.matvec({"spare.weight": torch.ones(4), "classifier.bias": torch.ones(3)})
    assert float(product["spare.weight"].abs().max()) == 0
    assert all(float(part.abs().max()) == 0 for part in operator.matvec({"spare.bias": torch.ones(2)}).values())


def test_a_loss_that_is_linear_in_a_block():
    model = nn.Linear(3, 1)
    operator = Hessian(model, [torch.randn(4, 3)], lambda m, b: m(b).mean())
    assert all(float(part.abs().max()) == 0 for part in operator.matvec({"weight": torch.ones(3)}).values())


def block_of(model, name):
    parameter = dict(model.named_parameters(remove_duplicate=False))[name]
    return Block(name, Role.ENCODER, (ParameterSlice(name, tuple(parameter.shape)),))


def refusal(model, blocks=None, batches=None, loss=tiny_loss, **options):
    with pytest.raises(CaseError) as raised:
        Hessian(model, [tiny_batch()] if batches is None else batches, loss, blocks, **options)
    return str(raised.value)


def test_parameters_that_cannot_be_differentiated_are_refused():
    model = TinyAttention()
    model.table = nn.Parameter(torch.arange(4), requires_grad=False)
    assert "table" not in Hessian(model, [tiny_batch()], tiny_loss).names
    assert "'table' is int64" in refusal(model, [block_of(model, "table")])
    model.table = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    assert "'table' is complex" in refusal(model)
    model.table = nn.Parameter(torch.ones(0))
    assert "block 'table' holds no parameters" in refusal(model, [block_of(model, "table")])
    assert "table" not in Hessian(model, [tiny_batch()], tiny_loss).names
    model.table = nn.Parameter(torch.eye(3).to_sparse())
    assert "sparse" in refusal(model)
    model.table = nn.Parameter(torch.ones(3, device="meta"))
    assert "meta device" in refusal(model)
    model.table = nn.UninitializedParameter()
    assert "run the model" in refusal(model)


def test_blocks_that_do_not_fit_are_refused():
    model = TinyAttention()
    blocks = tiny_blocks(model)
    assert "two blocks are named 'L0.Q'" in refusal(model, [blocks[0], blocks[0]])
    odd = Block("odd", Role.MLP, (ParameterSlice("nowhere", (3,)),))
    assert "'nowhere', which the model does not have" in refusal(model, [odd])
    odd = Block("odd", Role.MLP, (ParameterSlice("mlp.0.weight", (3, 3)),))
    assert "has shape (6, 4)" in refusal(model, [odd])
    odd = Block("odd", Role.MLP, (ParameterSlice("mlp.0.weight", (6, 4), 0, ((4, 9),)),))
    assert "range (4, 9) is outside dimension 0" in refusal(model, [odd])
    assert "nothing to differentiate" in refusal(model, [])
    assert "nothing to differentiate" in refusal(nn.Identity())


def test_slices_along_any_dimension_with_several_ranges():
    model = TinyAttention()
    named = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    blocks = (
        Block("rows", Role.QUERY, (
            ParameterSlice("in_proj.weight", named["in_proj.weight"], 0, ((6, 8), (0, 2))),
            ParameterSlice("in_proj.bias", named["in_proj.bias"], 0, ((1, 3),)),
        )),
        Block("columns", Role.OUTPUT, (ParameterSlice("out_proj.weight", (4, 4), 1, ((3, 4), (0, 2))),)),
        Block("twice", Role.MLP, (
            ParameterSlice("in_proj.weight", named["in_proj.weight"], 0, ((2, 3),)),
            ParameterSlice("in_proj.weight", named["in_proj.weight"], 0, ((10, 12),)),
        )),
    )
    assert_equals_dense(model, [tiny_batch()], tiny_loss, blocks=blocks)


# --- data --------------------------------------------------------------------------------------------------


def token_loss(model, batch):
    logits = model(batch["tokens"])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(6, 3)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)
        self.head = nn.Linear(3, 2)

    def forward(self, tokens):
        hidden = self.embedding(tokens)
        return self.head(self.attention(hidden, hidden, hidden)[0])


def tagged(n=6, ignored=(0, 4, 2, 0, 3, 1)):
    tokens = torch.randint(0, 6, (n, 5), generator=torch.Generator().manual_seed(0))
    labels = tokens % 2
    for row, count in enumerate(ignored[:n]):
        labels[row, :count] = -100
    return {"tokens": tokens, "labels": labels}


def test_ignored_targets_are_weighed_by_what_is_counted():
    torch.manual_seed(0)
    batch = tagged()
    for size in (1, 2, 4):
        operator = assert_equals_dense(Tagger(), [batch], token_loss, max_examples=size)
        assert operator.objective.weighing == "targets"


def test_a_piece_without_any_target_counts_nothing():
    torch.manual_seed(0)
    operator = assert_equals_dense(Tagger(), [tagged(ignored=(0, 5, 1, 2, 5, 5))], token_loss, max_examples=1)
    assert len(operator.objective.pieces) == 3


def test_uneven_batches_are_weighed_by_examples():
    torch.manual_seed(0)
    batches = [tiny_batch(7, seed=1), tiny_batch(2, length=3, seed=2)]
    operator = assert_equals_dense(TinyAttention(), batches, tiny_loss, weights=[7, 2])
    assert operator.objective.weighing == "examples"


def test_uneven_batches_with_ignored_targets_are_weighed_by_targets():
    torch.manual_seed(0)
    batches = [tagged(4), tagged(2, ignored=(4, 4))]
    weights = [float((batch["labels"] != -100).sum()) for batch in batches]
    assert weights == [14.0, 2.0]
    assert_equals_dense(Tagger(), batches, token_loss, weights=weights)


def test_a_loss_that_adds_up():
    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    operator = assert_equals_dense(TinyAttention(), [tiny_batch()], loss, max_examples=5)
    assert operator.objective.weighing == "sum"


def test_a_penalty_on_the_weights_is_counted_once():
    def loss(model, batch):
        return tiny_loss(model, batch) + 0.1 * sum(p.square().sum() for p in model.parameters())

    assert_equals_dense(TinyAttention(), [tiny_batch()], loss, max_examples=5)


def test_the_users_weighing_is_believed():
    operator = assert_equals_dense(
        TinyAttention(), [tiny_batch(4, seed=1), tiny_batch(4, seed=2)], tiny_loss, weights=[1, 3],
        weigh=lambda batch: 1.0 if torch.equal(batch[0], tiny_batch(4, seed=1)[0]) else 3.0,
    )
    assert operator.objective.weighing == "given"
    assert "weight nan" in refusal(TinyAttention(), batches=[tiny_batch(), tiny_batch()],
                                   weigh=lambda batch: float("nan"))


def test_examples_that_influence_each_other_are_not_split():
    def loss(model, batch):
        logits = model(batch[0])
        return nn.functional.cross_entropy(logits - logits.mean(0), batch[1])

    assert "cannot be split" in refusal(TinyAttention(), loss=loss, max_examples=4)
    assert_equals_dense(TinyAttention(), [tiny_batch()], loss)


def test_a_batch_that_cannot_be_split_says_so():
    bags = types.SimpleNamespace(items=[torch.randn(3, 2), torch.randn(5, 2)])
    model = nn.Linear(2, 1)

    def loss(model, batch):
        return torch.stack([model(bag).square().mean() for bag in batch.items]).mean()

    assert "no tensor with a batch dimension" in refusal(model, batches=[bags], loss=loss, max_examples=1)
    Hessian(model, [bags], loss)


def test_nests_are_cut_along_the_first_dimension():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batch = {
        "x": (torch.randn(6, 3), [torch.randn(6, 1)]), "y": torch.randint(0, 2, (6,)), "weight": torch.ones(2),
        "name": "text", "temperature": torch.tensor(2.0),
    }

    def loss(m, b):
        logits = m(b["x"][0]) * b["x"][1][0] / b["temperature"]
        return nn.functional.cross_entropy(logits, b["y"], weight=b["weight"])

    operator = assert_equals_dense(model, [batch], loss, max_examples=4)
    assert [len(piece.data["y"]) for piece in operator.objective.pieces] == [4, 2]
    assert operator.objective.pieces[1].data["weight"].shape == (2,)


def test_nan_is_named():
    model = TinyAttention()
    model.mlp[0].weight.data[2, 1] = float("nan")
    message = refusal(model)
    assert "'mlp.0.weight'" in message
    assert "(2, 1)" in message
    batch = {"x": torch.randn(4, 2), "y": torch.randn(4, 1)}
    batch["x"][3] = float("nan")
    message = refusal(nn.Linear(2, 1), batches=[batch], loss=lambda m, b: (m(b["x"]) - b["y"]).square().mean())
    assert "batch['x'], in example 3" in message


@pytest.mark.parametrize("max_examples", [None, 2])
def test_the_example_that_makes_the_loss_infinite_is_named(max_examples):
    batch = torch.tensor([[1.0], [2.0], [0.0], [3.0], [4.0]])
    message = refusal(nn.Linear(1, 1), batches=[batch], loss=lambda m, b: (m(b).square() - b.log()).mean(),
                      max_examples=max_examples)
    assert "loss on batch 0 is inf, because of example 2;" in message


def test_a_gradient_that_is_not_finite_is_named():
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    message = refusal(model, batches=[torch.ones(3, 2)], loss=lambda m, b: m(b).abs().sqrt().mean())
    assert "gradient in block 'weight' is not" in message


@pytest.mark.parametrize(("loss", "expected"), [
    (lambda m, b: m(b[0]), r"shape \(12, 3\)"),
    (lambda m, b: 3.0, "found float"),
    (lambda m, b: m(b[0]).argmax().sum(), "int64"),
    (lambda m, b: m(b[0]).sum().detach(), "does not depend on any"),
    (lambda m, b: torch.ones(()), "does not depend on any"),
    (lambda m, b: None, "found NoneType"),
])
def test_losses_that_cannot_be_used(loss, expected):
    with pytest.raises(CaseError, match=expected):
        Hessian(TinyAttention(), [tiny_batch()], loss)


def test_batches_that_cannot_be_used():
    assert "found one batch" in refusal(TinyAttention(), batches=tiny_batch()[0])
    assert "found one batch" in refusal(TinyAttention(), batches={"x": torch.ones(2)})
    assert "there is no batch" in refusal(TinyAttention(), batches=[])
    exhausted = iter([tiny_batch()])
    list(exhausted)
    assert "exhausted" in refusal(TinyAttention(), batches=exhausted)


def test_a_loader_is_read_once():
    loader = iter([tiny_batch(4), tiny_batch(4, seed=1)])
    operator = Hessian(TinyAttention(), loader, tiny_loss)
    assert len(operator.objective.pieces) == 2
    operator.matvec({"classifier.bias": torch.ones(3)})
    operator.matvec({"classifier.bias": torch.ones(3)})


def test_parameters_taken_from_the_model_beforehand_are_refused():
    model = TinyAttention()
    taken = list(model.parameters())
    message = refusal(model, loss=lambda m, b: tiny_loss(m, b) + sum(p.square().sum() for p in taken))
    assert "taken from the model beforehand" in message


# --- what does not repeat ----------------------------------------------------------------------------------


def test_a_generator_of_the_users_own_is_found():
    generator = torch.Generator().manual_seed(0)

    class Noisy(TinyAttention):
        def forward(self, tokens):
            logits = super().forward(tokens)
            return logits + torch.randn(logits.shape, generator=generator)

    with pytest.raises(NotDeterministicError, match=r"randn at test_failure_modes.py:\d+ \(forward\)"):
        Hessian(Noisy(), [tiny_batch()], tiny_loss)


def test_a_counter_outside_the_model_is_found():
    calls = []

    def loss(model, batch):
        calls.append(1)
        return tiny_loss(model, batch) * len(calls)

    with pytest.raises(NotDeterministicError, match=r"mul at test_failure_modes.py:\d+ \(loss\) is given other"):
        Hessian(TinyAttention(), [tiny_batch()], loss)


def test_another_path_is_found():
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = tiny_loss(model, batch)
        return value.exp() if len(calls) % 2 else value

    with pytest.raises(NotDeterministicError, match="takes another path"):
        Hessian(TinyAttention(), [tiny_batch()], loss)
    Hessian(TinyAttention(), [tiny_batch()], loss, check=False)


def test_a_counter_and_a_cache_on_the_model_repeat():
    class Counting(TinyAttention):
        def __init__(self):
            super().__init__()
            self.calls, self.cache = 0, []
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, tokens):
            self.calls += 1
            self.cache.append(tokens)
            self.seen += 1
            return super().forward(tokens) * (self.calls + len(self.cache) + float(self.seen))

    model = Counting()
    operator = Hessian(model, [tiny_batch()], tiny_loss)
    operator.matvec({"classifier.bias": torch.ones(3)})
    assert (model.calls, model.cache, float(model.seen)) == (0, [], 0.0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hugging_face_models_as_they_come(attention):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        vocab_size=9, dim=4, n_layers=1, n_heads=2, hidden_dim=5, max_position_embeddings=6,
        attn_implementation=attention,
    )
    model = transformers.DistilBertForSequenceClassification(config).train()
    mask = torch.ones(4, 6, dtype=torch.long)
    mask[::2, 4:] = 0
    batch = transformers.BatchEncoding({
        "input_ids": torch.randint(1, 9, (4, 6)), "attention_mask": mask, "labels": torch.tensor([0, 1, 1, 0]),
    })
    for size in (None, 3):
        assert_equals_dense(model, [batch], lambda m, b: m(**b).loss, max_examples=size)
