"""A lens of one's own: how far each head looks back, and the contract that keeps it honest.

python examples/own_lens.py
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

import attnscope
from attnscope.lenses import Lens
from attnscope.models.gpt import Gpt
from attnscope.probe import Probe
from attnscope.readings import Reading
from attnscope.testing import check_lens


@dataclass(frozen=True)
class AttentionDistance(Lens):
    """How many positions back a head looks, on average.

    **Measures**: sum of pattern[i, j] * |i - j|, averaged over queries and examples.

    **Reading it**: near 0 the head copies its own position.

    **Shapes**: (layer, head).

    **Cost**: one forward pass.

    **Reference**: Vig and Belinkov, 2019, arXiv:1906.04284.
    """

    unit: ClassVar[str] = "positions"
    dims: ClassVar[tuple[str, ...]] = ("layer", "head")
    needs: ClassVar[tuple[str, ...]] = ("pattern",)

    def measure(self, probe: Probe) -> Reading:
        rows = []
        for one in probe.observation.attentions:
            queries, keys = one.pattern.shape[-2:]
            distance = (torch.arange(queries)[:, None] - torch.arange(keys)).abs()
            rows.append((one.pattern * distance).sum(-1).mean(dim=(0, 2)).tolist())
        layers, heads = tuple(range(len(rows))), tuple(range(len(rows[0])))
        return self.reading(rows, coords={"layer": layers, "head": heads}, step=probe.step)


def make_probe():
    torch.manual_seed(0)
    model = Gpt(n_tokens=20, n_positions=16, d_model=32, n_heads=4)
    batch = {"input_ids": torch.randint(0, 20, (8, 12))}
    return Probe(model, (batch,), attnscope.trace(model, batch))


if __name__ == "__main__":
    print(AttentionDistance().measure(make_probe()).values)
    check_lens(AttentionDistance(), make_probe)
    print("disturbs nothing, repeats, declares its axes, goes to disk and back: the contract holds.")
