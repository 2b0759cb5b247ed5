"""Who works on a trial, and whether that worker still lives."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.files import write_whole

LEASE = float(os.environ.get("WB_LEASE", "60"))  # seconds without a beat after which a worker counts as dead

REMEMBERED = 7 * 86400.0  # seconds for which a beat that nobody asks about is kept


@dataclass(frozen=True)
class Holder:
    """The worker of a trial: `host` tells machines (and containers) apart, `started` a process from a later one of the
    same number."""

    host: str
    pid: int
    started: str
    name: str

    @classmethod
    def me(cls, name: str) -> "Holder":
        return cls(_this_host(), os.getpid(), _started(os.getpid()), name)

    def dead(self) -> bool:
        """Whether it is known to be dead, which only its own host can tell."""
        return self.host == _this_host() and _started(self.pid) != self.started


class Watch:
    """Tells trials whose worker no longer renews its lease, by this machine's clock alone."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, float]] = {}

    def lapsed(self, trial_id: int, holder: Holder, beat: int) -> bool:
        """To be asked again and again: the beat must have stood still for a whole lease."""
        if holder.dead():
            return True
        known = self.seen.get(trial_id)
        if known is None or known[0] != beat:
            self.seen[trial_id] = (beat, time.monotonic())
            return False
        return time.monotonic() - known[1] > LEASE

    def forget(self) -> None:
        """After a time in which nothing could be read: a beat may have been missed."""
        self.seen.clear()


class Sightings:
    """Beats as this machine has seen them at earlier looks, kept in a file, so that a command which ends at once can
    tell a silent worker of another machine, too, when it is given a second time a lease later. As in `Watch` this
    machine's clock alone counts."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"seen-{socket.gethostname()}.json"
        self.before: dict[str, Any] = {}
        self.now: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.before = json.loads(self.file.read_text(encoding="utf-8"))

    def silent(self, name: str, beat: int) -> bool:
        """Whether the beat of this name has stood still for a lease, as far as it was looked at."""
        known, at = self.before.get(name, (None, 0.0)), time.time()
        self.now[name] = known if known[0] == beat else (beat, at)
        return bool(at - self.now[name][1] > LEASE)

    def keep(self) -> None:
        """For the next look, where there was anything to see; where nothing can be written, that will be as the first
        one."""
        if not self.now:
            return
        recent = {name: each for name, each in self.before.items() if time.time() - each[1] < REMEMBERED}
        with suppress(OSError):
            write_whole(self.file, json.dumps(recent | self.now).encode())


class Beating:
    """Renews a lease from a thread: `beat({"beat": n, "step": ..., "steps": ...})` every quarter of it; False says that
    it is lost."""

    def __init__(self, beat: Callable[[dict[str, Any]], bool]) -> None:
        self.beat, self.at, self.count = beat, {"step": 0, "steps": 0}, 0
        self.lost, self.ended = threading.Event(), threading.Event()
        self.tried, self.trying = time.monotonic(), False
        self.thread = threading.Thread(target=self._run, daemon=True, name="lease")
        self.thread.start()

    def end(self) -> None:
        self.ended.set()
        self.thread.join()

    def renew(self) -> None:
        """Tries now; what cannot be reached may be reached next time."""
        self.tried = time.monotonic()
        self.count += 1
        self.trying = True
        with suppress(Exception):
            if not self.beat({"beat": self.count} | self.at):
                self.lost.set()
        self.trying = False

    def overdue(self) -> bool:
        """Whether nothing was tried for a whole lease: this process was frozen, and may have lost it meanwhile. Not
        while a storage that is away lets the thread wait."""
        return not self.trying and time.monotonic() - self.tried > LEASE

    def _run(self) -> None:
        while not self.ended.wait(LEASE / 4) and not self.lost.is_set():
            self.renew()


def _this_host() -> str:
    """This machine, or this container of it: processes are only told apart within it."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if "ns" in path else Path(path).read_text().strip())
    return "/".join(parts)


def _started(pid: int) -> str:
    """When a process of this host began, in the kernel's ticks; empty where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _started_elsewhere(pid)
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] in "ZX" else fields[19]


def _started_elsewhere(pid: int) -> str:
    import psutil

    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""
