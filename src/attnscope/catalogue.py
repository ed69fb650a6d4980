"""The folder is the registry: a family is a sub-package, a member is a file in it, its name is the file's name."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from attnscope.errors import CatalogueError

FAMILIES = {
    "lenses": "attnscope.lenses",
    "run_lenses": "attnscope.lenses.over_runs",
    "faults": "attnscope.faults",
    "rules": "attnscope.diagnosis.rules",
    "models": "attnscope.models",
    "tasks": "attnscope.tasks",
    "studies": "attnscope.studies",
    "subjects": "attnscope.bench.subjects",
    "controls": "attnscope.bench.controls",
    "rankers": "attnscope.bench.rankers",
}


def class_name(name: str) -> str:
    """The class that the file `name` holds: `attention_entropy` holds `AttentionEntropy`."""
    return "".join(part.capitalize() for part in name.split("_"))


@cache
def _places(family: str) -> dict[str, str]:
    """Member name -> `module:Class`, from the folder first and from entry points of other packages."""
    if family not in FAMILIES:
        raise CatalogueError(f"no family {family!r}; the families are {', '.join(sorted(FAMILIES))}")
    package = importlib.import_module(FAMILIES[family])
    places = {
        info.name: f"{FAMILIES[family]}.{info.name}:{class_name(info.name)}"
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_") and not info.ispkg  # a folder inside a family is another family
    }
    for point in entry_points(group=f"attnscope.{family}"):
        if point.name in places:
            raise CatalogueError(
                f"two {family} are named {point.name!r}: {places[point.name]} and {point.value}; rename one"
            )
        places[point.name] = point.value
    return dict(sorted(places.items()))


def names(family: str) -> tuple[str, ...]:
    """The names of a family's members, sorted; imports none of them.

    Raises:
        CatalogueError: there is no such family.
    """
    return tuple(_places(family))


def load(family: str, name: str) -> Any:
    """The class of one member.

    Args:
        family: one of `FAMILIES`.
        name: the member's file name, such as `attention_entropy`.

    Raises:
        CatalogueError: there is no such member (the nearest names are given), or its file does not
            hold the class that its name promises.
    """
    places = _places(family)
    if name not in places:
        near = difflib.get_close_matches(name, places, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise CatalogueError(f"no {family} member named {name!r}{hint}")
    module_name, _, attribute = places[name].partition(":")
    module = importlib.import_module(module_name)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise CatalogueError(f"{module_name} must hold a class {attribute}") from None
