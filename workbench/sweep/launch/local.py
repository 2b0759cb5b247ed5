"""Workers as processes of this machine, which share its cores and its GPUs."""

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
from workbench.trial.job import Place
from workbench.trial.quiet import quiet

# Loaded once, by a server from which workers are forked. It must load nothing that starts threads, such as polars or
# mlflow.
PRELOADED = ["torch", "torchvision", "timm", "transformers", "optuna", "scipy.stats", "workbench.model.vilta"]
T = TypeVar("T")
FRUITLESS = 5  # deaths in a row of a worker that never came to train a step


def default_workers(trials_per_device: int = 1) -> int:
    """So many a GPU; without one, one a core up to four: small models gain more from whole trials side by side than
    from threads."""
    import torch

    return torch.cuda.device_count() * trials_per_device or min(4, usable_cores())


def places(workspace: Path, storage: str | None, workers: int, group: int = 1) -> list[Place]:
    """Where each of `workers` works: with one GPU each in turn, or, where a trial takes a `group` of processes, with
    all."""
    import torch

    gpus = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return [
        Place(
            workspace,
            storage,
            f"{os.uname().nodename}/{index}",
            (visible[index % gpus] if len(visible) == gpus else str(index % gpus)) if gpus > 1 and group == 1 else None,
        )
        for index in range(workers)
    ]


def warm_up() -> ForkServerContext:
    """Starts the server from which workers are forked, so that it loads what they need while the sweep is being set
    up."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(usable_cores()))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    return context


def run_workers(study: str, where: list[Place], stop: Stop) -> Iterator[Event]:
    """Yields the events of all workers, and Ticked at least every half second, until the last one has ended. A worker
    that dies is replaced. Closing the iterator stops them all, for which `stop` of this process has to wait."""
    context = warm_up()
    living: dict[Connection, tuple[BaseProcess, Place]] = {}
    fruitless = {place.name: 0 for place in where}

    def start(place: Place) -> None:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(theirs, place, study), daemon=False)
        process.start()
        theirs.close()
        living[ours] = (process, place)

    try:
        for place in where:
            start(place)
        while living:
            for connection in wait(list(living), timeout=0.5):
                assert isinstance(connection, Connection)
                process, place = living[connection]
                try:
                    event: Event = connection.recv()
                except (EOFError, OSError):
                    process.join()
                    del living[connection]
                    fruitless[place.name] += 1
                    if fruitless[place.name] < FRUITLESS:
                        told = f"worker {place.name} died ({_cause(process)}); another takes its place"
                        yield Said(place.name, told)
                        start(place)
                    else:
                        told = (
                            f"worker {place.name} died {FRUITLESS} times before it trained a step ({_cause(process)})"
                        )
                        yield WorkerFailed(place.name, told)
                    continue
                match event:
                    case Stepped():
                        fruitless[place.name] = 0
                    case WorkerEnded():
                        process.join(timeout=WORKERS_WITHIN)
                        del living[connection]
                yield event
            yield Ticked()
    finally:
        with stop.saving():
            _end({connection: process for connection, (process, _) in living.items()})


def _end(living: dict[Connection, BaseProcess]) -> None:
    """Stops workers, and waits for those that say that they are saving. One that cannot even end itself is killed."""
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
    """Calls `action` in a process that has loaded the models, and raises what it raises; this process need not load
    them."""
    in_workers([action])


def in_workers(actions: Sequence[Callable[[], T]]) -> list[T]:
    """What the actions give, each called in a process of its own, all at once. Raises what the first of them to fail
    raises, and ends the others."""
    context = warm_up()
    living: dict[Connection, tuple[int, BaseProcess]] = {}
    processes: list[BaseProcess] = []
    made: dict[int, T] = {}
    try:
        for place, action in enumerate(actions):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_call, args=(theirs, action), daemon=False)
            process.start()
            theirs.close()
            processes.append(process)
            living[ours] = (place, process)
        while living:
            for connection in wait(list(living)):
                assert isinstance(connection, Connection)
                place, asked = living.pop(connection)
                try:
                    made[place], error = connection.recv()
                except EOFError:
                    asked.join()
                    raise RuntimeError(f"a process that looked at the data died ({_cause(asked)})") from None
                if error is not None:
                    raise error
    finally:
        for each in processes:
            each.kill()
            each.join()
    return [made[place] for place in range(len(actions))]


def _call(connection: Connection, action: Callable[[], object]) -> None:
    Stop().listen()
    end_with_parent()
    quiet()
    try:
        made = action()
    except Exception as error:
        connection.send((None, error))
    else:
        connection.send((made, None))


def run_here(study: str, where: Place, stop: Stop, tick: Callable[[], None] = lambda: None) -> Iterator[Event]:
    """One worker in this very process, for a debugger; its events come when it has ended. Meanwhile `tick()` is called
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


def _main(connection: Connection, place: Place, study: str) -> None:
    lock = threading.Lock()

    def emit(event: Event) -> None:
        try:
            with lock:
                connection.send(event)
        except OSError:  # nobody listens any more
            pass

    work_as_process(place, study, emit)


def _cause(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code >= 0:
        return f"exit code {code}"
    return f"signal {-code}" + (", perhaps for lack of memory" if code == -9 else "")
