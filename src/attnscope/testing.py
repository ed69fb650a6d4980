"""The contract tests, for members of other packages too: each function checks one promise and raises on a breach.

A package that adds a lens through the entry point `attnscope.lenses` runs, in its own tests,

    check_member("lenses", "my_lens")
    check_lens(MyLens(), make_probe)

where `make_probe()` builds a fresh `Probe` of a small model with a fixed seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnscope import catalogue
from attnscope.lenses import EFFORTS, Lens, RunLens
from attnscope.probe import Probe
from attnscope.readings import NOT_APPLICABLE, OK, Reading
from attnscope.record import Run

_OF_A_LENS = ("Measures", "Reading it", "Shapes", "Cost", "Reference")
SECTIONS = {
    "lenses": _OF_A_LENS,
    "run_lenses": _OF_A_LENS,
    "rules": (
        "What it means", "Why it matters", "Evidence required", "When it is a false alarm", "How to confirm",
        "What to try",
    ),
}
NEEDS = ("pattern", "gradient", "loss", "optimizer", "hessian", "weights")
MakeProbe = Callable[[], Probe]


class ContractError(AssertionError):
    """A member broke a promise of its family."""


def _require(held: bool, message: str) -> None:
    if not held:
        raise ContractError(message)


def check_member(family: str, name: str) -> type:
    """A member is a final, frozen dataclass named for its file, with a docstring of the family's fixed form.

    Args:
        family: such as `lenses`.
        name: the member's file name.

    Returns:
        its class.

    Raises:
        ContractError: it is not so; the message says what to change.
    """
    found = catalogue.load(family, name)
    _require(inspect.isclass(found), f"{family}/{name} must hold a class, found {type(found).__name__}")
    member: type = found
    called = member.__name__
    settings: Any = getattr(member, "__dataclass_params__", None)
    _require(settings is not None, f"{called} must be a dataclass: its fields are its settings")
    _require(settings.frozen, f"{called} must be frozen: @dataclass(frozen=True)")
    _require(not inspect.isabstract(member), f"{called} leaves an abstract method open")
    bases = [base for base in member.__mro__[1:] if dataclasses.is_dataclass(base)]
    extended = [base.__name__ for base in bases if not inspect.isabstract(base)]
    _require(not extended, f"{called} extends {', '.join(extended)}: members never extend members")
    if family in SECTIONS:
        check_docstring(member, SECTIONS[family])
    return member


def check_docstring(member: type, sections: tuple[str, ...]) -> None:
    """One line to the user, then the family's sections in their order, none of them empty."""
    text = inspect.cleandoc(member.__doc__ or "")
    first = text.split("\n", 1)[0]
    name = member.__name__
    _require(bool(first) and not first.startswith("**"), f"{name}: the docstring starts with one line to the user")
    _require(first.endswith("."), f"{name}: the docstring's first line is one whole sentence: {first!r}")
    parts = re.split(r"^\*\*(.+?)\*\*", text, flags=re.MULTILINE)
    found = tuple(parts[1::2])
    _require(found == sections, f"{name}: the docstring has the sections {found}, expected {sections}")
    for title, body in zip(found, parts[2::2], strict=True):
        _require(len(body.strip()) > 3, f"{name}: the section {title!r} is empty")


def check_lens(lens: Lens, make_probe: MakeProbe) -> Reading:
    """Every promise of a lens, on one model.

    Args:
        lens: as it is to be used, with its settings.
        make_probe: builds a fresh probe of the same model, data and seed at every call.

    Returns:
        the reading, for further checks.

    Raises:
        ContractError: a promise is broken.
    """
    probe = make_probe()
    check_facts(lens)
    if lens.applies_to(probe.anatomy):
        return lens.not_applicable(lens.applies_to(probe.anatomy))
    reading = check_disturbs_nothing(lens, probe)
    check_reading(lens, reading)
    check_round_trip(reading)
    check_repeats(lens, reading, probe, make_probe())
    check_survives_nan(lens, make_probe())
    return reading


def check_run_lens(lens: RunLens, run: Run) -> Reading:
    """Every promise of a lens over a run: it reads the record and leaves it, repeats, and says what it lacks.

    Args:
        lens: as it is to be used, with its settings.
        run: a run that holds what it needs.

    Returns:
        the reading, for further checks.

    Raises:
        ContractError: a promise is broken.
    """
    empty = lens.measure(Run())
    _require(empty.status == NOT_APPLICABLE and bool(empty.note), f"{lens.name}: an empty run must be refused in words")
    before = {step: dict(run.at(step)) for step in run.steps}
    reading = lens.measure(run)
    _require(before == {step: dict(run.at(step)) for step in run.steps}, f"{lens.name} changed the run")
    check_reading(lens, reading)
    check_round_trip(reading)
    _require(_comparable(reading) == _comparable(lens.measure(run)), f"{lens.name} gives another reading when repeated")
    return reading


def check_facts(lens: Lens) -> None:
    """The class says its unit, dims, needs and effort, in known words."""
    name = type(lens).__name__
    _require(isinstance(lens.unit, str) and bool(lens.unit), f"{name}.unit must say the unit, `1` for a ratio")
    _require(len(set(lens.dims)) == len(lens.dims), f"{name}.dims names an axis twice: {lens.dims}")
    _require(set(lens.needs) <= set(NEEDS), f"{name}.needs holds {set(lens.needs) - set(NEEDS)}; known are {NEEDS}")
    _require(lens.effort in EFFORTS, f"{name}.effort is {lens.effort!r}; known are {EFFORTS}")


