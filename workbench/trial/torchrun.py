"""Several processes of this machine that train one model together, started as torchrun starts them."""

import logging
import os
import signal
import sys
import threading
import uuid
from typing import Any

from workbench.errors import UserError
from workbench.trial.cell import Cell
from workbench.trial.job import Job, Place
from workbench.trial.ledger import Borrowed, Ending, Lease, LeaseLost, Ledger
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


def run_together(job: Job, place: Place, lease: Lease) -> Ending:
    """The ending of a claimed cell that `job.processes` processes of this machine train together; this one keeps the lease.

    Raises Stopped where they were asked to stop, LeaseLost, and RuntimeError with what the first of them to fail has said.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from workbench.training.loop import Stopped

    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    asked = False
    try:
        made = _launch(job.processes, member)(job, place, lease.cell, lease.trial_id)
    except SignalException as error:
        asked = True
        raise Stopped from error
    except ChildFailedError as error:
        told = error.get_first_failure()[1].message
        raise RuntimeError(str(told.get("message", told) if isinstance(told, dict) else told)) from error
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)
        if asked:
            signal.raise_signal(signal.SIGTERM)  # for this worker itself, whose handler had been replaced
    kind, told = made[0]
    if kind != "ended":
        raise {"stopped": Stopped, "lost": LeaseLost, "user": UserError}[kind](told)
    ending: Ending = told
    return ending


def member(job: Job, place: Place, cell: Cell, trial_id: int) -> tuple[str, Any]:
    """One of the processes: how it ended, and the ending or the reason."""
    import torch

    from workbench.outage import Interrupted
    from workbench.training.distributed import in_turn, joined
    from workbench.training.loop import Stopped
    from workbench.training.prepare import prepare
    from workbench.trial.ledger import Unleased
    from workbench.trial.run import run_cell

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    torch.set_flush_denormal(True)
    torch.set_num_threads(max(1, job.threads // job.processes))
    ledger = Ledger(open_storage(place.storage, place.workspace), job.study)

    def say(message: str) -> None:
        logging.getLogger("workbench").warning(message)

    with joined() as world:
        lease = Borrowed(ledger, trial_id, cell) if world.rank == 0 else Unleased(ledger, trial_id, cell)
        try:
            prepared = in_turn(world, lambda: prepare(cell.settings, place.workspace / "cache", lambda *_: None))
            return "ended", run_cell(job, place, lease, prepared, lambda _: None, say, stop.is_set, world)
        except (Stopped, Interrupted) as error:
            return "stopped", str(error)
        except LeaseLost as error:
            return "lost", str(error)
        except UserError as error:
            return "user", str(error)


def _launch(processes: int, entry: Any) -> Any:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # What went wrong is said by the process where it went wrong.
    for chatty in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):
        logging.getLogger(chatty).setLevel(logging.CRITICAL)
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
