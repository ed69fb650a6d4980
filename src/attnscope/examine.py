"""diagnose: trace the model, infer what is intended, run the lenses that rules need, weigh, rank."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn

from attnscope import catalogue
from attnscope.anatomy.blocks import Anatomy
from attnscope.anatomy.trace import trace
from attnscope.anatomy.unwrap import unwrapped
from attnscope.case import Case, Expectations, Forward, Loss, default_forward, default_loss
from attnscope.diagnosis.ranking import chosen, rank, weigh
from attnscope.diagnosis.rules import Examination, Rule
from attnscope.errors import CaseError
from attnscope.findings import Diagnosis
from attnscope.intentions import READINGS, infer
from attnscope.lenses import EFFORTS, Lens
from attnscope.probe import Probe
from attnscope.readings import FAILED, Reading, missing
from attnscope.start import inside

Progress = Callable[[int, int, str], None]

# No rule rests on these; a person reads them in the report.
SHOWN = ("block_top_eigenvalue", "relative_curvature", "spectral_density", "coupling")


def diagnose(
    case_or_model: Case | nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    loss: Loss | None = None,
    forward: Forward | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    expects: Mapping[str, Any] | Expectations | None = None,
    effort: str = "standard",
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    progress: Progress | None = None,
) -> Diagnosis:
    """Says what is wrong in a model with attention, where, and on what evidence.

    The model is left exactly as it was. Ctrl-C returns what is known so far (`interrupted` is then true).

    Args:
        case_or_model: a `Case`, or a model; then `batches` is needed.
        batches: one or more batches, as `forward` takes them.
        loss: as in `Case`.
        forward: as in `Case`.
        optimizer: as in `Case`.
        expects: as in `Case`.
        effort: `light` (forward passes), `standard` (also gradients and interventions), `deep` (also
            curvature: what rules ask of it, and, without `select`, what the report shows of it).
        select: only these codes, groups (`MSK`) or kinds.
        ignore: all but these.
        progress: called as `progress(done, total, what)` before each lens and once at the end.

    Returns:
        The diagnosis; its list of findings is empty when nothing was found.

    Raises:
        ValueError: an unknown effort.
        CaseError: the case cannot be used.
        TraceError: the forward pass could not be watched.
        CatalogueError: `select` or `ignore` names nothing.
    """
    if effort not in EFFORTS:
        raise ValueError(f"effort must be one of {', '.join(EFFORTS)}, found {effort!r}")
    started = time.perf_counter()
    case = _case(case_or_model, batches, loss, forward, optimizer, expects)
    rules = chosen([catalogue.load("rules", name)() for name in catalogue.names("rules")], select, ignore)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        anatomy = trace(case.model, case.batches[0], case.forward)  # type: ignore[index]
        work = _Work(probe_of(case, anatomy), effort)
        shown = SHOWN if effort == "deep" and not select else ()
        interrupted = work.run(_wanted(rules, shown), progress)
        examination = work.examination()
        weighed, unasked = weigh(examination, rules)
        findings = rank(examination, weighed)
    seconds = time.perf_counter() - started
    return Diagnosis(
        findings=findings,
        anatomy=anatomy,
        readings=work.readings,
        name=case.name,
        effort=effort,
        expects=work.stated_and_inferred(),
        skipped={**work.skipped, **unasked},
        checked=tuple(rule.kind for rule in rules if rule.kind not in unasked),
        interrupted=interrupted,
        seconds=seconds,
        gradients=work.in_gradients(seconds),
        environment=_environment(case.model, work.probe),
    )


def _case(
    case_or_model: Case | nn.Module,
    batches: Iterable[Any] | None,
    loss: Loss | None,
    forward: Forward | None,
    optimizer: torch.optim.Optimizer | None,
    expects: Mapping[str, Any] | Expectations | None,
) -> Case:
    """The case, from either form of the arguments; what is passed beside a Case overrides it."""
    if isinstance(case_or_model, Case):
        given = case_or_model
        return Case(
            given.model,
            given.batches if batches is None else batches,
            loss or given.loss,
            forward or given.forward,
            optimizer or given.optimizer,
            given.expects if expects is None else expects,
            given.name,
            max_batches=given.max_batches,
            start=given.start,
        )
    if not isinstance(case_or_model, nn.Module):
        raise CaseError(
            f"diagnose needs a Case or a torch.nn.Module, found {type(case_or_model).__name__}; "
            "call diagnose(model, batches, loss=...)"
        )
    if batches is None:
        raise CaseError("diagnose needs batches beside a model: diagnose(model, batches, loss=...)")
    return Case(case_or_model, batches, loss, forward, optimizer, expects)


def probe_of(case: Case, anatomy: Anatomy) -> Probe:
    """What a lens is given of a case: the unwrapped model, with defaults filled in."""
    model = unwrapped(case.model)[0]
    return Probe(
        model=model,
        batches=tuple(case.batches),
        anatomy=anatomy,
        forward=case.forward or default_forward,
        loss=case.loss or default_loss,
        optimizer=case.optimizer,
        expects=Expectations.of(case.expects),
        start=inside(case.start, case.model, model),  # type: ignore[arg-type]  # read by Case
    )


def _wanted(rules: Sequence[Rule], shown: Sequence[str]) -> list[Lens]:
    """The lenses that the rules need, cheapest effort first; a rule may name one that is not there yet.

    Those that are only `shown` come last, so that a user who stops early has every rule's.
    """
    available = set(catalogue.names("lenses"))
    names = dict.fromkeys([*(name for rule in rules for name in rule.needs if name in available), *shown])
    lenses: list[Lens] = [catalogue.load("lenses", name)() for name in names]
    return sorted(lenses, key=lambda lens: EFFORTS.index(lens.effort))


@dataclass
class _Work:
    """The lenses' run: what was read, what was not and why."""

    probe: Probe
    effort: str
    readings: dict[str, Reading] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    because: dict[str, str] = field(default_factory=dict)
    stated: Expectations = field(default_factory=Expectations)

    def run(self, lenses: Sequence[Lens], progress: Progress | None) -> bool:
        """Runs what the effort allows; True when the user stopped it."""
        allowed = [lens for lens in lenses if EFFORTS.index(lens.effort) <= EFFORTS.index(self.effort)]
        for lens in lenses:
            if lens not in allowed:
                self.skipped[lens.name] = f"needs effort {lens.effort}"
        try:
            # What the loss asks for tells what is intended, and intentions tell the other lenses what to look at.
            first = [lens for lens in allowed if lens.name in READINGS]
            for lens in first:
                self._measure(lens)
            self._infer()
            for done, lens in enumerate(lens for lens in allowed if lens not in first):
                if progress is not None:
                    progress(done, len(allowed), lens.name)
                self._measure(lens)
            if progress is not None:
                progress(len(allowed), len(allowed), "weighing")
        except KeyboardInterrupt:
            for lens in allowed:
                if lens.name not in self.readings and lens.name not in self.skipped:
                    self.skipped[lens.name] = "stopped by the user before it ran"
            return True
        return False

    def _infer(self) -> None:
        self.stated = self.probe.expects
        try:
            self.probe.expects, self.because = infer(self.probe, self.readings)
        except Exception as error:  # an odd batch must not cost the user what needs no intention
            self.skipped["intentions"] = f"could not be inferred: {type(error).__name__}: {error}"
        self.probe.inferred = tuple(self.because)

    def _measure(self, lens: Lens) -> None:
        """One reading; a lens that raises is a failed reading with the reason, not the end."""
        why_not = lens.applies_to(self.probe.anatomy)
        if why_not:
            self.readings[lens.name] = lens.not_applicable(why_not)
            return
        try:
            self.readings[lens.name] = lens.measure(self.probe)
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            self.readings[lens.name] = missing(lens.name, lens.dims, lens.unit, FAILED, why, **asdict(lens))
            self.skipped[lens.name] = why

    def examination(self) -> Examination:
        """What the rules may look at."""
        expects = {name: value for name, value in asdict(self.probe.expects).items() if value is not None}
        for name, why in self.because.items():
            expects[f"{name}_because"] = why
        return Examination(
            anatomy=self.probe.anatomy,
            readings=self.readings,
            expects=expects,
            inferred=tuple(self.because),
            precision=_precision(self.probe.model),
        )

    def stated_and_inferred(self) -> dict[str, Any]:
        """Each expectation as stated; an inferred one says so and why."""
        found: dict[str, Any] = {}
        for name, value in asdict(self.probe.expects).items():
            if name in self.because:
                found[name] = {"value": value, "inferred": True, "because": self.because[name]}
            elif value is not None:
                found[name] = value
        return found

    def in_gradients(self, seconds: float) -> float:
        """The cost in gradients of the same model and batch, as measured on this machine."""
        try:
            begun = time.perf_counter()
            self.probe.gradients_of(self.probe.batch)
            return seconds / max(time.perf_counter() - begun, 1e-9)
        except Exception:  # no loss: a gradient costs about three forward passes
            return seconds / max(3 * self.probe.anatomy.forward_seconds, 1e-9)


def _precision(model: nn.Module) -> str:
    """The floating type of most of the parameters."""
    counts: dict[str, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            name = str(parameter.dtype).removeprefix("torch.")
            counts[name] = counts.get(name, 0) + parameter.numel()
    return max(counts, key=lambda name: counts[name], default="float32")


def _environment(model: nn.Module, probe: Probe) -> dict[str, Any]:
    try:
        own = version("attnscope")
    except PackageNotFoundError:
        own = "unknown"
    device = next((str(parameter.device) for parameter in model.parameters()), "cpu")
    return {
        "attnscope": own,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "precision": _precision(model),
        "threads": torch.get_num_threads(),
        "seed": probe.seed,
    }
