"""What two busy neighbours cost a short sweep with two workers.

`python -m tests.benchmarks.neighbours` compares the ways in which OpenMP's threads may wait for one another. It times
30 steps of `tiny`, in a process of its own, with one and with two threads, beside none, one and two processes
that keep a core busy, for each way of waiting. By default (libgomp) a thread that waits keeps its core for a while;
`OMP_WAIT_POLICY=PASSIVE` gives it away, which `wb` sets. Prints seconds, the median and range over the repeats.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.benchmarks.figures import WALL, Figure, figure, ratio
from tests.benchmarks.studies import wb, written

WAYS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
    "spins little": {"GOMP_SPINCOUNT": "1000"},
}
BUSY = "while True: pass"
STEPS = 30
GOAL = 2.2
RATIOS = (0.0, 0.3, 0.6, 1.0)
SHORT = {
    "data.train_pairs": 512,
    "data.eval_pairs": 128,
    "optimisation.steps": 20,
    "evaluation.pairs": 128,
    "evaluation.final_pairs": 128,
    "evaluation.robustness_pairs": 16,
}


def measure(repeats: int, home: Path) -> list[Figure]:
    """The same sweep of four trials, alone and beside the neighbours in turn, each in a fresh workspace."""
    file = written(home / "short.yaml", SHORT, RATIOS)
    took: dict[int, list[float]] = {0: [], 2: []}
    for number in range(repeats):
        for neighbours, seconds in took.items():
            with busy(neighbours):
                place = home / f"{neighbours}-{number}"
                seconds.append(wb("sweep", file, "--workers", "2", "--workspace", place).wall)
    alone, beside = (np.array(seconds) for seconds in took.values())
    name = f"a sweep of {len(RATIOS)} trials, two workers"
    return [
        figure(f"{name}, alone", "s", alone, f"{WALL}, report included"),
        figure(f"{name}, beside two busy processes", "s", beside, WALL),
        ratio("beside two busy processes / alone", beside, alone, f"{WALL}; goal at most {GOAL}"),
    ]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keeps `count` cores busy by processes of this machine, each in a session of its own."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def inner(threads: int, cache: Path) -> None:
    """Prints the seconds that the steps took."""
    import torch

    from tests.benchmarks.training import train_step
    from workbench.config.load import load_experiment
    from workbench.training.prepare import prepare

    torch.set_num_threads(threads)
    small = ["data.train_pairs=512", "data.eval_pairs=64"]
    settings = load_experiment(Path("experiments/ablation_itm.yaml"), small).settings
    step = train_step(settings, prepare(settings, cache, lambda *_: None))
    for _ in range(3):
        step()
    began = time.perf_counter()
    for _ in range(STEPS):
        step()
    print(time.perf_counter() - began)


def timed(way: dict[str, str], threads: int, neighbours: int, cache: Path) -> float:
    """The seconds of the steps in a process that waits in this way."""
    plain = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    with busy(neighbours):
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.neighbours",
            "--threads",
            str(threads),
            "--cache",
            str(cache),
        ]
        told = plain | way | {"OMP_NUM_THREADS": str(threads)}
        said = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
        return float(said.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of the process that is measured, which this then is")
    parser.add_argument("--cache", type=Path, default=Path(".wb/bench"))
    given = parser.parse_args()
    if given.threads:
        inner(given.threads, given.cache)
        return
    for threads in (1, 2):
        for neighbours in (0, 1, 2):
            taken: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(given.repeats):
                for name, way in WAYS.items():
                    taken[name].append(timed(way, threads, neighbours, given.cache))
            told = "; ".join(f"{name} {np.median(t):.1f} ({min(t):.1f} to {max(t):.1f})" for name, t in taken.items())
            print(f"{threads} thread(s), {neighbours} busy neighbour(s), seconds of {STEPS} steps: {told}", flush=True)


if __name__ == "__main__":
    main()
