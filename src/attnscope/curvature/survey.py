"""The curvature of all blocks and pairs within a budget: spent where errors are widest, resumable at any time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from attnscope.curvature.coupling import Coupling, Floats
from attnscope.curvature.deflation import Deflation, Task, choose_split, perform, spread
from attnscope.curvature.estimate import Sums
from attnscope.curvature.operator import BlockOperator
from attnscope.curvature.ranges import Range
from attnscope.errors import CaseError

FORMAT = 1


@dataclass(frozen=True)
class Progress:
    """How far a survey is.

    Attributes:
        products: made so far, in all runs.
        seconds: spent in this run.
        seconds_left: until the precision or the budget is reached, by extrapolation; NaN while unknown.
        error: the relative standard error that the wanted share of pairs is below; infinite at first.
    """

    products: int
    seconds: float
    seconds_left: float
    error: float


class Survey:
    """Estimates norms, coupling and traces step by step.

    A pilot shows which directions the blocks share; those are taken out exactly where that pays, and random
    signs measure the rest, first on every block in turn, then on the blocks whose pairs are known worst.
    Stopping when errors look small favours estimates that happen to be low, by a fraction of their standard
    error; a fixed number of products (`max_products`) has no such bias.

    After an interruption (Ctrl-C too) the survey is consistent: ask for its `result`, `run` on, or `save` it.

    Args:
        operator: a symmetric matrix.
        blocks: which; None is all.
        n_probes: products per block that the split between exact and random is planned for.
        n_pilots: products of the pilot; None is a third of the blocks, at least six.
        seed: of the signs.

    Raises:
        KeyError: an unknown block.
        ValueError: less than two probes.
    """

    def __init__(
        self, operator: BlockOperator, blocks: Iterable[str] | None = None, *, n_probes: int = 3,
        n_pilots: int | None = None, seed: int = 0,
    ) -> None:
        if n_probes < 2:
            raise ValueError(f"n_probes must be at least 2, found {n_probes}")
        self.operator = operator
        self.names = operator.check_names(operator.names if blocks is None else blocks)
        self.n_probes = n_probes
        self.seed = seed
        self.pilots = spread(self.names, n_pilots, seed)
        self.sums = Deflation(operator, self.names, seed)
        self.products = 0

    def result(self) -> Coupling:
        """What is known now; NaN where nothing is."""
        return self.sums.result(min(self.sums.drawn.values()))

    def error(self, share: float = 0.95) -> float:
        """The relative standard error that this share of all norms is below; infinite before two samples."""
        if min(self.sums.drawn.values()) < 2:
            return math.inf
        relative = self._relative()
        return float(np.quantile(relative, share))

    def run(
        self, *, max_products: int | None = None, max_seconds: float | None = None,
        precision: float | None = None, share: float = 0.95, progress: Callable[[Progress], None] | None = None,
    ) -> Coupling:
        """Goes on until a limit or the precision is reached.

        Args:
            max_products: how many more products to make.
            max_seconds: how long to go on; the product under way is finished.
            precision: the relative standard error at which to stop.
            share: of the norms that must have it.
            progress: called after every product.

        Returns:
            what is known then.

        Raises:
            ValueError: no limit at all.
        """
        if max_products is None and max_seconds is None and precision is None:
            raise ValueError("say when to stop: max_products, max_seconds or precision")
        clock = _Clock(self.products, max_products, max_seconds)

        def after() -> None:
            self.products += 1
            if progress is not None:
                known = self.error(share)
                left = clock.left(self.products, known, precision)
                progress(Progress(self.products, clock.seconds(), left, known))

        for round_ in self._rounds(precision, share):
            room = clock.room(self.products)
            if room == 0:
                break
            perform(self.operator, clock.while_open(islice(round_, room)), after)
        return self.result()

    def _rounds(self, precision: float | None, share: float) -> Iterator[Iterable[Task]]:
        """What is to be done, in sweeps; each sweep is chosen by what the ones before it told."""
        if not self.sums.bases:
            while len(self.sums.piloted) < len(self.pilots):
                yield self.sums.pilot(self.pilots)
            self.sums.fix_bases(choose_split(list(self.sums.ranges.values()), self.n_probes).exact)
        while any(self.sums.taken[name] < len(self.sums.bases[name]) for name in self.names):
            yield self.sums.exact()
        while (fewest := min(self.sums.drawn.values())) < 2:
            yield self.sums.sample([name for name in self.names if self.sums.drawn[name] == fewest])
        while precision is None or self.error(share) > precision:
            yield self.sums.sample(self._worst())

    def _worst(self) -> list[str]:
        """A quarter of the blocks: each time the one that the worst pair would gain most from."""
        relative = self._relative().copy()
        drawn = dict(self.sums.drawn)
        chosen: list[str] = []
        for _ in range(max(1, len(self.names) // 4)):
            i, j = np.unravel_index(int(np.argmax(relative)), relative.shape)
            name = min((self.names[i], self.names[j]), key=lambda item: drawn[item])
            place = self.names.index(name)
            # One more sample of a block makes all its pairs better.
            better = math.sqrt(drawn[name] / (drawn[name] + 1))
            relative[place] *= better
            relative[:, place] *= better
            drawn[name] += 1
            chosen.append(name)
        return chosen

    def _relative(self) -> Floats:
        """Relative standard errors of the norms; 0 where the norm is below rounding, which no probe betters."""
        mean, stderr = self.sums.squares()
        floor = (self.operator.rounding * np.sqrt(mean.max())) ** 2
        return np.where(mean > floor, stderr / (2 * np.maximum(mean, 1e-300)), 0.0)

    def save(self, path: str | Path, notes: str = "") -> None:
        """Writes all that a later `resume` needs; the file is written beside it and then moved.

        Args:
            path: of the file.
            notes: kept with it; `notes_of` reads them again.
        """
        path = Path(path)
        tensors: dict[str, Tensor] = {}
        for name, found in self.sums.ranges.items():
            tensors |= {f"range/{i}/{name}": column for i, column in enumerate(found.columns)}
        tensors |= {f"basis/{name}": basis.contiguous() for name, basis in self.sums.bases.items()}
        tensors |= {f"inner/{name}": inner.contiguous() for name, inner in self.sums.inner.items()}
        state = {
            "format": FORMAT, "names": self.names, "sizes": [self.operator.sizes[name] for name in self.names],
            "dtype": str(self.operator.dtype), "seed": self.seed, "n_probes": self.n_probes,
            "pilots": self.pilots, "products": self.products, "piloted": self.sums.piloted,
            "fixed": bool(self.sums.bases), "taken": self.sums.taken, "drawn": self.sums.drawn,
            "traces": {name: asdict(sums) for name, sums in self.sums.traces.items()},
            "pairs": [
                [b, a, self.sums.right[b, a], self.sums.middle[b, a], asdict(self.sums.rest[b, a])]
                for b, a in self.sums.rest
            ],
        }
        beside = path.with_name(path.name + ".part")
        save_file(tensors, beside, metadata={"survey": json.dumps(state), "notes": notes})
        beside.replace(path)

    @classmethod
    def resume(cls, path: str | Path, operator: BlockOperator) -> Survey:
        """A survey as it was saved, on the same operator.

        Raises:
            CaseError: the file is not a survey, or belongs to another operator.
        """
        try:
            with safe_open(path, framework="pt") as file:
                state = json.loads((file.metadata() or {})["survey"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise CaseError(f"{path} is not a survey that was saved: {error}") from error
        except Exception as error:  # safetensors has its own error class
            raise CaseError(f"{path} is not a survey that was saved: {error}") from error
        names = tuple(state["names"])
        sizes = [operator.sizes.get(name) for name in names]
        if state["format"] != FORMAT or sizes != state["sizes"] or str(operator.dtype) != state["dtype"]:
            raise CaseError(f"{path} was saved for other blocks, another precision or another version")
        survey = cls(operator, names, n_probes=state["n_probes"], n_pilots=len(state["pilots"]), seed=state["seed"])
        survey.pilots = state["pilots"]
        survey.products = state["products"]
        survey._restore(state, tensors)
        return survey

    def _restore(self, state: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        sums = self.sums
        sums.piloted, sums.taken, sums.drawn = state["piloted"], state["taken"], state["drawn"]
        sums.traces = {name: Sums(**kept) for name, kept in state["traces"].items()}
        for b, a, right, middle, rest in state["pairs"]:
            sums.right[b, a], sums.middle[b, a], sums.rest[b, a] = right, middle, Sums(**rest)
        if state["fixed"]:
            sums.ranges = {}
            for name in self.names:
                device = self.operator.device(name)
                sums.bases[name] = tensors[f"basis/{name}"].to(device)
                sums.inner[name] = tensors[f"inner/{name}"].to(device)
            return
        for name in self.names:
            columns: list[Tensor] = []
            while (key := f"range/{len(columns)}/{name}") in tensors:
                columns.append(tensors[key].to(self.operator.device(name)))
            sums.ranges[name] = Range(columns)


def notes_of(path: str | Path) -> str:
    """What was noted when a survey was saved.

    Raises:
        CaseError: the file is not a survey.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found: str = file.metadata()["notes"]
            return found
    except Exception as error:  # safetensors has its own error class
        raise CaseError(f"{path} is not a survey that was saved: {error}") from error


