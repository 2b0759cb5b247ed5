"""The number of processor cores that this process may use."""

import os


def allowed_cores() -> int:
    """Returns the number of cores that the system lets this process use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_cores() -> int:
    """Returns the number of cores that this process may use: the scheduler's allocation, at most OMP_NUM_THREADS."""
    allocated = allowed_cores()
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return min(allocated, int(limit)) if limit.isdigit() and int(limit) else allocated
