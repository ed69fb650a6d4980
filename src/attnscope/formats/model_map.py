"""The model as a map: layers as rows; projections, sites and heads as cells, each with its suspicion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from attnscope.anatomy.blocks import ROLE_LETTERS, Anatomy, Attention, Block, Role, parse_place
from attnscope.findings import Diagnosis, Finding

BEFORE_SOFTMAX = ("positions", "scale", "scores", "mask", "softmax", "dropout")
AFTER = ("heads", "cache", "residual", "norm")
ALWAYS = ("positions", "scale", "mask", "softmax", "dropout", "residual", "norm")
MOST_HEADS = 64
_LETTERS = {letter: role for role, letter in ROLE_LETTERS.items()}
_ENDS = {Role.EMBEDDING: 0, Role.POSITIONS: 1, Role.ENCODER: 2}


class State(StrEnum):
    """What is said about a place."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    EFFECT = "effect"  # its oddness is explained by a finding elsewhere
    CLEAR = "clear"  # nothing was found here
    ABSENT = "absent"  # the model has no such thing here


_ORDER = tuple(State)


@dataclass(frozen=True)
class Cell:
    """One place of the map.

    Attributes:
        place: its name, as findings use it: `L2.K`, `L2H5`, `L2.mask`, a block's name.
        column: the heading under which it stands.
        title: what it is, in words.
        state: the gravest that is said about it.
        confidence: of the most certain finding of that state.
        findings: numbers of the findings at this place, in their order.
        parts: which projections of a head are meant, such as `("V",)`.
    """

    place: str
    column: str
    title: str
    state: State = State.CLEAR
    confidence: float = 0.0
    findings: tuple[int, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One layer: its own cell, and one tuple of cells per group of the map."""

    attention: Attention
    own: Cell
    groups: tuple[tuple[Cell, ...], ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, the layer's own first."""
        return (self.own, *(cell for group in self.groups for cell in group))


@dataclass(frozen=True)
class Group:
    """Columns that belong together."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class ModelMap:
    """The rows between what comes before the first layer and what comes after the last.

    Attributes:
        groups: the columns of every row.
        rows: one per attention, in the order of execution.
        before, after: blocks outside the layers, from the input on, and up to the output.
        hidden_heads: how many heads of the widest layer are not drawn (they are still listed).
    """

    groups: tuple[Group, ...]
    rows: tuple[Row, ...]
    before: tuple[Cell, ...] = ()
    after: tuple[Cell, ...] = ()
    hidden_heads: int = 0

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, from the input to the output."""
        return (*self.before, *(cell for row in self.rows for cell in row.cells), *self.after)


@dataclass
class _Claims:
    """What findings say about each place."""

    at: dict[str, list[tuple[State, float, int, str]]] = field(default_factory=dict)
    said: set[str] = field(default_factory=set)  # places that a cell has shown

    def add(self, place: str, claim: tuple[State, float, int, str]) -> None:
        self.at.setdefault(place, []).append(claim)

    def mark(self, cell: Cell, *aliases: str) -> Cell:
        """The cell with all that is claimed about its place or about its other names."""
        names = dict.fromkeys((cell.place, *aliases))
        self.said.update(names)
        claims = [claim for name in names for claim in self.at.get(name, ())]
        if not claims:
            return cell
        state = min((claim[0] for claim in claims), key=_ORDER.index)
        return replace(
            cell, state=state, confidence=max(claim[1] for claim in claims if claim[0] is state),
            findings=tuple(sorted({claim[2] for claim in claims})),
            parts=tuple(sorted({claim[3] for claim in claims if claim[3]})),
        )


def model_map(diagnosis: Diagnosis) -> ModelMap:
    """The map of a diagnosed model.

    Every finding is shown at exactly one place at least: a place that the anatomy does not know becomes a
    cell after the last layer.
    """
    anatomy = diagnosis.anatomy
    claims = _claims(diagnosis.findings)
    letters = _letters(anatomy)
    sites = [name for name in (*BEFORE_SOFTMAX, *AFTER) if name in ALWAYS or _claimed(claims, name)]
    n_heads = max((attention.n_heads for attention in anatomy.attentions), default=0)
    shown = _shown_heads(n_heads, claims)
    before_heads = tuple(name for name in BEFORE_SOFTMAX if name in sites)
    after_heads = tuple(name for name in AFTER if name in sites)
    groups = (
        Group("projections", tuple(letter for letter in letters if letter != "O")),
        Group("scores", before_heads),
        Group("heads", tuple(str(head) for head in shown)),
        Group("output", ("O",) if "O" in letters else ()),
        Group("after", (*after_heads, "mlp")),
    )
    rows = tuple(_row(attention, anatomy, groups, claims) for attention in anatomy.attentions)
    before, after = _outside(anatomy, claims)
    strangers = tuple(
        claims.mark(Cell(place, "elsewhere", place)) for place in claims.at if place not in claims.said
    )
    return ModelMap(
        groups=tuple(group for group in groups if group.columns),
        rows=tuple(
            replace(
                row,
                groups=tuple(
                    cells for group, cells in zip(groups, row.groups, strict=True) if group.columns
                ),
            )
            for row in rows
        ),
        before=before, after=(*after, *strangers), hidden_heads=n_heads - len(shown),
    )


def home(place: str) -> tuple[str, str]:
    """The cell that shows a place, and the part of that cell: `L2H5.K` is part `K` of the cell `L2H5`."""
    layer, head, what = parse_place(place)
    if layer is None or head is None:
        return place, ""
    return f"L{layer}H{head}", what


def _claims(findings: Sequence[Finding]) -> _Claims:
    claims = _Claims()
    for index, finding in enumerate(findings):
        place, part = home(finding.block_or_site)
        claims.add(place, (State(finding.severity.value), finding.confidence, index, part))
        for consequence in finding.consequences:
            place, part = home(consequence)
            claims.add(place, (State.EFFECT, finding.confidence, index, part))
    return claims


def _claimed(claims: _Claims, site: str) -> bool:
    return any(parse_place(place)[0] is not None and parse_place(place)[2] == site for place in claims.at)


def _letters(anatomy: Anatomy) -> tuple[str, ...]:
    used = {role for attention in anatomy.attentions for role in attention.blocks}
    order = (Role.QUERY_KEY, Role.QUERY, Role.KEY, Role.VALUE, Role.OUTPUT)
    return tuple(ROLE_LETTERS[role] for role in order if role.value in used)


def _shown_heads(n_heads: int, claims: _Claims) -> tuple[int, ...]:
    """The first heads, and every head that is spoken of."""
    spoken = {parse_place(place)[1] for place in claims.at}
    return tuple(head for head in range(n_heads) if head < MOST_HEADS or head in spoken)


def _row(attention: Attention, anatomy: Anatomy, groups: Sequence[Group], claims: _Claims) -> Row:
    named = f"layer {attention.layer}"
    cells = []
    for group in groups:
        found = []
        for column in group.columns:
            if group.name == "heads":
                found.append(_head_cell(attention, int(column), claims))
            elif column in _LETTERS:
                found.append(_projection_cell(attention, column, claims))
            elif column == "mlp":
                found.append(_beside(attention, anatomy.blocks, Role.MLP, f"L{attention.layer}.mlp", claims))
            elif column == "norm":
                found.append(_beside(attention, anatomy.blocks, Role.NORM, attention.site("norm"), claims))
            else:
                present = has_site(attention, column)
                place = attention.site(column)
                cell = Cell(place, column, f"{named}, {column}", State.CLEAR if present else State.ABSENT)
                found.append(claims.mark(cell))
        cells.append(tuple(found))
    own = claims.mark(Cell(attention.name, "layer", f"{named}, {attention.module or 'the model itself'}"))
    return Row(attention, own, tuple(cells))


def has_site(attention: Attention, site: str) -> bool:
    """Whether the trace saw anything at that site."""
    if site == "positions":
        return any(name != "none" for name in attention.positions)
    seen = {
        "scale": attention.scale is not None, "mask": bool(attention.mask),
        "softmax": attention.softmax is not None, "dropout": bool(attention.dropout),
        "residual": bool(attention.residual),
    }
    return seen.get(site, True)


def _head_cell(attention: Attention, head: int, claims: _Claims) -> Cell:
    cell = Cell(f"{attention.name}H{head}", str(head), f"layer {attention.layer}, head {head}")
    if head >= attention.n_heads:
        cell = replace(cell, state=State.ABSENT)
    return claims.mark(cell)


def _projection_cell(attention: Attention, letter: str, claims: _Claims) -> Cell:
    role = _LETTERS[letter]
    block = attention.blocks.get(role.value)
    own = f"{attention.name}.{letter}"
    title = f"layer {attention.layer}, {role.value.replace('_', ' and ')} projection"
    if block is None:
        return claims.mark(Cell(own, letter, title, State.ABSENT))
    if block != own:
        title += f" (it is {block})"
    return claims.mark(Cell(own, letter, title), block)


def _beside(attention: Attention, blocks: Iterable[Block], role: Role, place: str, claims: _Claims) -> Cell:
    """The normalisation or the MLP beside an attention: a site and its blocks are one cell."""
    mine = [block for block in blocks if block.role is role and attention.layer in _layers(block)]
    names = {name for block in mine for name in _names(block)}
    if role is Role.NORM:
        names.update(attention.norms)
    state = State.CLEAR if names else State.ABSENT
    cell = Cell(place, role.value, f"layer {attention.layer}, {role.value}", state)
    return claims.mark(cell, *sorted(names))


def _layers(block: Block) -> tuple[int, ...]:
    return block.shared_by or (() if block.layer is None else (block.layer,))


def _names(block: Block) -> tuple[str, ...]:
    return (block.name, *(part.parameter for part in block.slices))


def _outside(anatomy: Anatomy, claims: _Claims) -> tuple[tuple[Cell, ...], tuple[Cell, ...]]:
    """The cells of what belongs to no layer: data and embeddings before, heads and the whole model after."""
    inside = {cell for attention in anatomy.attentions for cell in attention.norms}
    free = [
        block for block in anatomy.blocks
        if not (block.role in ROLE_LETTERS or (_layers(block) and block.role in (Role.NORM, Role.MLP)))
        and block.name not in inside
    ]
    first = sorted((block for block in free if block.role in _ENDS), key=lambda block: _ENDS[block.role])
    last = [block for block in free if block.role not in _ENDS]

    def cell(block: Block) -> Cell:
        role = block.role.value
        return claims.mark(Cell(block.name, role, f"{role}: {block.name}"), *_names(block))

    before = (claims.mark(Cell("data", "data", "the data")), *map(cell, first))
    whole = claims.mark(Cell("model", "model", "the model as a whole"))
    return before, (*map(cell, last), whole)
