"""Portrait: block spectra, couplings, density and stability of one model, measured within a budget."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnscope.anatomy.blocks import Anatomy, Block
from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.calling import default_forward
from attnscope.case import Case, default_loss
from attnscope.curvature.cohen2022adaptive import KNOWN, seen_by, steps_of
from attnscope.curvature.combined import Joined
from attnscope.curvature.gauss_newton import GaussNewton
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.lanczos import BOTTOM, TOP, lanczos
from attnscope.curvature.levels import PROJECTION, blocks_at
from attnscope.curvature.survey import Progress, Survey, notes_of
from attnscope.errors import CaseError
from attnscope.plain import plain
from attnscope.portrait import tables
from attnscope.portrait.allowance import Allowance
from attnscope.portrait.outputs import split_loss
from attnscope.portrait.parts import probe_parts, readings_of
from attnscope.portrait.training import Training, over_training
from attnscope.probe import Probe
from attnscope.readings import Reading

SPECTRUM, COUPLING, DENSITY = "spectrum", "coupling", "density"
MEASURES = (SPECTRUM, COUPLING, DENSITY)
SHARES = {SPECTRUM: 0.35, COUPLING: 0.4, DENSITY: 0.25}  # of the budget, while nothing is left over
LEAST_STEPS, MOST_STEPS, WHOLE_STEPS, STABILITY_STEPS = 8, 40, 30, 20
SAME_LOSS = 1e-3  # relative; rounding differs between machines, another moment differs by more

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        level: `projection`, `head` or `layer`; `only`: patterns of block names.
        measures: which of `spectrum`, `coupling` and `density`.
        budget: in gradients; None is 300 gradients or a minute, whichever is more.
        precision: relative standard error at which the coupling stops; None spends the budget.
        n_batches: how many of the case's batches are used.
        max_examples: splits batches, which bounds memory.
        held: how many numbers of basis vectors are held together, which bounds memory.
        double: whether products are made in float64.
        seed: of every random choice.
        training_steps: trains a copy of the model so long and follows its curvature; 0 does not.
        gauss_newton: whether the Hessian is split into its Gauss-Newton part and the residual; None does so when
            it takes no longer than all before it, and the case's loss can be split.
    """

    level: str = PROJECTION
    only: tuple[str, ...] = ()
    measures: tuple[str, ...] = MEASURES
    budget: float | None = None
    precision: float | None = 0.1
    n_batches: int = 1
    max_examples: int | None = None
    held: int = 250_000_000
    double: bool = False
    seed: int = 0
    training_steps: int = 0
    gauss_newton: bool | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown or not self.measures:
            raise ValueError(f"measures must be among {', '.join(MEASURES)}, found {', '.join(unknown) or 'none'}")
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"the budget must be a positive number of gradients, found {self.budget}")
        if self.precision is not None and not self.precision > 0:
            raise ValueError(f"the precision must be positive, found {self.precision}")


@dataclass(frozen=True)
class Portrait:
    """What was found.

    Attributes:
        name: of the case.
        level: of the blocks.
        readings: by name; a reading that was not reached is missing.
        blocks: name -> its layer, role, head and number of parameters.
        facts: loss, cost, and what a reader must know (`notes`).
        interrupted: whether the user stopped it.
    """

    name: str
    level: str
    readings: dict[str, Reading]
    blocks: dict[str, dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "name": self.name, "level": self.level, "interrupted": self.interrupted, "facts": plain(self.facts),
            "blocks": self.blocks, "readings": {key: item.to_dict() for key, item in self.readings.items()},
        }


def portray(
    case: Case, request: Request | None = None, *, resume: Path | None = None, tell: Tell | None = None
) -> Portrait:
    """Measures, as far as the budget reaches.

    Args:
        case: model, batches and loss; with an optimiser that has stepped, also what that optimiser sees.
        request: what is asked for.
        resume: where the survey of couplings is kept: continued from there when the file exists, and written
            there at the end, whether it came to an end or was interrupted.
        tell: called with (gradients spent, budget, what is being done).

    Returns:
        what is known, also after Ctrl-C.

    Raises:
        CaseError: the case cannot be used, or the file to resume belongs to another one.
    """
    work = _Work(case, request or Request(), resume, tell)
    with work.allowance:
        work.prepare()
        work.run()
        work.keep(resume)
    return work.portrait()


