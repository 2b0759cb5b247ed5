"""Work that is cut into pieces and done by several processes of this machine."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

from workbench.stop import end_with_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_processes(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yields `function(item)` for each item, in order; with several `workers`, computed in that many processes.

    Ctrl-C ends these processes at once, so a half-finished piece must do no harm.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _ignore_interrupt)
    waiting = iter(items)
    running: deque[Future[Result]] = deque()
    try:
        # A few at a time, since an item may be large.
        while True:
            running.extend(pool.submit(function, item) for item in islice(waiting, 2 * workers - len(running)))
            if not running:
                break
            yield running.popleft().result()
    except KeyboardInterrupt:
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupt() -> None:
    """Leaves Ctrl-C to the first process, which ends the workers; they end with it in any case."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
