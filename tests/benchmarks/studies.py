"""Small studies for benchmarks: one that a worker can begin with, YAML for `wb`, and `wb` as a process."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import yaml

from tests.benchmarks.figures import ROOT
from workbench.config.schema import Experiment, Seeds, Settings
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial.job import WorkerSpec, new_job
from workbench.trial.ledger import Ledger

RATIO = "objectives.itm.hard_ratio"
# Of a trial that takes hardly any time; 64 training pairs are enough for it.
LITTLE = {
    "data.train_pairs": 64,
    "data.eval_pairs": 32,
    "optimisation.steps": 2,
    "optimisation.batch_size": 8,
    "evaluation.every": 2,
    "evaluation.pairs": 8,
    "evaluation.final_pairs": 8,
    "evaluation.robustness_pairs": 0,
}


def over_ratios(settings: Settings, count: int, seeds: int = 1) -> Experiment:
    """`count` levels of the share of hard negatives."""
    levels = [place / count for place in range(count)]
    return Experiment(
        name="bench",
        question="?",
        preset="tiny",
        settings=settings,
        factors={RATIO: levels},
        arms=[{RATIO: level} for level in levels],
        baseline={RATIO: 0.0},
        seeds=Seeds(count=seeds),
    )


def begun(home: Path, experiment: Experiment) -> WorkerSpec:
    """The study `bench` of a workspace, begun as a sweep would; where a worker in this process works on it."""
    uri = ensure_store(home)
    parent, _ = Tracker(uri, home).start("bench", {"study": "bench", "kind": "sweep"}, {}, {})
    new_job("bench", experiment, parent, uri).publish(Ledger.of_workspace(home, "bench"))
    return WorkerSpec(home, None, "bench")


def written(file: Path, fixed: dict[str, Any], ratios: Sequence[float], seeds: int = 1) -> Path:
    """An experiment on the preset `tiny` over these ratios."""
    told = {
        "question": "How long does it take?",
        "preset": "tiny",
        "fixed": {"objectives.mlm.soft_labels": "none"} | fixed,
        "factors": {RATIO: list(ratios)},
        "baseline": {RATIO: ratios[0]},
        "seeds": {"count": seeds},
        "primary": "val/itm_auc",
    }
    file.write_text(yaml.safe_dump(told))
    return file


@dataclass(frozen=True)
class Took:
    """Seconds of a command by the wall clock, and of work by it and the processes for which it has waited."""

    wall: float
    work: float


def wb(*arguments: str | Path) -> Took:
    """Runs `wb` on one thread a process."""
    before, began = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "workbench", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wall, after = time.perf_counter() - began, getrusage(RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"wb {arguments[0]}: {done.stderr[-2000:]}")
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
