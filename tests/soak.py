"""A sweep under fire, compared with the same sweep left in peace. `python tests/soak.py --minutes 20`, or `just soak`.

40 cells and 3 workers; a SIGKILL for a random worker every few seconds, SIGTERM to the sweep twice, the MLflow server killed for 20
seconds, the disk full once. At the end each cell is complete exactly once, each metric is there at each step exactly once, and all values are
those of the undisturbed sweep, to the last bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.services import MlflowServer, command, mlflow_server

ROOT = Path(__file__).resolve().parent.parent
CELLS = 40
WORKERS = 3
YAML = """
question: Does a sweep under fire end as one left in peace?
preset: tiny
fixed:
  objectives.mlm.soft_labels: none
  data.train_pairs: 128
  data.eval_pairs: 32
  warm_start.steps: 2
  warm_start.batch_size: 16
  model.width: 32
  optimisation.steps: {steps}
  optimisation.batch_size: 8
  optimisation.checkpoint_every: 2
  evaluation.every: 4
  evaluation.pairs: 8
  evaluation.final_pairs: 8
  evaluation.robustness_pairs: 0
factors: {{objectives.itm.hard_ratio: {ratios}}}
baseline: {{objectives.itm.hard_ratio: 0.0}}
seeds: {{count: {seeds}}}
"""
Value = dict[tuple[str, str, int], float]  # (cell, metric, step) -> value


@dataclass
class Fired:
    """What was done to the sweep."""

    kills: int = 0
    stops: int = 0
    server_seconds: float = 0.0
    full_seconds: float = 0.0
    starts: int = 0
    seconds: float = 0.0
    told: Counter[str] = field(default_factory=Counter)


class Sweep:
    """`wb sweep` as a process, with its output in a file."""

    def __init__(self, yaml: Path, workspace: Path, log: Path, tracking: str | None) -> None:
        self.arguments = ["sweep", str(yaml), "--workspace", str(workspace), "--workers", str(WORKERS)]
        self.env = os.environ | {"WB_LEASE": "8", "PYTHONPATH": str(ROOT)}
        if tracking:
            self.env["MLFLOW_TRACKING_URI"] = tracking
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                command(*self.arguments), cwd=ROOT, env=self.env, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def code(self) -> int | None:
        assert self.process is not None
        return self.process.poll()

    def workers(self) -> list[psutil.Process]:
        """Those that work, not the server that they are forked from."""
        assert self.process is not None
        try:
            children = psutil.Process(self.process.pid).children()
            return [worker for server in children for worker in server.children()]
        except psutil.Error:
            return []

    def finish(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=600)


def values(database: str) -> tuple[Value, Counter[tuple[str, str, int]]]:
    """Every logged value of the trials in an MLflow database, all of which must be finished, and how often each is there."""
    engine = create_engine(database)
    with engine.connect() as connection:
        cells = {
            run: (cell, status)
            for run, cell, status in connection.execute(
                text(
                    "SELECT r.run_uuid, c.value, r.status FROM runs r JOIN tags c ON c.run_uuid = r.run_uuid AND c.key = 'config_hash' "
                    "JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'kind' AND k.value = 'trial'"
                )
            )
        }
        assert {status for _, status in cells.values()} == {"FINISHED"}
        assert len({cell for cell, _ in cells.values()}) == len(cells)
        logged = connection.execute(text("SELECT run_uuid, key, step, value FROM metrics")).fetchall()
    engine.dispose()
    rows = [
        ((cells[run][0], name, step), value)
        for run, name, step, value in logged
        if run in cells and not name.startswith("system/")
    ]
    return dict(rows), Counter(key for key, _ in rows)


def soak(home: Path, disk: Path, server: MlflowServer, steps: int, pause: float, seed: int = 0) -> Fired:
    """Runs both sweeps and compares them; raises AssertionError where anything was lost, doubled or changed. `disk`: a folder that can be
    filled up. `pause`: mean seconds between two kills."""
    from workbench.trial.ledger import Ledger
    from workbench.trial.storage import open_storage

    yaml = home / "soak.yaml"
    yaml.write_text(YAML.format(steps=steps, ratios=[ratio / 10 for ratio in range(10)], seeds=CELLS // 10))
    calm, stormy = home / "calm", disk / "stormy"
    peace = Sweep(yaml, calm, home / "calm.log", None)
    peace.start()
    assert peace.finish() == 0, (home / "calm.log").read_text()[-3000:]

    rng, fired, began = random.Random(seed), Fired(), time.monotonic()
    sweep = Sweep(yaml, stormy, home / "stormy.log", server.uri)
    faults = [(4, "stop"), (10, "server"), (18, "disk"), (26, "stop")]
    sweep.start()
    fired.starts = 1
    ledger = Ledger(open_storage(None, stormy), "soak")
    next_kill = time.monotonic() + 10 + pause
    while True:
        time.sleep(0.2)
        if sweep.code is not None:
            assert sweep.code in (0, 130), (home / "stormy.log").read_text()[-3000:]
            if sweep.code == 0:
                break
            sweep.start()
            fired.starts += 1
            next_kill = time.monotonic() + 5 + pause
        if faults and len(ledger.endings()) >= faults[0][0]:
            _, fault = faults.pop(0)
            if fault == "stop":
                assert sweep.process is not None
                sweep.process.send_signal(signal.SIGTERM)
                stopped = time.monotonic()
                assert sweep.finish() == 130
                assert time.monotonic() - stopped < 30
                fired.stops += 1
            elif fault == "server":
                fired.server_seconds += _while(lambda: server.stop(), lambda: server.start(), 20)
            else:
                fired.full_seconds += _fill(disk)
        elif time.monotonic() > next_kill:
            next_kill = time.monotonic() + rng.uniform(0.5, 1.5) * pause
            if workers := sweep.workers():
                with suppress(psutil.NoSuchProcess):
                    rng.choice(workers).send_signal(signal.SIGKILL)
                    fired.kills += 1
    fired.seconds = time.monotonic() - began
    assert not faults, f"the sweep ended before {faults}"
    compare(calm, server.backend, ledger)
    log = (home / "stormy.log").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :][:3000]
    for sign in ("waiting: no room", "cannot be reached", "another takes its place"):
        fired.told[sign] = log.count(sign)
    return fired


def compare(calm: Path, stormy: str, ledger: object) -> None:
    complete = Counter(
        trial.user_attrs["cell_key"]
        for trial in ledger.study.trials  # type: ignore[attr-defined]
        if trial.state.name == "COMPLETE"
    )
    assert len(complete) == CELLS
    assert set(complete.values()) == {1}
    expected, _ = values(f"sqlite:///{calm / 'mlflow.db'}")
    found, counts = values(stormy)
    assert {cell for cell, *_ in found} == set(complete)
    assert set(found) == set(expected), f"missing {set(expected) - set(found)}, more {set(found) - set(expected)}"
    doubled = {key: count for key, count in counts.items() if count > 1}
    assert not doubled, doubled
    changed = {
        key: (expected[key], value)
        for key, value in found.items()
        if value != expected[key] and not key[1].startswith(("seconds", "perf/"))
    }
    assert not changed, changed


def _while(begin: object, end: object, seconds: float) -> float:
    began = time.monotonic()
    begin()  # type: ignore[operator]
    time.sleep(seconds)
    end()  # type: ignore[operator]
    return time.monotonic() - began


def _fill(disk: Path, seconds: float = 6) -> float:
    """Fills the disk to its last byte for a while."""
    ballast = disk / "ballast"
    began = time.monotonic()
    try:
        with suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        with suppress(OSError), open(ballast, "ab", buffering=0) as file:
            while True:
                file.write(bytes(512))
        time.sleep(seconds)
    finally:
        ballast.unlink()
    return time.monotonic() - began


def small_disk(folder: Path, size: str = "600m") -> bool:
    """Whether a disk of its own is now at `folder`; only root may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return made.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        disk = home / "disk"
        assert small_disk(disk), "the soak test fills a disk of its own, which only root can mount"
        try:
            with mlflow_server(home / "server") as server:
                # As many steps as take that long on two cores, both sweeps together.
                print(soak(home, disk, server, max(12, 4 * round(asked.minutes * 4.5)), 6, asked.seed))
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)


if __name__ == "__main__":
    main()
