"""Starts several processes of this machine that train one model together.

They are started as torchrun starts them, but watched more closely: when one process fails, the others wait in a
collective operation that never completes. Each process therefore records how it ended before it exits, and the parent
terminates the others.
"""

import logging
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from workbench.cores import allowed_cores
from workbench.errors import Interrupted, UserError
from workbench.events import Said
from workbench.first_error import ProcessEnd, heard, tell
from workbench.outage import Patience, never
from workbench.stop import CODE, MEMBER, MEMBERS_WITHIN, SAVES, SAVING, Stop, Stopped, at_last, end_with_parent, saving
from workbench.trial.cell import Cell, Ending
from workbench.trial.job import Context, Goal, Job, WorkerSpec
from workbench.trial.lease import Borrowed, Lease, LeaseLost, Owned, Unleased
from workbench.trial.quiet import quiet
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace

GRACE = 1.0  # seconds that the others have to end after one has failed
LOOK = 0.05


class MemberFailed(Exception):
    """The error of the first process that failed, with its traceback."""

    def __init__(self, end: ProcessEnd) -> None:
        super().__init__(end.reason)
        self.end = end


def start_together(processes: int, stop: Stop) -> int:
    """Runs this command in `processes` processes. Returns the exit code."""
    with stop.asking():
        end = _together(processes, _again, (), stop)
    if end.how == "stopped" or stop():
        stop.say()
        return CODE
    if end.how == "ended":
        return 0
    if "--debug" in sys.argv:
        print(end.trace, file=sys.stderr)
    print(end.reason if end.reason.startswith("wb: ") else f"wb: {end.reason}.", file=sys.stderr)
    return 2 if end.how == "user" else 1


def _again() -> None:
    runpy.run_module("workbench", run_name="__main__", alter_sys=True)


@dataclass(frozen=True)
class Task:
    """The arguments of each process of a trial. `micro_batches`: number of micro-batches per batch, for lack of memory;
    0: as in the settings."""

    job: Job
    goal: Goal
    spec: WorkerSpec
    cell: Cell
    trial_id: int
    micro_batches: int = 0


def run_together(
    job: Job, goal: Goal, lease: Owned, context: Context, entry: "Callable[[Task], None] | None" = None
) -> Ending:
    """Trains a claimed cell with `job.processes` processes of this machine. Returns its ending. This process keeps the
    lease.

    Where GPU memory is insufficient, all processes restart with smaller micro-batches. Raises Stopped on a stop
    request, LeaseLost, UserError, and MemberFailed with the error of the first process that failed.
    """
    task = Task(job, goal, context.spec, lease.cell, lease.trial_id)
    settings = lease.cell.settings.optimisation
    while True:
        end = _together(job.processes, entry or member, (task,), context.patience.stopped, lambda: lease.lost)
        parts = 2 * (task.micro_batches or settings.micro_batches)
        if end.how != "memory" or not _can_be_cut(settings.batch_size, parts * job.processes):
            break
        context.emit(
            Said(
                context.spec.name,
                f"{lease.cell.name}: {end.reason}; continuing with {parts} micro-batches of the same batch",
            )
        )
        task = replace(task, micro_batches=parts)
    match end.how:
        case "ended":
            ending: Ending = end.result
            return ending
        case "stopped":
            _mark(task, "KILLED")
            raise Stopped(end.reason)
        case "lost":
            raise LeaseLost(lease.cell.name)
        case "user":
            _mark(task, "FAILED", end)
            raise UserError(end.reason)
    _mark(task, "FAILED", end)
    raise MemberFailed(end)


def _can_be_cut(batch_size: int, parts: int) -> bool:
    from workbench.objectives.batch import BLOCK

    return batch_size % (BLOCK * parts) == 0


def _mark(task: Task, status: str, end: ProcessEnd | None = None) -> None:
    """Records in the trial's run how it ended, which the logging process could not record or did not know."""
    from workbench.tracking.runs import Tracker

    identity = {"study": task.job.study, "seed": str(task.cell.seed), "config_hash": task.cell.key}
    identity |= {"sweep": task.job.sweep} if task.job.sweep else {}
    with suppress(Exception):
        tracker = Tracker(task.job.uri, task.spec.workspace)
        run = tracker.find(identity)
        if run is None or (end is None and run.info.status != "RUNNING"):
            return
        if end is not None:
            tracker.attach_text(run.info.run_id, end.trace, "failure.txt")
        tracker.finish(run.info.run_id, status, {"failure": end.reason[:4000]} if end else {})


