"""Neurons of feed-forward networks that are switched off between the two maps, whatever their input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Role
from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import Reading

_PASSED = 0.99  # share of positive sums that the other neurons let through; less is dropout or a sparse activation
_TOKENS = 3  # tokens on which a neuron's sum must be positive


@dataclass
class _Network:
    """The two maps of one network, and what passes between them on the first batch."""

    layer: int
    blocks: tuple[str, str]
    modules: tuple[str, str]
    sums: list[Tensor] = field(default_factory=list)
    inner: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class SilentNeurons(Lens):
    """How many neurons of each feed-forward network are zero although their input is positive: 0 in a sound network.

    **Measures** per layer the number of inner neurons whose value is exactly zero on every token of the first batch,
    as the second map gets it, while the sum that the first map gives it is positive on three tokens or more (unit
    neurons). Networks of two maps only.

    **Reading it** 0. Every usual activation (ReLU, GELU, SiLU, tanh) lets a positive sum through, so a neuron that
    stays zero is masked behind the activation. Dead ReLUs, whose sums are never positive, do not count. Where the
    other neurons do not let all positive sums through (dropout that is on, an activation that keeps the largest few)
    nothing can be said, and the layer has no number.

    **Shapes** [layer]. Facts: `silent`: list of {layer, blocks, modules, neurons, count, of, dead}; `dead`: how many
    neurons are zero because no sum was positive.

    **Cost** one forward pass.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "neurons"
    dims: ClassVar[tuple[str, ...]] = ("layer",)

    def measure(self, probe: Probe) -> Reading:
        """Listens to both maps of every network while the batch runs."""
        networks = _networks(probe.anatomy, probe.model)
        if not networks:
            return self.not_applicable("no feed-forward network of two maps stands beside an attention")
        with probe.evaluating() as model, torch.no_grad():
            handles = []
            for network in networks:
                first, second = (model.get_submodule(path) for path in network.modules)
                handles.append(first.register_forward_hook(_keep_output(network.sums)))
                handles.append(second.register_forward_pre_hook(_keep_input(network.inner)))
            try:
                probe.run(model, probe.batch)
            finally:
                for handle in handles:
                    handle.remove()
        looked = [(network, _silent(network)) for network in networks]
        told = [(network, found) for network, found in looked if found is not None]
        if not told:
            return self.not_applicable("the networks' maps are not called as modules, or positive sums do not pass")
        return self.reading(
            [found["count"] for _, found in told],
            coords={"layer": tuple(network.layer for network, _ in told)},
            step=probe.step,
            facts={
                "silent": [
                    {"layer": network.layer, "blocks": list(network.blocks), "modules": list(network.modules), **found}
                    for network, found in told
                    if found["count"]
                ]
            },
        )


def _networks(anatomy: Anatomy, model: nn.Module) -> list[_Network]:
    """Networks of exactly two matrices, each held by a module of its own."""
    matrices: dict[int, list[tuple[str, str]]] = {}
    for block in anatomy.blocks:
        if block.role is Role.MLP and block.layer is not None and len(block.shared_by) < 2:
            for piece in block.slices:
                if len(piece.shape) == 2 and piece.dim is None:
                    matrices.setdefault(block.layer, []).append((block.name, piece.parameter.rpartition(".")[0]))
    return [
        _Network(layer, (found[0][0], found[1][0]), (found[0][1], found[1][1]))
        for layer, found in matrices.items()
        if len(found) == 2 and found[0][1] != found[1][1]
    ]


def _keep_output(kept: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kept.append(output.detach())

    return keep


def _keep_input(kept: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    def keep(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            kept.append(args[0].detach())

    return keep


def _silent(network: _Network) -> dict[str, Any] | None:
    """Which neurons are silent; None where nothing can be said."""
    if len(network.sums) != 1 or len(network.inner) != 1 or network.sums[0].shape != network.inner[0].shape:
        return None
    sums, inner = (each[0].flatten(0, -2).cpu() for each in (network.sums, network.inner))
    if not bool(torch.isfinite(sums).all()) or not bool(torch.isfinite(inner).all()):
        return None
    positive, passed = sums > 0, inner != 0
    zero = ~passed.any(0)
    if bool(zero.all()) or not bool(positive[:, ~zero].any()):
        return None
    if float(passed[:, ~zero][positive[:, ~zero]].float().mean()) < _PASSED:
        return None
    silent = zero & (positive.sum(0) >= _TOKENS)
    where = silent.nonzero().flatten().tolist()
    return {"neurons": where[:8], "count": len(where), "of": zero.numel(), "dead": int((zero & ~silent).sum())}