class _Work:
    """One portrait under way."""

    def __init__(self, case: Case, request: Request, resume: Path | None, tell: Tell | None) -> None:
        self.case = case
        self.request = request
        self.model: nn.Module = unwrapped(case.model)[0]
        self.readings: dict[str, Reading] = {}
        self.notes: list[str] = []
        self.tell = tell
        self.known = json.loads(notes_of(resume)) if resume is not None and resume.exists() else {}
        self.kept = resume if self.known else None
        self.allowance = Allowance(request.budget, self.known.get("spent", 0.0))
        self.start = time.perf_counter()

    def prepare(self) -> None:
        """Traces, cuts into blocks, and makes the first pass."""
        case, request = self.case, self.request
        batches = list(case.batches)[: request.n_batches]
        forward = case.forward or default_forward
        self.say("tracing")
        self.anatomy: Anatomy = trace(case.model, batches[0], forward)
        self.probe = Probe(
            model=self.model, batches=tuple(batches), anatomy=self.anatomy, forward=forward,
            loss=case.loss or default_loss, optimizer=case.optimizer, seed=request.seed,
        )
        self.blocks: tuple[Block, ...] = blocks_at(self.anatomy, self.model, request.level, request.only)
        self.say("first gradient")
        self.hessian = Hessian(
            self.model, batches, self.probe.loss_of, self.blocks, seed=request.seed,
            max_examples=request.max_examples, dtype=torch.float64 if request.double else torch.float32,
        )
        self.allowance.seconds_per_gradient = self.hessian.cost.seconds_per_gradient
        if self.kept is None:
            self.survey = Survey(self.hessian, seed=request.seed)
        else:
            self._check_same_moment()
            self.survey = Survey.resume(self.kept, self.hessian)
        if self.hessian.objective.random:
            self.notes.append(
                "the model draws random numbers in eval mode; this is the curvature of one fixed draw"
            )

    def _check_same_moment(self) -> None:
        before, now = float(self.known["loss"]), self.hessian.objective.value
        if abs(before - now) > SAME_LOSS * max(abs(before), abs(now)):
            raise CaseError(
                f"{self.kept} was saved at a loss of {before:.6g}, and the loss is now {now:.6g}: the model, its "
                "weights or its data are not the same. Resume with the same, or begin a new file"
            )

    def run(self) -> None:
        """Each measure in turn, with its share of the budget and what the ones before left over."""
        given = 0.0
        total = sum(SHARES[name] for name in self.request.measures)
        steps = {SPECTRUM: self._spectrum, COUPLING: self._coupling, DENSITY: self._density}
        for name in MEASURES:
            if name in self.request.measures:
                given += SHARES[name] / total
                if not self.allowance.over(given):
                    steps[name](given)
                elif not self.allowance.asked:
                    self.notes.append(f"the budget ended before the {name}")
        self.readings |= tables.of_rank(self.readings)
        if not self.allowance.asked:
            self._stability()
        if self.request.gauss_newton is not False and not self.allowance.asked:
            self._parts()
        if self.request.training_steps and not self.allowance.asked:
            self.say("training a copy")
            asked = Training(self.request.training_steps, self.request.seed)
            self.readings |= over_training(self.case, self.probe, asked, self.allowance, self.say)

    def _spectrum(self, share: float) -> None:
        self.say("top and bottom eigenvalues")

        def stop() -> bool:
            self.say("top and bottom eigenvalues")
            return self.allowance.over(share)

        ritz = lanczos(
            self.hessian, max_steps=MOST_STEPS, at_least=LEAST_STEPS, ends=(TOP, BOTTOM), seed=self.request.seed,
            until=stop, held=self.request.held,
        )
        self.readings |= tables.of_blocks(self.hessian, ritz)
        late = [name for name in self.hessian.names if name not in ritz or not ritz[name].converged]
        if late:
            self.notes.append(
                f"the eigenvalues of {len(late)} of {len(self.hessian.names)} blocks are not known to 1 %: "
                "the top ones are at least, the bottom ones at most what is shown"
            )

    def _coupling(self, share: float) -> None:
        def shown(progress: Progress) -> None:
            error = f"{progress.error:.0%} error" if math.isfinite(progress.error) else "first round"
            left = f", {progress.seconds_left:.0f} s left" if math.isfinite(progress.seconds_left) else ""
            self.say(f"coupling: {error}{left}")
            if self.allowance.asked:
                raise KeyboardInterrupt

        self.say("coupling")
        try:
            self.survey.run(
                precision=self.request.precision, max_seconds=self.allowance.seconds_until(share), progress=shown
            )
        except KeyboardInterrupt:
            self.allowance.asked = True
        error = self.survey.error()
        if self.request.precision is not None and not error <= self.request.precision:
            reached = f"{error:.0%}" if math.isfinite(error) else "no error yet"
            self.notes.append(
                f"the budget ended before the precision: the couplings have a relative standard error of {reached} "
                f"(95 % of pairs), {self.request.precision:.0%} was asked for"
            )
        if self.survey.products:
            self.readings |= tables.of_pairs(self.survey.result())

    def _density(self, share: float) -> None:
        whole = Joined(self.hessian)
        steps = min(WHOLE_STEPS, max(self.request.held // whole.sizes["all"], 2))
        runs = []
        for number in range(2):
            what = f"spectral density, start {number + 1} of 2"
            self.say(what)

            def stop(what: str = what) -> bool:
                self.say(what)
                return self.allowance.over(share)

            ritz = lanczos(
                whole, max_steps=steps, tolerance=0, ends=(TOP, BOTTOM), vectors=number == 0,
                seed=self.request.seed + number, until=stop,
            ).get("all")
            if ritz is None or ritz.steps < 2:
                break
            runs.append(ritz)
            if self.allowance.over(share):
                break
        if runs:
            self.readings |= tables.of_whole(runs, whole.sizes["all"])
            self.readings |= tables.of_mass(self.hessian, self.anatomy, runs[0])

    def _stability(self) -> None:
        """What the optimiser sees, when the case has one that has stepped."""
        optimizer = self.case.optimizer
        if optimizer is None:
            return
        if not isinstance(optimizer, KNOWN):
            self.notes.append(f"no stability limit is known for {type(optimizer).__name__}")
            return
        try:
            seen = Joined(seen_by(optimizer, self.model, self.hessian.blocks, self.hessian))
        except CaseError as error:
            self.notes.append(f"no stability limit: {error}")
            return
        self.readings |= tables.of_limits(steps_of(optimizer, self.model, self.hessian.blocks))
        self.say("what the optimiser sees")

        def stop() -> bool:
            return self.allowance.asked

        ritz = lanczos(seen, max_steps=STABILITY_STEPS, seed=self.request.seed, until=stop).get("all")
        if ritz is not None and not stop():
            self.readings["stability"] = tables.of_stability(ritz)

    def _parts(self) -> None:
        """The Gauss-Newton part beside the whole; not measured where that would double the cost unasked."""
        wanted = self.request.gauss_newton is True
        what = "Gauss-Newton part and residual"
        self.say(what)
        try:
            split = split_loss(self.probe)
        except CaseError as error:
            if wanted:
                raise
            self.notes.append(f"no Gauss-Newton part: {error}")
            return
        spent = time.perf_counter() - self.start
        hessian = self.hessian
        gauss_newton = GaussNewton(
            self.model, self.probe.batches, split.outputs, split.loss, self.blocks, dtype=hessian.dtype,
            seed=self.request.seed, max_examples=self.request.max_examples, check=False,
        )

        def affordable(seconds: float) -> bool:
            return wanted or seconds <= spent

        def stop() -> bool:
            self.say(what)
            return self.allowance.asked

        found = probe_parts(hessian, gauss_newton, affordable, stop, self.request.seed)
        if found is None:
            self.notes.append("the Gauss-Newton part would take longer than all before it; --gauss-newton measures it")
        else:
            self.readings |= readings_of(found, hessian.names)

    def keep(self, path: Path | None) -> None:
        """Saves the survey, for another run."""
        if path is not None:
            notes = {"loss": self.hessian.objective.value, "spent": self.allowance.spent}
            self.survey.save(path, json.dumps(notes))

    def say(self, what: str) -> None:
        """Reports progress."""
        if self.tell is not None:
            here = min(self.allowance.here, self.allowance.gradients)
            self.tell(round(here), round(self.allowance.gradients), what)

    def portrait(self) -> Portrait:
        """What is known."""
        objective = self.hessian.objective
        norms = {name: float(vector.norm()) for name, vector in objective.gradient.items()}
        size = math.sqrt(sum(norm**2 for norm in norms.values()))
        facts: dict[str, Any] = {
            "loss": objective.value,
            "gradient_norm": size,
            "parameters": sum(self.hessian.sizes.values()),
            "batches": len(self.probe.batches),
            "products": self.hessian.cost.products,
            "gradients": self.allowance.spent,
            "budget": self.allowance.gradients,
            "seconds": time.perf_counter() - self.start,
            "seconds_per_gradient": self.allowance.seconds_per_gradient,
            "precision": "float64" if self.request.double else "float32",
            "weighing": objective.weighing,
            "left_out": _left_out(self.anatomy, self.blocks),
            "resumed": self.kept is not None,
            "notes": self.notes,
        }
        return Portrait(
            self.case.name, self.request.level, self.readings, tables.described(self.blocks), facts,
            self.allowance.asked,
        )


def _left_out(anatomy: Anatomy, blocks: Sequence[Block]) -> list[str]:
    """Parameters' blocks that are not measured: frozen, or not asked for."""
    seen = {part.parameter for block in blocks for part in block.slices}
    return [
        block.name for block in anatomy.blocks
        if block.numel and not any(part.parameter in seen for part in block.slices)
    ]
