"""`wb` in each of its phases, and what a signal does to it there: for test_stopping.py, and for the table of
benchmarks/stopping.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.services import until
from tests.soak import YAML as TINY

ROOT = Path(__file__).resolve().parent.parent
YAML = TINY.format(steps=8, ratios=[0.0, 0.5], seeds=1).replace(
    "optimisation.batch_size: 8",
    "optimisation.batch_size: 16",  # for two processes
)
LONG = ("optimisation.steps=100000",)
VALIDATING = ("optimisation.steps=100000", "evaluation.every=1", "evaluation.pairs=3000", "data.eval_pairs=3000")
EVALUATING = ("evaluation.final_pairs=1000", "evaluation.robustness_pairs=1000", "data.eval_pairs=1000")


class Started:
    """A `wb` that runs in a session of its own, and how it ended."""

    def __init__(self, arguments: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with open(log.with_suffix(".out"), "w") as out, open(log.with_suffix(".err"), "w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workbench", *arguments],
                cwd=ROOT,
                stdout=out,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {}),
            )

    @property
    def out(self) -> str:
        return self.log.with_suffix(".out").read_text()

    @property
    def errors(self) -> str:
        return self.log.with_suffix(".err").read_text()

    def said(self) -> list[str]:
        """What it has said on standard error, but for the warning that its one seed deserves."""
        return [line for line in self.errors.splitlines() if "cannot reach a verdict" not in line]

    def family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def listens(self) -> bool:
        """Whether it has put its handlers in place, before which Python itself answers to signals."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
        return False

    def wait_for(self, moment: Callable[[], object], seconds: float = 120) -> None:
        def come() -> bool:
            assert self.process.poll() is None, self.out + self.errors
            return bool(moment())

        until(come, seconds)

    def stop(self, *signals: signal.Signals, group: bool = False) -> float:
        """Seconds from the first signal until the command has ended. What it has started is gone within 15 seconds
        more."""
        family, began = self.family(), time.monotonic()
        for number in signals:
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.process.pid, number)
            time.sleep(0.25 if len(signals) > 1 else 0)
        try:
            self.process.wait(30)
            seconds = time.monotonic() - began
            _, left = psutil.wait_procs(family, timeout=15)
            assert not left, left
        finally:
            self.kill(family)
        return seconds

    def outlived(self) -> float:
        """Seconds for which what it has started outlives it when it is killed outright; at most 15."""
        family, began = self.family(), time.monotonic()
        self.process.kill()
        try:
            _, left = psutil.wait_procs(family, timeout=15)
            assert not left, [process.cmdline() for process in left]
        finally:
            self.kill(family)
        return time.monotonic() - began

    def kill(self, family: list[psutil.Process] | None = None) -> None:
        for process in self.family() if family is None else family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass(frozen=True)
class Phase:
    """`arguments` of `wb`, in which {yaml}, {w}, {run} and {images} stand for what they are called; `come(workspace,
    out)` says that the phase is there, for which it then has to be waited a little more."""

    name: str
    arguments: str
    come: Callable[[Path, str], object]
    sets: tuple[str, ...] = ()
    pause: float = 0.5
    env: dict[str, str] = field(default_factory=dict)


def says(text: str) -> Callable[[Path, str], bool]:
    return lambda _, out: text in out


def has(pattern: str) -> Callable[[Path, str], bool]:
    return lambda workspace, _: any(workspace.glob(pattern))


