"""How fast a study is with many cells. `python -m tests.benchmarks.ledger`; prints a line a size, and changes nothing.

No trial is trained: cells are claimed and ended as fast as the ledger lets one worker do it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from workbench.config.load import load_experiment
from workbench.config.schema import Experiment
from workbench.sweep.grid import expand, smoke
from workbench.sweep.search import Planner
from workbench.sweep.status import cells_of
from workbench.trial.cell import Ending
from workbench.trial.job import new_job, published
from workbench.trial.ledger import Ledger
from workbench.trial.quiet import quiet

FILE = Path(__file__).resolve().parent.parent.parent / "experiments" / "ablation_itm.yaml"
ENDING = Ending("0" * 32, "finished", 0.5, dict.fromkeys(range(50, 1001, 50), 0.5))
# Opens the study in a process of its own, so that the memory is its alone.
OPEN = """
import sys, time
import psutil
from pathlib import Path
from workbench.trial.ledger import Ledger
before = psutil.Process().memory_info().rss
began = time.perf_counter()
ledger = Ledger.of_workspace(Path(sys.argv[1]), "s")
ended = len(ledger.endings())
taken = time.perf_counter() - began
print(ended, taken, (psutil.Process().memory_info().rss - before) / 2**20)
"""


def measured(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def of_cells(experiment: Experiment, count: int, workspace: Path) -> str:
    """A study of `count` cells, half of them ended, then all."""
    seeds = experiment.seeds.model_copy(update={"count": count // len(experiment.arms)})
    experiment = experiment.model_copy(update={"seeds": seeds})
    ledger, planner = Ledger.of_workspace(workspace, "s"), Planner()
    new_job("s", experiment, None, "").publish(ledger)
    claims, looks, status = [], [], 0.0
    for done in range(len(expand(experiment))):
        began = time.perf_counter()
        job, endings = published(ledger), ledger.endings()
        cells = planner(job.experiment, endings).cells
        looked = time.perf_counter()
        lease = ledger.claim(cells, job.retries, 0, "bench")
        claims.append(time.perf_counter() - looked)
        looks.append(time.perf_counter() - began)
        assert lease is not None
        lease.beating.ended.set()  # without waiting for its thread
        lease.complete(ENDING)
        if done == count // 2:
            status = measured(lambda: cells_of(experiment, workspace, "s", None))
    opened = subprocess.run([sys.executable, "-c", OPEN, str(workspace)], capture_output=True, text=True, check=True)
    ended, seconds, memory = opened.stdout.split()
    assert int(ended) == count
    size = (workspace / "studies" / "journal.log").stat().st_size / 1e6
    last = claims[-max(10, count // 20) :]
    return (
        f"{count:,} cells: claim {1000 * median(claims):.0f} ms (of the last ones {1000 * median(last):.0f} ms, at most "
        f"{1000 * max(claims):.0f} ms), a worker's whole look {1000 * median(looks):.0f} ms, --status {status:.2f} s, "
        f"opening {float(seconds):.2f} s and {float(memory):.0f} MiB, journal {size:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[100, 1000, 10_000])
    quiet()
    experiment = smoke(load_experiment(FILE))
    for count in parser.parse_args().cells:
        with tempfile.TemporaryDirectory() as folder:
            print(of_cells(experiment, count, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
