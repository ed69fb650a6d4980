"""The demo: fine-tunes a healthy and a sabotaged copy of one model, diagnoses both, and says whether it was right."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from attnscope import catalogue
from attnscope.case import Case, default_forward, default_loss
from attnscope.errors import CaseError
from attnscope.examine import diagnose
from attnscope.findings import Diagnosis, Finding, Label, Severity
from attnscope.pages.page import report

LAYER = 1  # where a fault with a layer is planted
EXAMINED = 3  # batches that the diagnosis is given
TESTED = 16  # held-out batches that the accuracy is measured on


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        fault: a name of `catalogue.names("faults")`, `random`, or `list`.
        model: `distilbert` (real pre-trained weights, real movie reviews) or `gpt` (small, from scratch, on
            a generated language).
        reveal: tell at once what was planted.
        steps: training steps of each copy; None for what suits the model.
        seed: of the data order, of dropout, and of the choice of a random fault.
        folder: where the two reports and diagnoses go.
        console: where the person reads along.
    """

    fault: str
    model: str
    reveal: bool
    steps: int | None
    seed: int
    folder: Path
    console: Console
    _held_out: list[Any] = field(default_factory=list, init=False)

    def run(self) -> bool:
        """Runs everything; whether the healthy copy stayed silent and the fault was named first, in its place.

        Raises:
            CaseError: an unknown fault or model, or a package of the demo is missing.
        """
        if self.fault == "list":
            self._list()
            return True
        if self.model not in _BUILDERS:
            raise CaseError(f"no model {self.model!r}; the demo has {', '.join(_BUILDERS)}")
        started = time.perf_counter()
        steps = _STEPS[self.model] if self.steps is None else self.steps
        clean, self._held_out = _BUILDERS[self.model](self.seed)
        planted = self._fault(clean)
        label, injected = planted.label(clean), planted.inject(clean)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console.print(f"[bold]attnscope demo[/]: {_DESCRIPTIONS[self.model]}, {steps} steps of each copy.")
        if self.reveal:
            self.console.print(f"Planted in the second copy: [bold]{planted.name}[/]. {_first_line(planted)}")
        healthy = self._copy("healthy", clean, steps)
        sabotaged = self._copy("sabotaged", injected, steps)
        right = self._compare(healthy, sabotaged, planted, label)
        self.console.print(
            f"\nReports: {self.folder / 'healthy.html'} and {self.folder / 'sabotaged.html'} "
            f"(each opens offline). {time.perf_counter() - started:.0f} seconds in all."
        )
        return right

    def _fault(self, case: Case) -> Any:
        """The fault to plant: the named one, or a random one that applies to the case."""
        if self.fault != "random":
            return catalogue.load("faults", self.fault)(layer=LAYER)
        names = list(catalogue.names("faults"))
        random.Random(self.seed or time.time_ns()).shuffle(names)
        for name in names:
            fault = catalogue.load("faults", name)(layer=LAYER)
            if not fault.applies_to(case):
                return fault
        raise CaseError("no fault applies to this model")

    def _list(self) -> None:
        for name in catalogue.names("faults"):
            self.console.print(f"[bold]{name}[/]  {_first_line(catalogue.load('faults', name))}")

    def _copy(self, name: str, case: Case, steps: int) -> Diagnosis:
        """Trains one copy and diagnoses it; the diagnosis is told nothing."""
        named = replace(case, name=name)
        self._train(named, steps)
        small = replace(named, batches=list(named.batches)[:EXAMINED])
        with self._bar(f"examining the {name} copy") as progress:
            diagnosis = diagnose(small, progress=progress)
        report(diagnosis, self.folder / f"{name}.html")
        diagnosis.save(self.folder / f"{name}.json")
        colour = "red" if diagnosis.at_least(Severity.WARNING) else "green"
        self.console.print(f"{name:>10}: [{colour}]{diagnosis.verdict()}[/] [dim]({diagnosis.seconds:.0f} s)[/]")
        return diagnosis

    def _train(self, case: Case, steps: int) -> None:
        """The usual loop, on the case's own batches in turn."""
        optimizer = case.optimizer
        if optimizer is None:
            raise CaseError("the demo trains its models: the case needs an optimizer")
        torch.manual_seed(self.seed)
        case.model.train()
        loss = torch.tensor(float("nan"))
        with self._bar(f"training the {case.name} copy") as progress:
            for step, batch in enumerate(itertools.islice(itertools.cycle(case.batches), steps)):
                loss = (case.loss or default_loss)((case.forward or default_forward)(case.model, batch), batch)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                progress(step + 1, steps, "")
        optimizer.zero_grad()
        case.model.eval()
        said = f"last loss {loss.item():.2f}"
        if self._held_out:
            said += f", {_accuracy(case, self._held_out):.0%} of held-out reviews right"
        self.console.print(f"{case.name:>10}: trained, {said}")

    @contextmanager
    def _bar(self, what: str) -> Iterator[Callable[[int, int, str], None]]:
        """A progress bar with time left."""
        columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=None)

            def show(done: int, total: int, detail: str) -> None:
                said = f"{what}: {detail}" if detail else what
                bar.update(task, completed=done, total=total, description=said[:48])

            yield show

    def _compare(self, healthy: Diagnosis, sabotaged: Diagnosis, planted: Any, label: Label) -> bool:
        """Tells the truth and how the diagnosis did against it."""
        alarms = healthy.at_least(Severity.WARNING)
        kinds = {label.kind, *planted.recognised_as}
        hit = next((rank for rank, item in enumerate(sabotaged.findings, 1) if _matches(item, kinds, label)), None)
        self.console.print(f"\nThe truth: [bold]{planted.name}[/] at {', '.join(label.places)}.")
        if hit:
            found = sabotaged.findings[hit - 1]
            self.console.print(f"[green]Named[/] at rank {hit}: {found.code} {found.kind} at {found.block_or_site}.")
        else:
            self.console.print("[red]Not named[/]: the diagnosis missed it.")
        said = f"[red]{len(alarms)} false alarms[/]" if alarms else "[green]Silent[/]"
        self.console.print(f"{said} on the healthy copy.")
        return hit == 1 and not alarms


