"""Several processes of this machine that train one model together.

They are started as torchrun starts them, but watched more closely: a process that fails alone leaves the others in an
exchange that never comes about. Each therefore writes down how it ended before it lets go, and the one that has started
them ends the others.
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

from workbench.errors import Interrupted, UserError
from workbench.events import Said
from workbench.first_error import Told, heard, tell
from workbench.outage import Patience, never
from workbench.stop import CODE, MEMBER, MEMBERS_WITHIN, SAVES, SAVING, Stop, Stopped, at_last, end_with_parent, saving
from workbench.trial.cell import Cell, Ending
from workbench.trial.job import Context, Goal, Job, Place
from workbench.trial.lease import Borrowed, Lease, LeaseLost, Owned, Unleased
from workbench.trial.quiet import quiet
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace

GRACE = 1.0  # seconds that the others have after one has failed
LOOK = 0.05


class MemberFailed(Exception):
    """What the first process to fail has said, and the traceback that it had."""

    def __init__(self, told: Told) -> None:
        super().__init__(told.reason)
        self.told = told


def start_together(processes: int, stop: Stop) -> int:
    """Runs this command again in `processes` processes; its exit code."""
    with stop.asking():
        told = _together(processes, _again, (), stop)
    if told.how == "stopped" or stop():
        stop.say()
        return CODE
    if told.how == "ended":
        return 0
    if "--debug" in sys.argv:
        print(told.trace, file=sys.stderr)
    print(told.reason if told.reason.startswith("wb: ") else f"wb: {told.reason}.", file=sys.stderr)
    return 2 if told.how == "user" else 1


def _again() -> None:
    runpy.run_module("workbench", run_name="__main__", alter_sys=True)


@dataclass(frozen=True)
class Given:
    """What each process of a trial is given; `micro_batches`: into how many the batch is cut for want of memory, 0 as
    the settings have it."""

    job: Job
    goal: Goal
    place: Place
    cell: Cell
    trial_id: int
    micro_batches: int = 0


def run_together(
    job: Job, goal: Goal, lease: Owned, context: Context, entry: "Callable[[Given], None] | None" = None
) -> Ending:
    """The ending of a claimed cell that `job.processes` processes of this machine train together; this one keeps the
    lease.

    Where the memory of the GPUs does not suffice, all begin again with smaller micro-batches. Raises Stopped where they
    were asked to stop, LeaseLost, UserError, and MemberFailed with what the first of them to fail has said.
    """
    given = Given(job, goal, context.place, lease.cell, lease.trial_id)
    settings = lease.cell.settings.optimisation
    while True:
        told = _together(job.processes, entry or member, (given,), context.patience.stopped, lambda: lease.lost)
        parts = 2 * (given.micro_batches or settings.micro_batches)
        if told.how != "memory" or not _can_be_cut(settings.batch_size, parts * job.processes):
            break
        context.emit(
            Said(
                context.place.name,
                f"{lease.cell.name}: {told.reason}; going on with {parts} micro-batches of the same batch",
            )
        )
        given = replace(given, micro_batches=parts)
    match told.how:
        case "ended":
            ending: Ending = told.made
            return ending
        case "stopped":
            _mark(given, "KILLED")
            raise Stopped(told.reason)
        case "lost":
            raise LeaseLost(lease.cell.name)
        case "user":
            _mark(given, "FAILED", told)
            raise UserError(told.reason)
    _mark(given, "FAILED", told)
    raise MemberFailed(told)


def _can_be_cut(batch_size: int, parts: int) -> bool:
    from workbench.objectives.batch import BLOCK

    return batch_size % (BLOCK * parts) == 0


def _mark(given: Given, status: str, told: Told | None = None) -> None:
    """Says in the trial's run how it ended, which the process that logs it could not say, or did not know."""
    from workbench.tracking.runs import Tracker

    identity = {"study": given.job.study, "seed": str(given.cell.seed), "config_hash": given.cell.key}
    identity |= {"sweep": given.job.sweep} if given.job.sweep else {}
    with suppress(Exception):
        tracker = Tracker(given.job.uri, given.place.workspace)
        run = tracker.find(identity)
        if run is None or (told is None and run.info.status != "RUNNING"):
            return
        if told is not None:
            tracker.attach_text(run.info.run_id, told.trace, "failure.txt")
        tracker.finish(run.info.run_id, status, {"failure": told.reason[:4000]} if told else {})


