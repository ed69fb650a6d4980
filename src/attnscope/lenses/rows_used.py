"""How many rows of each table of embeddings the batch looks up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnscope.anatomy.blocks import Anatomy
from attnscope.lenses import Lens
from attnscope.probe import Probe
from attnscope.readings import Reading


@dataclass(frozen=True)
class RowsUsed(Lens):
    """How many rows of each table of embeddings the batch looks up: one row for all is no position.

    **Measures** the number of different rows that the first batch reads from each `nn.Embedding` (unit rows).

    **Reading it** a table of tokens is read in many rows, a table of positions in as many as a text has
    tokens. 1 in a table that has a row for every position: all tokens get the same position. 1 in a table of
    two or three rows is a segment or type, and normal.

    **Shapes** [block]: the blocks that are tables. Facts per block: `n_rows`: rows of the table; `length`:
    ids per text (the last axis of what is looked up); `same_everywhere`: tables of at least `length` rows of
    which all positions (three or more) read one.

    **Cost** one forward pass.

    **Reference** none needed: a count.
    """

    unit: ClassVar[str] = "rows"
    dims: ClassVar[tuple[str, ...]] = ("block",)

    def measure(self, probe: Probe) -> Reading:
        """Listens to the tables while the batch runs."""
        seen: dict[str, list[Tensor]] = {}
        with probe.evaluating() as model, torch.no_grad():
            tables = {
                name: module for name, module in model.named_modules() if isinstance(module, nn.Embedding)
            }
            handles = [
                module.register_forward_pre_hook(_listener(seen.setdefault(name, [])))
                for name, module in tables.items()
            ]
            try:
                probe.run(model, probe.batch)
            finally:
                for handle in handles:
                    handle.remove()
        rows = [_row(probe.anatomy, name, tables[name], ids) for name, ids in seen.items() if ids]
        if not rows:
            return self.not_applicable("the model looks up no nn.Embedding")
        return self.reading(
            [row["used"] for row in rows],
            coords={"block": tuple(row["block"] for row in rows)},
            step=probe.step,
            facts={
                "n_rows": [row["n_rows"] for row in rows],
                "length": [row["length"] for row in rows],
                "same_everywhere": [
                    row["block"] for row in rows if row["used"] == 1 and row["n_rows"] >= row["length"] >= 3
                ],
            },
        )


def _listener(kept: list[Tensor]) -> Callable[[nn.Module, Any], None]:
    def listen(module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            kept.append(args[0].detach().cpu())

    return listen


def _row(anatomy: Anatomy, name: str, table: nn.Embedding, ids: list[Tensor]) -> dict[str, Any]:
    """What is known of one table."""
    parameter = f"{name}.weight".lstrip(".")
    block = next(
        (item.name for item in anatomy.blocks if any(piece.parameter == parameter for piece in item.slices)),
        parameter,
    )
    return {
        "block": block,
        "n_rows": table.num_embeddings,
        "used": int(torch.cat([item.flatten() for item in ids]).unique().numel()),  # type: ignore[no-untyped-call]
        "length": max(item.shape[-1] if item.ndim else 1 for item in ids),
    }
