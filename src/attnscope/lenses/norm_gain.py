"""By how much each normalisation scales its channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block, Role
from attnscope.lenses import Lens
from attnscope.lenses._parameters import named, part
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class NormGain(Lens):
    """The gain of each normalisation: 0 silences what follows, a huge one drowns it.

    **Measures** the root mean square over channels of the factor by which the normalisation scales a
    normalised input (unit 1). It is measured by running the module on a normalised input and its
    negative, so a gain that is stored as an offset from one is read right; where that is not possible the
    stored weight is taken.

    **Reading it** initialised at 1; trained ones lie between 0.2 and 5, the last of a language model up
    to 30. 0: everything behind it is dead. Compare with the other normalisations of the model
    (`over_median`).

    **Shapes** [block], normalisations only. Facts: `over_median`: value over the median of all;
    `zero_share`: share of channels whose gain is exactly 0; `smallest`, `largest`: over channels; `how`:
    `measured` or `weight`.

    **Cost** two passes of one vector through each normalisation.

    **Reference** Ba, Kiros & Hinton 2016, Layer Normalization, arXiv:1607.06450.
    """

    unit: ClassVar[str] = "1"
    dims: ClassVar[tuple[str, ...]] = ("block",)
    needs: ClassVar[tuple[str, ...]] = ("weights",)

    def applies_to(self, anatomy: Any) -> str:
        """Needs a normalisation with parameters."""
        if any(block.role is Role.NORM for block in anatomy.blocks):
            return ""
        return "the model has no normalisation with parameters"

    def measure(self, probe: Probe) -> Reading:
        """The gain of every normalisation."""
        blocks = [block for block in probe.anatomy.blocks if block.role is Role.NORM and block.slices]
        if not blocks:
            return self.not_applicable("the model has no normalisation with parameters")
        parameters = named(probe.model)
        gains: list[Tensor] = []
        how: list[str] = []
        with probe.evaluating() as model, torch.no_grad():
            for block in blocks:
                measured = _measured(model, block)
                how.append("weight" if measured is None else "measured")
                stored = part(parameters, block.slices[0]).double().flatten().abs()
                gains.append(stored if measured is None else measured)
        values = [float(gain.square().mean().sqrt()) for gain in gains]
        broken = [block.name for block, value in zip(blocks, values, strict=True) if value != value]
        median = float(torch.tensor(values, dtype=torch.float64).nanmedian())
        return self.reading(
            [value if value == value else float("inf") for value in values],
            coords={"block": tuple(block.name for block in blocks)}, step=probe.step,
            note=f"the gain of {broken[0]} is not finite" if broken else "",
            facts={
                "over_median": [value / median if median else None for value in values],
                "zero_share": [float((gain == 0).double().mean()) for gain in gains],
                "smallest": [float(gain.min()) for gain in gains],
                "largest": [float(gain.max()) for gain in gains],
                "how": how,
            },
        )


def _measured(model: nn.Module, block: Block) -> Tensor | None:
    """The factor per channel, by running the module that owns the parameters; None where that fails."""
    owner = block.slices[0].parameter.rpartition(".")[0]
    if any(piece.parameter.rpartition(".")[0] != owner or piece.dim is not None for piece in block.slices):
        return None
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return None
    shape = block.slices[0].shape
    if len(shape) != 1 or shape[0] < 2 or hasattr(module, "running_var"):
        return None
    states = _balanced(shape[0])
    # A large size makes the epsilon of the normalisation vanish beside the variance.
    given = (1e2 * states).to(next(module.parameters()))[None, None]
    try:
        plus, minus = module(given), module(-given)
    except Exception:  # whatever a module of the user's raises on such an input, the stored weight serves
        return None
    if not isinstance(plus, Tensor) or not isinstance(minus, Tensor) or plus.shape != given.shape:
        return None
    odd = (plus - minus).double().cpu().flatten() / 2
    return (odd / (states / states.square().mean().sqrt())).abs() if bool(odd.isfinite().all()) else None


def _balanced(n: int) -> Tensor:
    """Numbers of mean 0, none of them 0: plus and minus one in turn."""
    states = torch.ones(n, dtype=torch.float64)
    states[1::2] = -1
    if n % 2:
        states[-1] = -2
        states[-2] = states[-3] = 1
    return states
