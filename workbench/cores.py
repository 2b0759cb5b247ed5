"""How many processor cores there are to use."""

import os


def allowed_cores() -> int:
    """The cores that the system lets this process use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """The cores that this process may use: those that a scheduler has given it, and no more than OMP_NUM_THREADS."""
    given = allowed_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(given, int(asked)) if asked.isdigit() and int(asked) else given
