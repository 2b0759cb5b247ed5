"""Several processes of this machine that train one model together, started as torchrun starts them."""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from workbench.errors import UserError
from workbench.outage import Interrupted, Patience
from workbench.trial.cell import Cell, Ending
from workbench.trial.job import Context, Goal, Job, Place
from workbench.trial.lease import Borrowed, Lease, LeaseLost, Owned, Unleased
from workbench.trial.quiet import quiet
from workbench.trial.storage import open_storage


def start_together(processes: int) -> int:
    """Runs this command again in `processes` processes; the exit code of the first one that failed, else 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    try:
        _launch(processes, sys.executable)("-m", "workbench", *sys.argv[1:])
    except SignalException:
        return 130  # it has been passed on, and the processes have saved their state
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    return 0


@dataclass(frozen=True)
class NotEnded:
    """Why a process of a trial has no ending: it was stopped, the trial is another worker's now, or the user must mend
    something."""

    why: Literal["stopped", "lost", "user"]
    reason: str


def run_together(job: Job, goal: Goal, lease: Owned, place: Place) -> Ending:
    """The ending of a claimed cell that `job.processes` processes of this machine train together; this one keeps the
    lease.

    Raises Stopped where they were asked to stop, LeaseLost, and RuntimeError with what the first of them to fail has
    said.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from workbench.stop import Stopped

    asked = False
    try:
        with _own_handlers():
            made = _launch(job.processes, member)(job, goal, place, lease.cell, lease.trial_id)[0]
    except SignalException as error:
        asked = True
        raise Stopped from error
    except ChildFailedError as error:
        told = error.get_first_failure()[1].message
        raise RuntimeError(str(told.get("message", told) if isinstance(told, dict) else told)) from error
    finally:
        if asked:
            signal.raise_signal(signal.SIGTERM)  # for this worker itself, whose handler had been replaced
    match made:
        case NotEnded("stopped", reason):
            raise Stopped(reason)
        case NotEnded("lost", reason):
            raise LeaseLost(reason)
        case NotEnded("user", reason):
            raise UserError(reason)
    ending: Ending = made
    return ending


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Puts back the signal handlers of this process, which torch's launcher replaces by its own."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)


def member(job: Job, goal: Goal, place: Place, cell: Cell, trial_id: int) -> Ending | NotEnded:
    """One of the processes, from its start."""
    import torch

    from workbench.stop import Stopped
    from workbench.training.distributed import in_turn, joined
    from workbench.training.prepare import prepare
    from workbench.trial.run import run_cell

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    quiet()
    torch.set_flush_denormal(True)
    torch.set_num_threads(max(1, job.threads // job.processes))
    patience = Patience(logging.getLogger("workbench").warning, stop.is_set)
    with joined() as world:
        lease: Lease = Unleased(cell)
        if world.rank == 0:
            lease = Borrowed(open_storage(place.storage, place.workspace), trial_id, cell)
        try:
            prepared = in_turn(world, lambda: prepare(cell.settings, place.workspace / "cache", lambda *_: None))
            return run_cell(job, goal, lease, prepared, Context(place, lambda _: None, patience, world))
        except (Stopped, Interrupted) as error:
            return NotEnded("stopped", str(error))
        except LeaseLost as error:
            return NotEnded("lost", str(error))
        except UserError as error:
            return NotEnded("user", str(error))


def _launch(processes: int, entry: Any) -> Any:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
    )
    return elastic_launch(config, entry)
