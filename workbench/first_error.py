"""How processes that one machine has started together tell how each of them ended, so that the first error is the one
that is heard.

What the others then raise, such as a connection that was closed, follows from it and says nothing.
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
class Told:
    """How a process ended: `made` is what it came to, else `reason` says in words why there is nothing, and `trace`
    where. `at` is the time by a clock that all processes of a machine share."""

    how: Literal["ended", "stopped", "lost", "user", "memory", "failed"]
    reason: str = ""
    made: Any = None
    trace: str = field(default_factory=traceback.format_exc)
    at: float = field(default_factory=time.monotonic)


def tell(told: Told) -> None:
    """Written by the process itself, before it lets go of what the others wait for; the first word counts."""
    folder, rank = Path(os.environ[MEMBER]), os.environ["RANK"]
    file = folder / f"{rank}.told"
    if not file.exists():
        write_whole(file, pickle.dumps(told))


def heard(folder: Path) -> dict[int, Told]:
    """Rank -> what it has told."""
    return {int(file.stem): pickle.loads(file.read_bytes()) for file in folder.glob("*.told")}


def first_failure() -> Told | None:
    """The first failure among the processes that were started together with this one, if one has failed."""
    if MEMBER not in os.environ:
        return None
    return next(_failures(heard(Path(os.environ[MEMBER]))), None)


def _failures(told: dict[int, Told]) -> Iterator[Told]:
    return iter(
        sorted((each for each in told.values() if each.how in ("user", "memory", "failed")), key=lambda t: t.at)
    )
