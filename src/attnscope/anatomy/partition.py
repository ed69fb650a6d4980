"""Every parameter in exactly one block: projections first, the rest by module and by what they do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from attnscope.anatomy.blocks import Attention, Block, ParameterSlice, Role, block_name
from attnscope.anatomy.usage import Usage

Heads = list[tuple[ParameterSlice, ...]]


@dataclass(frozen=True)
class RoleParts:
    """The parameter slices of an attention's roles: by head, and those that no single head owns."""

    heads: dict[Role, Heads]
    beside: dict[Role, list[ParameterSlice]] = field(default_factory=dict)


@dataclass(eq=False)
class Partition:
    """Blocks under construction; `taken` holds what is already in one."""

    parameters: dict[str, nn.Parameter]
    blocks: dict[str, Block] = field(default_factory=dict)
    taken: dict[str, list[ParameterSlice]] = field(default_factory=dict)

    def add(self, name: str, role: Role, parts: Sequence[ParameterSlice], layer: int | None) -> str:
        """Adds a block of what is still free of some parts; gives the name of the block that holds them.

        Parts that an earlier block holds stay there: shared layers and tied weights have one block.
        """
        parts = united(parts)
        holder = self.holder(parts)
        if holder is not None:
            block = self.blocks[holder]
            if layer is not None and block.layer is not None and layer != block.layer:
                shared = block.shared_by or (block.layer,)
                if layer not in shared:
                    self.blocks[holder] = replace(block, shared_by=(*shared, layer))
            return holder
        free = [
            part for part in parts
            if not any(overlaps(part, other) for other in self.taken.get(part.parameter, ()))
        ]
        if not free:
            return ""
        for part in free:
            self.taken.setdefault(part.parameter, []).append(part)
        self.blocks[name] = Block(
            name, role, tuple(free), layer,
            trainable=any(self.parameters[part.parameter].requires_grad for part in free),
        )
        return name

    def holder(self, parts: Sequence[ParameterSlice]) -> str | None:
        """The block that holds the first of some parts already, if one does."""
        for block in self.blocks.values():
            if parts and parts[0] in block.slices:
                return block.name
        return None

    def merge_query_key(self, name: str, layer: int) -> str:
        """Turns a query block that also makes the keys into a query-key block."""
        block = self.blocks.pop(name)
        new = block_name(layer, Role.QUERY_KEY)
        self.blocks[new] = replace(block, name=new, role=Role.QUERY_KEY)
        return new

    def rest(self, name: str) -> list[ParameterSlice]:
        """What no block holds of a parameter."""
        shape = tuple(self.parameters[name].shape)
        taken = self.taken.get(name, [])
        if not taken:
            return [ParameterSlice(name, shape)]
        dim = taken[0].dim
        if dim is None:
            return []
        used = sorted(bounds for part in taken for bounds in part.ranges)
        gaps, place = [], 0
        for start, stop in used:
            if start > place:
                gaps.append((place, start))
            place = max(place, stop)
        if place < shape[dim]:
            gaps.append((place, shape[dim]))
        return [ParameterSlice(name, shape, dim, tuple(gaps))] if gaps else []


def overlaps(one: ParameterSlice, other: ParameterSlice) -> bool:
    """Whether two parts of one parameter share an element (parts along different dimensions do)."""
    if one.dim is None or other.dim is None or one.dim != other.dim:
        return True
    return any(a < d and c < b for a, b in one.ranges for c, d in other.ranges)


def united(parts: Iterable[ParameterSlice]) -> list[ParameterSlice]:
    """Parts of the same parameter along the same dimension as one part; all of it as the whole parameter."""
    grouped: dict[str, list[ParameterSlice]] = {}
    for part in parts:
        grouped.setdefault(part.parameter, []).append(part)
    found = []
    for name, group in grouped.items():
        dim = group[0].dim
        if any(part.dim != dim for part in group) or dim is None:
            whole = next((part for part in group if part.dim is None), None)
            found.append(whole or ParameterSlice(name, group[0].shape))
            continue
        ranges = _joined([bounds for part in group for bounds in part.ranges])
        if sum(stop - start for start, stop in ranges) == group[0].shape[dim]:
            found.append(ParameterSlice(name, group[0].shape))
        else:
            found.append(ParameterSlice(name, group[0].shape, dim, ranges))
    return found


