"""Whose line runs, and in which module: the user's place of every operation."""

from __future__ import annotations

import linecache
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import nn

from attnscope.anatomy.blocks import Source

# Packages whose frames are machinery and never the user's line.
_MACHINERY = ("torch", "functorch", "attnscope", "einops", "opt_einsum", "jaxtyping", "peft", "accelerate")
_STANDARD_LIBRARY = tuple(
    str(Path(path)) + "/" for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")} if path
)
_SITE_PACKAGES = ("/site-packages/", "/dist-packages/")
_TORCH = str(Path(torch.__file__).parent) + "/"
_OWN = str(Path(__file__).parents[1]) + "/"
_MODELS = _OWN + "models/"  # models to study are read like a user's own
_PROBE = _OWN + "probe.py"  # runs the user's code: whoever stands before it asked for a diagnosis

_is_machinery: dict[str, bool] = {}


def _machinery(code: CodeType) -> bool:
    """Whether a frame of this code object is to be skipped; remembered per file."""
    file = code.co_filename
    known = _is_machinery.get(file)
    if known is None:
        known = file.startswith((_TORCH, _OWN, "<")) and not file.startswith(_MODELS)
        if not known and not file.startswith(_MODELS):
            for marker in _SITE_PACKAGES:
                _, found, rest = file.partition(marker)
                if found:
                    known = rest.split("/", 1)[0] in _MACHINERY
                    break
            else:
                known = file.startswith(_STANDARD_LIBRARY)
        _is_machinery[file] = known
    return known


def user_place(depth: int = 2) -> tuple[CodeType, int] | None:
    """Code object and line of the innermost frame that is not torch's, ours or another library of plumbing.

    None when the operation is our own, as in the default loss.
    """
    frame: Any = sys._getframe(depth)
    while frame is not None:
        code = frame.f_code
        if code.co_filename == _PROBE:
            return None
        if not _machinery(code):
            return code, frame.f_lineno
        frame = frame.f_back
    return None


def source_of(place: tuple[CodeType, int] | None) -> Source | None:
    """The `Source` of a place, with the text of its line."""
    if place is None:
        return None
    code, line = place
    text = linecache.getline(code.co_filename, line).strip()
    return Source(file=code.co_filename, line=line, function=code.co_qualname, text=text)


@contextmanager
def followed_modules(model: nn.Module) -> Iterator[list[str]]:
    """Keeps, while open, the stack of paths of the modules that are executing.

    Yields:
        the stack; its last item is the innermost module's path. The model itself is `""`.
    """
    paths = {id(module): path for path, module in reversed(list(model.named_modules()))}
    stack: list[str] = [""]
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(module))
        if path is None:
            return original(module, *args, **kwargs)
        stack.append(path)
        try:
            return original(module, *args, **kwargs)
        finally:
            stack.pop()

    nn.Module.__call__ = call  # type: ignore[method-assign]
    try:
        yield stack
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
