"""Directions of recurrent modules whose states reach nothing."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from attnscope.lenses import STANDARD, Lens
from attnscope.probe import Probe
from attnscope.readings import Reading

_BACKWARD = "_reverse"


@dataclass(frozen=True)
class SilentDirections(Lens):
    """Directions of two-way recurrent modules that get exactly no gradient while the other direction does.

    **Measures** per recurrent block the number of layers in which one direction's weights all have a gradient of
    exactly zero on the first batch and the other direction's have not (unit directions).

    **Reading it** 0. 1 in the last layer: the states of that direction are dropped, or overwritten, before anything
    reads them. An unused weight on the states alone (a text of one token) does not count: the weights on the input
    must be without gradient, too.

    **Shapes** [block]: the blocks that hold weights of two-way recurrent modules. Facts: `silent`: list of {block,
    module, layer, direction, n_parameters}.

    **Cost** one gradient, shared with other readings.

    **Reference** none needed: an identity.
    """

    unit: ClassVar[str] = "directions"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("gradient",)
    effort: ClassVar[str] = STANDARD

    def measure(self, probe: Probe) -> Reading:
        """Compares the directions of each layer of each module."""
        modules = {
            path: module for path, module in probe.model.named_modules()
            if isinstance(module, nn.RNNBase) and module.bidirectional
        }  # fmt: skip
        blocks = {
            piece.parameter: block.name for block in probe.anatomy.blocks for piece in block.slices
        }
        groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: {"forward": [], "backward": []})
        for name in blocks:
            path, _, own = name.rpartition(".")
            if path in modules and "_l" in own:
                layer = own.removesuffix(_BACKWARD).rpartition("_l")[2]
                groups[path, layer]["backward" if own.endswith(_BACKWARD) else "forward"].append(name)
        if not groups:
            return self.not_applicable("no recurrent module reads in two directions")
        counts = {blocks[name]: 0.0 for sides in groups.values() for names in sides.values() for name in names}
        silent: list[dict[str, Any]] = []
        for (path, layer), sides in groups.items():
            alive = {side: [name for name in names if _has_gradient(probe, name)] for side, names in sides.items()}
            for side, other in (("forward", "backward"), ("backward", "forward")):
                if sides[side] and not alive[side] and alive[other]:
                    block = blocks[sides[side][0]]
                    counts[block] += 1
                    silent.append({
                        "block": block, "module": path, "layer": int(layer), "direction": side,
                        "n_parameters": len(sides[side]),
                    })  # fmt: skip
        return self.reading(
            list(counts.values()), coords={"block": tuple(counts)}, step=probe.step, facts={"silent": silent}
        )


def _has_gradient(probe: Probe, name: str) -> bool:
    """Whether any number of the gradient is not zero; one that is not finite counts as there."""
    gradient = probe.gradients.get(name)
    return gradient is not None and bool((gradient != 0).any())
