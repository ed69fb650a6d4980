"""Negative controls: healthy cases, and changes that leave a model's function or its health as they were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.case import Case
from attnscope.start import start_of
from planting.families import LIBRARY, OWN, healthy_library, library_batch, library_case, own_case
from planting.huggingface import train
from planting.small import TASKS, healthy, small_case


@dataclass(frozen=True)
class Control:
    """One healthy case.

    Attributes:
        group: which entry of the list of controls it belongs to.
        name: what it is.
        make: the case.
    """

    group: str
    name: str
    make: Callable[[], Case]


def small(name: str, seed: int = 0, **settings: Any) -> Case:
    """A healthy small model."""
    return small_case(name, seed=seed, **settings)[0] if settings else healthy(name, seed)


def _weights(model: nn.Module, *endings: str) -> list[Tensor]:
    found = [parameter.detach() for name, parameter in model.named_parameters() if name.endswith(endings)]
    if not found:
        raise ValueError(f"no parameter ends in {endings}")
    return found


def rescaled(case: Case, up: tuple[str, ...], down: tuple[str, ...], factor: float) -> Case:
    """Some projections times a factor, and those that undo it divided by it; the function stays.

    The optimiser is left out: its steps are as long as before, so for the divided weights they are no longer small.
    """
    for part in _weights(case.model, *up):
        part.mul_(factor)
    for part in _weights(case.model, *down):
        part.div_(factor)
    return without_optimizer(case)


def rescaled_fused(case: Case, factor: float) -> Case:
    """The same for GPT-2, whose query, key and value are columns of one parameter."""
    for part in _weights(case.model, "c_attn.weight", "c_attn.bias"):
        query, key, _ = part.chunk(3, dim=-1)
        query.mul_(factor)
        key.div_(factor)
    return without_optimizer(case)


def permuted(case: Case, rows: tuple[str, ...], columns: tuple[str, ...], n_heads: int = 4) -> Case:
    """The heads in another order, in every projection."""
    order = torch.randperm(n_heads, generator=torch.Generator().manual_seed(1))
    for part in _weights(case.model, *rows):
        part.copy_(part.unflatten(0, (n_heads, -1))[order].flatten(0, 1))
    for part in _weights(case.model, *columns):
        part.copy_(part.unflatten(1, (n_heads, -1))[:, order].flatten(1, 2))
    return case


def folded(case: Case) -> Case:
    """Gain and bias of the norm before each attention moved into its projections (the small GPT)."""
    blocks: Any = case.model.get_submodule("blocks")
    with torch.no_grad():
        for block in blocks:
            norm = block.norm_attention
            for projection in (block.attention.query, block.attention.key, block.attention.value):
                projection.bias += projection.weight @ norm.bias
                projection.weight *= norm.weight
            norm.weight.fill_(1.0)
            norm.bias.zero_()
    return case


def in_bfloat16(case: Case) -> Case:
    """Parameters and floating inputs in bfloat16, as for inference."""
    case.model.to(torch.bfloat16)
    case.optimizer = None
    case.batches = [_cast(batch) for batch in case.batches]
    return case


def _cast(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.bfloat16() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: _cast(item) for key, item in value.items()}
    return type(value)(_cast(item) for item in value)


def frozen_backbone(case: Case, name: str) -> Case:
    """The trained backbone is frozen, and a new classifier learns on top of it."""
    model: Any = case.model
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in parameter_name)
    classifier: Any = model.get_submodule("classifier")
    torch.manual_seed(1)
    classifier.reset_parameters()
    form = LIBRARY[name][3]
    case.optimizer = train(model, lambda number, size: library_batch(form, 0, number, size), steps=60)
    return case


def with_lora(model: Any) -> Any:
    """Low-rank adapters on query and value."""
    from peft import LoraConfig, get_peft_model

    targets = ["q_lin", "v_lin"] if "DistilBert" in type(model).__name__ else ["c_attn"]
    return get_peft_model(model, LoraConfig(r=4, target_modules=targets, lora_alpha=8))


def tied_embeddings(model: nn.Module) -> None:
    """The table of tokens is the output layer, too."""
    head: Any = model.get_submodule("head")
    tokens: Any = model.get_submodule("tokens")
    head.weight = tokens.weight


def with_sink(case: Case) -> Case:
    """A head of the last layer that rests on the first token, whose value there is nothing: an attention sink.

    The first token's key is moved along the mean query so far that it gets nearly all the mass; its value is
    taken to zero. This is what trained causal models do with heads that have nothing to say.
    """
    blocks: Any = case.model.get_submodule("blocks")
    attention = blocks[-1].attention
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    case.model.eval()
    with torch.no_grad():
        case.model(next(iter(case.batches))[0])
    handle.remove()
    hidden = seen[0]
    states = torch.cat([hidden[:1, 0], hidden[:, 1:].flatten(0, 1)])
    wanted = torch.zeros(len(states))
    wanted[0] = 1.0
    detector = torch.linalg.lstsq(states, wanted, rcond=1e-3, driver="gelsd").solution
    d_head = attention.d_head
    with torch.no_grad():
        mean_query = attention.query(hidden).flatten(0, 1).mean(0)[:d_head]
        direction = mean_query / mean_query.norm()
        attention.query.bias[:d_head] += 3 * direction
        attention.key.weight[:d_head] += 8 * torch.outer(direction, detector)
        first_value = attention.value(hidden[:1, 0])[0, :d_head]
        attention.value.weight[:d_head] -= torch.outer(first_value, detector)
    return case


def only_topic(inputs: Any, targets: Tensor) -> tuple[Any, Tensor]:
    """Only the topic counts, so a head that looks everywhere is right."""
    return inputs, targets % 2


def by_depth(model: nn.Module) -> torch.optim.Optimizer:
    """Learning rates that fall with depth, as is usual when fine-tuning."""
    groups = [
        {"params": [parameter for name, parameter in model.named_parameters() if name.startswith(start)], "lr": rate}
        for start, rate in (
            ("tokens", 2e-3),
            ("positions", 2e-3),
            ("norm", 2e-3),
            ("blocks.0", 2.4e-3),
            ("blocks.1", 3e-3),
            ("pre_classifier", 3e-3),
            ("classifier", 3e-3),
        )
    ]
    return torch.optim.AdamW(groups)


def two_decays(model: nn.Module) -> torch.optim.Optimizer:
    """Weight decay on matrices only."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=3e-3
    )


