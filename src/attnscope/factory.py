"""Reads `FILE.py:FACTORY`: imports the user's file and calls the function that makes the Case."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from attnscope.case import Case
from attnscope.errors import CaseError

EXAMPLE = """def make_case():
    from attnscope import Case
    return Case(model, batches, loss=lambda output, batch: ...)"""


def load_case(target: str) -> Case:
    """The case that a factory makes.

    Args:
        target: `FILE.py:FACTORY` or `package.module:FACTORY`. The factory takes no arguments and returns a
            `Case`, or a `(model, batches)` pair.

    Raises:
        CaseError: the file or the factory is missing, raises, or returns something else; the message
            says which, where in the user's code, and what to do.
    """
    place, separator, name = target.rpartition(":")
    if not separator or not place or not name:
        raise CaseError(f"expected FILE.py:FACTORY, found {target!r}; for example: train.py:make_case")
    module = _import(place)
    factory = getattr(module, name, None)
    if factory is None:
        raise CaseError(f"{place} has no {name!r}{_near(module, name)}; a factory looks like\n\n{EXAMPLE}")
    if isinstance(factory, Case):
        return factory
    if not callable(factory):
        raise CaseError(f"{target} is a {type(factory).__name__}, not a function that returns a Case")
    _refuse_arguments(target, factory)
    try:
        made = factory()
    except Exception as error:
        raise CaseError(f"{target} raised {_where(error, place)}") from error
    return _case(made, target)


def _case(made: Any, target: str) -> Case:
    if isinstance(made, Case):
        return made
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module):
        return Case(*made)
    raise CaseError(f"{target} returned {type(made).__name__}; expected a Case, or a (model, batches) pair")


def _import(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise CaseError(f"cannot import {place!r}: {error}; give a file as path/to/file.py:FACTORY") from error
    path = Path(place)
    if not path.is_file():
        raise CaseError(f"there is no file {place}; looked in {Path.cwd()}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise CaseError(f"{place} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise CaseError(f"importing {place} raised {_where(error, place)}") from error
    return module


def _refuse_arguments(target: str, factory: Any) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise CaseError(f"{target} needs {', '.join(needed)}; a factory takes no arguments (give them defaults)")


def _near(module: ModuleType, name: str) -> str:
    own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    near = difflib.get_close_matches(name, own, n=3)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _where(error: BaseException, place: str) -> str:
    """The error with the last line of the user's file that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    stem = Path(place).name
    own = [frame for frame in frames if Path(frame.filename).name == stem] or list(frames)[-1:]
    line = f" at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
    return f"{type(error).__name__}: {error}{line}"
