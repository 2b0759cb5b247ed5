"""How a process is asked to end: by Ctrl-C, a scheduler's SIGTERM, or a terminal that hung up.

Work that can save asks `stop()` between two of its steps. Work that has nothing to save runs inside `cut()`, which the
signal interrupts. Whatever has not ended then is ended by a thread, which hears of a signal even while the main thread
is blocked in C++.
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
CODE = 130  # of a process that was stopped, by whichever signal
SENTENCE = "Stopped; the same command goes on."
# Seconds after which a process is ended: a command waits for its workers, and a worker for the processes of its trial.
WITHIN, WORKERS_WITHIN, MEMBERS_WITHIN = 4.0, 3.0, 2.2
LAST = 0.8  # of them, for what is said at last
SAVING = 120.0  # seconds that a checkpoint may take beyond them
AGAIN = 0.2  # seconds after which a signal is a second one, and not the first that came by two ways
TICK = 0.05
SAVES = "saving"  # the file by which one of several processes says that it must not be cut short
GIVE_UP = (
    "WB_GIVE_UP_AFTER"  # minutes that an outage is waited for; in the environment, so that it holds for workers, too
)
MEMBER = "WB_MEMBER"  # names the folder of those whom a process of this machine has started together


class Stopped(Exception):
    """Work was asked to stop; what it has reached is saved."""


class Stop:
    """Set by the first signal. The process is ended `within` seconds of it, but for a checkpoint that is being written;
    what was saved before stays whole in any case.

    `raises`: the signal also raises KeyboardInterrupt in the main thread. `sentence`: what is said on standard error; a
    process that says one is a command's, which a second signal ends at once. `on_saving` is called where the end has to
    wait for a checkpoint.
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
        """Without a signal."""
        self.asked = True

    def wait(self, seconds: float) -> None:
        """Returns after so many seconds, or when asked to stop."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(TICK, left))

    def listen(self) -> Callable[[], None]:
        """Takes the signals of this process, for entry points, in the main thread; gives what puts back how it was."""
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
        """After a library has put its own handlers in place of ours."""
        for name in SIGNALS:
            if self.pipe and signal.getsignal(name) != signal.SIG_IGN:
                signal.signal(name, self._on_signal)

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Work that the signal interrupts wherever it is, since it has nothing to save. Raises Stopped, also where
        asked before."""
        if self.asked:
            raise Stopped
        try:
            with self._raising(True):
                yield
        except KeyboardInterrupt:
            raise Stopped from None

    def asking(self) -> AbstractContextManager[None]:
        """Work inside asks `stop()` by itself, and is not to be interrupted."""
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
        """While something is written that may take long."""
        self.saves += 1
        try:
            yield
        finally:
            self.saves -= 1

    @contextmanager
    def at_last(self, action: Callable[[], None]) -> Iterator[None]:
        """Inside, `action` is called by another thread before the process is ended."""
        self.lasts.append(action)
        try:
            yield
        finally:
            self.lasts.remove(action)
            if self.ending:  # what was said at last must stay the last word
                time.sleep(2 * LAST)

    @contextmanager
    def guard(self, lost: Callable[[], bool]) -> Iterator[None]:
        """Ends the process where the work inside has not ended a few seconds after `lost()`; one that listens to
        nothing goes on."""
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
        """Says once that the work was stopped; nothing where it is another process's to say."""
        if self.sentence and not self.said:
            self.said = True
            with suppress(OSError):
                os.write(2, f"{sentence or self.sentence}\n".encode())

    def end(self) -> None:
        """Ends the process as it is."""
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
        spent = 0.0  # since the first signal, without the time in which the process was suspended
        heard = told = False
        waited = False  # for a save that has ended
        while True:
            if select.select([pipe], [], [], TICK if heard else None)[0]:
                numbers = os.read(pipe, 64)
                if not numbers:
                    return os.close(pipe)
                if set(numbers) & set(SIGNALS):
                    if heard and self.sentence and spent >= AGAIN:
                        self.end()
                    heard = self.asked = True  # the main thread may be where it runs no handler
                continue
            spent += TICK
            if spent < self.within - LAST:
                continue
            if self.saves and spent < self.within + SAVING:
                waited = True
                if not told:
                    told = True
                    self.on_saving()
                continue
            if waited:  # what comes after a save has its time, too
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
    """A Stop with a further reason to end a piece of work."""

    stop: Callable[[], bool]
    more: Callable[[], bool]

    def __call__(self) -> bool:
        return self.more() or self.stop()


def _stop_of(stop: Callable[[], bool]) -> Stop | None:
    while isinstance(stop, Either):
        stop = stop.stop
    return stop if isinstance(stop, Stop) else None


def cut(stop: Callable[[], bool]) -> AbstractContextManager[None]:
    """`Stop.cut`, where there is a Stop behind what is asked."""
    found = _stop_of(stop)
    return found.cut() if found else nullcontext()


def saving(stop: Callable[[], bool]) -> AbstractContextManager[None]:
    """`Stop.saving`, where there is a Stop behind what is asked."""
    found = _stop_of(stop)
    return found.saving() if found else nullcontext()


def at_last(stop: Callable[[], bool], action: Callable[[], None]) -> AbstractContextManager[None]:
    """`Stop.at_last`, where there is a Stop behind what is asked."""
    found = _stop_of(stop)
    return found.at_last(action) if found else nullcontext()


def guard(stop: Callable[[], bool], lost: Callable[[], bool]) -> AbstractContextManager[None]:
    """`Stop.guard`, where there is a Stop behind what is asked."""
    found = _stop_of(stop)
    return found.guard(lost) if found else nullcontext()


def end_with_parent() -> None:
    """Ends this process with the one that has started it by multiprocessing, however that ends. Its sentinel is known
    to processes of a fork server, too, whose parent by number is the server."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def the_commands(environment: Mapping[str, str]) -> Stop:
    """The Stop of a command's process; of several that train together the first one speaks, or who has started them."""
    if MEMBER in environment:
        return Stop(MEMBERS_WITHIN, raises=True, on_saving=(Path(environment[MEMBER]) / SAVES).touch)
    return Stop(WITHIN, raises=True, sentence=SENTENCE if environment.get("RANK", "0") == "0" else "")