def member(task: Task) -> None:
    """Runs one of the processes of a trial."""
    import torch

    from workbench.training.parallelize import in_turn, joined
    from workbench.training.prepare import prepare
    from workbench.trial.run import run_cell

    stop = Stop(MEMBERS_WITHIN, on_saving=(Path(os.environ[MEMBER]) / SAVES).touch)
    stop.listen()
    quiet()
    torch.set_flush_denormal(True)
    job, spec, cell = task.job, task.spec, task.cell
    torch.set_num_threads(max(1, job.threads // job.processes))
    patience = Patience(logging.getLogger("workbench").warning, stop)
    with _recording(stop), joined() as world:
        lease: Lease = Unleased(cell)
        if world.rank == 0:
            lease = Borrowed(open_storage(spec.storage, spec.workspace), task.trial_id, cell)
        prepared = in_turn(
            world, lambda: prepare(cell.settings, Workspace(spec.workspace).cache, lambda *_: None, stop)
        )
        context = Context(spec, lambda _: None, patience, world)
        ending = run_cell(job, task.goal, lease, prepared, context, task.micro_batches)
        tell(ProcessEnd("ended", result=ending, trace=""))


@contextmanager
def _recording(stop: Stop) -> Iterator[None]:
    """Records the error that ends this process, and ends it at once: leaving a process group normally may wait for a
    process that is gone."""
    import torch

    try:
        yield
    except BaseException as error:
        rank, size = int(os.environ["RANK"]), os.environ["WORLD_SIZE"]
        if stop() or isinstance(error, Stopped | Interrupted | KeyboardInterrupt):
            tell(ProcessEnd("stopped", str(error)))
        elif isinstance(error, LeaseLost):
            tell(ProcessEnd("lost", str(error)))
        elif isinstance(error, UserError):
            tell(ProcessEnd("user", str(error)))
        elif isinstance(error, torch.OutOfMemoryError):
            tell(ProcessEnd("memory", f"out of GPU memory in process {rank + 1} of {size}"))
        else:
            tell(ProcessEnd("failed", f"{type(error).__name__}: {error}"))
        os._exit(1)


def _together(
    processes: int,
    entry: Callable[..., None],
    arguments: tuple[Any, ...],
    stop: Callable[[], bool],
    lost: Callable[[], bool] = never,
) -> ProcessEnd:
    """Runs `entry(*arguments)` in `processes` processes. Returns how they ended, after the last one has."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, allowed_cores() // processes)))
    store = TCPStore("localhost", 0, None, True, wait_for_workers=False)
    context = get_context("spawn")
    with TemporaryDirectory(prefix="wb-") as folder:
        # As torchrun sets them: the store by which they find each other is in this process.
        common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), MEMBER: folder}
        members = [
            context.Process(
                target=_begin, args=(common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, entry, arguments)
            )
            for rank in range(processes)
        ]
        kill = partial(_kill, members)
        try:
            with at_last(stop, kill):
                for process in members:
                    process.start()
                return _watched(members, Path(folder), stop, lost)
        finally:
            kill()


def _begin(variables: dict[str, str], entry: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    end_with_parent()
    entry(*arguments)


def _kill(members: Sequence[BaseProcess]) -> None:
    for process in members:
        if process.pid is not None and process.exitcode is None:
            process.kill()
    for process in members:
        if process.pid is not None:
            process.join(5)


def _watched(
    members: Sequence[BaseProcess], folder: Path, stop: Callable[[], bool], lost: Callable[[], bool]
) -> ProcessEnd:
    """Waits for the processes and returns how they ended. One that failed or was stopped ends the others."""
    passed_on = failed = None
    while True:
        codes = [process.exitcode for process in members]
        ends = heard(folder)
        if lost():
            return ProcessEnd("lost", "")
        stopping = stop() or any(end.how == "stopped" for end in ends.values()) or CODE in codes
        failure = _failure(codes, ends)
        if all(code is not None for code in codes):
            break
        now = time.monotonic()
        if stopping and passed_on is None:
            passed_on = now
            for process in members:
                if process.exitcode is None:
                    process.terminate()
        if failure is not None and not stopping:
            failed = failed or now
            if now > failed + GRACE:
                break
        # Each process ends itself in time, unless it is frozen.
        if passed_on is not None:
            if (folder / SAVES).exists():
                with saving(stop):
                    members[0].join(SAVING)
            if now > passed_on + MEMBERS_WITHIN + 2 * LOOK:
                break
        time.sleep(LOOK)
    if stop() or stopping:
        return ProcessEnd("stopped", "")
    return failure or ends.get(0) or ProcessEnd("ended")


def _failure(codes: list[int | None], ends: dict[int, ProcessEnd]) -> ProcessEnd | None:
    """Returns the first failure; later ones may be its consequences."""
    silent = [rank for rank, code in enumerate(codes) if code not in (None, 0, CODE) and rank not in ends]
    failures = sorted((e for e in ends.values() if e.how not in ("ended", "stopped")), key=lambda end: end.at)
    # A killed process could record nothing. NCCL aborts processes whose peer is gone.
    silent.sort(key=lambda rank: codes[rank] == -signal.SIGABRT)
    if silent and (not failures or codes[silent[0]] != -signal.SIGABRT):
        rank, code = silent[0], codes[silent[0]] or 0
        why = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        why += ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return ProcessEnd("failed", f"process {rank + 1} of {len(codes)} {why}", trace="")
    return failures[0] if failures else None