def from_a_known_start(name: str, optimizer: Callable[[nn.Module], torch.optim.Optimizer], seed: int = 0) -> Case:
    """A healthy training whose first weights were kept."""
    kept: list[Any] = []
    case, _ = small_case(name, seed=seed, prepare=lambda model: kept.append(start_of(model)), optimizer=optimizer)
    case.start = kept[0]
    return case


def plain_descent(rate: float, decay: float = 0.0) -> Callable[[nn.Module], torch.optim.Optimizer]:
    """Gradient descent without momentum."""
    return lambda model: torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)


def without_optimizer(case: Case) -> Case:
    """A checkpoint alone."""
    case.optimizer = None
    return case


def _families() -> list[Control]:
    controls = []
    for name in LIBRARY:
        for implementation in ("eager", "sdpa") if name != "gpt-neo" else ("eager",):
            for steps, state in ((0, "untrained"), (120, "trained")):
                controls.append(
                    Control(
                        "families",
                        f"hf-{name}, {implementation}, {state}",
                        lambda name=name, implementation=implementation, steps=steps: library_case(
                            name, implementation=implementation, steps=steps
                        ),
                    )
                )
    for name in OWN:
        for steps, state in ((0, "untrained"), (150, "trained")):
            controls.append(
                Control("families", f"{name}, {state}", lambda name=name, steps=steps: own_case(name, steps=steps))
            )
    for name in TASKS:
        for steps, state in ((0, "untrained"), (None, "trained")):
            controls.append(
                Control("families", f"{name}, {state}", lambda name=name, steps=steps: small(name, steps=steps))
            )
    return controls


def _rescaled() -> list[Control]:
    controls = []
    for factor in (2.0, 8.0, 64.0):
        for name in ("encoder", "gpt", "rotary_decoder"):
            controls.append(
                Control(
                    "W_Q c, W_K / c",
                    f"{name}, c = {factor:g}",
                    lambda name=name, factor=factor: rescaled(
                        small(name), ("query.weight", "query.bias"), ("key.weight", "key.bias"), factor
                    ),
                )
            )
            controls.append(
                Control(
                    "W_V c, W_O / c",
                    f"{name}, c = {factor:g}",
                    lambda name=name, factor=factor: rescaled(
                        small(name), ("value.weight", "value.bias"), ("attention.output.weight",), factor
                    ),
                )
            )
        controls += [
            Control(
                "W_Q c, W_K / c",
                f"hf-distilbert, c = {factor:g}",
                lambda factor=factor: rescaled(
                    healthy_library("distilbert"),
                    ("q_lin.weight", "q_lin.bias"),
                    ("k_lin.weight", "k_lin.bias"),
                    factor,
                ),
            ),
            Control(
                "W_V c, W_O / c",
                f"hf-distilbert, c = {factor:g}",
                lambda factor=factor: rescaled(
                    healthy_library("distilbert"), ("v_lin.weight", "v_lin.bias"), ("out_lin.weight",), factor
                ),
            ),
            Control(
                "W_Q c, W_K / c",
                f"hf-gpt2, c = {factor:g}",
                lambda factor=factor: rescaled_fused(healthy_library("gpt2"), factor),
            ),
        ]
    return controls


