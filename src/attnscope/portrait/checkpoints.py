"""Portraits of many checkpoints of one model: one JSON file each, made anywhere, and what they say side by side."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnscope.anatomy.unwrap import unwrapped
from attnscope.errors import AttnscopeError, CaseError
from attnscope.factory import load_case
from attnscope.plain import plain
from attnscope.portrait.portrait import Request, portray
from attnscope.portrait.weights import check_fits, load_weights
from attnscope.readings import Reading
from attnscope.whole_file import write_whole
from attnscope.workers import everywhere

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Job:
    """One checkpoint to be measured; plain data, so that any worker can be given it.

    Attributes:
        target: `FILE.py:FACTORY`, which makes the case; the file is at the same place for every worker.
        checkpoint: a safetensors file.
        name: of the checkpoint among the others.
        output: the JSON file that is written.
        request: what is asked for.
    """

    target: str
    checkpoint: Path
    name: str
    output: Path
    request: Request


@dataclass(frozen=True)
class Outcome:
    """What a job came to: whether it was stopped, and then nothing was written."""

    name: str
    interrupted: bool


def jobs_of(target: str, pattern: str, request: Request, folder: Path) -> list[Job]:
    """One job per file, in the order of the numbers in their names.

    Args:
        target: `FILE.py:FACTORY` or `package.module:FACTORY`.
        pattern: such as `runs/*.safetensors`, or `runs/**/model.safetensors`.
        request: what is asked for, of every checkpoint.
        folder: of the JSON files; below it they lie as the checkpoints lie below the pattern's fixed part.

    Raises:
        CaseError: no file fits the pattern.
    """
    files = sorted(
        {Path(found) for found in glob.glob(pattern, recursive=True) if Path(found).is_file()},
        key=lambda path: _natural(str(path)),
    )
    if not files:
        raise CaseError(f"no file is named like {pattern} (looked from {Path.cwd()}); quote the pattern in the shell")
    root = _fixed_part(pattern)
    file, separator, factory = target.rpartition(":")
    if file.endswith(".py"):
        target = f"{Path(file).resolve()}{separator}{factory}"
    jobs = []
    for path in files:
        below = path.relative_to(root)
        name = below.with_suffix("").as_posix() if below.suffix == ".safetensors" else below.as_posix()
        output = folder.resolve() / f"{name}.json"
        jobs.append(Job(target, path.resolve(), name, output, request))
    return jobs


def measure(
    jobs: Sequence[Job], *, workers: int = 1, ray: str | None = None, tell: Tell | None = None
) -> Iterator[Outcome]:
    """Makes the portraits that are not there yet; a kill at any moment loses only those under way.

    Before the first one, every checkpoint's names and shapes are held against the model's.

    Args:
        jobs: from `jobs_of`.
        workers: how many at once.
        ray: as in `workers.everywhere`.
        tell: called as `tell(done, total, what)`.

    Raises:
        CaseError: a checkpoint does not fit the model, or a file that is there was made with other settings.
    """
    left = [job for job in jobs if not _is_made(job)]
    if left:
        model = unwrapped(load_case(left[0].target).model)[0]
        for job in left:
            check_fits(job.checkpoint, model)
        del model
    done = len(jobs) - len(left)
    if tell is not None:
        tell(done, len(jobs), "checkpoints")
    outcomes = everywhere(portrayed, left, workers, ray)
    try:
        for outcome in outcomes:
            yield outcome
            if outcome.interrupted:
                return
            done += 1
            if tell is not None:
                tell(done, len(jobs), outcome.name)
    finally:
        outcomes.close()


def portrayed(job: Job) -> Outcome:
    """Measures one checkpoint and writes its JSON; what cannot be measured is written as an error."""
    case = load_case(job.target)
    batches = tuple(case.batches)
    case = replace(case, batches=batches)
    load_weights(job.checkpoint, unwrapped(case.model)[0])
    found: dict[str, Any] = {"error": ""}
    try:
        portrait = portray(case, job.request)
        if portrait.interrupted:
            return Outcome(job.name, True)
        found |= portrait.to_dict()
    except AttnscopeError as error:  # weights that are not finite, say; the other checkpoints do not depend on it
        found = {"error": str(error)}
    found |= {
        "checkpoint": job.name, "asked": _asked(job),
        "data": _fingerprint(batches[: job.request.n_batches]),
    }
    job.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(job.output, json.dumps(found, indent=1))
    return Outcome(job.name, False)


def read(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    """The portraits that are there, in the order of the jobs."""
    return [json.loads(job.output.read_text(encoding="utf-8")) for job in jobs if job.output.exists()]


def over_checkpoints(portraits: Sequence[Mapping[str, Any]]) -> dict[str, Reading]:
    """Top eigenvalues, their stability limits, loss and stability along the checkpoints; NaN where one is missing."""
    names = tuple(str(item["checkpoint"]) for item in portraits)
    blocks = tuple(dict.fromkeys(name for item in portraits for name in item.get("blocks", ())))
    steps = _steps(names)
    facts = {"steps": None if steps is None else list(steps)}

    def row(item: Mapping[str, Any], key: str) -> list[float]:
        if key not in item.get("readings", {}):
            return [np.nan] * len(blocks)
        reading = Reading.from_dict(item["readings"][key])
        known = dict(zip(reading.labels("block"), reading.values.tolist(), strict=True))
        return [known.get(block, np.nan) for block in blocks]

    found = {
        key: Reading(
            key, np.array([row(item, key) for item in portraits]).reshape(len(names), len(blocks)),
            ("checkpoint", "block"), "loss/parameter²", {"checkpoint": names, "block": blocks}, facts=facts,
        )
        for key in ("top_eigenvalue", "bottom_eigenvalue", "stability_limit")
    }
    single = {
        "loss": [item["facts"]["loss"] if "facts" in item else np.nan for item in portraits],
        "stability": [
            float(Reading.from_dict(item["readings"]["stability"]).values)
            if "stability" in item.get("readings", {}) else np.nan for item in portraits
        ],
    }
    found |= {
        key: Reading(key, np.array(values), ("checkpoint",), unit, {"checkpoint": names}, facts=facts)
        for (key, values), unit in zip(single.items(), ("nats", "limit"), strict=True)
    }
    return {key: reading for key, reading in found.items() if np.isfinite(reading.values).any()}


def notes_of(portraits: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before comparing the checkpoints."""
    notes = [f"{item['checkpoint']}: {item['error']}" for item in portraits if item["error"]]
    if len({item["data"] for item in portraits}) > 1:
        notes.append(
            "the factory gave different data for different checkpoints (it draws them without a seed), so the numbers "
            "differ for that reason too"
        )
    said = [note for item in portraits if "facts" in item for note in item["facts"]["notes"]]
    return notes + [
        note if said.count(note) == 1 else f"{note} (in {said.count(note)} checkpoints)" for note in dict.fromkeys(said)
    ]


