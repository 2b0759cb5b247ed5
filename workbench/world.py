"""The processes that train one model together, and what they tell each other. Alone, every exchange is the identity."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes. `group` carries their exchanges, apart from the gradients, which DDP and FSDP2
    carry."""

    rank: int = 0
    size: int = 1
    group: Any = None

    @torch.no_grad()
    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes; no gradient flows through it."""
        if self.size == 1:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total, group=self.group)
        return total

    def gather(self, rows: Tensor) -> Tensor:
        """[b, ...] of every process -> [size * b, ...] in the order of ranks; gradients flow back to the row's
        process."""
        if self.size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def part(self, rows: int, micro_batch: int = 0, micro_batches: int = 1) -> slice:
        """This process's share of a batch of `rows`, which is cut into micro-batches, and each of them by rank."""
        pool = rows // micro_batches
        start = micro_batch * pool + self.rank * (pool // self.size)
        return slice(start, start + pool // self.size)

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is raised in at least one process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(float(flag), device=device)) > 0)


ALONE = World()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World) -> Tensor:
        ctx.world = world
        parts = [torch.empty_like(rows) for _ in range(world.size)]
        dist.all_gather(parts, rows.contiguous(), group=world.group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # Every process has read these rows: what each of them learnt about them is added up.
        total = ctx.world.sum(gradients[0])
        return total.chunk(ctx.world.size)[ctx.world.rank], None


def whole(tensor: Tensor) -> Tensor:
    """A tensor that FSDP2 has spread over the processes, put together in each of them; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