ROWS = ("query.weight", "key.weight", "value.weight", "query.bias", "key.bias", "value.bias")
LIBRARY_ROWS = tuple(f"{letter}_lin.{part}" for letter in "qkv" for part in ("weight", "bias"))

CONTROLS: tuple[Control, ...] = (
    *_families(),
    *_rescaled(),
    Control("permuted heads", "encoder", lambda: permuted(small("encoder"), ROWS, ("attention.output.weight",))),
    Control("permuted heads", "gpt", lambda: permuted(small("gpt"), ROWS, ("attention.output.weight",))),
    Control(
        "permuted heads",
        "hf-distilbert",
        lambda: permuted(healthy_library("distilbert"), LIBRARY_ROWS, ("out_lin.weight",)),
    ),
    Control("folded norms", "gpt", lambda: folded(small("gpt"))),
    *(
        Control("seeds", f"{name}, seed {seed}", lambda name=name, seed=seed: small(name, seed=seed))
        for seed in range(1, 7)
        for name in ("encoder", "gpt", "han", "vit", "conv3d_attention")
    ),
    *(
        Control("seeds", f"hf-{name}, seed {seed}", lambda name=name, seed=seed: healthy_library(name, seed=seed))
        for seed in range(1, 7)
        for name in ("distilbert", "llama")
    ),
    *(Control("bfloat16", name, lambda name=name: in_bfloat16(small(name))) for name in ("encoder", "gpt", "vit")),
    *(
        Control("bfloat16", f"hf-{name}", lambda name=name: in_bfloat16(healthy_library(name)))
        for name in ("distilbert", "llama", "t5")
    ),
    Control("frozen backbone", "hf-distilbert", lambda: frozen_backbone(healthy_library("distilbert"), "distilbert")),
    Control("frozen backbone", "hf-bert", lambda: frozen_backbone(healthy_library("bert"), "bert")),
    Control("LoRA", "hf-distilbert", lambda: library_case("distilbert", prepare=with_lora)),
    Control("LoRA", "hf-gpt2", lambda: library_case("gpt2", prepare=with_lora)),
    Control("weight tying", "gpt, tied embeddings", lambda: small("gpt", prepare=tied_embeddings, steps=300)),
    Control(
        "weight tying", "hf-albert, four layers", lambda: library_case("albert", settings={"num_hidden_layers": 4})
    ),
    Control("attention sinks", "gpt, built", lambda: with_sink(small("gpt"))),
    Control("warm-up", "gpt, three steps", lambda: small("gpt", steps=3, lr=3e-4)),
    Control("warm-up", "encoder, three steps", lambda: small("encoder", steps=3, lr=3e-4)),
    Control("warm-up", "hf-distilbert, three steps", lambda: library_case("distilbert", steps=3, lr=1e-4)),
    Control("warm-up", "hf-llama, three steps", lambda: library_case("llama", steps=3, lr=1e-4)),
    Control("diffuse heads", "encoder, only the topic counts", lambda: small("encoder", change=only_topic, steps=120)),
    Control("optimiser", "encoder, rates by depth", lambda: small("encoder", optimizer=by_depth)),
    Control("optimiser", "encoder, two weight decays", lambda: small("encoder", optimizer=two_decays)),
    Control("optimiser", "encoder, none given", lambda: without_optimizer(small("encoder"))),
    Control(
        "optimiser",
        "gpt, plain gradient descent",
        lambda: small("gpt", optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)),
    ),
    *(
        Control(
            "known start",
            f"{name}, plain descent, rate {rate:g}",
            lambda name=name, rate=rate: from_a_known_start(name, plain_descent(rate)),
        )
        for name in ("encoder", "gpt", "rotary_decoder", "vit")
        for rate in (0.05, 0.1 if name == "vit" else 0.2)  # at 0.2 the ViT's loss really rises tenfold
    ),
    Control("known start", "gpt, weight decay 1e-3", lambda: from_a_known_start("gpt", plain_descent(0.1, 1e-3))),
    Control(
        "known start",
        "encoder, AdamW with decay 0.1",
        lambda: from_a_known_start(
            "encoder", lambda model: torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
        ),
    ),
    Control("dropout", "encoder, rate 0.1", lambda: small("encoder", sizes={"dropout": 0.1})),
    Control("dropout", "gpt, rate 0.1", lambda: small("gpt", sizes={"dropout": 0.1})),
)
