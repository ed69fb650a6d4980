"""attnscope finds the attention in any PyTorch model and names what is wrong with it.

The public verbs load lazily: importing this package loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_VERBS = {
    "Case": "attnscope.case",
    "diagnose": "attnscope.examine",
    "explain": "attnscope.explanations",
    "open_run": "attnscope.record",
    "report": "attnscope.pages.page",
    "trace": "attnscope.anatomy.trace",
    "train": "attnscope.training",
    "watch": "attnscope.watching",
}
_SHOWN_BY = {"diagnose": "attnscope.pages.notebook"}  # draws the verb's result in a notebook
__all__ = ["Case", "diagnose", "explain", "open_run", "report", "trace", "train", "watch"]

if TYPE_CHECKING:
    from attnscope.anatomy.trace import trace
    from attnscope.case import Case
    from attnscope.examine import diagnose
    from attnscope.explanations import explain
    from attnscope.pages.page import report
    from attnscope.record import open_run
    from attnscope.training import train
    from attnscope.watching import watch


def __getattr__(name: str) -> Any:
    if name not in _VERBS:
        raise AttributeError(f"module 'attnscope' has no attribute {name!r}; its verbs are {', '.join(__all__)}")
    if name in _SHOWN_BY:
        importlib.import_module(_SHOWN_BY[name])
    return getattr(importlib.import_module(_VERBS[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
