"""Training with several processes that torchrun starts: their ranks, and DDP or FSDP2 around the model."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from workbench.config.schema import Settings
from workbench.distributed import ALONE, World
from workbench.errors import UserError
from workbench.objectives.batch import BLOCK

if TYPE_CHECKING:
    from workbench.model.vilta import ViLTA

T = TypeVar("T")
WAIT = timedelta(hours=2)  # the others wait while the first process prepares data, which may take long


class Call(nn.Module):
    """Runs a function of the model as its `forward`, the call that DDP and FSDP2 intercept."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(self.model, *args)


@contextmanager
def joined() -> Iterator[World]:
    """The world that torchrun's environment variables describe; without them, this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank())
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    yield World(dist.get_rank(), dist.get_world_size(), dist.new_group(timeout=WAIT))
    # Not after an error: the others would see a closed connection before the error is reported, or this process would
    # wait for them.
    dist.destroy_process_group()


def local_rank() -> int:
    """The rank of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_size() -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def in_turn(world: World, make: Callable[[], T]) -> T:
    """`make()` in every process, first in one process per machine, so that the others only read what it caches."""
    first = [make()] if local_rank() == 0 else []
    if world.size > 1:
        dist.barrier(group=world.group)
    return first[0] if first else make()


def check_cut(settings: Settings, batch_size: int, model: "ViLTA", world: World) -> None:
    """Raises UserError if a batch cannot be split into micro-batches and processes without changing the result."""
    micro_batches = settings.optimisation.micro_batches
    if micro_batches * world.size == 1:
        return
    check_parts(batch_size, micro_batches, world, BLOCK, "`optimisation.batch_size`")
    norms = [module for module in model.vision.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms and not settings.model.vision.frozen:
        raise UserError(
            f"`model.vision.name`: {settings.model.vision.name} has batch norms, whose statistics would change if a"
            " batch is split; take an encoder without them, or `model.vision.frozen: true`."
        )


def check_parts(
    batch_size: int, micro_batches: int, world: World, block: int = 1, option: str = "--batch-size"
) -> None:
    """Raises UserError if a batch cannot be split into micro-batches and processes of whole blocks."""
    parts = micro_batches * world.size
    if batch_size % (parts * block):
        raise UserError(
            f"{option}: {batch_size} pairs cannot be split into {micro_batches} micro-batch(es) x {world.size} "
            f"process(es); take a multiple of {parts * block}."
        )


def spread(model: nn.Module, world: World) -> nn.Module:
    """The model as a `Call`, under DDP if there are several processes; a step need not use every parameter."""
    call = Call(model)
    return call if world.size == 1 else _copies(call, find_unused_parameters=True)


def _copies(call: Call, **more: Any) -> nn.Module:
    from torch.nn.parallel import DistributedDataParallel

    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # older versions do not know the argument's new name
        return DistributedDataParallel(call, device_ids=devices, broadcast_buffers=False, **more)


def spread_over(model: "ViLTA", sharding: str, world: World) -> nn.Module:
    """The model as a `Call`; with several processes replicated (`ddp`) or sharded (`fsdp`)."""
    call = Call(model)
    if world.size == 1:
        return call
    if sharding == "ddp":
        return _copies(call)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (world.size,))
    for layer in model.layers():
        fully_shard(layer, mesh=mesh)
    fully_shard(call, mesh=mesh)
    return call


def speed_up(model: "ViLTA", settings: Settings) -> None:
    """Enables activation checkpointing and compilation of the repeated layers, in place; call it only once."""
    for layer in model.layers():
        if settings.optimisation.activation_checkpointing:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        if settings.optimisation.compile:
            layer.compile(dynamic=True)


def without_exchange(call: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """A context in which gradients are not exchanged between processes, for all micro-batches except the `last` (DDP).

    FSDP2 always exchanges them, to save memory.
    """
    if last or not hasattr(call, "no_sync"):
        return nullcontext()
    no_sync: AbstractContextManager[Any] = cast(Any, call).no_sync()
    return no_sync


def restored(saved: Tensor, like: Tensor) -> Tensor:
    """A saved full tensor in the form of `like`: on its device, and sharded over the processes if `like` is."""
    if not hasattr(like, "full_tensor"):
        return saved
    from torch.distributed.tensor import distribute_tensor

    mesh = like.device_mesh  # type: ignore[attr-defined]
    return distribute_tensor(saved.to(mesh.device_type), mesh, like.placements)  # type: ignore[attr-defined]
