"""Several processes of this machine that train one model together, started as torchrun starts them."""

import logging
import os
import sys
import uuid


def start_together(processes: int) -> int:
    """Runs this command again in `processes` processes; the exit code of the first one that failed, else 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    # What went wrong is said by the process where it went wrong.
    logging.disable(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "workbench", *sys.argv[1:])
    except SignalException:
        return 130  # it has been passed on, and the processes have saved their state
    except ChildFailedError as error:
        return max(1, error.get_first_failure()[1].exitcode)
    return 0
