"""The processes that train one model together, and their collective operations.

With a single process every operation is the identity. torch is imported only where there is data to exchange, so that
commands that only read a study start fast.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class World:
    """Process `rank` of `size`. `group` is the process group of all communication except gradients, which DDP or
    FSDP2 exchange."""

    rank: int = 0
    size: int = 1
    group: Any = None

    def sum(self, value: "Tensor") -> "Tensor":
        """Returns the sum over all processes. No gradient flows through it."""
        if self.size == 1:
            return value.detach()
        from workbench.collectives import summed

        return summed(value, self.group)

    def gather(self, rows: "Tensor") -> "Tensor":
        """Gathers [b, ...] of every process into [size * b, ...], ordered by rank. Gradients flow back to the row's
        process."""
        if self.size == 1:
            return rows
        from workbench.collectives import gathered

        return gathered(rows, self.group, self.rank, self.size)

    def part(self, rows: int, micro_batch: int = 0, micro_batches: int = 1) -> slice:
        """Returns the rows of this process in one micro-batch. A batch of `rows` is split into micro-batches, and each
        of those by rank."""
        pool = rows // micro_batches
        start = micro_batch * pool + self.rank * (pool // self.size)
        return slice(start, start + pool // self.size)

    def any(self, flag: bool, device: "torch.device") -> bool:
        """Returns whether the flag is set in at least one process."""
        if self.size == 1:
            return flag
        import torch

        return bool(self.sum(torch.tensor(float(flag), device=device)) > 0)


ALONE = World()


def whole(tensor: "Tensor") -> "Tensor":
    """Returns the full tensor in each process where FSDP2 has sharded it; any other tensor unchanged."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