class _Clock:
    """The limits of one run, and how long is left."""

    def __init__(self, products: int, max_products: int | None, max_seconds: float | None) -> None:
        self.first = products
        self.max_products = max_products
        self.max_seconds = max_seconds
        self.start = time.perf_counter()

    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self.start

    def room(self, products: int) -> int | None:
        """How many more products may be made now; None is no limit."""
        if self.max_seconds is not None and self.seconds() >= self.max_seconds:
            return 0
        return None if self.max_products is None else max(self.max_products - (products - self.first), 0)

    def while_open(self, tasks: Iterable[Task]) -> Iterator[Task]:
        """The tasks, until the time is over."""
        for task in tasks:
            yield task
            if self.max_seconds is not None and self.seconds() >= self.max_seconds:
                return

    def left(self, products: int, error: float, precision: float | None) -> float:
        """Seconds left: whichever limit comes first, at this run's pace."""
        made = products - self.first
        pace = self.seconds() / made if made else math.nan
        limits = []
        if self.max_products is not None:
            limits.append((self.max_products - made) * pace)
        if self.max_seconds is not None:
            limits.append(max(self.max_seconds - self.seconds(), 0.0))
        if precision is not None and math.isfinite(error):
            # Errors fall with the root of the number of products.
            limits.append(max((error / precision) ** 2 - 1, 0.0) * products * pace)
        return min(limits, default=math.nan)
