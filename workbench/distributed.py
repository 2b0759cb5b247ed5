"""The processes that train one model together, and what they tell each other. Alone, every exchange is the identity.

A command that only looks at a study knows of a world, too; torch is loaded by those who have something to exchange.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class World:
    """`rank` of `size` processes. `group` carries their exchanges, apart from the gradients, which DDP and FSDP2
    carry."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def sum(self, value: "Tensor") -> "Tensor":
        """The sum over all processes; no gradient flows through it."""
        if self.size == 1:
            return value.detach()
        from workbench.collectives import summed

        return summed(value, self.group)

    def gather(self, rows: "Tensor") -> "Tensor":
        """[b, ...] of every process -> [size * b, ...] in the order of ranks; gradients flow back to the row's
        process."""
        if self.size == 1:
            return rows
        from workbench.collectives import gathered

        return gathered(rows, self.group, self.rank, self.size)

    def part(self, rows: int, micro_batch: int = 0, micro_batches: int = 1) -> slice:
        """This process's share of a batch of `rows`, which is cut into micro-batches, and each of them by rank."""
        pool = rows // micro_batches
        start = micro_batch * pool + self.rank * (pool // self.size)
        return slice(start, start + pool // self.size)

    def any(self, flag: bool, device: "torch.device") -> bool:
        """Whether the flag is raised in at least one process."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(float(flag), device=device)) > 0)


ALONE = World()


def whole(tensor: "Tensor") -> "Tensor":
    """A tensor that FSDP2 has spread over the processes, put together in each of them; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
