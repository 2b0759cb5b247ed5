"""Workers as processes of this machine, which share its cores."""

import multiprocessing
import os
import queue
from collections.abc import Iterator

from workbench.sweep.worker import Event, Job, work


def default_workers() -> int:
    """One a GPU; without one, one a core up to four: small models gain more from whole trials side by side than from
    threads."""
    import torch

    return torch.cuda.device_count() or min(4, os.cpu_count() or 1)


def run_workers(job: Job, workers: int) -> Iterator[Event]:
    """Yields the events of all workers until the last one ends. Closing the iterator stops them."""
    context = multiprocessing.get_context("spawn")
    events = context.Queue()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(job.all_threads))
    processes = []
    for index in range(workers):
        process = context.Process(target=work, args=(job, index, events.put), daemon=True)
        process.start()
        processes.append(process)
    try:
        ended = 0
        while ended < workers:
            try:
                event = events.get(timeout=1.0)
            except queue.Empty:
                dead = [p for p in processes if p.exitcode not in (None, 0)]
                if dead and all(p.exitcode is not None for p in processes):
                    yield ("crash", {"worker": -1, "message": f"a worker died with exit code {dead[0].exitcode}"})
                    return
                continue
            ended += event[0] == "end"
            yield event
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join(timeout=30)
            if process.is_alive():
                process.kill()
