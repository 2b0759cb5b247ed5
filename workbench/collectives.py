"""Collective operations for processes that train one model together. Only such processes import this module and
torch."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def summed(value: Tensor, group: Any) -> Tensor:
    """Returns the sum over all processes of the group."""
    total = value.detach().clone()
    dist.all_reduce(total, group=group)
    return total


def gathered(rows: Tensor, group: Any, rank: int, size: int) -> Tensor:
    """Gathers [b, ...] of every process into [size * b, ...], ordered by rank. Gradients flow back to the row's
    process."""
    gathered_rows: Tensor = _Gather.apply(rows, group, rank, size)
    return gathered_rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any, rank: int, size: int) -> Tensor:
        ctx.group, ctx.rank, ctx.size = group, rank, size
        parts = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # Every process has used these rows, so the gradients of all processes are summed.
        total = summed(gradients[0], ctx.group)
        return total.chunk(ctx.size)[ctx.rank], None, None, None
