"""How each process of a group on one machine ended, so that the first error of the group is the one that is reported.

The errors that the other processes raise afterwards, such as a closed connection, follow from the first one and say
nothing.
"""

import os
import pickle
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from workbench.files import write_whole
from workbench.stop import MEMBER


@dataclass(frozen=True)
class ProcessEnd:
    """How a process ended. `result` is what it returned; without one, `reason` says why in words and `trace` is the
    traceback. `at` is the time by a clock that all processes of a machine share."""

    how: Literal["ended", "stopped", "lost", "user", "memory", "failed"]
    reason: str = ""
    result: Any = None
    trace: str = field(default_factory=traceback.format_exc)
    at: float = field(default_factory=time.monotonic)


def tell(end: ProcessEnd) -> None:
    """Writes how this process ended, before it releases what the others wait for. Only the first call counts."""
    folder, rank = Path(os.environ[MEMBER]), os.environ["RANK"]
    file = folder / f"{rank}.told"
    if not file.exists():
        write_whole(file, pickle.dumps(end))


def heard(folder: Path) -> dict[int, ProcessEnd]:
    """Returns how processes ended, by rank; those that have not written it yet are missing."""
    return {int(file.stem): pickle.loads(file.read_bytes()) for file in folder.glob("*.told")}


def first_failure() -> ProcessEnd | None:
    """Returns the first failure among the processes that were started together with this one, if any."""
    if MEMBER not in os.environ:
        return None
    return next(_failures(heard(Path(os.environ[MEMBER]))), None)


def _failures(ends: dict[int, ProcessEnd]) -> Iterator[ProcessEnd]:
    return iter(sorted((end for end in ends.values() if end.how in ("user", "memory", "failed")), key=lambda t: t.at))
