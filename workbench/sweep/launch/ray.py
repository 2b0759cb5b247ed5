"""Workers as Ray actors, on a running cluster or one that is started here."""

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import UserError
from workbench.events import Event, Mistaken, Ticked, TrialFailed, WorkerEnded, WorkerFailed
from workbench.sweep.worker import GRACE, work
from workbench.trial.job import Place
from workbench.trial.quiet import quiet

RESTARTS = 100  # of an actor whose node or process was lost


def run_on_ray(
    study: str, workspace: Path, storage: str | None, workers: int, cpus: int, gpus: float
) -> Iterator[Event]:
    """Yields Ticked until the last worker has ended, and what went wrong. Each has `cpus` threads and `gpus` GPUs of
    its node. Closing the iterator stops them all. RAY_ADDRESS names a running cluster; without it, Ray uses this
    machine alone."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--launcher ray: Ray is missing; pip install 'workbench[cluster]'.") from error
    ours = not ray.is_initialized()
    if ours:
        found = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--launcher ray: no cluster answers at {found} ({error}).") from error
    place = Place(workspace.resolve(), storage, "")
    # Two threads: one works, the other hears that it should stop.
    needs = {"num_cpus": cpus, "num_gpus": gpus, "max_concurrency": 2}
    patience = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    actors: list[Any] = [ray.remote(Worker).options(**needs, **patience).remote() for _ in range(workers)]
    pending = {each.run.remote(replace(place, name=f"ray/{index}"), study): index for index, each in enumerate(actors)}
    try:
        while pending:
            ready, _ = ray.wait(list(pending), timeout=0.5)
            for done in ready:
                index = pending.pop(done)
                try:
                    yield from ray.get(done)
                except ray.exceptions.RayError as error:
                    yield WorkerFailed(f"ray/{index}", f"worker ray/{index} was lost: {error}")
            yield Ticked()
    finally:
        if pending:
            stopping = [actors[index].stop.remote() for index in pending.values()]
            ray.wait(stopping, num_returns=len(stopping), timeout=GRACE)
            ray.wait(list(pending), num_returns=len(pending), timeout=GRACE)
        for each in actors:
            ray.kill(each)
        if ours:
            ray.shutdown()


class Worker:
    """A worker on some node; `run` gives what went wrong."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def run(self, place: Place, study: str) -> list[Event]:
        quiet()
        wrong: list[Event] = []

        def emit(event: Event) -> None:
            match event:
                case Mistaken() | WorkerFailed() | TrialFailed() | WorkerEnded():
                    wrong.append(event)

        work(place, study, emit, self.asked, threading.Event())
        return wrong

    def stop(self) -> None:
        self.asked.set()
