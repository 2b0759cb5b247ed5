"""How a process is asked to end: by Ctrl-C, a scheduler's SIGTERM, or a terminal that hung up."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WITHIN = 4.0  # seconds in which work that was asked to stop has to end
SAVING = 120.0  # seconds that a checkpoint may take beyond them


class Stopped(Exception):
    """Work was asked to stop; what it has reached is saved."""


class Stop:
    """Set by the first signal; the second one ends the process at once. Work that has not ended a few seconds after the first is ended
    too, but for a checkpoint that is being written: what was saved before stays whole in any case.

    `raises`: the first signal also raises KeyboardInterrupt, for work that asks nobody. `at_once` says whether there is nothing to save.
    """

    def __init__(self, raises: bool = False, at_once: Callable[[], bool] = lambda: False) -> None:
        self.raises, self.at_once = raises, at_once
        self.asked = threading.Event()
        self.saves = 0

    def __call__(self) -> bool:
        return self.asked.is_set()

    def listen(self) -> None:
        """Takes the signals of this process; for entry points, in the main thread."""
        for name in SIGNALS:
            if signal.getsignal(name) != signal.SIG_IGN:  # as under nohup
                signal.signal(name, self._on_signal)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While something is written that may take long."""
        self.saves += 1
        try:
            yield
        finally:
            self.saves -= 1

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.asked.is_set() or self.at_once():
            os._exit(128 + number)
        self.asked.set()
        threading.Thread(target=self._end, args=(number,), daemon=True, name="stop").start()
        if self.raises:
            raise KeyboardInterrupt

    def _end(self, number: int) -> None:
        time.sleep(WITHIN)
        until = time.monotonic() + SAVING
        while self.saves and time.monotonic() < until:
            time.sleep(0.1)
        os._exit(128 + number)
