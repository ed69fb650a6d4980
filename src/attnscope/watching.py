"""watch: the recording of `train`, beside a training loop of the user's own, which it never breaks."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnscope.case import Case, Forward, Loss
from attnscope.lenses import Lens
from attnscope.record import Run
from attnscope.training import Recorder

LENSES = ("attention_entropy", "update_to_weight")


@dataclass
class Watched:
    """What `watch` gives: call `step(loss)` after each update; `run` holds what was read."""

    run: Run
    every: int
    recorder: Recorder | None
    n_steps: int = 0

    def step(self, loss: Tensor | float | None = None) -> None:
        """Counts one update and fires the lenses when they are due. Never raises: it warns once and goes quiet."""
        self.n_steps += 1
        if self.recorder is None:
            return
        try:
            if loss is not None:
                self.recorder.losses.append(float(loss.detach() if isinstance(loss, Tensor) else loss))
            if self.n_steps % self.every == 0:
                self.recorder.fire(self.n_steps)
        except Exception as error:
            self.recorder = None
            _gave_up(error)


@contextmanager
def watch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any], *,
    lenses: Sequence[str | Lens] = LENSES, every: int = 100, run: Run | str | Path | None = None,
    loss: Loss | None = None, forward: Forward | None = None, expects: Any = None,
) -> Iterator[Watched]:
    """Records readings beside a training loop of the user's own.

    Inside `with watch(model, optimizer, batches) as w:` the loop calls `w.step(loss)` after each update. It
    never breaks the loop: whatever goes wrong here becomes one warning, and the recording stops.

    Args:
        model: as the loop trains it.
        optimizer: the loop's own.
        batches: what the lenses look at; the first few are kept.
        lenses: names or lenses.
        every: steps between readings.
        run: a `Run`, or a folder.
        loss: as in `Case`.
        forward: as in `Case`.
        expects: as in `Case`.

    Yields:
        an object with `step(loss)` and `run`.
    """
    watched = Watched(run if isinstance(run, Run) else Run(), max(every, 1), None)
    try:
        recorder = Recorder.of(Case(model, batches, loss, forward, optimizer, expects), lenses, run)
        recorder.fire(0)
        watched.run, watched.recorder = recorder.run, recorder
    except Exception as error:
        _gave_up(error)
    yield watched
    if watched.recorder is not None and watched.n_steps % watched.every:
        try:
            watched.recorder.fire(watched.n_steps)
        except Exception as error:
            _gave_up(error)


def _gave_up(error: Exception) -> None:
    said = str(error).split("\n", 1)[0]
    warnings.warn(f"attnscope stopped watching: {type(error).__name__}: {said}", RuntimeWarning, stacklevel=3)
