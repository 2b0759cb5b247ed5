"""A worker: claims cells in their order, trains them, and writes them to MLflow and the ledger, until the study is done."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from workbench.data import cache
from workbench.errors import UserError
from workbench.outage import Interrupted, patiently
from workbench.sweep.job import Job, Place, published
from workbench.sweep.search import Planner
from workbench.sweep.storage import open_storage
from workbench.sweep.study import Lease, LeaseLost, Ledger
from workbench.tracking.store import QUIET

if TYPE_CHECKING:
    from workbench.training.prepare import Prepared

Event = tuple[str, dict[str, Any]]
Emit = Callable[[Event], None]
GRACE = 20.0  # seconds that a stopped worker may take to save


def preparation(emit: Emit, worker: str) -> Callable[[str, int, int, dict[str, float]], None]:
    """What tells of the progress of what trials share."""

    def tell(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        emit(("prepare", {"worker": worker, "stage": stage, "done": done, "total": total, "figures": figures}))

    return tell


def work_as_process(place: Place, study: str, emit: Emit) -> None:
    """`work`, in a process of its own that ends with its sweep and by SIGTERM or Ctrl-C."""
    stop, preparing = threading.Event(), threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        if preparing.is_set():
            os._exit(1)  # nothing to save: what is half prepared is never seen and made anew

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, on_signal)
    _die_with_parent()
    work(place, study, emit, stop, preparing)


def work(place: Place, study: str, emit: Emit, stop: threading.Event, preparing: threading.Event) -> None:
    """Runs until every cell of the study is ended or has failed for good, or `stop` is set. Emits events; never raises."""
    if place.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.device
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        _work(place, study, emit, stop, preparing)
    except UserError as error:
        emit(("user_error", {"worker": place.name, "message": str(error)}))
    except Interrupted:
        pass
    except Exception:
        emit(("crash", {"worker": place.name, "message": traceback.format_exc()}))
    emit(("end", {"worker": place.name, "stopped": stop.is_set()}))


def _work(place: Place, study: str, emit: Emit, stop: threading.Event, preparing: threading.Event) -> None:
    import torch

    torch.set_flush_denormal(True)
    ledger = Ledger(open_storage(place.storage, place.workspace), study)
    prepared: dict[str, Prepared] = {}

    def say(sentence: str) -> None:
        emit(("say", {"worker": place.name, "message": sentence}))
        if sentence.startswith("waiting"):
            ledger.watch.forget()

    cache.hear(say)
    plan = Planner()

    def look() -> tuple[Job, Lease | None, bool]:
        job = published(ledger)
        cells = plan(job.experiment, ledger.endings()).cells
        lease = ledger.claim(cells, job.retries, job.started, place.name)
        if lease is not None or ledger.open_cells(cells, job.retries, job.started):
            return job, lease, True
        # What has ended meanwhile may have led to further trials of a search.
        return job, None, len(plan(job.experiment, ledger.endings()).cells) > len(cells)

    while not stop.is_set():
        job, lease, left = patiently(look, say, stop.is_set)
        if lease is not None:
            _try(job, place, lease, prepared, emit, say, stop, preparing)
        elif left:
            stop.wait(0.5)  # every open cell is in other hands
        else:
            return


def _try(
    job: Job,
    place: Place,
    lease: Lease,
    prepared: "dict[str, Prepared]",
    emit: Emit,
    say: Callable[[str], None],
    stop: threading.Event,
    preparing: threading.Event,
) -> None:
    """One attempt at a claimed cell, from what its trials share to its ending in the ledger."""
    import torch

    from workbench.sweep.launch.together import run_together
    from workbench.sweep.trial import clear, run_cell
    from workbench.training.loop import Stopped
    from workbench.training.prepare import prepare

    def ready() -> "Prepared":
        """What trials share; one process's work, so it may use every core, which trials then share."""
        shared = cell.settings.model_dump_json(include={"data", "model", "warm_start"})
        if shared not in prepared:
            torch.set_num_threads(job.all_threads)
            prepared.clear()
            preparing.set()
            prepared[shared] = prepare(cell.settings, place.workspace / "cache", preparation(emit, place.name))
            preparing.clear()
            torch.set_num_threads(job.threads)
        return prepared[shared]

    cell = lease.cell
    try:
        if job.processes > 1:
            ending = run_together(job, place, lease)
        else:
            ending = run_cell(job, place, lease, patiently(ready, say, stop.is_set), emit, say, stop.is_set)
        patiently(lambda: lease.complete(ending), say, stop.is_set)
        clear(place, cell)
        emit(("ended", {"worker": place.name, "cell": cell.name, "outcome": ending.outcome, "value": ending.value}))
    except (Stopped, Interrupted):
        _soon(lease.release)
    except LeaseLost:
        say(f"{cell.name} has been taken over by another worker")
    except UserError:
        _soon(lease.release)
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        told = {"worker": place.name, "cell": cell.name, "reason": reason, "message": traceback.format_exc()}
        emit(("failed", told))
        patiently(lambda: lease.fail(reason), say, stop.is_set)
    finally:
        preparing.clear()
        lease.beating.ended.set()


def _soon(action: Callable[[], None]) -> None:
    """Tries for a moment; what cannot be written then is found out by the next worker, when the lease has run out."""
    began = time.monotonic()
    with suppress(Interrupted):
        patiently(action, lambda _: None, lambda: time.monotonic() - began > 3)


def _die_with_parent() -> None:
    """A worker whose sweep was killed must not train on, holding claims that the next start needs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
