"""Waits out outages that are not a run's own error: a full disk, a server or a database that cannot be reached."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from workbench.errors import Interrupted, UserError
from workbench.faults import Outage, diagnose
from workbench.refusals import refusal
from workbench.stop import GIVE_UP

T = TypeVar("T")
Persist = Callable[[Callable[[], None]], None]  # runs an action that writes, now or as soon as it is possible
SLICE = 0.05  # seconds between two checks of `stopped` and the clock


class GaveUp(UserError):
    """The wait exceeded its limit."""


def never() -> bool:
    return False


def at_once(action: Callable[[], None]) -> None:
    """Runs an action without waiting out outages."""
    action()


def give_up_after() -> float | None:
    """Returns the seconds after which a wait is given up, from `WB_GIVE_UP_AFTER`; None: never.

    Raises UserError where that is not a number.
    """
    value = os.environ.get(GIVE_UP, "").strip()
    if not value:
        return None
    try:
        minutes = float(value)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise UserError(f"{GIVE_UP}={value}: give the minutes after which a wait is given up, such as 30.")
    return 60 * minutes


def _chance() -> float:
    """Returns a random number between 0 and 1 that is independent of the seeds of training."""
    return random.SystemRandom().random()


@dataclass(frozen=True)
class Patience:
    """Waits out outages: retries an action until it succeeds. The action must be safe to repeat.

    `say` receives a message when a wait begins, every minute during it, after five minutes with advice, and when it
    ends. `stopped` ends the wait within 0.1 s. The first pause is about `pause` seconds and each further one is twice
    as long, up to about `longest`; jitter keeps workers that lost the same server from returning all at once.
    `give_up_after` is in seconds.

    Calling it raises Interrupted when `stopped()` during a wait, GaveUp after `give_up_after`, and whatever else the
    action raises.
    """

    say: Callable[[str], None]
    stopped: Callable[[], bool] = never
    pause: float = 1.0
    longest: float = 30.0
    give_up_after: float | None = field(default_factory=give_up_after)
    refusing: bool = True
    every: float = 60.0
    advise_after: float = 300.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = _chance

    def __call__(self, action: Callable[[], T]) -> T:
        wait: _Wait | None = None
        pause = self.pause
        while True:
            try:
                result = action()
            except Exception as error:
                outage = diagnose(error)
                if outage is None:
                    if self.refusing and (sentence := refusal(error)):
                        raise UserError(sentence) from error
                    raise
                wait = wait or _Wait(self, outage)
                wait.outage = outage
                wait.pass_time(pause * (0.75 + 0.5 * self.chance()), error)
                pause = min(2 * pause, self.longest)
                continue
            if wait is not None:
                self.say("continuing")
            return result


class _Wait:
    """One wait of a Patience, starting with the first failure."""

    def __init__(self, of: Patience, outage: Outage) -> None:
        self.of, self.outage, self.began = of, outage, of.clock()
        self.minutes, self.advised = 0, set[str]()
        if of.give_up_after != 0:
            of.say(f"waiting: {outage}; continuing as soon as possible")

    def pass_time(self, seconds: float, error: Exception) -> None:
        """Returns after `seconds`, or earlier for a last attempt; raises GaveUp where no time is left."""
        until, limit = self.of.clock() + seconds, self.of.give_up_after
        if limit is not None:
            if self.of.clock() >= self.began + limit:
                raise GaveUp(self._given_up()) from error
            until = min(until, self.began + limit)
        while True:
            if self.of.stopped():
                raise Interrupted(self.outage.what) from error
            self._report()
            left = until - self.of.clock()
            if left <= 0:
                return
            self.of.sleep(min(SLICE, left))

    def _report(self) -> None:
        waited = self.of.clock() - self.began
        if waited >= (self.minutes + 1) * self.of.every:
            self.minutes = int(waited / self.of.every)
            self.of.say(f"still waiting after {_spell(waited)}: {self.outage}")
        if waited >= self.of.advise_after and self.outage.what not in self.advised:
            self.advised.add(self.outage.what)
            self.of.say(f"what can be done: {self.outage.advice}")

    def _given_up(self) -> str:
        waited = _spell(self.of.clock() - self.began)
        return f"gave up after waiting {waited}: {self.outage}; {self.outage.advice}; then run the same command again."


def _spell(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
