"""Workers as Ray actors, on a running cluster or one that is started here."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from workbench.errors import UserError
from workbench.events import Event, Mistaken, Ticked, TrialFailed, WorkerEnded, WorkerFailed
from workbench.stop import WORKERS_WITHIN, Stop
from workbench.sweep.worker import work
from workbench.trial.job import Place
from workbench.trial.quiet import quiet

RESTARTS = 100  # of an actor whose node or process was lost


def run_on_ray(study: str, where: Place, workers: int, needs: dict[str, float], stop: Stop) -> Iterator[Event]:
    """Yields Ticked until the last worker has ended, and what went wrong. Each has what it `needs` of its node, as Ray
    names it. Closing the iterator stops them all. RAY_ADDRESS names a running cluster; without it, Ray uses this
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
    stop.listen_again()  # Ray has put a handler of its own in place of ours
    # Two threads: one works, the other hears that it should stop.
    patience = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    actors: list[Any] = [
        ray.remote(Worker).options(**needs, **patience, max_concurrency=2).remote() for _ in range(workers)
    ]
    pending = {each.run.remote(replace(where, name=f"ray/{index}"), study): index for index, each in enumerate(actors)}
    try:
        while pending:
            ready, _ = ray.wait(list(pending), timeout=0.5)
            for done in ready:
                index = pending.pop(done)
                try:
                    yield from ray.get(done)
                except ray.exceptions.RayError as error:
                    yield WorkerFailed(f"ray/{index}", f"worker ray/{index} was lost: {error}")
                ray.kill(actors[index])  # its share of the node goes to one that waits for a place
            yield Ticked()
    finally:
        with stop.saving():
            until = time.monotonic() + WORKERS_WITHIN
            while pending and time.monotonic() < until:
                # Asked again and again: a worker that is saving then may take its time.
                told = [actors[index].stop.remote() for index in pending.values()]
                answered, _ = ray.wait(told, num_returns=len(told), timeout=0.5)
                with suppress(ray.exceptions.RayError):
                    if any(ray.get(answered)):
                        until = time.monotonic() + 1
                done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0.2)
                for each in done:
                    del pending[each]
        for each in actors:
            ray.kill(each)
        if ours:
            ray.shutdown()


class Worker:
    """A worker on some node; `run` gives what went wrong."""

    def __init__(self) -> None:
        self.asked = Stop()

    def run(self, place: Place, study: str) -> list[Event]:
        quiet()
        wrong: list[Event] = []

        def emit(event: Event) -> None:
            match event:
                case Mistaken() | WorkerFailed() | TrialFailed() | WorkerEnded():
                    wrong.append(event)

        work(place, study, emit, self.asked)
        return wrong

    def stop(self) -> bool:
        """Whether it is writing what must not be cut short."""
        self.asked.ask()
        return self.asked.saves > 0
