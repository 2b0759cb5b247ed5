"""Waiting out what is no fault of a run: a full disk, a server or a database that cannot be reached."""

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
Persist = Callable[[Callable[[], None]], None]  # runs an action that writes, now or once it can be done
SLICE = 0.05  # seconds between two looks at `stopped` and at the clock


class GaveUp(UserError):
    """The wait was longer than it should be."""


def never() -> bool:
    return False


def at_once(action: Callable[[], None]) -> None:
    """Runs an action without waiting out anything."""
    action()


def give_up_after() -> float | None:
    """Seconds after which a wait is given up, from `WB_GIVE_UP_AFTER`; None: never.

    Raises UserError where that is no number.
    """
    given = os.environ.get(GIVE_UP, "").strip()
    if not given:
        return None
    try:
        minutes = float(given)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise UserError(f"{GIVE_UP}={given}: give the minutes after which a wait is given up, such as 30.")
    return 60 * minutes


def _chance() -> float:
    """Between 0 and 1, from no generator that a seed of the training governs."""
    return random.SystemRandom().random()


@dataclass(frozen=True)
class Patience:
    """Waits out outages: calls an action again until none stands in its way. The action must be safe to repeat.

    `say` hears when a wait begins, every minute of it, after five minutes what can be done, and when it ends; `stopped`
    ends it within 0.1 s. The first pause is of about `pause` seconds, each further one twice as long, up to about
    `longest`; about, so that workers that lost one server do not all come back at once. `give_up_after` is in seconds.

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
                found = diagnose(error)
                if found is None:
                    if self.refusing and (told := refusal(error)):
                        raise UserError(told) from error
                    raise
                wait = wait or _Wait(self, found)
                wait.found = found
                wait.pass_time(pause * (0.75 + 0.5 * self.chance()), error)
                pause = min(2 * pause, self.longest)
                continue
            if wait is not None:
                self.say("going on")
            return result


class _Wait:
    """One wait of a Patience, from the first failure on."""

    def __init__(self, of: Patience, found: Outage) -> None:
        self.of, self.found, self.began = of, found, of.clock()
        self.minutes, self.advised = 0, set[str]()
        if of.give_up_after != 0:
            of.say(f"waiting: {found}; going on as soon as it can")

    def pass_time(self, seconds: float, error: Exception) -> None:
        """Returns after so many seconds, or earlier for a last attempt; raises where there is no more time."""
        until, limit = self.of.clock() + seconds, self.of.give_up_after
        if limit is not None:
            if self.of.clock() >= self.began + limit:
                raise GaveUp(self._given_up()) from error
            until = min(until, self.began + limit)
        while True:
            if self.of.stopped():
                raise Interrupted(self.found.what) from error
            self._tell()
            left = until - self.of.clock()
            if left <= 0:
                return
            self.of.sleep(min(SLICE, left))

    def _tell(self) -> None:
        waited = self.of.clock() - self.began
        if waited >= (self.minutes + 1) * self.of.every:
            self.minutes = int(waited / self.of.every)
            self.of.say(f"still waiting after {_spell(waited)}: {self.found}")
        if waited >= self.of.advise_after and self.found.what not in self.advised:
            self.advised.add(self.found.what)
            self.of.say(f"what can be done: {self.found.advice}")

    def _given_up(self) -> str:
        waited = _spell(self.of.clock() - self.began)
        return f"gave up after waiting {waited}: {self.found}; {self.found.advice}; then the same command goes on."


def _spell(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
