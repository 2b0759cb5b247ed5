"""Waiting out what is no fault of a run: a full disk, a server or a database that cannot be reached."""

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
Persist = Callable[[Callable[[], None]], None]  # runs an action that writes, now or once it can be done
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FULL = ("No space left on device", "Disk quota exceeded", "os error 28", "disk is full")
UNREACHABLE = {
    "requests",
    "urllib3",
    "http",
    "psycopg",
    "psycopg2",
}  # packages whose errors of connection mean an outage
BROKEN = (
    "Connect",
    "Timeout",
    "Protocol",
    "IncompleteRead",
    "ChunkedEncoding",
    "MaxRetry",
)  # and what their names hold
FAULTS = ("no such table", "no such column", "readonly database")  # of a database, which no waiting mends
SERVER_AT_FAULT = ("error code 5", "TEMPORARILY_UNAVAILABLE", "database or disk is full", "database is locked")


class Interrupted(Exception):
    """The wait was ended by a request to stop."""


def outage(error: BaseException) -> str | None:
    """What is out of order, in words, where `error` is an outage that may pass; None where it is a fault."""
    causes = list(_chain(error))
    if any(sign in str(cause) for cause in causes for sign in FAULTS):
        return None
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return f"no room left on the disk ({cause.filename or cause.strerror})"
        if any(sign in str(cause) for sign in FULL):  # Polars and others tell it in words alone
            return "no room left on the disk"
        kind = type(cause)
        package = kind.__module__.partition(".")[0]
        if isinstance(cause, ConnectionError | TimeoutError) or (
            package in UNREACHABLE and any(sign in kind.__name__ for sign in BROKEN)
        ):
            return "a server cannot be reached"
        if kind.__name__ in ("OperationalError", "InterfaceError") or (
            package == "grpc" and "UNAVAILABLE" in str(cause)
        ):
            return "a database cannot be reached or written"
        if package == "mlflow" and any(
            sign in f"{cause} {getattr(cause, 'error_code', '')}" for sign in SERVER_AT_FAULT
        ):
            return "the MLflow store cannot be reached or written"
    return None


def never() -> bool:
    return False


def at_once(action: Callable[[], None]) -> None:
    """Runs an action without waiting out anything."""
    action()


@dataclass(frozen=True)
class Patience:
    """Waits out outages: calls an action again until none stands in its way; `say` hears when a wait begins and ends, `stopped` ends it.

    Calling it raises Interrupted when `stopped()` during a wait, and whatever else the action raises. The action must be safe to repeat.
    """

    say: Callable[[str], None]
    stopped: Callable[[], bool] = never
    pause: float = 1.0

    def __call__(self, action: Callable[[], T]) -> T:
        waiting = False
        while True:
            try:
                result = action()
            except Exception as error:
                reason = outage(error)
                if reason is None:
                    raise
                if not waiting:
                    self.say(f"waiting: {reason}; going on as soon as it can")
                    waiting = True
                until = time.monotonic() + self.pause
                while time.monotonic() < until:
                    if self.stopped():
                        raise Interrupted(reason) from error
                    time.sleep(0.05)
                continue
            if waiting:
                self.say("going on")
            return result


def patiently(
    action: Callable[[], T],
    say: Callable[[str], None],
    stopped: Callable[[], bool] = never,
    pause: float = 1.0,
) -> T:
    return Patience(say, stopped, pause)(action)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__]
