"""Products shared between processes: each makes those of its part of the data, and the parts are added up.

Launch the same program in every process (torchrun), with the same model and the same batches; the batches are cut
into pieces as on one process, and every process differentiates only its own pieces. Sums differ from those of one
process by the order of additions, that is by rounding, and are the same in all processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from attnscope.anatomy.blocks import Block
from attnscope.curvature.batches import listed, n_examples
from attnscope.curvature.hessian import Hessian
from attnscope.curvature.objective import BatchLoss
from attnscope.curvature.operator import Request, SweptOperator
from attnscope.curvature.weighing import Weigh
from attnscope.errors import CaseError


class AcrossProcesses(SweptOperator):
    """A Hessian whose data are shared between the processes of a group.

    Every process must ask for the same products in the same order, which the estimators here do when their
    settings are the same. What stops by the clock stops at different products in different processes: give
    `Survey.run` a number of products or a precision, not seconds.

    Args:
        hessian: the same in every process; its data must have at least as many pieces as there are processes.
        group: of processes; None is all.

    Raises:
        CaseError: no process group, or fewer pieces than processes.
    """

    def __init__(self, hessian: Hessian, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.world = place(group)
        n_pieces = len(hessian.objective.pieces)
        if n_pieces < self.world:
            raise CaseError(
                f"{self.world} processes have {n_pieces} pieces of data to share; pass more batches, or "
                "max_examples so that a batch is cut into more pieces"
            )
        self.hessian = hessian
        self.group = group
        self.sizes = hessian.sizes
        self.dtype = hessian.dtype
        hessian.mine = tuple(range(self.rank, n_pieces, self.world))

    @property
    def rounding(self) -> float:
        """That of the Hessian."""
        return self.hessian.rounding

    @property
    def held_at_once(self) -> int:
        """As in one process; it must not depend on the rank, so that all make the same sums."""
        return 8 * sum(self.sizes.values())

    def device(self, name: str) -> torch.device:
        """Where the vectors of a block live."""
        return self.hessian.device(name)

    def sweep(self, requests: Sequence[Request]) -> list[dict[str, Tensor]]:
        """The products: this process's part, and then the sum over all."""
        results = self.hessian.sweep(requests)
        for result, request in zip(results, requests, strict=True):
            self._add_up(result, request.out)
        return results

    def _add_up(self, result: dict[str, Tensor], names: Sequence[str]) -> None:
        """One message for each device and product."""
        by_device: dict[torch.device, list[str]] = {}
        for name in names:
            by_device.setdefault(result[name].device, []).append(name)
        for held in by_device.values():
            flat = torch.cat([result[name].reshape(-1) for name in held])
            dist.all_reduce(flat, group=self.group)
            parts = torch.split(flat, [self.sizes[name] for name in held])
            result.update(zip(held, parts, strict=True))


def shared_hessian(
    model: nn.Module, batches: Iterable[Any], loss: BatchLoss, blocks: Sequence[Block] | None = None, *,
    group: dist.ProcessGroup | None = None, dtype: torch.dtype = torch.float32, seed: int = 0,
    max_examples: int | None = None, weigh: Weigh | None = None, check: bool = True,
) -> AcrossProcesses:
    """The Hessian with its data shared between processes, cut finely enough that all have work.

    Args:
        model: as in `Hessian`; the same in every process, as all that follows.
        batches: as in `Hessian`.
        loss: as in `Hessian`.
        blocks: as in `Hessian`.
        group: of processes; None is all.
        dtype: as in `Hessian`.
        seed: as in `Hessian`.
        max_examples: as in `Hessian`; None cuts batches into as many pieces as there are processes, when there
            are fewer batches than that.
        weigh: as in `Hessian`.
        check: as in `Hessian`.

    Raises:
        CaseError: as `Hessian`, and when there is no process group.
    """
    _, world = place(group)
    data = listed(batches)
    if max_examples is None and len(data) < world:
        counts = [count for batch in data if (count := n_examples(batch))]
        max_examples = -(-max(counts) // world) if counts else None
    found = Hessian(
        model, data, loss, blocks, dtype=dtype, seed=seed, max_examples=max_examples, weigh=weigh, check=check,
    )
    found.keep = -(-len(found.objective.pieces) // world)
    return AcrossProcesses(found, group)


def place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """This process's rank in the group, and the group's size.

    Raises:
        CaseError: there is no process group.
    """
    if not dist.is_available() or not dist.is_initialized():
        raise CaseError(
            "there is no process group; launch with torchrun and call torch.distributed.init_process_group first"
        )
    return dist.get_rank(group), dist.get_world_size(group)
