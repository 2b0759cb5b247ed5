"""A worker: claims cells in order, trains them, and writes results to MLflow and the ledger, until none is left."""

import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.data import cache
from workbench.errors import Interrupted, UserError
from workbench.events import (
    Emit,
    Mistaken,
    Said,
    Ticked,
    TrialEnded,
    TrialFailed,
    WorkerEnded,
    WorkerFailed,
    preparation,
)
from workbench.outage import Patience
from workbench.stop import WORKERS_WITHIN, Either, Stop, Stopped, end_with_parent
from workbench.sweep.search import Planner, goal_of
from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Sightings
from workbench.trial.job import Context, Goal, Job, WorkerSpec, published
from workbench.trial.lease import LeaseLost, Owned
from workbench.trial.ledger import Gate, Ledger
from workbench.trial.quiet import quiet
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace

if TYPE_CHECKING:
    from workbench.training.prepare import Prepared

SAVES = "is saving its state"  # the message of a stopped worker that needs more time


def work_as_process(spec: WorkerSpec, study: str, emit: Emit) -> None:
    """Runs `work` in a separate process, which ends with its sweep or by a signal."""
    stop = Stop(WORKERS_WITHIN, on_saving=lambda: emit(Said(spec.name, SAVES)))
    stop.listen()
    end_with_parent()
    quiet()
    if spec.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.device
    work(spec, study, emit, stop)


def work(spec: WorkerSpec, study: str, emit: Emit, stop: Stop) -> None:
    """Works until every cell of the study has ended or finally failed, or `stop` is set. Never raises."""
    try:
        Worker(spec, study, emit, stop).work()
    except UserError as error:
        emit(Mistaken(spec.name, str(error)))
    except (Stopped, Interrupted):
        pass
    except Exception:
        if not stop():  # interrupted work may raise any error
            emit(WorkerFailed(spec.name, traceback.format_exc()))
    emit(WorkerEnded(spec.name, stop()))


class Worker:
    """One worker of a study."""

    def __init__(self, spec: WorkerSpec, study: str, emit: Emit, stop: Stop) -> None:
        self.spec, self.emit, self.stop = spec, emit, stop
        self.ledger = Ledger(open_storage(spec.storage, spec.workspace), study)
        # The store has answered the sweep before, so a refusal now, such as a gateway's login page, may be temporary.
        self.patience = Patience(self._say, stop, refusing=False)
        self.plan = Planner()
        self.sightings = Sightings(Workspace(spec.workspace).studies)
        self.prepared: dict[str, Prepared] = {}  # for the settings that the last trial shared with others

    def work(self) -> None:
        """Works like the function `work`, but raises errors that are not a trial's."""
        import torch

        torch.set_flush_denormal(True)
        cache.hear(self._say)
        while not self.stop():
            following = self.patience(self._look)
            if following.lease is not None:
                self._try(following.job, following.goal(), following.lease)
            elif following.left:
                self.emit(Ticked())
                self.stop.wait(0.5)  # other workers have all open cells, or these may not start yet
            else:
                return

    def _look(self) -> "NextWork":
        job, endings = published(self.ledger), self.ledger.endings()
        gate, planned = self.ledger.gate, self.plan(job.experiment, endings).cells
        cells = _allowed(planned, gate)
        lease = self.ledger.claim(cells, job.retries, job.start, self.spec.name)
        if lease is not None or self.ledger.open_cells(cells, job.retries, job.start):
            return NextWork(job, endings, lease, True)
        if gate.waits() and self.ledger.open_cells(planned, job.retries, job.start):
            # Only the sweep's process opens the gate; without it there is nothing to wait for.
            return NextWork(job, endings, None, self.ledger.is_attended(self.sightings) is not False)
        # Trials that ended meanwhile may have added search trials or confirming trials.
        further = self.plan(job.experiment, self.ledger.endings()).cells
        left = len(further) > len(planned) if gate.waits() else len(_allowed(further, gate)) > len(cells)
        return NextWork(job, endings, None, left)

    def _try(self, job: Job, goal: Goal, lease: Owned) -> None:
        """Makes one attempt at a claimed cell, from the shared preparation to its ending in the ledger."""
        from workbench.trial.run import clear, run_cell
        from workbench.trial.torchrun import MemberFailed, run_together

        spec, cell, context = self.spec, lease.cell, Context(self.spec, self.emit, self.patience)
        try:
            with self.stop.at_last(lease.release), self.stop.guard(lambda: lease.lost):
                if job.processes > 1:
                    ending = run_together(job, goal, lease, context)
                else:
                    prepared = self.patience(lambda: self._prepared(job, lease))
                    ending = run_cell(job, goal, lease, prepared, context)
            self.patience(lambda: lease.complete(ending))
            clear(spec, job.study, cell)
            self.emit(TrialEnded(spec.name, cell.name, ending.outcome, ending.value))
        except (Stopped, Interrupted, LeaseLost) as end:
            if not lease.lost and not isinstance(end, LeaseLost):
                return _soon(lease.release)
            self._say(f"{cell.name} has been taken over by another worker")
        except UserError:
            _soon(lease.release)
            raise
        except Exception as error:
            if self.stop():  # interrupted work may raise any error
                return _soon(lease.release)
            reason = str(error) if isinstance(error, MemberFailed) else f"{type(error).__name__}: {error}"
            self.emit(TrialFailed(spec.name, cell.name, reason, traceback.format_exc()))
            self.patience(lambda: lease.fail(reason))
        finally:
            lease.let_go()

    def _prepared(self, job: Job, lease: Owned) -> "Prepared":
        """Returns what trials share. Only one process prepares it, so it may use all cores, which trials then share."""
        import torch

        from workbench.training.prepare import prepare

        cell = lease.cell
        shared = cell.settings.model_dump_json(include={"data", "model", "warm_start"})
        if shared not in self.prepared:
            torch.set_num_threads(job.all_threads)
            self.prepared.clear()
            show, stop = preparation(self.emit, self.spec.name), Either(self.stop, lambda: lease.lost)
            self.prepared[shared] = prepare(cell.settings, Workspace(self.spec.workspace).cache, show, stop)
            torch.set_num_threads(job.threads)
        return self.prepared[shared]

    def _say(self, sentence: str) -> None:
        self.emit(Said(self.spec.name, sentence))
        if sentence.startswith("waiting"):
            self.ledger.watch.forget()


@dataclass(frozen=True)
class NextWork:
    """The result of a look at the study: the lease of a claimed cell, with the `endings` at that moment; or whether
    cells are `left` to wait for."""

    job: Job
    endings: dict[str, Ending]
    lease: Owned | None
    left: bool

    def goal(self) -> Goal:
        assert self.lease is not None
        return goal_of(self.job.experiment, self.lease.cell, self.endings)


def _allowed(cells: list[Cell], gate: Gate) -> list[Cell]:
    return [cell for cell in cells if gate.lets(cell.seed, cell.searching is not None)]


def _soon(action: Callable[[], None]) -> None:
    """Tries an action for one second. If it cannot be written by then, the next worker finds the lease expired."""
    began = time.monotonic()
    with suppress(Interrupted):
        Patience(lambda _: None, lambda: time.monotonic() - began > 1)(action)
