"""The demo: fine-tunes a healthy and a sabotaged copy of one model, diagnoses both, and says whether it was right."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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

MODELS = ("distilbert", "gpt")


@dataclass
class Demo:
    """One run of the demo.

    Attributes:
        fault: a name of `catalogue.names("faults")`, `random`, or `list`.
        model: `distilbert` (real pre-trained weights, real movie reviews) or `gpt` (small, from scratch, on
            a generated language).
        reveal: tell at once what was planted.
        steps: training steps of each copy.
        seed: of the data order, of dropout, and of the choice of a random fault.
        folder: where the two reports and diagnoses go.
        console: where the person reads along.
    """

    fault: str
    model: str
    reveal: bool
    steps: int
    seed: int
    folder: Path
    console: Console

    def run(self) -> bool:
        """Runs everything; whether the healthy copy stayed silent and the fault was named in its place.

        Raises:
            CaseError: an unknown fault or model, or a package of the demo is missing.
        """
        if self.fault == "list":
            self._list()
            return True
        planted = self._fault()
        self.fault = planted.name
        started = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console.print(f"[bold]attnscope demo[/]: {_DESCRIPTIONS[self.model]}, {self.steps} steps of each copy.")
        if self.reveal:
            self.console.print(f"Planted in the second copy: [bold]{planted.name}[/], {_first_line(planted)}")
        healthy = self._copy("healthy", None)
        sabotaged, label = self._sabotaged(planted)
        right = self._compare(healthy, sabotaged, planted.name, label)
        self.console.print(
            f"\nReports: {self.folder / 'healthy.html'} and {self.folder / 'sabotaged.html'} "
            f"(each opens offline). {time.perf_counter() - started:.0f} seconds in all."
        )
        return right

    def _fault(self) -> Any:
        names = catalogue.names("faults")
        if self.model not in MODELS:
            raise CaseError(f"no model {self.model!r}; the demo has {', '.join(MODELS)}")
        name = random.Random(self.seed or time.time_ns()).choice(names) if self.fault == "random" else self.fault
        return catalogue.load("faults", name)()

    def _list(self) -> None:
        for name in catalogue.names("faults"):
            self.console.print(f"[bold]{name}[/]  {_first_line(catalogue.load('faults', name))}")

    def _copy(self, name: str, case: Case | None) -> Diagnosis:
        case = replace(_BUILDERS[self.model](self.seed), name=name) if case is None else case
        self._train(case, name)
        return self._diagnose(case, name)

    def _sabotaged(self, fault: Any) -> tuple[Diagnosis, Label]:
        case = _BUILDERS[self.model](self.seed)
        injected = fault.inject(case)
        label = fault.label(case)
        return self._copy("sabotaged", replace(injected, name="sabotaged")), label

    def _train(self, case: Case, name: str) -> None:
        """The usual loop, on the case's own batches in turn."""
        optimizer = case.optimizer
        if optimizer is None:
            raise CaseError("the demo trains its models: the case needs an optimizer")
        torch.manual_seed(self.seed)
        case.model.train()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(f"training the {name} copy", total=self.steps)
            for batch in itertools.islice(itertools.cycle(case.batches), self.steps):
                loss = _loss(case, batch)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                bar.advance(task)
        case.model.eval()
        self.console.print(f"{name:>10}: trained, last loss {loss.item():.3f}")

    def _diagnose(self, case: Case, name: str) -> Diagnosis:
        small = replace(case, batches=list(case.batches)[:3])
        with self._bar(f"examining the {name} copy") as progress:
            diagnosis = diagnose(small, progress=progress)
        again = f"--fault {self.fault} --model {self.model} --steps {self.steps} --seed {self.seed}"
        diagnosis = diagnosis.made_by(f"attnscope demo {again}")
        report(diagnosis, self.folder / f"{name}.html")
        diagnosis.save(self.folder / f"{name}.json")
        colour = "red" if diagnosis.at_least(Severity.WARNING) else "green"
        self.console.print(f"{name:>10}: [{colour}]{diagnosis.verdict()}[/] [dim]({diagnosis.seconds:.0f} s)[/]")
        return diagnosis

    @contextmanager
    def _bar(self, what: str) -> Iterator[Callable[[int, int, str], None]]:
        columns = (
            TextColumn("{task.description:<44}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=None)

            def show(done: int, total: int, lens: str) -> None:
                bar.update(task, completed=done, total=total, description=f"{what}: {lens}"[:44])

            yield show

    def _compare(self, healthy: Diagnosis, sabotaged: Diagnosis, planted: str, label: Label) -> bool:
        """Tells the truth and how the diagnosis did against it."""
        alarms = healthy.at_least(Severity.WARNING)
        hit = next((rank for rank, item in enumerate(sabotaged.findings, 1) if _matches(item, label)), None)
        self.console.print(f"\nThe truth: [bold]{planted}[/] at {', '.join(label.places)}.")
        if hit:
            found = sabotaged.findings[hit - 1]
            self.console.print(f"[green]Named[/] at rank {hit}: {found.code} {found.kind} at {found.block_or_site}.")
        else:
            self.console.print("[red]Not named[/]: the diagnosis missed it.")
        self.console.print(
            f"[red]{len(alarms)} false alarms[/] on the healthy copy."
            if alarms
            else "[green]Silent[/] on the healthy copy."
        )
        return hit == 1 and not alarms


def _matches(finding: Finding, label: Label) -> bool:
    """Right kind, or right place under another name for the same fault; consequences count for the place."""
    places = {finding.block_or_site, *finding.consequences}
    return finding.kind == label.kind and bool(places & set(label.places))


def _loss(case: Case, batch: Any) -> torch.Tensor:
    output = (case.forward or default_forward)(case.model, batch)
    return (case.loss or default_loss)(output, batch)


def _first_line(member: Any) -> str:
    return (member.__doc__ or "").strip().splitlines()[0]


def _distilbert(seed: int) -> Case:
    """A pre-trained six-layer encoder, to be fine-tuned on one-sentence movie reviews."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer
    from transformers.utils import logging

    from attnscope.models.distilbert import Distilbert, weights_folder
    from attnscope.tasks.movie_reviews import MovieReviews

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = Distilbert(pretrained=True, seed=seed).build()
    task = MovieReviews(max_length=32, seed=seed)
    train, _ = task.read()
    tokenizer = AutoTokenizer.from_pretrained(weights_folder())
    batches = list(itertools.islice(task.batches(train, tokenizer), 64))
    return Case(model, batches, optimizer=_adamw(model, 5e-5), max_batches=64)


def _adamw(model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """One group for each parameter tensor, so that a fault can change the rate of one."""
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01, fused=True)


_BUILDERS: dict[str, Callable[[int], Case]] = {"distilbert": _distilbert}
_DESCRIPTIONS = {
    "distilbert": "DistilBERT with pre-trained weights, fine-tuned on real movie reviews",
    "gpt": "a small GPT, trained from scratch on a generated language",
}
