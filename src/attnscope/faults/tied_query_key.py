"""Query and key of one layer are one parameter, as after `key = query` instead of `key = Linear(...)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from attnscope.anatomy.blocks import Anatomy
from attnscope.case import Case
from attnscope.faults import Fault, attention_of
from attnscope.faults._parameters import block_parameters, role_block


@dataclass(frozen=True)
class TiedQueryKey(Fault):
    """Puts the query's parameters where the key's were, wherever the model holds them.

    **Injects**: one parameter, used twice. An optimiser given before keeps the orphaned key.

    **Strength**: anything above 0 ties them.

    **Visible as**: every score matrix is symmetric before its positions and mask; one name instead of two.
    """

    recognised_as: ClassVar[tuple[str, ...]] = ("shared_by_mistake",)

    def obstacle(self, case: Case, anatomy: Anatomy) -> str:
        """Needs two whole parameters of equal shape."""
        attention = attention_of(anatomy, self.layer)
        names = [role_block(attention, role) for role in ("query", "key")]
        if not all(names) or names[0] == names[1]:
            return "this attention has no two projections for query and key"
        if any(piece.dim is not None for name in names for piece in anatomy.block(name).slices):
            return "query and key are slices of one parameter"
        query, key = (block_parameters(case.model, anatomy, name) for name in names)
        alike = [part.shape for part in query] == [part.shape for part in key]
        return "" if alike else "query and key differ in shape"

    def plant(self, case: Case, anatomy: Anatomy) -> None:
        """Ties them."""
        attention = attention_of(anatomy, self.layer)
        queries = block_parameters(case.model, anatomy, role_block(attention, "query"))
        keys = block_parameters(case.model, anatomy, role_block(attention, "key"))
        instead = {id(key): query for key, query in zip(keys, queries, strict=True)}
        for module in case.model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if id(parameter) in instead:
                    module.register_parameter(name, instead[id(parameter)])

    def places(self, anatomy: Anatomy) -> tuple[str, ...]:
        """Both projections, under each name that a shared block may have."""
        attention = attention_of(anatomy, self.layer)
        return (role_block(attention, "query"), role_block(attention, "key"), f"{attention.name}.QK")
