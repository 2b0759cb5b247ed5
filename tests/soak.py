"""Sweeps under fire, compared with the same sweep left in peace. `just soak`, or `python tests/soak.py --minutes 20
[--cluster]`.

40 cells and 3 workers. Every few seconds a random worker is killed, or frozen for longer than its lease. Besides, the
sweep is stopped twice; the MLflow server is killed for 20 seconds, and for 15 seconds all its answers break off in the
middle; the disk is full twice; the clock is set back by ten minutes for a while (`--clock`); a worker runs out of
memory by a limit. With `--cluster` the workers are Ray's, the study is in a PostgreSQL database that is killed for 10
seconds, and the MLflow server keeps its runs in the same one. At the end each cell is complete exactly once, each
metric is there at each step exactly once, and all values are those of the undisturbed sweep, to the last bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from sqlalchemy import create_engine, text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.services import Cutter, MlflowServer, Postgres, command, mlflow_server, postgres

ROOT = Path(__file__).resolve().parent.parent
SIGNS = ("waiting: no room", "cannot be reached", "another takes its place", "taken over", "failed", "continuing")
CELLS = 40
WORKERS = 3
LEASE = 8  # seconds
YAML = """
question: Does a sweep under fire end as one left in peace?
preset: tiny
fixed:
  objectives.mlm.soft_labels: none
  data.train_pairs: 128
  data.eval_pairs: 32
  warm_start.source: train
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
    """What was done to the sweep, and what it `told` of it."""

    faults: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    starts: int = 0
    longest_stop: float = 0.0  # seconds from SIGTERM to the end
    metrics: int = 0  # values that were compared


