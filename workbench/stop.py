"""Stops a process on request: Ctrl-C, a scheduler's SIGTERM, or a terminal that hung up.

Work that can save checks `stop()` between two of its steps. Work that has nothing to save runs inside `cut()`, which
the signal interrupts. A thread ends whatever is still running after that: it receives signals even while the main
thread is blocked in C++.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CODE = 130  # exit code of a process that was stopped, by any signal
SENTENCE = "Stopped; run the same command again to continue."
# Seconds after which a process is ended: a command waits for its workers, and a worker for the processes of its trial.
WITHIN, WORKERS_WITHIN, MEMBERS_WITHIN = 4.0, 3.0, 2.2
LAST = 0.8  # of these seconds, reserved for the last actions
SAVING = 120.0  # additional seconds that a checkpoint may take
AGAIN = 0.2  # seconds after which a signal counts as a second one, and not as the first one delivered twice
TICK = 0.05
SAVES = "saving"  # the file by which one of several processes reports that it must not be interrupted
GIVE_UP = "WB_GIVE_UP_AFTER"  # minutes to wait for an outage to end; in the environment, so that workers inherit it
MEMBER = "WB_MEMBER"  # the folder of a group of processes that were started together on this machine


class Stopped(Exception):
    """Work was stopped on request; its progress is saved."""


class Stop:
    """A stop request, set by the first signal. The process ends `within` seconds of it, unless a checkpoint is being
    written. Earlier checkpoints stay intact in any case.

    `raises`: the signal also raises KeyboardInterrupt in the main thread. `sentence`: the message on standard error; a
    process that has one belongs to a command, and a second signal ends it at once. `on_saving` is called when the end
    has to wait for a checkpoint.
    """

    def __init__(
        self,
        within: float = WITHIN,
        raises: bool = False,
        sentence: str = "",
        on_saving: Callable[[], None] = lambda: None,
    ) -> None:
        self.within, self.raises, self.sentence, self.on_saving = within, raises, sentence, on_saving
        # Plain values: a lock would be one that the main thread may hold when the signal comes.
        self.asked = self.raised = self.said = self.ending = False
        self.saves = 0
        self.lasts: list[Callable[[], None]] = []
        self.pipe: tuple[int, int] | None = None

    def __call__(self) -> bool:
        return self.asked

    def ask(self) -> None:
        """Requests the stop without a signal."""
        self.asked = True

    def wait(self, seconds: float) -> None:
        """Returns after `seconds`, or earlier when a stop is requested."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(TICK, left))

    def listen(self) -> Callable[[], None]:
        """Installs the signal handlers of this process. For entry points, in the main thread. Returns a function that
        restores the earlier handlers."""
        ours, theirs = self.pipe = os.pipe()
        os.set_blocking(theirs, False)
        threading.Thread(target=self._watch, args=(ours,), daemon=True, name="stop").start()
        fd = signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        before = {name: signal.getsignal(name) for name in SIGNALS}
        for name, handler in before.items():
            if handler != signal.SIG_IGN:  # as under nohup
                signal.signal(name, self._on_signal)

        def forget() -> None:
            signal.set_wakeup_fd(fd)
            for name, handler in before.items():
                signal.signal(name, handler)
            os.close(theirs)

        return forget

    def listen_again(self) -> None:
        """Installs the handlers again after a library has replaced them."""
        for name in SIGNALS:
            if self.pipe and signal.getsignal(name) != signal.SIG_IGN:
                signal.signal(name, self._on_signal)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Runs work that the signal may interrupt anywhere, since it has nothing to save. Raises Stopped, also where
        the stop was requested before."""
        if self.asked:
            raise Stopped
        try:
            with self._raising(True):
                yield
        except KeyboardInterrupt:
            raise Stopped from None

    def asking(self) -> AbstractContextManager[None]:
        """Runs work that checks `stop()` itself and must not be interrupted."""
        return self._raising(False)

    @contextmanager
    def _raising(self, raises: bool) -> Iterator[None]:
        before, self.raises = self.raises, raises
        try:
            yield
        finally:
            self.raises = before

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Marks that something is being written that may take long."""
        self.saves += 1
        try:
            yield
        finally:
            self.saves -= 1

    @contextmanager
    def at_last(self, action: Callable[[], None]) -> Iterator[None]:
        """Registers `action` for the duration of the block: another thread calls it before it ends the process."""
        self.lasts.append(action)
        try:
            yield
        finally:
            self.lasts.remove(action)
            if self.ending:  # nothing may be written after the last actions
                time.sleep(2 * LAST)

    @contextmanager
    def guard(self, lost: Callable[[], bool]) -> Iterator[None]:
        """Ends the process where the work inside has not ended a few seconds after `lost()`. Without signal handlers
        the process continues."""
        left = threading.Event()

        def watch() -> None:
            spent = 0.0
            while not left.wait(4 * TICK):
                spent = spent + 4 * TICK if lost() else 0.0
                if spent >= self.within:
                    self.end()

        if self.pipe:
            threading.Thread(target=watch, daemon=True, name="guard").start()
        try:
            yield
        finally:
            left.set()

    def say(self, sentence: str = "") -> None:
        """Prints once that the work was stopped. Prints nothing where another process reports it."""
        if self.sentence and not self.said:
            self.said = True
            with suppress(OSError):
                os.write(2, f"{sentence or self.sentence}\n".encode())

    def end(self) -> None:
        """Ends the process immediately."""
        with suppress(OSError):
            if self.sentence and not self.said and os.isatty(2):
                os.write(2, b"\x1b[?25h\n")  # a bar has hidden the cursor
        self.say()
        os._exit(CODE)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.asked = True
        if self.raises and not self.raised:
            self.raised = True
            raise KeyboardInterrupt

    def _watch(self, pipe: int) -> None:
        spent = 0.0  # seconds since the first signal, excluding time in which the process was suspended
        signalled = reported = False
        waited = False  # for a save that has ended
        while True:
            if select.select([pipe], [], [], TICK if signalled else None)[0]:
                numbers = os.read(pipe, 64)
                if not numbers:
                    return os.close(pipe)
                if set(numbers) & set(SIGNALS):
                    if signalled and self.sentence and spent >= AGAIN:
                        self.end()
                    signalled = self.asked = True  # the main thread may be unable to run a handler
                continue
            spent += TICK
            if spent < self.within - LAST:
                continue
            if self.saves and spent < self.within + SAVING:
                waited = True
                if not reported:
                    reported = True
                    self.on_saving()
                continue
            if waited:  # work after a save gets the full time, too
                spent, waited = 0.0, False
                continue
            self.ending = True
            self._at_last()
            self.end()

    def _at_last(self) -> None:
        def call() -> None:
            for action in reversed(self.lasts):
                with suppress(Exception):
                    action()

        thread = threading.Thread(target=call, daemon=True)
        thread.start()
        thread.join(LAST)