def _is_made(job: Job) -> bool:
    if not job.output.exists():
        return False
    try:
        asked = json.loads(job.output.read_text(encoding="utf-8"))["asked"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaseError(f"{job.output} is in the way: it is not a portrait of a checkpoint ({error})") from error
    now = _asked(job)
    if asked["request"] != now["request"] or asked["target"] != now["target"]:
        raise CaseError(f"{job.output} was made with other settings; choose another folder with --output, or remove it")
    return bool(asked["sha256"] == now["sha256"])


def _asked(job: Job) -> dict[str, Any]:
    with job.checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    asked: dict[str, Any] = json.loads(json.dumps(plain({
        "target": Path(job.target).name, "request": asdict(job.request), "sha256": digest,
    })))
    return asked


def _fingerprint(value: Any) -> str:
    """Of all numbers in a nest of mappings, sequences and tensors."""
    digest = hashlib.sha256()

    def visit(item: Any) -> None:
        if isinstance(item, Tensor):
            dense = item.detach().cpu().to_dense().contiguous()
            digest.update(f"{dense.dtype}{tuple(dense.shape)}".encode())
            digest.update(dense.flatten().view(torch.uint8).numpy().tobytes() if dense.numel() else b"")
        elif isinstance(item, Mapping):
            for key in item:
                digest.update(str(key).encode())
                visit(item[key])
        elif isinstance(item, list | tuple):
            for inner in item:
                visit(inner)
        elif isinstance(item, str | int | float | bool):
            digest.update(str(item).encode())

    visit(value)
    return digest.hexdigest()


def _fixed_part(pattern: str) -> Path:
    """The folders of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    fixed = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """So that step 10 stands after step 9."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _steps(names: Sequence[str]) -> tuple[int, ...] | None:
    """The one number in which the names differ, when it rises."""
    numbers = [[int(part) for part in re.findall(r"\d+", name)] for name in names]
    if len({len(found) for found in numbers}) != 1:
        return None
    for column in zip(*numbers, strict=True):
        if len(set(column)) > 1:
            return column if all(a < b for a, b in pairwise(column)) else None
    return None
