"""What every lens costs and says on a healthy model: the pre-trained six-layer encoder of the demo.

python benchmarks/lenses.py                     # the light and standard lenses
python benchmarks/lenses.py --effort deep       # the curvature lenses too, on fewer and shorter texts
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch

from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.case import default_forward, default_loss
from attnscope.demo import _distilbert
from attnscope.lenses import EFFORTS
from attnscope.probe import Probe


def made(deep: bool) -> Probe:
    """A probe of the demo's model before fine-tuning."""
    case, _ = _distilbert(0)
    batch: Any = case.batches[0]
    if deep:
        batch = {name: value[:4, :16] if value.ndim > 1 else value[:4] for name, value in batch.items()}
    anatomy = trace(case.model.eval(), batch, case.forward)
    return Probe(
        model=case.model, batches=(batch,), anatomy=anatomy, forward=case.forward or default_forward,
        loss=case.loss or default_loss,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--effort", choices=EFFORTS, default="standard")
    parser.add_argument("lens", nargs="*", help="only these")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    probe = made(asked.effort == "deep")
    begun = time.perf_counter()
    probe.output()
    forward = time.perf_counter() - begun
    begun = time.perf_counter()
    _ = probe.observation
    observed = time.perf_counter() - begun
    size = sum(parameter.numel() for parameter in probe.model.parameters())
    print(f"one forward pass {forward:.2f} s; observing it {observed:.2f} s, shared by all lenses of patterns")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {size} parameters")
    print(f"{'lens':34}{'forwards':>10}  {'least':>9} {'5 %':>9} {'median':>9} {'95 %':>9} {'most':>9}")
    allowed = EFFORTS[: EFFORTS.index(asked.effort) + 1]
    for name in asked.lens or catalogue.names("lenses"):
        lens = catalogue.load("lenses", name)()
        if lens.effort not in allowed or (asked.effort == "deep" and lens.effort != "deep" and not asked.lens):
            continue
        if reason := lens.applies_to(probe.anatomy):
            print(f"{name:34}{'':>10}  {reason}")
            continue
        begun = time.perf_counter()
        reading = lens.measure(probe)
        cost = (time.perf_counter() - begun) / forward
        values = reading.values[np.isfinite(reading.values)]
        shown = reading.note or reading.status
        if values.size:
            shown = " ".join(f"{value:9.4g}" for value in np.quantile(values, [0, 0.05, 0.5, 0.95, 1]))
        print(f"{name:34}{cost:10.2f}  {shown}", flush=True)


if __name__ == "__main__":
    main()
