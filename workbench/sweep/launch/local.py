"""Runs workers as processes of this machine, which share its cores and its GPUs."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

from workbench.cores import usable_cores
from workbench.events import Event, Said, Stepped, Ticked, TrialEnded, WorkerEnded, WorkerFailed
from workbench.stop import SAVING, WORKERS_WITHIN, Stop, end_with_parent
from workbench.sweep.worker import SAVES, work, work_as_process
from workbench.trial.job import WorkerSpec
from workbench.trial.quiet import quiet

# Loaded once, by the fork server. It must not load anything that starts threads, such as polars or mlflow.
PRELOADED = ["torch", "torchvision", "timm", "transformers", "optuna", "scipy.stats", "workbench.model.vilta"]
T = TypeVar("T")
FRUITLESS = 5  # consecutive deaths of a worker that never trained a step


def default_workers(trials_per_device: int = 1) -> int:
    """Returns the default number of workers: `trials_per_device` per GPU; without a GPU one per core, at most four.
    Small models gain more from parallel trials than from threads."""
    import torch

    return torch.cuda.device_count() * trials_per_device or min(4, usable_cores())


def worker_specs(workspace: Path, storage: str | None, workers: int, group: int = 1) -> list[WorkerSpec]:
    """Returns the specs of `workers` workers. The GPUs are assigned in turn, one per worker; where a trial uses a
    `group` of processes, each worker gets all GPUs."""
    import torch

    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [
        WorkerSpec(
            workspace,
            storage,
            f"{os.uname().nodename}:{os.getpid()}/{index}",  # several commands of a machine may work on a study
            (visible[index % gpus] if len(visible) == gpus else str(index % gpus)) if gpus > 1 and group == 1 else None,
        )
        for index in range(workers)
    ]


def warm_up() -> ForkServerContext:
    """Starts the fork server of the workers, so that it loads their libraries while the sweep is being set up."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(usable_cores()))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    return context


def run_workers(study: str, where: list[WorkerSpec], stop: Stop) -> Iterator[Event]:
    """Yields the events of all workers, and Ticked at least every half second, until the last one has ended. A worker
    that dies is replaced. Closing the iterator stops all workers; `stop` of this process has to wait for that."""
    context = warm_up()
    living: dict[Connection, tuple[BaseProcess, WorkerSpec]] = {}
    fruitless = {spec.name: 0 for spec in where}

    def start(spec: WorkerSpec) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(theirs, spec, study), daemon=False)
        process.start()
        theirs.close()
        living[ours] = (process, spec)

    try:
        for spec in where:
            start(spec)
        while living:
            for connection in wait(list(living), timeout=0.5):
                assert isinstance(connection, Connection)
                process, spec = living[connection]
                try:
                    event: Event = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    del living[connection]
                    fruitless[spec.name] += 1
                    if fruitless[spec.name] < FRUITLESS:
                        message = f"worker {spec.name} died ({_cause(process)}); another takes its place"
                        yield Said(spec.name, message)
                        start(spec)
                    else:
                        message = (
                            f"worker {spec.name} died {FRUITLESS} times before it trained a step ({_cause(process)})"
                        )
                        yield WorkerFailed(spec.name, message)
                    continue
                match event:
                    case Stepped():
                        fruitless[spec.name] = 0
                    case WorkerEnded():
                        process.join(timeout=WORKERS_WITHIN)
                        del living[connection]
                yield event
            yield Ticked()
    finally:
        with stop.saving():
            _end({connection: process for connection, (process, _) in living.items()})


def _end(living: dict[Connection, BaseProcess]) -> None:
    """Stops workers, and waits for those that report that they are saving. One that cannot end itself is killed."""
    for process in living.values():
        process.terminate()
    until = time.monotonic() + WORKERS_WITHIN + 0.3
    while living and time.monotonic() < until:
        for connection in wait(list(living), timeout=0.1):
            assert isinstance(connection, Connection)
            with suppress(EOFError, OSError):
                event = connection.recv()
                if isinstance(event, Said) and event.message == SAVES:
                    until = time.monotonic() + SAVING
                if not isinstance(event, WorkerEnded):
                    continue
            living.pop(connection).join(timeout=0.5)
    for process in living.values():
        process.kill()


def in_a_worker(action: Callable[[], None]) -> None:
    """Calls `action` in a process that has loaded the models, so that this process need not load them. Raises what
    `action` raises."""
    in_workers([action])


def in_workers(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Calls the actions in parallel, each in a separate process. Returns their results. Raises the error of the first
    one that fails, and ends the others."""
    context = warm_up()
    living: dict[Connection, tuple[int, BaseProcess]] = {}
    processes: list[BaseProcess] = []
    results: dict[int, T] = {}
    try:
        for index, action in enumerate(actions):
            ours, theirs = context.Pipe(duplex=False)
            process: BaseProcess = context.Process(target=_call, args=(theirs, action), daemon=False)
            process.start()
            theirs.close()
            processes.append(process)
            living[ours] = (index, process)
        while living:
            for connection in wait(list(living)):
                assert isinstance(connection, Connection)
                index, process = living.pop(connection)
                try:
                    results[index], error = connection.recv()
                except EOFError:
                    process.join()
                    raise RuntimeError(f"a process that looked at the data died ({_cause(process)})") from None
                if error is not None:
                    raise error
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [results[index] for index in range(len(actions))]


def _call(connection: Connection, action: Callable[[], object]) -> None:
    Stop().listen()
    end_with_parent()
    quiet()
    try:
        result = action()
    except Exception as error:
        connection.send((None, error))
    else:
        connection.send((result, None))


def run_here(study: str, where: WorkerSpec, stop: Stop, tick: Callable[[], None] = lambda: None) -> Iterator[Event]:
    """Runs one worker in this process, for a debugger. Its events are yielded after it has ended. `tick()` is called
    after each trial and while the worker waits."""
    events: list[Event] = []

    def emit(event: Event) -> None:
        if isinstance(event, TrialEnded | Ticked):
            tick()
        if not isinstance(event, Ticked):
            events.append(event)

    with stop.asking():
        work(where, study, emit, stop)
    yield from events
    yield Ticked()


def _main(connection: Connection, spec: WorkerSpec, study: str) -> None:
    lock = threading.Lock()

    def emit(event: Event) -> None:
        try:
            with lock:
                connection.send(event)
        except OSError:  # the receiver has gone
            pass

    work_as_process(spec, study, emit)


def _cause(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (", perhaps for lack of memory" if code == -9 else "")
