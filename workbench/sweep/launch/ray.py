"""Runs workers as Ray actors, on a running cluster or on one that is started here."""

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
from workbench.trial.job import WorkerSpec
from workbench.trial.quiet import quiet

RESTARTS = 100  # of an actor whose node or process was lost


def run_on_ray(study: str, where: WorkerSpec, workers: int, needs: dict[str, float], stop: Stop) -> Iterator[Event]:
    """Yields Ticked until the last worker has ended, and the events of failures. `needs`: the Ray resources of each
    worker. Closing the iterator stops all workers. RAY_ADDRESS names a running cluster; without it, Ray uses only this
    machine."""
    try:
        import ray
    except ImportError as error:
        raise UserError("--launcher ray: Ray is missing; pip install -e '.[cluster]' in the clone.") from error
    ours = not ray.is_initialized()
    if ours:
        address = os.environ.get("RAY_ADDRESS")
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--launcher ray: no cluster answers at {address} ({error}).") from error
    stop.listen_again()  # Ray has replaced our signal handlers
    # Two threads: one works, the other receives the stop request.
    patience = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS}
    actors: list[Any] = [
        ray.remote(Worker).options(**needs, **patience, max_concurrency=2).remote() for _ in range(workers)
    ]
    pending = {
        actor.run.remote(replace(where, name=f"ray/{index}"), study): index for index, actor in enumerate(actors)
    }
    try:
        while pending:
            ready, _ = ray.wait(list(pending), timeout=0.5)
            for done in ready:
                index = pending.pop(done)
                try:
                    yield from ray.get(done)
                except ray.exceptions.RayError as error:
                    yield WorkerFailed(f"ray/{index}", f"worker ray/{index} was lost: {error}")
                ray.kill(actors[index])  # frees its resources for an actor that waits for them
            yield Ticked()
    finally:
        with stop.saving():
            until = time.monotonic() + WORKERS_WITHIN
            while pending and time.monotonic() < until:
                # Requested repeatedly: a worker that is saving gets more time.
                requests = [actors[index].stop.remote() for index in pending.values()]
                answered, _ = ray.wait(requests, num_returns=len(requests), timeout=0.5)
                with suppress(ray.exceptions.RayError):
                    if any(ray.get(answered)):
                        until = time.monotonic() + 1
                done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0.2)
                for result in done:
                    del pending[result]
        for actor in actors:
            ray.kill(actor)
        if ours:
            ray.shutdown()


class Worker:
    """A worker on some node. `run` returns the events of failures."""

    def __init__(self) -> None:
        self.stop_request = Stop()

    def run(self, spec: WorkerSpec, study: str) -> list[Event]:
        quiet()
        failures: list[Event] = []

        def emit(event: Event) -> None:
            match event:
                case Mistaken() | WorkerFailed() | TrialFailed() | WorkerEnded():
                    failures.append(event)

        work(spec, study, emit, self.stop_request)
        return failures

    def stop(self) -> bool:
        """Requests a stop. Returns whether the worker is writing something that must not be interrupted."""
        self.stop_request.ask()
        return self.stop_request.saves > 0
