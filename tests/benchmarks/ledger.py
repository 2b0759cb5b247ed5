"""How fast a claim is in a study of many cells; more of it by `python -m tests.benchmarks.ledger`, a line a size.

No trial is trained: cells are claimed and ended as fast as the ledger lets one worker do it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

from optuna.trial import TrialState, create_trial

from tests.benchmarks.figures import ROOT, WALL, Figure, curve
from workbench.config.load import load_experiment
from workbench.config.schema import Experiment
from workbench.sweep.grid import expand, smoke
from workbench.sweep.search import Planner
from workbench.sweep.status import cells_of
from workbench.trial.cell import Ending
from workbench.trial.job import new_job, published
from workbench.trial.lease import Owned
from workbench.trial.ledger import Ledger
from workbench.trial.quiet import quiet

FILE = ROOT / "experiments" / "ablation_itm.yaml"
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


SIZES = (10, 100, 1000, 10_000)
CLAIMS = 4  # of each repeat


def measure(repeats: int, home: Path) -> list[Figure]:
    """Studies of which half of the cells have ended: a claim, and a worker's whole look at the study, which ends in
    one."""
    studies: dict[int, tuple[Ledger, Planner]] = {}
    claims: dict[int, list[float]] = {size: [] for size in SIZES}
    looks: dict[int, list[float]] = {size: [] for size in SIZES}
    for size in SIZES:
        experiment = of_size(size)
        studies[size] = filled(experiment, home / str(size), size // 2), Planner()
    for _ in range(repeats):
        for size, (ledger, planner) in studies.items():
            each = [returned(ledger, planner) for _ in range(CLAIMS)]
            looks[size].append(1000 * median(look for look, _ in each))
            claims[size].append(1000 * median(claim for _, claim in each))
    return [
        *curve("a claim", "ms", claims, "cells", WALL),
        *curve("a worker's whole look at the study", "ms", looks, "cells", WALL),
    ]


def of_size(cells: int) -> Experiment:
    """The main job, shrunk, with as many seeds as make so many cells."""
    experiment = smoke(load_experiment(FILE))
    seeds = experiment.seeds.model_copy(update={"count": cells // len(experiment.arms)})
    return experiment.model_copy(update={"seeds": seeds})


def filled(experiment: Experiment, workspace: Path, ended: int) -> Ledger:
    """The experiment's study with its first cells `ended`, which are written down at once and not claimed before."""
    ledger = Ledger.of_workspace(workspace, experiment.name)
    new_job(experiment.name, experiment, None, "").publish(ledger)
    for cell in expand(experiment)[:ended]:
        told = {"cell_key": cell.key, "name": cell.name, "ending": asdict(ENDING)}
        trial = create_trial(state=TrialState.COMPLETE, value=ENDING.value, user_attrs=told)
        ledger.storage.create_new_trial(ledger.study._study_id, template_trial=trial)
    ledger.endings()
    return ledger


def claimed(ledger: Ledger, planner: Planner) -> tuple[float, float, Owned]:
    """Seconds of a worker's look at the study, and of the claim in it; and what was claimed."""
    began = time.perf_counter()
    job, endings = published(ledger), ledger.endings()
    cells = planner(job.experiment, endings).cells
    looked = time.perf_counter()
    lease = ledger.claim(cells, job.retries, 0, "bench")
    ended = time.perf_counter()
    assert lease is not None
    lease.beating.ended.set()  # without waiting for its thread
    return ended - began, ended - looked, lease


def returned(ledger: Ledger, planner: Planner) -> tuple[float, float]:
    """The same seconds; the cell is given back, so that the study stays as large as it was."""
    look, claim, lease = claimed(ledger, planner)
    lease.release()
    return look, claim


def measured(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def of_cells(count: int, workspace: Path) -> str:
    """A study of `count` cells, half of them ended, then all."""
    experiment = of_size(count)
    ledger, planner = Ledger.of_workspace(workspace, "s"), Planner()
    new_job("s", experiment, None, "").publish(ledger)
    claims, looks, status = [], [], 0.0
    for done in range(len(expand(experiment))):
        look, claim, lease = claimed(ledger, planner)
        lease.complete(ENDING)
        claims.append(claim)
        looks.append(look)
        if done == count // 2:
            status = measured(lambda: cells_of(experiment, workspace, "s", None))
    opened = subprocess.run([sys.executable, "-c", OPEN, str(workspace)], capture_output=True, text=True, check=True)
    ended, seconds, memory = opened.stdout.split()
    assert int(ended) == count
    size = (workspace / "studies" / "journal.log").stat().st_size / 1e6
    last = claims[-max(10, count // 20) :]
    return (
        f"{count:,} cells: claim {1000 * median(claims):.0f} ms (of the last ones {1000 * median(last):.0f} ms, at most"
        f" {1000 * max(claims):.0f} ms), a worker's whole look {1000 * median(looks):.0f} ms, --status {status:.2f} s,"
        f" opening {float(seconds):.2f} s and {float(memory):.0f} MiB, journal {size:.1f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[100, 1000, 10_000])
    quiet()
    for count in parser.parse_args().cells:
        with tempfile.TemporaryDirectory() as folder:
            print(of_cells(count, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
