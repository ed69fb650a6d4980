"""Row: what is stored of one bench case, as plain data. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from attnscope.plain import floats, plain

HEALTHY, FAULT, CONTROL = "healthy", "fault", "control"


@dataclass(frozen=True)
class Named:
    """One finding, in short; `exact` when an identity is among its evidence."""

    code: str
    kind: str
    place: str
    severity: str
    confidence: float
    source: str = ""
    exact: bool = False


@dataclass(frozen=True)
class Row:
    """One bench case and what was seen.

    Attributes:
        key: names the case; no two rows have the same.
        subject, model, task: what was trained.
        arm: `healthy`, `fault` or `control`.
        change: the fault's or control's name; empty on a healthy row.
        layer, strength: of the fault.
        where: `early`, `middle`, `late` or empty.
        seed: of initialisation, data and fault.
        moment: share of the training after which it was looked at.
        step: the training step it was looked at.
        status: `ok`, `not applicable` or `failed`; `why` says why.
        places: blocks and sites that name the fault's place rightly.
        recognised_as: kinds of finding that name it rightly.
        visibility: C, U, A, I or B, as in `Label`.
        ids: the fault's ids in the catalogues of the literature.
        quality: held-out accuracy; `held_out_loss`: its cross-entropy (nats).
        loss: the mean of the last tenth of the training losses.
        blocks: names of the blocks; `roles` and `layers` (-1: none) of each; `sizes`: parameters in each.
        sites: names of the sites that a finding may name.
        block_values: lens -> a value per block, in the order of `blocks` (NaN: not measured).
        layer_values: reading of the attention -> layer name -> value, such as `entropy` -> {"L0": 1.2}.
        head_values: as `layer_values`, with a list per layer.
        pair_values: pair of blocks joined by " " -> coupling.
        findings: what the diagnosis found, in its order.
        cost: lens -> seconds; `gradient_seconds`: one gradient of the same batch; `diagnosis_seconds`.
        losses: about fifty losses of the training, evenly spaced.
        provenance: versions and settings.
    """

    key: str
    subject: str
    model: str
    task: str
    arm: str
    change: str = ""
    layer: int | None = None
    strength: float | None = None
    where: str = ""
    seed: int = 0
    moment: float = 1.0
    step: int = 0
    status: str = "ok"
    why: str = ""
    places: tuple[str, ...] = ()
    recognised_as: tuple[str, ...] = ()
    visibility: str = ""
    ids: tuple[str, ...] = ()
    quality: float | None = None
    held_out_loss: float | None = None
    loss: float | None = None
    blocks: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    sites: tuple[str, ...] = ()
    block_values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    layer_values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    head_values: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    pair_values: Mapping[str, float] = field(default_factory=dict)
    findings: tuple[Named, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)
    gradient_seconds: float | None = None
    diagnosis_seconds: float | None = None
    losses: tuple[float, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)

    def value(self, lens: str, block: str) -> float:
        """One block's value; NaN when it was not measured."""
        values = self.block_values.get(lens)
        return values[self.blocks.index(block)] if values is not None and block in self.blocks else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found: dict[str, Any] = plain(asdict(self))
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Row:
        """The inverse of `to_dict`; fields of a later version are passed over."""
        known = {item.name for item in fields(cls)}
        given = {name: value for name, value in data.items() if name in known}
        for name in ("places", "recognised_as", "ids", "blocks", "roles", "sites"):
            given[name] = tuple(map(str, given.get(name, ())))
        for name in ("layers", "sizes"):
            given[name] = tuple(int(value) for value in given.get(name, ()))
        given["losses"] = tuple(floats(list(given.get("losses", ()))))
        given["block_values"] = {k: tuple(floats(list(v))) for k, v in given.get("block_values", {}).items()}
        given["layer_values"] = {
            k: dict(zip(v, floats(list(v.values())), strict=True)) for k, v in given.get("layer_values", {}).items()
        }
        given["head_values"] = {
            k: {place: tuple(floats(list(values))) for place, values in v.items()}
            for k, v in given.get("head_values", {}).items()
        }
        pairs = given.get("pair_values", {})
        given["pair_values"] = dict(zip(pairs, floats(list(pairs.values())), strict=True))
        given["findings"] = tuple(Named(**item) for item in given.get("findings", ()))
        return cls(**given)
