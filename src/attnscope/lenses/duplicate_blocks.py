"""Blocks that hold the very same numbers as another block."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy, Block
from attnscope.lenses import Lens
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe
from attnscope.readings import Reading

SAME_PARAMETER, EQUAL_VALUES = "same parameter", "equal values"


@dataclass(frozen=True)
class DuplicateBlocks(Lens):
    """How many other blocks of the model hold the very same weights as each block: 0 is usual.

    **Measures** per block the number of other places in the architecture that use equal weights (unit 1):
    other blocks whose weight matrices are equal bit for bit, and other roles or layers that use the very
    same parameter. Weights that are constant (all zero, all one) are left to `zero_blocks`.

    **Reading it** 0 in most models. `same parameter` across layers is weight sharing by construction (ALBERT)
    when whole layers share, and a mistake when single projections do, or a query and a key. `equal values` in
    separate parameters: copied weights (layers cloned at construction are equal before training and part
    afterwards; an equal pair in a trained model received equal gradients or none).

    **Shapes** [block], then heads of attention blocks in `heads` only. Facts: `pairs`: list of {a, b,
    how}, with `a` and `b` block names, or for one parameter in two roles or layers the places `L0.Q`,
    `L0.K`; `heads`: the same for heads of one layer and role (`L0H1.Q`, `L0H2.Q`); `layers_alike`: pairs
    of layers all of whose attention weights agree, with how; `tied`: parameter names that appear twice in
    the model; `recurrent`: list of {a, b, block_a, block_b, shared, apart}: two recurrent modules (not one module
    used twice) that hold some parameters in common, with the names of these and how many they do not share.

    **Cost** one pass over the parameters.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def measure(self, probe: Probe) -> Reading:
        """The duplicates of every block."""
        anatomy = probe.anatomy
        if not anatomy.blocks:
            return self.not_applicable("the model has no parameters")
        parameters = named(probe.model)
        pairs = [*_same_parameter(anatomy), *_equal(anatomy.blocks, parameters)]
        heads = [
            pair for pair in _equal(anatomy.head_blocks(), parameters) if _one_layer_and_role(pair, anatomy)
        ]
        count: dict[str, int] = defaultdict(int)
        uses = _uses(anatomy)
        for pair in pairs:
            for place in (pair["a"], pair["b"]):
                count[uses.get(place, place)] += 1
        names = tuple(block.name for block in anatomy.blocks)
        return self.reading(
            [count[name] for name in names], coords={"block": names}, step=probe.step,
            facts={
                "pairs": pairs, "heads": heads, "layers_alike": _layers_alike(anatomy, pairs),
                "tied": _tied(probe), "recurrent": _recurrent(probe),
            },
        )


def _uses(anatomy: Anatomy) -> dict[str, str]:
    """Place in the architecture (`L3.K`) -> the block that serves it (`L0.K` when layers share)."""
    letters = {"query": "Q", "key": "K", "value": "V", "output": "O", "query_key": "QK"}
    return {
        f"L{attention.layer}.{letters.get(role, role)}": block
        for attention in anatomy.attentions
        for role, block in attention.blocks.items()
    }


def _same_parameter(anatomy: Anatomy) -> list[dict[str, Any]]:
    """Places of attention that are served by one and the same block."""
    served: dict[str, list[str]] = defaultdict(list)
    for place, block in _uses(anatomy).items():
        served[block].append(place)
    return [
        {"a": first, "b": other, "how": SAME_PARAMETER}
        for places in served.values()
        for first, other in _neighbours(places)
    ]


def _neighbours(places: list[str]) -> list[tuple[str, str]]:
    """The first with each of the others: enough to name a group without all its pairs."""
    return [(places[0], other) for other in places[1:]]


def _weight(parameters: Mapping[str, Tensor], block: Block) -> Tensor | None:
    """The block's first matrix, None when it has none or it is constant."""
    for piece in block.slices:
        if len(piece.shape) >= 2:
            tensor = part(parameters, piece)
            varies = tensor.numel() > 0 and bool((tensor != tensor.flatten()[0]).any())
            return tensor.contiguous() if varies and bool(tensor.isfinite().all()) else None
    return None


def _equal(blocks: tuple[Block, ...], parameters: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Blocks whose weight matrices agree bit for bit although their parameters differ."""
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for block in blocks:
        weight = _weight(parameters, block)
        if weight is not None:
            groups[(tuple(weight.shape), str(weight.dtype), _digest(weight))].append(block.name)
    return [
        {"a": first, "b": other, "how": EQUAL_VALUES}
        for names in groups.values()
        for first, other in _neighbours(names)
    ]


def _digest(tensor: Tensor) -> str:
    """A digest of the bytes, minus zero counted as zero."""
    exact = (tensor + 0.0).contiguous().view(torch.uint8)
    return hashlib.blake2b(exact.numpy().tobytes(), digest_size=16).hexdigest()


def _one_layer_and_role(pair: Mapping[str, Any], anatomy: Anatomy) -> bool:
    by_name = {block.name: block for block in anatomy.head_blocks()}
    first, second = by_name[pair["a"]], by_name[pair["b"]]
    return (first.layer, first.role) == (second.layer, second.role)


def _layers_alike(anatomy: Anatomy, pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of layers whose every attention projection is shared or equal."""
    linked = {frozenset((pair["a"], pair["b"])): pair["how"] for pair in pairs}
    places = {
        attention.layer: {name for name in _uses(anatomy) if name.startswith(f"L{attention.layer}.")}
        for attention in anatomy.attentions
    }
    found = []
    for a, own in places.items():
        for b, others in places.items():
            matched = [(name, name.replace(f"L{a}.", f"L{b}.", 1)) for name in own]
            if a < b and own and len(own) == len(others):
                how = [linked.get(frozenset(names)) for names in matched]
                if all(how):
                    found.append({"layers": [a, b], "how": how[0]})
    return found


def _tied(probe: Probe) -> list[list[str]]:
    """Parameters that go by several names."""
    by_identity: dict[int, list[str]] = defaultdict(list)
    for name, parameter in probe.model.named_parameters(remove_duplicate=False):
        by_identity[id(parameter)].append(name)
    return [names for names in by_identity.values() if len(names) > 1]


def _recurrent(probe: Probe) -> list[dict[str, Any]]:
    """Pairs of recurrent modules that hold parameters in common. A module registered twice is one module."""
    modules = [(path, module) for path, module in probe.model.named_modules() if isinstance(module, nn.RNNBase)]
    found = []
    for index, (path, module) in enumerate(modules):
        for other_path, other in modules[index + 1 :]:
            held = {id(each) for each in module.parameters(recurse=False)}
            own = dict(other.named_parameters(recurse=False))
            shared = [name for name, each in own.items() if id(each) in held]
            if shared:
                found.append({
                    "a": path, "b": other_path, "block_a": _block_of(probe.anatomy, path),
                    "block_b": _block_of(probe.anatomy, other_path) or _block_of(probe.anatomy, path),
                    "shared": shared, "apart": len(own) - len(shared),
                })  # fmt: skip
    return found


def _block_of(anatomy: Anatomy, path: str) -> str:
    """The block that holds parameters of that module, or an empty string: tied parameters go by their first name."""
    pieces = ((block, piece.parameter) for block in anatomy.blocks for piece in block.slices)
    return next((block.name for block, name in pieces if name.rpartition(".")[0] == path), "")