AWAY = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
SWEEP, TRAIN = "sweep {yaml} --workspace {w} --workers 1", "train {yaml} --workspace {w}"
DATA = ("data.train_pairs=60000",)
WARM = ("warm_start.steps=100000",)
FEATURES = ("data.train_pairs=4000", "data.image_size=224", "warm_start.train_vision=false")
TWO_TRAIN, TWO_SWEEP = f"{TRAIN} --nproc 2", f"{SWEEP} --processes-per-trial 2"
NOW = lambda *_: True  # noqa: E731
PHASES = [
    Phase("imports, first moment", SWEEP, NOW, pause=0.0),
    Phase("imports", SWEEP, NOW, pause=0.7),
    Phase("imports of training", TRAIN, NOW, pause=2.0),
    Phase("sweep: rendering scenes", SWEEP, says("preparing: data"), DATA),
    Phase("sweep: warm start", SWEEP, says("preparing: warm start"), WARM),
    Phase("sweep: features", SWEEP, says("preparing: features"), FEATURES, 0.1),
    Phase("sweep: training", SWEEP, has("checkpoints/*/*.pt"), LONG),
    Phase("sweep: validation", SWEEP, has("artifacts/*/artifacts/provenance.json"), VALIDATING, 3.0),
    Phase("sweep: evaluation after the last step", SWEEP, has("checkpoints/*/*.parts"), EVALUATING),
    Phase("sweep: report", SWEEP, says("finished hard_ratio=0.5"), pause=0.2),
    Phase("sweep --launcher here: training", f"{SWEEP} --launcher here", has("checkpoints/*/*.pt"), LONG),
    Phase("train: waiting for MLflow", TRAIN, says("waiting:"), LONG, 0.5, AWAY),
    Phase("sweep, two processes: rendering scenes", TWO_SWEEP, has("cache/*.part"), DATA),
    Phase("sweep, two processes: warm start", TWO_SWEEP, has("cache/warm-*.lock"), WARM, 3.0),
    Phase("sweep, two processes: training", TWO_SWEEP, has("checkpoints/*/*.pt"), LONG),
    Phase("sweep, two processes: evaluation", TWO_SWEEP, has("checkpoints/*/*.parts"), EVALUATING),
    Phase("train: rendering scenes", TRAIN, says("preparing: data"), DATA),
    Phase("train: warm start", TRAIN, says("preparing: warm start"), WARM),
    Phase("train: training", TRAIN, has("checkpoints/*/*.pt"), LONG),
    Phase("train: validation", TRAIN, has("artifacts/*/artifacts/provenance.json"), VALIDATING, 3.0),
    Phase("train: evaluation", TRAIN, has("checkpoints/*/*.parts"), EVALUATING),
    Phase("train --nproc 2: imports", TWO_TRAIN, NOW, pause=4.0),
    Phase("train --nproc 2: warm start", TWO_TRAIN, says("preparing: warm start"), WARM, 1.0),
    Phase("train --nproc 2: training", TWO_TRAIN, has("checkpoints/*/*.pt"), LONG),
    Phase("train --nproc 2: evaluation", TWO_TRAIN, has("checkpoints/*/*.parts"), EVALUATING),
]
OF_A_RUN = [
    Phase("eval", "eval --run-id {run} --suite robustness --workspace {w}", has("evaluations/*/*.parts")),
    Phase(
        "finetune",
        "finetune vqa --run-id {run} --epochs 10000 --workspace {w}",
        lambda w, out: time.time() - started_at(w) > 12,
    ),
    Phase("reproduce", "reproduce --run-id {run} --workspace {w}", has("checkpoints/*/*-again-*.pt"), pause=0.0),
    Phase("report", "report --run-id {run} --workspace {w}", NOW, pause=2.5),
    Phase("data prepare", "data prepare many --from {images} --side 1024 --workspace {w}", has("data/*"), pause=1.0),
    Phase("worker", "worker stop --workspace {w} --workers 1", NOW, pause=8.0),
]


def started_at(workspace: Path) -> float:
    return (workspace / "begun").stat().st_mtime


def start(phase: Phase, workspace: Path, yaml: Path, log: Path, **named: str) -> Started:
    """`wb`, come to that phase."""
    words = phase.arguments.format(yaml=yaml, w=workspace, **named).split()
    sets = [word for setting in phase.sets for word in ("--set", setting)]
    (workspace / "begun").touch()
    started = Started([*words, *sets], log, phase.env)
    try:
        started.wait_for(started.listens)
        started.wait_for(lambda: phase.come(workspace, started.out))
        time.sleep(phase.pause)
    except BaseException:
        started.kill()
        raise
    return started