@dataclass(frozen=True)
class Either:
    """A Stop combined with another reason to end a piece of work."""

    stop: Callable[[], bool]
    more: Callable[[], bool]

    def __call__(self) -> bool:
        return self.more() or self.stop()


def _stop_of(stop: Callable[[], bool]) -> Stop | None:
    while isinstance(stop, Either):
        stop = stop.stop
    return stop if isinstance(stop, Stop) else None


def cut(stop: Callable[[], bool]) -> AbstractContextManager[None]:
    """`Stop.cut`, where `stop` wraps a Stop; else nothing."""
    inner = _stop_of(stop)
    return inner.cut() if inner else nullcontext()


def saving(stop: Callable[[], bool]) -> AbstractContextManager[None]:
    """`Stop.saving`, where `stop` wraps a Stop; else nothing."""
    inner = _stop_of(stop)
    return inner.saving() if inner else nullcontext()


def at_last(stop: Callable[[], bool], action: Callable[[], None]) -> AbstractContextManager[None]:
    """`Stop.at_last`, where `stop` wraps a Stop; else nothing."""
    inner = _stop_of(stop)
    return inner.at_last(action) if inner else nullcontext()


def guard(stop: Callable[[], bool], lost: Callable[[], bool]) -> AbstractContextManager[None]:
    """`Stop.guard`, where `stop` wraps a Stop; else nothing."""
    inner = _stop_of(stop)
    return inner.guard(lost) if inner else nullcontext()


def end_with_parent() -> None:
    """Ends this process together with the one that started it by multiprocessing, however that one ends. The sentinel
    also works under a fork server, where the parent's process id is the server's."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def the_commands(environment: Mapping[str, str]) -> Stop:
    """Returns the Stop of a command's process. Of several processes that train together, only the first one or their
    parent prints."""
    if MEMBER in environment:
        return Stop(MEMBERS_WITHIN, raises=True, on_saving=(Path(environment[MEMBER]) / SAVES).touch)
    return Stop(WITHIN, raises=True, sentence=SENTENCE if environment.get("RANK", "0") == "0" else "")
