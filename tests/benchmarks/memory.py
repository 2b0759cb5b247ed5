"""Whether a worker grows: the memory of its process after 5 and after 50 very small trials.

`python -m tests.benchmarks.memory WORKSPACE` is that process, which prints its resident set in MiB after each trial.
"""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from tests.benchmarks.figures import ROOT, Figure, figure
from tests.benchmarks.studies import LITTLE, begun, over_ratios
from workbench.config.schema import Settings
from workbench.config.settings import apply, read_preset
from workbench.events import Event, TrialEnded
from workbench.stop import Stop
from workbench.sweep.worker import Worker
from workbench.trial.quiet import quiet

FIRST, TRIALS = 5, 50


def measure(repeats: int, home: Path) -> list[Figure]:
    """A fresh process and a fresh workspace in each repeat."""
    courses = [course(home / str(number)) for number in range(repeats)]
    first, last = ([made[place - 1] for made in courses] for place in (FIRST, TRIALS))
    grown = [1024 * (after - before) / (TRIALS - FIRST) for before, after in zip(first, last, strict=True)]
    return [
        figure(f"a worker's memory after {FIRST} trials", "MiB", first, "resident set"),
        figure(f"a worker's memory after {TRIALS} trials", "MiB", last, "resident set"),
        figure("... growth a trial between them", "KiB", grown),
    ]


def course(home: Path, trials: int = TRIALS) -> list[float]:
    """MiB after each trial."""
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.memory", str(home), str(trials)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [float(line) for line in done.stdout.split()]


def main(home: Path, trials: int) -> None:
    quiet()
    torch.set_num_threads(1)
    settings = apply(Settings.model_validate(read_preset("tiny")), LITTLE)
    process = psutil.Process()

    def heard(event: Event) -> None:
        if isinstance(event, TrialEnded):
            print(process.memory_info().rss / 2**20, flush=True)

    Worker(begun(home, over_ratios(settings, trials)), "bench", heard, Stop()).work()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