class Sweep:
    """`wb sweep` as a process, with its output in a file."""

    def __init__(self, yaml: Path, workspace: Path, log: Path, more: Sequence[str] = (), **env: str) -> None:
        self.arguments = ["sweep", str(yaml), "--workspace", str(workspace), "--workers", str(WORKERS), *more]
        self.env = os.environ | {"WB_LEASE": str(LEASE), "PYTHONPATH": str(ROOT)} | env
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
        if "ray" in self.arguments:
            named = psutil.process_iter(["cmdline"])
            return [process for process in named if "ray::Worker.run" in " ".join(process.info["cmdline"] or [])]
        try:
            children = psutil.Process(self.process.pid).children()
            return [worker for server in children for worker in server.children()]
        except psutil.Error:
            return []

    def finish(self, within: float = 600) -> int:
        assert self.process is not None
        try:
            return self.process.wait(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.kill()  # which takes its workers along
            raise


@dataclass
class Field:
    """Where the sweep runs, and what of it can be broken; None where there is no such thing to break."""

    home: Path
    disk: Path  # of its own, so that it can be filled up
    server: MlflowServer
    cutter: Cutter
    database: Postgres | None = None
    storage: str | None = None
    more: tuple[str, ...] = ()
    set_clock: bool = False  # whether this machine's clock may be set back for a while

    def faults(self) -> list[str]:
        """In their order; each comes when some more cells have ended."""
        known = ["stop", "answers", "disk", "server", "memory", "clock", "disk", "database", "stop"]
        absent = set() if self.set_clock else {"clock"}
        absent |= {"database"} if self.database is None else {"disk"}
        return [fault for fault in known if fault not in absent]


def values(database: str) -> tuple[Value, Counter[tuple[str, str, int]]]:
    """Every logged value of the trials in an MLflow database, all of which must be finished, and how often each is
    there."""
    engine = create_engine(database)
    with engine.connect() as connection:
        cells = {
            run: (cell, status)
            for run, cell, status in connection.execute(
                text(
                    "SELECT r.run_uuid, c.value, r.status FROM runs r JOIN tags c ON c.run_uuid = r.run_uuid AND c.key"
                    " = 'config_hash' JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = 'kind' AND k.value = 'trial'"
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


def soak(
    field: Field, steps: int, pause: float, seed: int = 0, seeds: int = CELLS // 10, calm: Path | None = None
) -> Fired:
    """Runs both sweeps and compares them; raises AssertionError where anything was lost, doubled or changed. `pause`:
    mean seconds between two kills; `seeds`: of ten cells each; `calm`: the workspace of the undisturbed sweep, from an
    earlier soak of as many steps."""
    from workbench.trial.ledger import Ledger
    from workbench.trial.storage import open_storage

    home = field.home
    yaml, log = home / "soak.yaml", home / "stormy.log"
    yaml.write_text(YAML.format(steps=steps, ratios=[ratio / 10 for ratio in range(10)], seeds=seeds))
    calm, stormy = calm or home / "calm", field.disk / "stormy"
    peace = Sweep(yaml, calm, home / "calm.log")
    peace.start()  # finds what an earlier one has finished
    assert peace.finish(within=3600) == 0, (home / "calm.log").read_text()[-3000:]

    rng, fired, began = random.Random(seed), Fired(), time.monotonic()
    sweep = Sweep(yaml, stormy, log, field.more, MLFLOW_TRACKING_URI=field.cutter.uri)
    left = field.faults()
    cells_per_fault = 10 * seeds * 0.8 / len(left)
    sweep.start()
    fired.starts = 1
    ledger = Ledger(open_storage(field.storage, stormy), "soak")
    next_shot = time.monotonic() + 10 + pause
    while True:
        time.sleep(0.2)
        if sweep.code is not None:
            # A trial that ran out of memory twice waits for the next start.
            assert sweep.code in (0, 1, 130), log.read_text()[-3000:]
            if sweep.code == 0:
                break
            sweep.start()
            fired.starts += 1
            next_shot = time.monotonic() + 5 + pause
        ended = len(patiently_read(ledger))
        if left and ended >= (len(field.faults()) - len(left) + 1) * cells_per_fault:
            fault = left.pop(0)
            fired.faults[fault] += 1
            if fault == "stop":
                fired.longest_stop = max(fired.longest_stop, _stop(sweep))
            else:
                FAULTS[fault](field, sweep)
        elif time.monotonic() > next_shot:
            next_shot = time.monotonic() + rng.uniform(0.5, 1.5) * pause
            if workers := [worker for worker in sweep.workers() if worker.pid in at_work(ledger)]:
                shot = rng.choice(["kill", "kill", "freeze"])
                with suppress(psutil.NoSuchProcess):
                    SHOTS[shot](rng.choice(workers))
                    fired.faults[shot] += 1
    fired.seconds = time.monotonic() - began
    assert not left, f"the sweep ended before {left}"
    fired.metrics = compare(calm, field.server.backend, ledger, 10 * seeds)
    text = log.read_text()
    assert "Traceback" not in text, text[text.index("Traceback") :][:3000]
    for sign in SIGNS:
        fired.told[sign] = text.count(sign)
    return fired


def patiently_read(ledger: Any) -> dict[str, Any]:
    """The endings, as soon as their database is there again."""
    from workbench.outage import Patience

    endings: dict[str, Any] = Patience(lambda _: None)(ledger.endings)
    return endings


def at_work(ledger: Any) -> set[int]:
    """The processes that hold a trial: one that is shot before it has begun shows nothing, on a slow machine for
    ever."""
    running = [trial for trial in ledger.study.get_trials(deepcopy=False) if trial.state.name == "RUNNING"]
    return {trial.user_attrs["holder"]["pid"] for trial in running if "holder" in trial.user_attrs}


def _stop(sweep: Sweep) -> float:
    assert sweep.process is not None
    sweep.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    code = sweep.finish()
    assert code in (130, 143), code
    seconds = time.monotonic() - began
    assert seconds < 30, seconds
    return seconds


def _freeze(worker: psutil.Process) -> None:
    """For longer than its lease, while the others go on."""

    def wake() -> None:
        time.sleep(1.5 * LEASE)
        with suppress(psutil.NoSuchProcess):
            worker.resume()

    worker.suspend()
    threading.Thread(target=wake, daemon=True).start()


def _memory(field: Field, sweep: Sweep) -> None:
    """A worker may take no more memory for some seconds."""
    for worker in sweep.workers()[:1]:
        with suppress(psutil.NoSuchProcess):
            before = worker.rlimit(psutil.RLIMIT_AS)
            worker.rlimit(psutil.RLIMIT_AS, (worker.memory_info().vms + (1 << 20), before[1]))
            time.sleep(5)
            worker.rlimit(psutil.RLIMIT_AS, before)


def _answers(field: Field, sweep: Sweep) -> None:
    field.cutter.cuts = True
    time.sleep(15)
    field.cutter.cuts = False


def _server(field: Field, sweep: Sweep) -> None:
    field.server.stop()
    time.sleep(20)
    field.server.start()


def _clock(field: Field, sweep: Sweep) -> None:
    """Ten minutes back, and forth again."""
    for change in (-600, 600):
        time.clock_settime(time.CLOCK_REALTIME, time.time() + change)
        time.sleep(20)


def _database(field: Field, sweep: Sweep) -> None:
    assert field.database is not None
    field.database.stop(signal.SIGQUIT)
    time.sleep(10)
    field.database.start()


def _disk(field: Field, sweep: Sweep) -> None:
    _fill(field.disk)


FAULTS: dict[str, Callable[[Field, Sweep], None]] = {
    "answers": _answers,
    "clock": _clock,
    "database": _database,
    "disk": _disk,
    "memory": _memory,
    "server": _server,
}
SHOTS: dict[str, Callable[[psutil.Process], None]] = {
    "kill": lambda worker: worker.send_signal(signal.SIGKILL),
    "freeze": _freeze,
}


def compare(calm: Path, stormy: str, ledger: Any, cells: int) -> int:
    """How many values were compared."""
    complete = Counter(trial.user_attrs["cell_key"] for trial in ledger.study.trials if trial.state.name == "COMPLETE")
    assert len(complete) == cells
    assert set(complete.values()) == {1}
    expected, _ = values(f"sqlite:///{calm / 'mlflow.db'}")
    stormy_values, counts = values(stormy)
    assert {cell for cell, *_ in stormy_values} == set(complete)
    assert set(stormy_values) == set(expected), (
        f"missing {set(expected) - set(stormy_values)}, more {set(stormy_values) - set(expected)}"
    )
    doubled = {key: count for key, count in counts.items() if count > 1}
    assert not doubled, doubled
    changed = {
        key: (expected[key], value)
        for key, value in stormy_values.items()
        if value != expected[key] and not key[1].startswith(("seconds", "perf/"))
    }
    assert not changed, changed
    return len(stormy_values)


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
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    return mounted.returncode == 0


@contextmanager
def battlefield(home: Path, cluster: bool, set_clock: bool = False) -> Iterator[Field]:
    """Servers and a disk of its own. Raises AssertionError where none can be mounted."""
    disk = home / "disk"
    assert small_disk(disk), "the soak test fills a disk of its own, which only root can mount"
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=True)
        if cluster:
            database = stack.enter_context(postgres(home / "postgres", "runs", "studies"))
            backend = database.address("runs").replace("://", "+psycopg://")
            server = stack.enter_context(mlflow_server(home / "server", backend))
            storage = database.address("studies")
            more = ("--storage", storage, "--launcher", "ray", "--gpus-per-worker", "0")
            yield Field(home, disk, server, Cutter(server.port), database, storage, more)
        else:
            server = stack.enter_context(mlflow_server(home / "server"))
            yield Field(home, disk, server, Cutter(server.port), set_clock=set_clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", action="store_true", help="Ray, PostgreSQL, and an MLflow server on it")
    parser.add_argument("--clock", action="store_true", help="also set this machine's clock back for 20 seconds")
    parser.add_argument("--calm", type=Path, help="the undisturbed sweep of an earlier soak, HOME/calm of its --keep")
    parser.add_argument("--keep", type=Path, help="a folder for everything, which is left as it is")
    asked = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        home = asked.keep or Path(folder)
        home.mkdir(parents=True, exist_ok=True)
        assert not any(home.iterdir()), f"{home} holds something already"
        with battlefield(home, asked.cluster, asked.clock) as field:
            # As many steps as take that long on two cores, both sweeps together.
            pause = 15 if asked.cluster else 6  # a worker of Ray takes some ten seconds to begin
            print(soak(field, max(12, 4 * round(asked.minutes * 2.5)), pause, asked.seed, calm=asked.calm))


if __name__ == "__main__":
    main()
