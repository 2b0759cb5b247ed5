"""The worker of a trial, and whether it is still alive."""

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

LEASE = float(os.environ.get("WB_LEASE", "60"))  # seconds without a heartbeat after which a worker counts as dead

REMEMBERED = 7 * 86400.0  # seconds for which the last sighting of a heartbeat is kept


@dataclass(frozen=True)
class Holder:
    """The worker of a trial. `host` identifies the machine (or container); `started` distinguishes a process from a
    later one with the same process id."""

    host: str
    pid: int
    started: str
    name: str

    @classmethod
    def me(cls, name: str) -> "Holder":
        return cls(_this_host(), os.getpid(), _started(os.getpid()), name)

    def dead(self) -> bool:
        """Returns whether it is known to be dead. Only its own host can know this."""
        return self.host == _this_host() and _started(self.pid) != self.started


class Watch:
    """Detects trials whose worker no longer renews its lease, using only this machine's clock."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[int, float]] = {}

    def lapsed(self, trial_id: int, holder: Holder, beat: int) -> bool:
        """Returns whether the heartbeat has not changed for a whole lease. Call it repeatedly."""
        if holder.dead():
            return True
        known = self.seen.get(trial_id)
        if known is None or known[0] != beat:
            self.seen[trial_id] = (beat, time.monotonic())
            return False
        return time.monotonic() - known[1] > LEASE

    def forget(self) -> None:
        """Discards all sightings after an outage of the storage: a heartbeat may have been missed."""
        self.seen.clear()


class Sightings:
    """Heartbeats that this machine has seen earlier, kept in a file. A short command can therefore detect a dead worker
    of another machine when it is run again a lease later. Like `Watch`, it uses only this machine's clock."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"seen-{socket.gethostname()}.json"
        self.before: dict[str, Any] = {}
        self.now: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            self.before = json.loads(self.file.read_text(encoding="utf-8"))

    def silent(self, name: str, beat: int) -> bool:
        """Returns whether the heartbeat of this name has not changed for a lease, judging by earlier sightings."""
        known, at = self.before.get(name, (None, 0.0)), time.time()
        self.now[name] = known if known[0] == beat else (beat, at)
        return bool(at - self.now[name][1] > LEASE)

    def keep(self) -> None:
        """Saves the sightings for the next command, if there are any. If the file cannot be written, the next command
        starts without sightings."""
        if not self.now:
            return
        recent = {name: seen for name, seen in self.before.items() if time.time() - seen[1] < REMEMBERED}
        with suppress(OSError):
            write_whole(self.file, json.dumps(recent | self.now).encode())


class Beating:
    """Renews a lease from a thread: it calls `beat({"beat": n, "step": ..., "steps": ...})` every quarter of a lease.
    `beat` returns False where the lease is lost."""

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
        """Tries to renew the lease now. A storage that cannot be reached is tried again next time."""
        self.tried = time.monotonic()
        self.count += 1
        self.trying = True
        with suppress(Exception):
            if not self.beat({"beat": self.count} | self.at):
                self.lost.set()
        self.trying = False

    def overdue(self) -> bool:
        """Returns whether no renewal was tried for a whole lease: this process was frozen and may have lost the lease.
        False while the thread waits for an unreachable storage."""
        return not self.trying and time.monotonic() - self.tried > LEASE

    def _run(self) -> None:
        while not self.ended.wait(LEASE / 4) and not self.lost.is_set():
            self.renew()


def _this_host() -> str:
    """Returns an id of this machine or container, within which process ids are unique."""
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if "ns" in path else Path(path).read_text().strip())
    return "/".join(parts)


def _started(pid: int) -> str:
    """Returns when a process of this host started, in the kernel's ticks; empty where there is no such process."""
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
