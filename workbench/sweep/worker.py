"""A worker: claims cells in their order, trains them, and writes them to MLflow and the ledger."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.sweep.grid import Cell
from workbench.sweep.study import Ledger, missing

RETRIES = 1


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; travels to its process."""

    workspace: Path
    study: str
    parent_run: str | None
    uri: str
    cells: list[Cell]
    threads: int
    all_threads: int
    primary: str
    started: float  # failures before it are forgiven: the user has started the sweep again


Event = tuple[str, dict[str, Any]]


def work(job: Job, worker: int, emit: Callable[[Event], None]) -> None:
    """Runs until every cell of the job is finished or has failed for good. Emits events; never raises."""
    stop, preparing = threading.Event(), threading.Event()

    def on_signal(*_: object) -> None:
        stop.set()
        if preparing.is_set():
            os._exit(1)  # nothing to save: what is half prepared is never seen and made anew

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, on_signal)
    _die_with_parent()
    try:
        _work(job, worker, emit, stop, preparing)
    except UserError as error:
        emit(("user_error", {"worker": worker, "message": str(error)}))
    except Exception:
        emit(("crash", {"worker": worker, "message": traceback.format_exc()}))
    emit(("end", {"worker": worker, "stopped": stop.is_set()}))


def _work(
    job: Job, worker: int, emit: Callable[[Event], None], stop: threading.Event, preparing: threading.Event
) -> None:
    import torch

    from workbench.sweep.trial import run_cell
    from workbench.training.loop import Stopped
    from workbench.training.prepare import Prepared, prepare

    torch.set_flush_denormal(True)
    ledger = Ledger(job.workspace / "studies", job.study)
    prepared: dict[str, Prepared] = {}

    def on_prepare(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        emit(("prepare", {"worker": worker, "stage": stage, "done": done, "total": total, "figures": figures}))

    while not stop.is_set():
        open_cells = [cell for cell in missing(job.cells, ledger) if len(ledger.failures(cell, job.started)) <= RETRIES]
        if not open_cells:
            return
        for cell in open_cells:
            with ledger.claim(cell) as ours:
                if not ours:
                    continue
                try:
                    shared = cell.settings.model_dump_json(include={"data", "model", "warm_start"})
                    if shared not in prepared:
                        # Preparing is one process's work, so it may use every core; trials then share them.
                        torch.set_num_threads(job.all_threads)
                        prepared.clear()
                        preparing.set()
                        prepared[shared] = prepare(cell.settings, job.workspace / "cache", on_prepare)
                        preparing.clear()
                        torch.set_num_threads(job.threads)
                    run_cell(job, cell, prepared[shared], ledger, worker, emit, stop)
                except Stopped:
                    return
                except UserError:
                    raise
                except Exception as error:
                    ledger.record_failure(cell, f"{type(error).__name__}: {error}")
                    emit(("failed", {"worker": worker, "cell": cell.name, "message": traceback.format_exc()}))
            break
        else:
            time.sleep(0.5)  # every open cell is in other hands


def _die_with_parent() -> None:
    """A worker whose sweep was killed must not train on, holding claims that the next start needs."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