def check_reading(lens: Lens | RunLens, reading: Reading) -> None:
    """The reading is what the class declares: name, dims, unit, settings; a reason when there are no numbers."""
    _require(reading.lens == lens.name, f"the reading says it is by {reading.lens!r}, not {lens.name!r}")
    _require(reading.dims == lens.dims, f"{lens.name} declares dims {lens.dims} and gives {reading.dims}")
    _require(reading.unit == lens.unit, f"{lens.name} declares the unit {lens.unit!r} and gives {reading.unit!r}")
    _require(
        dict(reading.settings) == dataclasses.asdict(lens),
        f"{lens.name}: the reading's settings {dict(reading.settings)} are not the lens's fields",
    )
    _require(reading.status == OK or bool(reading.note), f"{lens.name}: status {reading.status} without a note")
    # NaN alone may be ok: it stands for "does not apply here", and may be so everywhere.
    _require(reading.status != OK or not bool(np.isinf(reading.values).any()), f"{lens.name}: ok with an infinity")


def check_round_trip(reading: Reading) -> None:
    """The reading goes to JSON and back without loss, and the JSON is readable by every parser."""
    written = json.dumps(reading.to_dict(), allow_nan=False)
    again = Reading.from_dict(json.loads(written))
    _require(
        json.dumps(again.to_dict(), allow_nan=False) == written,
        f"{reading.lens}: the reading changes when it is written and read",
    )
    _require(again.values.shape == reading.values.shape, f"{reading.lens}: the values change shape on disk")


def check_disturbs_nothing(lens: Lens, probe: Probe) -> Reading:
    """Measures, and sees that model, optimiser, batches, random state and switches are exactly as before."""
    before = fingerprint(probe)
    reading = lens.measure(probe)
    after = fingerprint(probe)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    _require(not changed, f"{lens.name} changed {', '.join(changed[:5])}")
    return reading


def check_repeats(lens: Lens, reading: Reading, same: Probe, fresh: Probe) -> None:
    """The same numbers, bit for bit, on the same probe again and on a fresh one."""
    wanted = _comparable(reading)
    for probe, which in ((same, "the same probe"), (fresh, "a fresh probe")):
        torch.rand(3)  # the random state outside must not matter
        again = _comparable(lens.measure(probe))
        if again != wanted:
            raise ContractError(f"{lens.name} gives another reading on {which}: {_difference(wanted, again)}")


def check_survives_nan(lens: Lens, probe: Probe) -> Reading:
    """With NaN in every parameter the lens returns a reading; no infinity or NaN is called ok without a word."""
    with torch.no_grad():
        for parameter in probe.model.parameters():
            if parameter.is_floating_point():
                parameter.fill_(torch.nan)
    poisoned = dataclasses.replace(probe, shared={})
    reading = lens.measure(poisoned)
    check_reading(lens, reading)
    check_round_trip(reading)
    return reading


def fingerprint(probe: Probe) -> dict[str, str]:
    """What must not change, by name, as digests."""
    found: dict[str, str] = {}
    for name, module in probe.model.named_modules():
        found[f"mode of {name or 'the model'}"] = str(module.training)
        found[f"attributes of {name or 'the model'}"] = str(sorted(module.__dict__))
        hooks = {key: list(value) for key, value in module.__dict__.items() if key.endswith("_hooks")}
        found[f"hooks of {name or 'the model'}"] = str(sorted(hooks.items()))
    tensors = [*probe.model.named_parameters(remove_duplicate=False), *probe.model.named_buffers()]
    for name, tensor in tensors:
        found[name] = f"{id(tensor)} {tensor.requires_grad} {_digest(tensor)}"
        found[f"gradient of {name}"] = "none" if tensor.grad is None else f"{id(tensor.grad)} {_digest(tensor.grad)}"
    if probe.optimizer is not None:
        found["optimiser"] = _nested(probe.optimizer.state_dict())
    found["batches"] = _nested(probe.batches)
    found["random state"] = " ".join((
        _digest(torch.get_rng_state()), _nested(np.random.get_state()), str(hash(random.getstate())),
    ))
    cuda: Any = torch.backends.cuda
    found["switches"] = str((
        torch.is_grad_enabled(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
        cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(),
        torch.backends.cudnn.enabled, torch.get_num_threads(),
    ))
    return found


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous()
    exact = plain.reshape(-1).view(torch.uint8) if plain.numel() else plain
    return hashlib.blake2b(exact.numpy().tobytes(), digest_size=8).hexdigest()


def _nested(value: Any) -> str:
    """A digest of nests of containers, tensors and plain values."""
    if isinstance(value, Tensor):
        return _digest(value)
    if isinstance(value, np.ndarray):
        return hashlib.blake2b(np.ascontiguousarray(value).tobytes(), digest_size=8).hexdigest()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_nested(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_nested, value)) + "]"
    return repr(value) if not isinstance(value, nn.Module) else type(value).__name__


def _comparable(reading: Reading) -> dict[str, str]:
    return {key: json.dumps(value, sort_keys=True) for key, value in reading.to_dict().items()}


def _difference(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    key = next(key for key in one if one[key] != other.get(key))
    at = next((i for i, (a, b) in enumerate(zip(one[key], other[key], strict=False)) if a != b), 0)
    start = max(at - 30, 0)
    return f"{key}: ...{one[key][start : at + 30]}... against ...{other[key][start : at + 30]}..."
