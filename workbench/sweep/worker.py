"""A worker: claims cells in their order, trains them, and writes them to MLflow and the ledger, until none is left."""

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
from workbench.trial.job import Context, Goal, Job, Place, published
from workbench.trial.lease import LeaseLost, Owned
from workbench.trial.ledger import Gate, Ledger
from workbench.trial.quiet import quiet
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace

if TYPE_CHECKING:
    from workbench.training.prepare import Prepared

SAVES = "is saving its state"  # what a stopped worker says that needs longer


def work_as_process(place: Place, study: str, emit: Emit) -> None:
    """`work`, in a process of its own that ends with its sweep and by a signal."""
    stop = Stop(WORKERS_WITHIN, on_saving=lambda: emit(Said(place.name, SAVES)))
    stop.listen()
    end_with_parent()
    quiet()
    if place.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.device
    work(place, study, emit, stop)


def work(place: Place, study: str, emit: Emit, stop: Stop) -> None:
    """Runs until every cell of the study is ended or has failed for good, or `stop` is asked. Never raises."""
    try:
        Worker(place, study, emit, stop).work()
    except UserError as error:
        emit(Mistaken(place.name, str(error)))
    except (Stopped, Interrupted):
        pass
    except Exception:
        if not stop():  # what was interrupted may have failed in a way of its own
            emit(WorkerFailed(place.name, traceback.format_exc()))
    emit(WorkerEnded(place.name, stop()))


class Worker:
    """One worker of a study."""

    def __init__(self, place: Place, study: str, emit: Emit, stop: Stop) -> None:
        self.place, self.emit, self.stop = place, emit, stop
        self.ledger = Ledger(open_storage(place.storage, place.workspace), study)
        # The store has answered the sweep before: what its gateway says now, such as a login page, may be said for a
        # while.
        self.patience = Patience(self._say, stop, refusing=False)
        self.plan = Planner()
        self.sightings = Sightings(Workspace(place.workspace).studies)
        self.prepared: dict[str, Prepared] = {}  # of the settings that the last trial shared with others

    def work(self) -> None:
        """`work`, but raises what is no trial's fault."""
        import torch

        torch.set_flush_denormal(True)
        cache.hear(self._say)
        while not self.stop():
            found = self.patience(self._look)
            if found.lease is not None:
                self._try(found.job, found.goal(), found.lease)
            elif found.left:
                self.emit(Ticked())
                self.stop.wait(0.5)  # every open cell is in other hands, or may not be begun yet
            else:
                return

    def _look(self) -> "Found":
        job, endings = published(self.ledger), self.ledger.endings()
        gate, planned = self.ledger.gate, self.plan(job.experiment, endings).cells
        cells = _let(planned, gate)
        lease = self.ledger.claim(cells, job.retries, job.start, self.place.name)
        if lease is not None or self.ledger.open_cells(cells, job.retries, job.start):
            return Found(job, endings, lease, True)
        if gate.waits() and self.ledger.open_cells(planned, job.retries, job.start):
            # Without its sweep, which alone opens the gate, there is nothing to wait for.
            return Found(job, endings, None, self.ledger.is_attended(self.sightings) is not False)
        # What has ended meanwhile may have led to further trials of a search, or to those that confirm it.
        further = self.plan(job.experiment, self.ledger.endings()).cells
        left = len(further) > len(planned) if gate.waits() else len(_let(further, gate)) > len(cells)
        return Found(job, endings, None, left)

    def _try(self, job: Job, goal: Goal, lease: Owned) -> None:
        """One attempt at a claimed cell, from what its trials share to its ending in the ledger."""
        from workbench.trial.run import clear, run_cell
        from workbench.trial.torchrun import MemberFailed, run_together

        place, cell, context = self.place, lease.cell, Context(self.place, self.emit, self.patience)
        try:
            with self.stop.at_last(lease.release), self.stop.guard(lambda: lease.lost):
                if job.processes > 1:
                    ending = run_together(job, goal, lease, context)
                else:
                    prepared = self.patience(lambda: self._prepared(job, lease))
                    ending = run_cell(job, goal, lease, prepared, context)
            self.patience(lambda: lease.complete(ending))
            clear(place, job.study, cell)
            self.emit(TrialEnded(place.name, cell.name, ending.outcome, ending.value))
        except (Stopped, Interrupted, LeaseLost) as end:
            if not lease.lost and not isinstance(end, LeaseLost):
                return _soon(lease.release)
            self._say(f"{cell.name} has been taken over by another worker")
        except UserError:
            _soon(lease.release)
            raise
        except Exception as error:
            if self.stop():  # what was interrupted may have failed in a way of its own
                return _soon(lease.release)
            reason = str(error) if isinstance(error, MemberFailed) else f"{type(error).__name__}: {error}"
            self.emit(TrialFailed(place.name, cell.name, reason, traceback.format_exc()))
            self.patience(lambda: lease.fail(reason))
        finally:
            lease.let_go()

    def _prepared(self, job: Job, lease: Owned) -> "Prepared":
        """What trials share; one process's work, so it may use every core, which trials then share."""
        import torch

        from workbench.training.prepare import prepare

        cell = lease.cell
        shared = cell.settings.model_dump_json(include={"data", "model", "warm_start"})
        if shared not in self.prepared:
            torch.set_num_threads(job.all_threads)
            self.prepared.clear()
            told, stop = preparation(self.emit, self.place.name), Either(self.stop, lambda: lease.lost)
            self.prepared[shared] = prepare(cell.settings, Workspace(self.place.workspace).cache, told, stop)
            torch.set_num_threads(job.threads)
        return self.prepared[shared]

    def _say(self, sentence: str) -> None:
        self.emit(Said(self.place.name, sentence))
        if sentence.startswith("waiting"):
            self.ledger.watch.forget()


@dataclass(frozen=True)
class Found:
    """What a look at the study came to: a cell that is ours now, and the `endings` at that moment; or whether any is
    `left` to wait for."""

    job: Job
    endings: dict[str, Ending]
    lease: Owned | None
    left: bool

    def goal(self) -> Goal:
        assert self.lease is not None
        return goal_of(self.job.experiment, self.lease.cell, self.endings)


def _let(cells: list[Cell], gate: Gate) -> list[Cell]:
    return [cell for cell in cells if gate.lets(cell.seed, cell.searching is not None)]


def _soon(action: Callable[[], None]) -> None:
    """Tries for a moment; what cannot be written then is found out by the next worker, when the lease has run out."""
    began = time.monotonic()
    with suppress(Interrupted):
        Patience(lambda _: None, lambda: time.monotonic() - began > 1)(action)
