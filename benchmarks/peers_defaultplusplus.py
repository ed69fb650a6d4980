"""The package defaultplusplus (DEFault++) as it ships, around the training of a bench case.

It is used as its README says: a `FeatureExtractor` watches the training, one `step` per training step, `epoch_end`
and `record_validation` after each epoch; `RuntimeNormalizer.encode(features, mode="raw")` puts the features into
the form that the shipped encoder diagnoser was trained on; its `Predictor` answers. Nothing of it is changed.
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from attnscope import catalogue
from attnscope.bench.plan import BenchCase
from attnscope.bench.row import CONTROL, FAULT
from attnscope.bench.subjects import Subject
from attnscope.case import Case, default_forward
from attnscope.models.distilbert import Distilbert, weights_folder
from attnscope.tasks.movie_reviews import MovieReviews

VERSION = "0.4.1"
INSTALL = "pip install --no-deps --target {folder} defaultplusplus=={version}"
EPOCHS = 5  # of a bench case; its features are means, spreads and slopes over thirds of the epochs
# The recipe that its clean reference was trained with, as read off its medians of the learning rate: ten epochs,
# a peak of 2e-5 that falls in a line to nothing after a short rise.
RECIPE_EPOCHS, RECIPE_RATE, RECIPE_RISE, RECIPE_TEXTS, RECIPE_BATCH, RECIPE_LENGTH = 10, 2e-5, 0.1, 64, 8, 64


@dataclass
class Package:
    """What is used of the package, loaded once per process.

    Attributes:
        folder: where it is installed.
        extractor: its class `FeatureExtractor`.
        normalizer: its shipped reference of clean runs.
        predictor: its shipped encoder diagnoser.
        processing: its module of that name.
        margin: of the last answer: logit of faulty minus logit of clean, which does not saturate.
    """

    folder: str
    extractor: Any = field(init=False)
    normalizer: Any = field(init=False)
    predictor: Any = field(init=False)
    processing: Any = field(init=False)
    margin: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Imports it; torch and everything else stay those of this environment."""
        warnings.filterwarnings("ignore", message="DataFrame is highly fragmented")
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        try:
            package = import_module("defaultplusplus")
        except ImportError as error:
            command = INSTALL.format(folder=self.folder, version=VERSION)
            raise SystemExit(f"defaultplusplus is not in {self.folder} ({error}); run: {command}") from None
        if package.__version__ != VERSION:
            raise SystemExit(f"defaultplusplus {VERSION} is wanted, found {package.__version__} in {self.folder}")
        self.extractor = package.FeatureExtractor
        self.processing = import_module("defaultplusplus.processing.normalizer")
        self.normalizer = self.processing.RuntimeNormalizer.load("encoder")
        self.predictor = import_module("defaultplusplus.diagnosis").load_pretrained("encoder")
        self._listen()

    def _listen(self) -> None:
        detect = self.predictor.model.detect

        def heard(z: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = detect(z)
            self.margin = float(logits[0, 1] - logits[0, 0])
            return logits

        self.predictor.model.detect = heard

    def said(self, encoded: dict[str, float]) -> dict[str, Any]:
        """Its answer to features of its own schema."""
        answer = self.predictor.predict(encoded).to_dict()
        answer.pop("group_importance")
        if self.margin != self.margin:
            raise ValueError("its answer is not a number")
        return {**answer, "margin": self.margin}

    def refusal(self, features: dict[str, float]) -> str:
        """What the README's first recipe, without the normalizer, answers: an error, or nothing."""
        try:
            self.predictor.predict(features)
        except ValueError as error:
            return f"ValueError: {str(error).partition(';')[0]}"
        return ""

    def measured(self, features: dict[str, float]) -> dict[str, float]:
        """Those of the features that its diagnoser knows, under the names that it knows them by."""
        holes = self.processing.RuntimeReference(**{**vars(self.normalizer.reference), "median": _nothing(self)})
        encoded = self.processing.RuntimeNormalizer(holes).encode(features)
        return {name: value for name, value in encoded.items() if value == value}

    def aligned(self, features: dict[str, float], healthy: list[dict[str, float]]) -> dict[str, Any]:
        """Its answer when healthy runs of ours stand for its clean reference.

        A feature so many spreads away from our healthy median is put as many of its own spreads away from its own
        clean median. This is more than the package does by itself: it takes away what only differs because the
        model and the recipe are others.
        """
        names = sorted(set.intersection(*(set(row) for row in healthy)))
        table = torch.tensor([[row[name] for name in names] for row in healthy], dtype=torch.float64).numpy()
        ours = self.processing.RuntimeNormalizer(self.processing.fit_reference(table, names, "encoder"))
        away = ours.encode(features, mode="anomaly")
        theirs = self.normalizer.reference
        return self.said({
            name: float(theirs.median[index] + away.get(name, 0.0) * theirs.mad[index])
            for index, name in enumerate(theirs.schema)
        })  # fmt: skip


def _nothing(package: Package) -> Any:
    return package.normalizer.reference.median * float("nan")


def planted(bench: BenchCase) -> tuple[Subject, Case]:
    """The untrained case with its fault or control, as the benchmark plants it."""
    subject: Subject = catalogue.load("subjects", bench.subject)(seed=bench.seed)
    case = subject.case()
    if bench.arm == FAULT:
        member = catalogue.load("faults", bench.change)
        case = member(strength=bench.strength, layer=bench.layer, seed=bench.seed).inject(case)
    elif bench.arm == CONTROL:
        case = catalogue.load("controls", bench.change)(seed=bench.seed).applied(case)
    return subject, case


def watched(package: Package, bench: BenchCase, epochs: int = EPOCHS) -> tuple[dict[str, float], dict[str, Any]]:
    """Trains a bench case with the extractor around it: its features, and what the row says of the training."""
    subject, case = planted(bench)
    began = time.perf_counter()
    losses: list[float] = []
    quality = 0.0
    with package.extractor(case.model, arch="encoder") as extractor:
        hear_steps(case, extractor)
        for epoch in range(epochs):
            first, last = round(subject.steps * epoch / epochs), round(subject.steps * (epoch + 1) / epochs)
            losses += subject.trained(case, first=first, steps=last - first)
            extractor.epoch_end(epoch)
            quality = subject.quality(case)
            extractor.record_validation(epoch, {"accuracy": quality})
        features = extractor.finalize()
    return features, {"quality": quality, "loss": losses[-1], "seconds": time.perf_counter() - began}


def hear_steps(case: Case, extractor: Any) -> None:
    """Tells the extractor of each step right after the optimiser made it, while the gradients are there.

    (Under the Trainer of transformers its callback is called after the gradients were set to none, and all its
    gradient features are then zero; a loop of one's own can do better.)
    """
    assert case.optimizer is not None
    forward = case.forward or default_forward
    case.model.config.output_attentions = True
    case.model.config.output_hidden_states = True
    last: dict[str, Any] = {}

    def heard(model: nn.Module, batch: Any) -> Any:
        began = time.perf_counter()
        output = forward(model, batch)
        if model.training:
            last.update(began=began, output=output, batch=batch)
        return output

    def stepped(*_: Any) -> None:
        if "output" not in last:
            return  # a second update from the same batch
        output, batch = last.pop("output"), last.pop("batch")
        extractor.step(
            loss=output.loss, outputs=output, input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
            labels=batch["labels"], optimizer=case.optimizer, step_time=time.perf_counter() - last["began"],
        )  # fmt: skip

    case.forward = heard
    case.optimizer.register_step_post_hook(stepped)


def intended(package: Package, seed: int) -> tuple[dict[str, float], dict[str, Any]]:
    """A healthy run of the kind that it is made for: a pre-trained DistilBERT, fine-tuned for epochs by its recipe."""
    transformers: Any = import_module("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(weights_folder()))
    train, held_out = MovieReviews(n_held_out=RECIPE_TEXTS).read()
    texts = train[seed * RECIPE_TEXTS : (seed + 1) * RECIPE_TEXTS]

    def batch(rows: list[tuple[str, int]]) -> dict[str, torch.Tensor]:
        found = tokenizer(
            [text for text, _ in rows], padding="max_length", truncation=True, max_length=RECIPE_LENGTH,
            return_tensors="pt",
        )  # fmt: skip
        labels = torch.tensor([label for _, label in rows])
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"], "labels": labels}

    torch.manual_seed(seed)
    began = time.perf_counter()
    model = Distilbert(n_layers=6, pretrained=True, seed=seed).build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE_RATE)
    n_steps = RECIPE_EPOCHS * len(texts) // RECIPE_BATCH
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(RECIPE_RISE * n_steps), n_steps)
    tested = batch(held_out[:RECIPE_TEXTS])
    quality = loss = 0.0
    with package.extractor(model, arch="encoder") as extractor:
        case = Case(model, [tested], optimizer=optimizer)
        hear_steps(case, extractor)
        assert case.forward is not None
        for epoch in range(RECIPE_EPOCHS):
            model.train()
            for start in range(0, len(texts), RECIPE_BATCH):
                output = case.forward(model, batch(texts[start : start + RECIPE_BATCH]))
                optimizer.zero_grad()
                output.loss.backward()
                optimizer.step()
                schedule.step()
                loss = float(output.loss.detach())
            extractor.epoch_end(epoch)
            model.eval()
            with torch.no_grad():
                answer = case.forward(model, tested)
            quality = float((answer.logits.argmax(-1) == tested["labels"]).float().mean())
            extractor.record_validation(epoch, {"accuracy": quality, "loss": float(answer.loss)})
        features = extractor.finalize()
    return features, {"quality": quality, "loss": loss, "seconds": time.perf_counter() - began}


def default_folder() -> str:
    """Where the command looks for the package when it is not told: beside the other results that git ignores."""
    return str(Path(__file__).parents[1] / "runs" / "peers")
