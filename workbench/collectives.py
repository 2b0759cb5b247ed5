"""What several processes that train one model send each other; only they load it, and torch with it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def summed(value: Tensor, group: Any) -> Tensor:
    """The sum over all processes of the group."""
    total = value.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def gathered(rows: Tensor, group: Any, rank: int, size: int) -> Tensor:
    """[b, ...] of every process -> [size * b, ...] in the order of ranks; gradients flow back to the row's process."""
    made: Tensor = _Gather.apply(rows, group, rank, size)
    return made


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any, rank: int, size: int) -> Tensor:
        ctx.group, ctx.rank, ctx.size = group, rank, size
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # Every process has read these rows: what each of them learnt about them is added up.
        total = summed(gradients[0], ctx.group)
        return total.chunk(ctx.size)[ctx.rank], None, None, None