def member(given: Given) -> None:
    """One of the processes of a trial, from its start."""
    import torch

    from workbench.training.parallelize import in_turn, joined
    from workbench.training.prepare import prepare
    from workbench.trial.run import run_cell

    stop = Stop(MEMBERS_WITHIN, on_saving=(Path(os.environ[MEMBER]) / SAVES).touch)
    stop.listen()
    quiet()
    torch.set_flush_denormal(True)
    job, place, cell = given.job, given.place, given.cell
    torch.set_num_threads(max(1, job.threads // job.processes))
    patience = Patience(logging.getLogger("workbench").warning, stop)
    with _telling(stop), joined() as world:
        lease: Lease = Unleased(cell)
        if world.rank == 0:
            lease = Borrowed(open_storage(place.storage, place.workspace), given.trial_id, cell)
        told = in_turn(world, lambda: prepare(cell.settings, Workspace(place.workspace).cache, lambda *_: None, stop))
        context = Context(place, lambda _: None, patience, world)
        made = run_cell(job, given.goal, lease, told, context, given.micro_batches)
        tell(Told("ended", made=made, trace=""))


@contextmanager
def _telling(stop: Stop) -> Iterator[None]:
    """Writes down what ends this process, and ends it: to leave a group of processes may be to wait for one that is
    gone."""
    import torch

    try:
        yield
    except BaseException as error:
        rank, size = int(os.environ["RANK"]), os.environ["WORLD_SIZE"]
        if stop() or isinstance(error, Stopped | Interrupted | KeyboardInterrupt):
            tell(Told("stopped", str(error)))
        elif isinstance(error, LeaseLost):
            tell(Told("lost", str(error)))
        elif isinstance(error, UserError):
            tell(Told("user", str(error)))
        elif isinstance(error, torch.OutOfMemoryError):
            tell(Told("memory", f"out of GPU memory in process {rank + 1} of {size}"))
        else:
            tell(Told("failed", f"{type(error).__name__}: {error}"))
        os._exit(1)


def _together(
    processes: int,
    entry: Callable[..., None],
    given: tuple[Any, ...],
    stop: Callable[[], bool],
    lost: Callable[[], bool] = never,
) -> Told:
    """How `processes` processes ended that run `entry(*given)`, none of which is left."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    store = TCPStore("localhost", 0, None, True, wait_for_workers=False)
    context = get_context("spawn")
    with TemporaryDirectory(prefix="wb-") as folder:
        # As torchrun sets them: the store by which they find each other is in this process.
        common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        common |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), MEMBER: folder}
        members = [
            context.Process(target=_begin, args=(common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, entry, given))
            for rank in range(processes)
        ]
        kill = partial(_kill, members)
        try:
            with at_last(stop, kill):
                for each in members:
                    each.start()
                return _watched(members, Path(folder), stop, lost)
        finally:
            kill()


def _begin(variables: dict[str, str], entry: Callable[..., None], given: tuple[Any, ...]) -> None:
    os.environ.update(variables)
    end_with_parent()
    entry(*given)


def _kill(members: Sequence[BaseProcess]) -> None:
    for each in members:
        if each.pid is not None and each.exitcode is None:
            each.kill()
    for each in members:
        if each.pid is not None:
            each.join(5)


def _watched(members: Sequence[BaseProcess], folder: Path, stop: Callable[[], bool], lost: Callable[[], bool]) -> Told:
    """How they ended; one that has failed or was stopped takes the others along."""
    passed_on = failed = None
    while True:
        codes = [each.exitcode for each in members]
        told = heard(folder)
        if lost():
            return Told("lost", "")
        stopping = stop() or any(each.how == "stopped" for each in told.values()) or CODE in codes
        failure = _failure(codes, told)
        if all(code is not None for code in codes):
            break
        now = time.monotonic()
        if stopping and passed_on is None:
            passed_on = now
            for each in members:
                if each.exitcode is None:
                    each.terminate()
        if failure is not None and not stopping:
            failed = failed or now
            if now > failed + GRACE:
                break
        # Each of them ends itself in time, unless it is frozen.
        if passed_on is not None:
            if (folder / SAVES).exists():
                with saving(stop):
                    members[0].join(SAVING)
            if now > passed_on + MEMBERS_WITHIN + 2 * LOOK:
                break
        time.sleep(LOOK)
    if stop() or stopping:
        return Told("stopped", "")
    return failure or told.get(0) or Told("ended")


def _failure(codes: list[int | None], told: dict[int, Told]) -> Told | None:
    """The first failure, of which the others may be a consequence."""
    silent = [rank for rank, code in enumerate(codes) if code not in (None, 0, CODE) and rank not in told]
    failures = sorted((e for e in told.values() if e.how not in ("ended", "stopped")), key=lambda each: each.at)
    # A process that was killed could say nothing. NCCL aborts those whose peer is gone.
    silent.sort(key=lambda rank: codes[rank] == -signal.SIGABRT)
    if silent and (not failures or codes[silent[0]] != -signal.SIGABRT):
        rank, code = silent[0], codes[silent[0]] or 0
        why = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        why += ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return Told("failed", f"process {rank + 1} of {len(codes)} {why}", trace="")
    return failures[0] if failures else None