def _matches(finding: Finding, kinds: set[str], label: Label) -> bool:
    """Right kind and right place; a consequence that is named counts for the place."""
    places = {finding.block_or_site, *finding.consequences}
    return finding.kind in kinds and bool(places & set(label.places))


def _first_line(member: Any) -> str:
    return (member.__doc__ or "").strip().splitlines()[0]


@torch.no_grad()
def _accuracy(case: Case, batches: Sequence[Any]) -> float:
    """The share of labels that the largest logit names."""
    outputs = [((case.forward or default_forward)(case.model, batch), batch) for batch in batches]
    hits = torch.cat([(output.logits.argmax(-1) == batch["labels"]).float() for output, batch in outputs])
    return float(hits.mean())


def _distilbert(seed: int) -> tuple[Case, list[Any]]:
    """A pre-trained six-layer encoder, to be fine-tuned on one-sentence movie reviews, and held-out ones."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from attnscope.models.distilbert import Distilbert, weights_folder
    from attnscope.tasks.movie_reviews import MovieReviews, reviews_file

    folder, _ = weights_folder(), reviews_file()
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = Distilbert(pretrained=True, seed=seed).build()
    task = MovieReviews(max_length=32, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    train, test = (list(itertools.islice(task.batches(rows, tokenizer), 64)) for rows in task.read())
    return Case(model, train, optimizer=_adamw(model, 1e-4), max_batches=64), test[:TESTED]


def _gpt(seed: int) -> tuple[Case, list[Any]]:
    """A small causal model, to be trained from scratch to repeat a phrase."""
    task = catalogue.load("tasks", "copying")(seed=seed)
    torch.manual_seed(seed)
    model = catalogue.load("models", "gpt")(**task.sizes)
    batches = [task.batch(number) for number in range(_STEPS["gpt"])]
    expects = dict(task.expects)
    return Case(model, batches, optimizer=_adamw(model, 3e-3), expects=expects, max_batches=len(batches)), []


def _adamw(model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)


_BUILDERS: dict[str, Callable[[int], tuple[Case, list[Any]]]] = {"distilbert": _distilbert, "gpt": _gpt}
_STEPS = {"distilbert": 64, "gpt": 250}
_DESCRIPTIONS = {
    "distilbert": "DistilBERT with pre-trained weights, fine-tuned on real movie reviews",
    "gpt": "a small GPT, trained from scratch on a generated language",
}
