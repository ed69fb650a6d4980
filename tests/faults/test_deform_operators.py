"""The fault operators of DEForm: each is covered, applies to encoders and decoders, and is there after training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.anatomy.observe import observe
from attnscope.case import Case, default_forward, default_loss
from attnscope.faults import Fault, anatomy_of
from attnscope.faults._parameters import block_views
from attnscope.lenses.cached_decode import CachedDecode
from attnscope.probe import Probe

COVERED = {
    "MZM", "MIM", "MRM", "MCB",  # masks
    "QZQ", "QZK", "QZV", "QSW", "QTH", "QFG", "QHD", "SDS", "SPD", "SUC",  # projections and scores
    "POE", "PSI", "PTL", "KRP", "KMD", "VSH", "VEC",  # positions, kernels, variants
    "CST", "CDU", "COB", "CTR", "CLK",  # the key/value cache
    "ETZ", "ESW", "EZD", "FSW", "FDN", "FCA", "FRG", "FWI",  # embedding and feed-forward network
    "NSG", "NZG", "NSB", "NCE", "NWD", "RRS", "RSR", "RIN", "RGC", "RDR",  # normalisation and residual
    "OSL", "OZR", "ORI", "OOD",  # output
}  # fmt: skip
NEITHER_ON_CPU = {"KSB", "KFT", "KMC"}  # slow backend, fallback, chunked path: they change time and memory only
NO_SEGMENTS = {"ESS"}  # neither DistilBERT nor GPT-2 has a segment embedding

CACHE = ("cache_stale", "cache_desynchronised", "cache_off_by_one", "cache_truncated", "cache_leaked")
PADDED = ("mask_of_another_example", "padding_attended", "padding_mask_inverted")
OWN_HEAD = ("class_rows_zeroed", "classifier_redrawn")


def gpt() -> Case:
    model = catalogue.load("models", "gpt")(n_tokens=20)
    tokens = torch.randint(1, 20, (6, 10))
    return Case(model, [(tokens, tokens.roll(-1, 1))])


def encoder() -> Case:
    model = catalogue.load("models", "encoder")(n_tokens=20, n_classes=3)
    tokens, mask = padded()
    return Case(model, [{"input_ids": tokens, "attention_mask": mask}], loss=lambda output, _: class_loss(output))


def distilbert() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=20, dim=32, n_heads=4, n_layers=2, hidden_dim=64, max_position_embeddings=24, num_labels=3
    )
    tokens, mask = padded()
    batch = {"input_ids": tokens, "attention_mask": mask, "labels": torch.arange(6) % 3}
    return Case(transformers.DistilBertForSequenceClassification(config), [batch])


def gpt2() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=32, n_head=4, n_layer=2, n_positions=24, bos_token_id=0, eos_token_id=0
    )
    tokens = torch.randint(1, 20, (6, 10))
    return Case(transformers.GPT2LMHeadModel(config), [{"input_ids": tokens, "labels": tokens.clone()}])


def padded() -> tuple[Tensor, Tensor]:
    mask = torch.ones(6, 10, dtype=torch.long)
    for example in range(6):
        mask[example, 10 - example :] = 0
    return torch.randint(1, 20, (6, 10)) * mask, mask


def class_loss(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, torch.arange(len(logits)) % 3)


MODELS: dict[str, Callable[[], Case]] = {"gpt": gpt, "encoder": encoder, "distilbert": distilbert, "gpt2": gpt2}


def untrained(name: str) -> Case:
    torch.manual_seed(0)
    case = MODELS[name]()
    case.optimizer = torch.optim.AdamW(case.model.parameters(), lr=1e-2)
    return case


def output_of(case: Case, *, train: bool = False) -> Any:
    case.model.train(train)
    torch.manual_seed(1)
    return (case.forward or default_forward)(case.model, next(iter(case.batches)))


def logits_of(case: Case, *, train: bool = False) -> Tensor:
    output = output_of(case, train=train)
    found: Tensor = output if isinstance(output, Tensor) else output.logits
    return found.detach()


def backward(case: Case, *, train: bool = True) -> None:
    case.model.zero_grad()
    output = output_of(case, train=train)
    (case.loss or default_loss)(output, next(iter(case.batches))).backward()


def trained(case: Case, steps: int = 3) -> Case:
    assert case.optimizer is not None
    for _ in range(steps):
        backward(case)
        case.optimizer.step()
    case.model.zero_grad()
    return case


def after_training(model: str, name: str, **settings: Any) -> tuple[Case, Case]:
    """A healthy case after three steps, and the faulty one."""
    case = untrained(model)
    injected = catalogue.load("faults", name)(**settings).inject(case)
    return trained(case), trained(injected)


def weights(case: Case, block: str) -> list[Tensor]:
    named = dict(case.model.named_parameters())
    return [named[piece.parameter].detach() for piece in anatomy_of(case).block(block).slices]


def gradients(case: Case, block: str) -> list[Tensor]:
    backward(case, train=False)
    named = dict(case.model.named_parameters())
    found = [named[piece.parameter].grad for piece in anatomy_of(case).block(block).slices]
    return [torch.zeros(1) if each is None else each for each in found]


def mlp(case: Case, layer: int) -> list[nn.Module]:
    """The two linear maps of a layer."""
    blocks = [block for block in anatomy_of(case).blocks if block.role.value == "mlp" and block.layer == layer]
    names = [piece.parameter for block in blocks for piece in block.slices if len(piece.shape) == 2]
    return [case.model.get_submodule(name.rpartition(".")[0]) for name in names]


def seen_by(case: Case, module: nn.Module) -> tuple[Tensor, Tensor]:
    """Input and output of a module, before and after other hooks ran."""
    found: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, output: found.append((args[0].detach(), output.detach())))
    output_of(case)
    handle.remove()
    return found[0]


def patterns(case: Case) -> list[Tensor]:
    case.model.eval()
    forward = case.forward or default_forward
    observation = observe(case.model, next(iter(case.batches)), anatomy=anatomy_of(case), forward=forward)
    return [attention.pattern for attention in observation.attentions]


def tables(case: Case, role: str) -> list[Tensor]:
    return [part for block in anatomy_of(case).blocks if block.role.value == role for part in weights(case, block.name)]


def test_every_operator_is_some_fault() -> None:
    known = {ident for name in catalogue.names("faults") for ident in catalogue.load("faults", name).ids}
    assert not COVERED - known
    assert not known & (NEITHER_ON_CPU | NO_SEGMENTS)


def of_deform() -> list[str]:
    return [name for name in catalogue.names("faults") if set(catalogue.load("faults", name).ids) & COVERED]


def inapplicable(model: str, name: str) -> bool:
    """What cannot be there: no padding or two-way attention in a decoder, no cache or future mask in an encoder."""
    decoder = model in ("gpt", "gpt2")
    if name in CACHE or name == "future_leak":
        return not decoder
    if name in PADDED or name == "causal_encoder":
        return decoder
    return (model == "gpt2" and name in OWN_HEAD)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", of_deform())
def test_applies_to_encoders_and_decoders_and_leaves_the_attentions_to_be_found(name: str, model: str) -> None:
    case = untrained(model)
    member = catalogue.load("faults", name)
    fault: Fault = member(strength=member.severities[-1], layer=-1)
    assert bool(fault.applies_to(case)) is inapplicable(model, name), fault.applies_to(case)
    if inapplicable(model, name):
        return
    anatomy = anatomy_of(case)
    known = {block.name for block in (*anatomy.blocks, *anatomy.head_blocks())}
    sites = {"positions", *(f"{item.name}{what}" for item in anatomy.attentions for what in SITES)}
    assert set(fault.places(anatomy)[:1]) <= known | sites
    injected = fault.inject(case)
    assert len(anatomy_of(trained(injected, 1)).attentions) == len(anatomy.attentions)


SITES = ("", *(f".{site}" for site in ("scale", "mask", "softmax", "scores", "dropout", "heads", "residual", "cache")))

BOTH = pytest.mark.parametrize("model", ["encoder", "gpt2"])
CLASSIFIERS = pytest.mark.parametrize("model", ["encoder", "distilbert"])
DECODERS = pytest.mark.parametrize("model", ["gpt", "gpt2"])


class TestAfterThreeSteps:
    @BOTH
    def test_zeroed_key(self, model: str) -> None:
        healthy, faulty = after_training(model, "zeroed_key", layer=1)
        spread = [patterns(case)[1] for case in (healthy, faulty)]
        assert not bool((spread[0][0, 0, -1] == spread[0][0, 0, -1, 0]).all())
        assert torch.allclose(spread[1][0, 0, -1], spread[1][0, 0, -1, :1].expand_as(spread[1][0, 0, -1]))

    @BOTH
    @pytest.mark.parametrize(("name", "share"), [("embedding_rows_zeroed", 0.3), ("embedding_dims_zeroed", 0.5)])
    def test_embedding_is_zero_there(self, model: str, name: str, share: float) -> None:
        healthy, faulty = (tables(case, "embedding")[0] for case in after_training(model, name, strength=share))
        dim = 1 if "rows" in name else 0
        n_zero = (faulty == 0).all(dim).sum() - (healthy == 0).all(dim).sum()
        assert abs(int(n_zero) - round(share * faulty.shape[1 - dim])) <= 1  # one may be the padding's row

    def test_swapped_tokens_become_the_same(self) -> None:
        case = untrained("gpt")
        faulty = catalogue.load("faults", "embedding_rows_swapped")(strength=1.0).inject(case)
        start, moved = (tables(each, "embedding")[0].clone() for each in (case, faulty))
        pair = next((a, b) for a in range(20) for b in range(20) if a != b and torch.equal(moved[a], start[b]))
        apart = [float((table[pair[0]] - table[pair[1]]).norm()) for table in (start,)]
        own = tables(trained(case, 20), "embedding")[0]
        mixed = tables(trained(faulty, 20), "embedding")[0]
        assert float((mixed[pair[0]] - mixed[pair[1]]).norm()) < float((own[pair[0]] - own[pair[1]]).norm())
        assert apart[0] > 0

    @BOTH
    def test_mlp_scaled(self, model: str) -> None:
        _, faulty = after_training(model, "mlp_scaled", layer=1, strength=4.0)
        down = mlp(faulty, 1)[1]
        hidden, output = seen_by(faulty, down)
        weight = down.weight if isinstance(down, nn.Linear) else down.weight.T  # type: ignore[union-attr]
        assert torch.allclose(output, 5 * nn.functional.linear(hidden, weight, down.bias), atol=1e-5)  # type: ignore[arg-type]

    @BOTH
    def test_dropped_neurons_get_no_gradient(self, model: str) -> None:
        _, faulty = after_training(model, "mlp_neurons_dropped", layer=1, strength=0.5)
        down = mlp(faulty, 1)[1]
        backward(faulty, train=False)
        gradient = down.weight.grad if isinstance(down, nn.Linear) else down.weight.grad.T  # type: ignore[union-attr]
        n_dead = int((gradient == 0).all(0).sum())  # type: ignore[union-attr]
        assert n_dead == gradient.shape[1] // 2  # type: ignore[union-attr]

    @BOTH
    def test_wrong_activation(self, model: str) -> None:
        _, faulty = after_training(model, "mlp_wrong_activation", layer=1, activation="tanh")
        up, down = mlp(faulty, 1)
        assert torch.allclose(seen_by(faulty, down)[0], seen_by(faulty, up)[1].tanh())
        apart = copy.deepcopy(faulty.model)
        assert torch.equal(logits_of(faulty), logits_of(Case(apart, faulty.batches, forward=faulty.forward)))

    @pytest.mark.parametrize("filling", ["zeros", "ones"])
    def test_constant_start_keeps_neurons_equal(self, filling: str) -> None:
        _, faulty = after_training("encoder", "mlp_constant_start", layer=1, filling=filling)
        up, down = (module.weight for module in mlp(faulty, 1))
        assert torch.allclose(up, up[:1].expand_as(up), atol=1e-6)  # type: ignore[arg-type]
        assert bool(down.any()) is (filling == "ones")  # type: ignore[operator]

    @BOTH
    @pytest.mark.parametrize("name", ["mlp_decay", "norm_decay"])
    def test_decay_shrinks(self, model: str, name: str) -> None:
        healthy, faulty = after_training(model, name, layer=1, strength=10.0)
        place = catalogue.load("faults", name)(layer=1).places(anatomy_of(healthy))[0]
        size = [float(weights(case, place)[0].norm()) for case in (healthy, faulty)]
        assert size[1] < 0.9 * size[0]

    @BOTH
    def test_gain_and_bias_of_a_norm(self, model: str) -> None:
        healthy, faulty = after_training(model, "norm_gain_scaled", layer=1, strength=4.0)
        name = anatomy_of(healthy).attentions[1].norms[0]
        assert float(weights(faulty, name)[0].norm()) == pytest.approx(5 * 32**0.5, rel=1e-4)
        _, faulty = after_training(model, "norm_bias_shifted", layer=1, strength=2.0)
        assert float(weights(faulty, name)[1].mean()) == pytest.approx(2.0, abs=1e-4)

    @BOTH
    def test_epsilon(self, model: str) -> None:
        healthy, faulty = after_training(model, "norm_epsilon", layer=1)
        path = anatomy_of(healthy).attentions[1].norms[0]
        hidden, output = seen_by(faulty, faulty.model.get_submodule(path))
        gain, bias = weights(faulty, path)
        assert torch.allclose(output, nn.functional.layer_norm(hidden, hidden.shape[-1:], gain, bias, 1.0), atol=1e-5)

    @BOTH
    def test_residual(self, model: str) -> None:
        for name, settings, differs in (
            ("residual_scaled", {"strength": 4.0}, True),
            ("residual_noise", {}, True),
            ("residual_dropout", {"strength": 0.5}, False),
            ("residual_gradient_clipped", {"strength": 10.0}, False),
        ):
            _, faulty = after_training(model, name, layer=1, **settings)
            plain = untrained(model)
            plain.model.load_state_dict(faulty.model.state_dict())
            assert torch.allclose(logits_of(plain), logits_of(faulty)) is not differs, name
            moved = torch.equal(logits_of(plain, train=True), logits_of(faulty, train=True))
            assert moved is (name == "residual_gradient_clipped"), name
            early = anatomy_of(plain).attentions[0].blocks["value"]
            assert not torch.allclose(gradients(plain, early)[0], gradients(faulty, early)[0]) or not differs
            if name == "residual_gradient_clipped":
                assert not torch.allclose(gradients(plain, early)[0], gradients(faulty, early)[0])

    @BOTH
    def test_logits_and_classes(self, model: str) -> None:
        for name, expected in (
            ("logits_scaled", lambda logits: 5 * logits),
            ("classes_exchanged", lambda logits: logits.roll(1, -1)),
        ):
            strength = 4.0 if name == "logits_scaled" else 1.0
            _, faulty = after_training(model, name, strength=strength)
            plain = untrained(model)
            plain.model.load_state_dict(faulty.model.state_dict())
            assert torch.allclose(logits_of(faulty), expected(logits_of(plain)), atol=1e-5)
            same = torch.allclose(logits_of(faulty, train=True), logits_of(plain, train=True))
            assert same is (name == "classes_exchanged")

    @CLASSIFIERS
    def test_classifier(self, model: str) -> None:
        healthy, faulty = after_training(model, "class_rows_zeroed", strength=0.3)
        assert not weights(faulty, "classifier")[0][:1].any()
        assert weights(faulty, "classifier")[0][1:].any()
        _, faulty = after_training(model, "classifier_redrawn")
        before = weights(faulty, "classifier")[0].clone()
        after = weights(trained(faulty, 1), "classifier")[0]
        assert float((after - before).norm()) > float(before.norm())
        assert weights(healthy, "classifier")[0].any()

    @BOTH
    def test_frozen_projections(self, model: str) -> None:
        case = untrained(model)
        faulty = trained(catalogue.load("faults", "frozen_projections")(layer=1).inject(case))
        blocks = anatomy_of(case).attentions[1].blocks
        for role in ("query", "key", "value"):
            assert torch.equal(weights(case, blocks[role])[0], weights(faulty, blocks[role])[0])
        assert not torch.equal(weights(case, blocks["output"])[0], weights(faulty, blocks["output"])[0])

    @BOTH
    def test_positions_truncated(self, model: str) -> None:
        _, faulty = after_training(model, "positions_truncated", strength=0.5)
        table = tables(faulty, "positions")[0]
        assert torch.equal(table[4:], table[4:5].expand_as(table[4:]))
        assert len(table[:5].unique(dim=0)) == 5

    @BOTH
    def test_heads(self, model: str) -> None:
        healthy, faulty = after_training(model, "single_effective_head", layer=1)
        pattern = patterns(faulty)[1]
        assert torch.allclose(pattern, pattern[:, :1].expand_as(pattern))
        assert not torch.allclose(patterns(healthy)[1][:, 1], patterns(healthy)[1][:, 0])
        _, faulty = after_training(model, "wrong_head_split", layer=1, strength=0.5)
        pattern = patterns(faulty)[1]
        assert torch.allclose(pattern[:, 0], pattern[:, 1])
        assert torch.allclose(pattern[:, 2], pattern[:, 3])
        assert not torch.allclose(pattern[:, 0], pattern[:, 2], atol=1e-5)

    def test_one_wide_head_is_a_model_of_one_head(self) -> None:
        _, faulty = after_training("encoder", "wrong_head_split", layer=1)
        plain = untrained("encoder")
        plain.model.load_state_dict(faulty.model.state_dict())
        attention: Any = plain.model.get_submodule("blocks.1.attention")
        attention.n_heads, attention.d_head = 1, 32
        with torch.no_grad():  # the scale of a head of width 8, not 32
            attention.query.weight.mul_(2)
            attention.query.bias.mul_(2)
        assert torch.allclose(logits_of(plain), logits_of(faulty), atol=1e-5)

    @CLASSIFIERS
    def test_masks(self, model: str) -> None:
        healthy, faulty = after_training(model, "mask_of_another_example", layer=1)
        real = next(iter(healthy.batches))["attention_mask"].bool()
        assert not patterns(healthy)[1].sum((1, 2))[~real].any()
        own, wrong = patterns(faulty)[1].sum((1, 2)), real.roll(1, 0)
        assert not own[~wrong].any()
        assert bool((own[wrong] > 0).all())
        _, faulty = after_training(model, "mask_of_another_example", layer=1, axis="head")
        assert patterns(faulty)[1].sum((1, 2))[~real].any()
        _, faulty = after_training(model, "causal_encoder", layer=1)
        assert not patterns(faulty)[1].triu(1).any()
        assert patterns(faulty)[0].triu(1).any()

    @BOTH
    def test_precision_and_dropout(self, model: str) -> None:
        _, faulty = after_training(model, "reduced_precision", layer=1)
        pattern = patterns(faulty)[1]
        assert torch.equal(pattern, pattern.bfloat16().float())
        _, faulty = after_training(model, "dropout_mismatch", layer=1, strength=5 / 3)
        plain = untrained(model)
        plain.model.load_state_dict(faulty.model.state_dict())
        assert torch.allclose(logits_of(plain), logits_of(faulty), atol=1e-6)
        assert not torch.allclose(logits_of(plain, train=True), logits_of(faulty, train=True), atol=1e-6)

    def test_a_half_precision_softmax_overflows(self) -> None:
        case = untrained("encoder")
        faulty = trained(catalogue.load("faults", "unsafe_half_scores")(layer=1).inject(case))
        assert bool(logits_of(faulty).isfinite().all())
        attention: Any = faulty.model.get_submodule("blocks.1.attention")
        with torch.no_grad():
            attention.query.weight.mul_(300)
        assert not bool(logits_of(faulty).isfinite().all())

    @BOTH
    @pytest.mark.parametrize("name", ["swapped_query_key", "positions_shifted"])
    def test_what_is_stored_wrongly_was_trained_rightly(self, model: str, name: str) -> None:
        healthy, faulty = after_training(model, name)
        assert torch.allclose(logits_of(healthy, train=True), logits_of(faulty, train=True), atol=1e-4)
        assert not torch.allclose(logits_of(healthy), logits_of(faulty), atol=1e-4)
        anatomy = anatomy_of(healthy)
        if name == "positions_shifted":
            own, moved = (tables(case, "positions")[0] for case in (healthy, faulty))
            assert torch.allclose(own.roll(1, 0), moved, atol=1e-3)
            return
        query, key = (anatomy.attentions[0].blocks[role] for role in ("query", "key"))
        for block, exchanged in ((query, key), (key, query)):
            own, moved = (block_views(case.model, anatomy, each)[0] for case, each in (
                (healthy, block), (faulty, exchanged)
            ))
            assert torch.allclose(own, moved, atol=1e-3)

    @DECODERS
    @pytest.mark.parametrize("name", CACHE)
    @pytest.mark.parametrize("layer", [0, 1])
    def test_cache(self, model: str, name: str, layer: int) -> None:
        if model == "gpt2":
            pytest.importorskip("transformers")
        healthy, faulty = after_training(model, name, layer=layer, strength=0.5)
        assert torch.equal(logits_of(healthy), logits_of(faulty))  # a run over the whole text is as before
        for case, violated in ((healthy, False), (faulty, True)):
            reading = CachedDecode().measure(Probe(case.model, tuple(case.batches), anatomy_of(case)))
            assert reading.ok, reading.note
            assert reading.facts["violated"] is violated
            if violated and name == "cache_truncated":
                assert reading.facts["first_position"] == 6  # five are kept, and a token sees itself
