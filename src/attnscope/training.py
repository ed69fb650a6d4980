"""The one training loop: lenses fire on a schedule, and what they read is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnscope import catalogue
from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.case import Case, Expectations, default_forward, default_loss
from attnscope.errors import CaseError
from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import FAILED, Reading, missing
from attnscope.record import START, Run
from attnscope.start import inside, read_start, save_start, start_of

LOSS = "training_loss"


def train(
    case: Case, steps: int, *, lenses: Sequence[str | Lens] = (), every: int = 100,
    run: Run | str | Path | None = None, batches: Iterable[Any] | None = None, clip: float | None = None,
) -> Run:
    """Trains the case's model with its optimiser, in place, and records what the lenses read on the way.

    Lenses fire before the first step, after every `every` steps and after the last, on the case's own batches;
    they disturb nothing: the trained weights are the same bit for bit without them. A run that holds steps is
    continued at its last one.

    Args:
        case: model, batches, loss and optimiser. A case without a `start` gets one: the model now, or the start
            that the run in the folder keeps.
        steps: how many updates.
        lenses: names or lenses.
        every: steps between readings.
        run: where they are stored: a `Run`, or a folder; None keeps them in memory.
        batches: what is trained on, begun again when it ends; the case's batches when None.
        clip: norm at which the gradient is clipped; None leaves it.

    Returns:
        the run: `run.series("attention_entropy")`, `run.series("training_loss")` (mean since the last reading).

    Raises:
        CaseError: the case has no optimiser, or its model or loss fails.
        CatalogueError: a lens's name is not known.
    """
    if case.optimizer is None:
        raise CaseError("train needs Case(..., optimizer=...): the optimiser that trains the model")
    if steps < 0 or every < 1:
        raise ValueError(f"steps must be at least 0 and every at least 1, found {steps} and {every}")
    recorder = Recorder.of(case, lenses, run)
    probe, optimizer = recorder.probe, case.optimizer
    source = _endless(case.batches if batches is None else batches)
    first = recorder.run.steps[-1] if recorder.run.steps else 0
    if not first:
        recorder.fire(0)
    case.model.train()
    for step, batch in zip(range(first + 1, first + steps + 1), source, strict=False):
        loss = probe.loss_of(case.model, batch)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if clip is not None:
            nn.utils.clip_grad_norm_(case.model.parameters(), clip)
        optimizer.step()
        recorder.losses.append(float(loss.detach()))
        if step % every == 0 or step == first + steps:
            recorder.fire(step)
    return recorder.run


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch, each read anew, so that a loader shuffles again."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise CaseError(
                f"the batches ({type(batches).__name__}) ended before the last step and cannot be read again; "
                "pass a list or a DataLoader"
            )


@dataclass
class Recorder:
    """Fires lenses on one probe and appends their readings, and the mean loss since the last time."""

    probe: Probe
    lenses: tuple[Lens, ...]
    run: Run
    losses: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, case: Case, lenses: Sequence[str | Lens], run: Run | str | Path | None) -> Recorder:
        """Traces the model and settles its start: the case's own, else the stored run's, else the model now."""
        stored = run if isinstance(run, Run) else Run(run, name=case.name)
        chosen = tuple(catalogue.load("lenses", lens)() if isinstance(lens, str) else lens for lens in lenses)
        model = unwrapped(case.model)[0]
        if case.start is None:
            known = stored.start
            case.start = start_of(case.model) if known is None else read_start(known, case.model)
        start = inside(case.start, case.model, model)  # type: ignore[arg-type]  # read by Case
        if stored.folder is not None and stored.start is None and start:
            stored.folder.mkdir(parents=True, exist_ok=True)
            save_start(start, stored.folder / START)
        probe = Probe(
            model, tuple(case.batches), trace(case.model, next(iter(case.batches)), case.forward),
            case.forward or default_forward, case.loss or default_loss, case.optimizer,
            Expectations.of(case.expects), start=start,
        )
        return cls(probe, chosen, stored)

    def fire(self, step: int) -> None:
        """One reading of every lens; a lens that raises leaves a failed reading with the reason."""
        if self.losses:
            mean = sum(self.losses) / len(self.losses)
            self.run.append(Reading(LOSS, torch.tensor(mean).double().numpy(), (), "loss"), step)
            self.losses.clear()
        self.probe = Probe(**{**_fields(self.probe), "step": step})  # nothing cached at another step
        for lens in self.lenses:
            self.run.append(_measured(lens, self.probe), step)


def _fields(probe: Probe) -> dict[str, Any]:
    names = ("model", "batches", "anatomy", "forward", "loss", "optimizer", "expects", "inferred", "seed", "start")
    return {name: getattr(probe, name) for name in names}


def _measured(lens: Lens, probe: Probe) -> Reading:
    why_not = lens.applies_to(probe.anatomy)
    if why_not:
        return lens.not_applicable(why_not)
    try:
        return lens.measure(probe)
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return missing(lens.name, lens.dims, lens.unit, FAILED, why, **asdict(lens))