def _joined(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for start, stop in dict.fromkeys(ranges):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)


def partition(
    attentions: Sequence[Attention], parts: Sequence[RoleParts], usage: Usage,
    parameters: dict[str, nn.Parameter],
) -> tuple[tuple[Attention, ...], tuple[Block, ...]]:
    """Cuts all parameters into blocks.

    Args:
        attentions: without blocks.
        parts: the parameter slices of each attention's roles.
        usage: what the other parameters do.
        parameters: all parameters by name, tied ones once.

    Returns:
        the attentions with their blocks named, and the blocks.
    """
    made = Partition(parameters)
    named = []
    for attention, roles in zip(attentions, parts, strict=True):
        named.append(_projections(made, attention, roles))
    _others(made, usage)
    order = {name: place for place, name in enumerate(parameters)}
    blocks = sorted(made.blocks.values(), key=lambda block: order[block.slices[0].parameter])
    by_parameter = {part.parameter: block.name for block in blocks for part in block.slices}
    named = [
        replace(attention, norms=tuple(dict.fromkeys(
            by_parameter[name] for name in usage.norm_parameters.get(attention.layer, ()) if name in by_parameter
        )))
        for attention in named
    ]
    return tuple(named), tuple(blocks)


def _projections(made: Partition, attention: Attention, roles: RoleParts) -> Attention:
    blocks: dict[str, str] = {}
    layer = attention.layer
    for role in dict.fromkeys((*roles.heads, *roles.beside)):
        per_head = roles.heads.get(role, [])
        parts = [part for head in per_head for part in head] + roles.beside.get(role, [])
        name = made.add(block_name(layer, role), role, parts, layer)
        if not name:
            continue
        if role is Role.KEY and blocks.get(Role.QUERY.value) == name:
            if made.blocks[name].role is Role.QUERY:
                name = made.merge_query_key(name, made.blocks[name].layer or 0)
            blocks[Role.QUERY.value] = name
        blocks[role.value] = name
    slices: dict[str, tuple[tuple[ParameterSlice, ...], ...]] = {
        role.value: tuple(per_head) for role, per_head in roles.heads.items() if role.value in blocks and per_head
    }
    return replace(attention, blocks=blocks, head_slices=slices)


def _others(made: Partition, usage: Usage) -> None:
    """Blocks outside attention: the largest module whose parameters all have one role and one layer."""
    left = {name: made.rest(name) for name in made.parameters}
    left = {name: parts for name, parts in left.items() if parts}
    facts = {name: usage.of(name) for name in left}
    members: dict[str, list[str]] = {}
    for name in left:
        path = name.rpartition(".")[0]
        while path:
            members.setdefault(path, []).append(name)
            path = path.rpartition(".")[0]
    uniform = {path for path, names in members.items() if len({facts[name] for name in names}) == 1}
    groups: dict[str, list[str]] = {}
    for name in left:
        path = name.rpartition(".")[0]
        best = path if path in uniform else ""
        while path:
            if path in uniform and not _owns_taken(made, path):
                best = path
            path = path.rpartition(".")[0]
        groups.setdefault(best or name, []).append(name)
    for path, names in groups.items():
        role, layer = facts[names[0]]
        made.add(_unused(made, path), role, [part for name in names for part in left[name]], layer)


def _owns_taken(made: Partition, path: str) -> bool:
    """Whether some parameter below a module is (partly) in a block already."""
    return any(name.startswith(path + ".") for name in made.taken)


def _unused(made: Partition, name: str) -> str:
    return name if name not in made.blocks else f"{name}:rest"
