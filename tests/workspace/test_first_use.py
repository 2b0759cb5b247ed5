"""Several processes that use a workspace, a cache or a database for the first time at once."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.services import postgres
from tests.workspace.sweeps import ROOT
from workbench.data.store import open_store as open_prepared
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store, postgres_lock
from workbench.workspace import Workspace


def at_once(code: str, count: int, *arguments: str | Path) -> list[str]:
    """What several processes print that begin the same at the same moment; fails where one of them fails."""
    waiting = "import sys, time\nwhile time.time() < float(sys.argv[1]): time.sleep(0.001)\n"
    # Whatever is slow to load is loaded before the moment comes.
    loads = "import mlflow, optuna, workbench.trial.storage, workbench.tracking.runs, workbench.trial.ledger\n"
    until_then = str(time.time() + 6)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", loads + waiting + code, until_then, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in started]
    assert [code for *_, code in ended] == [0] * count, "\n".join(errors for _, errors, _ in ended)
    return [out for out, *_ in ended]


FIRST_USE = """
from pathlib import Path
from workbench.config.load import load_experiment
from workbench.sweep.run import _run_of
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial.ledger import Ledger
from workbench.workspace import Workspace
home, file = Path(sys.argv[2]), Path(sys.argv[3])
storage = next((each for each in sys.argv[4:] if "://" in each), None)
ledger = Ledger.of_workspace(home, study, storage)
tracker = Tracker(ensure_store(home), home)
with Workspace(home).first_use():
    run_id = _run_of(ledger, tracker, load_experiment(file, ()))
print(run_id, ledger.sweep())
"""


def test_sweeps_that_start_at_once_share_one_run(tmp_path: Path, tiny: Path) -> None:
    """In fresh workspaces, then with a new study in one that is there, by processes that are as ready as can be by
    then."""
    homes = [tmp_path / "w0", tmp_path / "w1", tmp_path / "w1"]
    begin = "for place, each in enumerate(sys.argv[4:]):\n    study, sys.argv[2] = f's{place}', each\n"
    said = at_once(f"{begin}    exec({FIRST_USE!r})\n", 3, "-", tiny, *homes)
    assert len(set(said)) == 1
    told = [line.split() for line in said[0].splitlines()]
    assert len({name for _, name in told}) == len(homes)
    for home in set(homes):
        named = {run_id: name for (run_id, name), where in zip(told, homes, strict=True) if where == home}
        with sqlite3.connect(home / "mlflow.db") as connection:
            runs = connection.execute("SELECT run_uuid FROM runs WHERE lifecycle_stage = 'active'").fetchall()
            assert {run_id for (run_id,) in runs} == set(named)
            tags = connection.execute("SELECT run_uuid, value FROM tags WHERE key = 'sweep'").fetchall()
            assert dict(tags) == named


def test_a_database_whose_making_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    for left in ("mlflow.db", "mlflow.db.making", "mlflow.db.part"):
        (tmp_path / left).write_bytes(b"" if left == "mlflow.db" else b"half")
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    assert tracker.start("s", {"study": "s"}, {}, {})[1] is False
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".making", ".part"))]


def test_whoever_waits_for_a_first_use_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import sys, time; from pathlib import Path; from workbench.workspace import Workspace\n"
                "with Workspace(Path(sys.argv[1])).first_use():\n print('held', flush=True); time.sleep(60)"
            ),
            str(tmp_path),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    threading.Timer(1.5, holder.kill).start()  # the kernel lets go of what it held
    with Workspace(tmp_path).first_use(said.append):
        holder.wait()
    assert said == [f"waiting: another process is setting up this workspace ({tmp_path})", "continuing"]


ENTRY = """
import os
from pathlib import Path
from workbench.data import cache
cache.hear(lambda sentence: None)
def make(folder):
    with open(Path(sys.argv[2]) / "made", "a") as out:
        out.write(f"{os.getpid()}\\n")
    for index in range(20):
        (folder / f"{index}").write_text("whole")
        time.sleep(0.02)
home = cache.entry(Path(sys.argv[2]) / "cache" / "one", make)
print(sorted(path.name for path in home.iterdir()))
"""


def test_an_entry_of_the_cache_is_made_once_by_several_processes(tmp_path: Path) -> None:
    said = at_once(ENTRY, 3, tmp_path)
    assert len(set(said)) == 1
    assert said[0].count("'") == 40
    assert len((tmp_path / "made").read_text().split()) == 1


PREPARE = """
from pathlib import Path
from workbench.data.sources.detect import read_source
from workbench.data.prepare import prepare_source
reading = read_source(Path(sys.argv[2]) / "pictures")
print(prepare_source(reading, Path(sys.argv[2]) / "data" / "some[1]", 32, "crop", 1, lambda *_: None).fingerprint)
"""


def test_a_corpus_is_prepared_once_by_several_processes(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for index in range(40):
        Image.new("RGB", (50, 40), (3 * index, 100, 0)).save(tmp_path / "pictures" / f"{index:02d}.png")
        (tmp_path / "pictures" / f"{index:02d}.txt").write_text(f"Image {index}.\n")
    assert len(set(at_once(PREPARE, 3, tmp_path))) == 1
    assert open_prepared(tmp_path / "data" / "some[1]").pairs.height == 40


STORAGE = """
from pathlib import Path
from workbench.trial.ledger import Ledger
print(Ledger.of_workspace(Path(sys.argv[2]), "s", sys.argv[3]).sweep())
"""


@pytest.mark.long
def test_the_tables_of_a_postgresql_storage_are_made_once(tmp_path: Path) -> None:
    names = ("first", "second", "third")
    with postgres(tmp_path / "pg", *names) as server:
        one_by_one = f"for each in sys.argv[3:]:\n    sys.argv[3] = each\n    exec({STORAGE!r})\n"
        said = at_once(one_by_one, 3, tmp_path, *map(server.address, names))
    assert len(set(said)) == 1
    assert len(set(said[0].split())) == 3


HOLDS = """
from workbench.tracking.store import postgres_lock
import time
with postgres_lock(sys.argv[2], "a test", silence=2):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_frozen_process_does_not_hold_off_others_for_ever(tmp_path: Path) -> None:
    """One that is alive does, though it takes longer than that silence."""
    with postgres(tmp_path / "pg", "studies") as server:
        code = [sys.executable, "-c", "import sys\n" + HOLDS, "0", server.address("studies")]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(code, stdout=subprocess.PIPE, env=env) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            started, said, within = time.monotonic(), list[str](), list[float]()

            def take() -> None:
                with postgres_lock(server.address("studies"), "a test", said.append):
                    within.append(time.monotonic() - started)

            taking = threading.Thread(target=take)
            taking.start()
            time.sleep(4)
            assert not within
            holder.send_signal(signal.SIGSTOP)
            taking.join(timeout=30)
            holder.kill()
    assert within
    assert len(said) == 1


@pytest.mark.long
def test_sweeps_that_start_at_once_on_two_machines_share_one_run(tmp_path: Path, tiny: Path) -> None:
    """Two workspaces, one storage and one MLflow store."""
    with postgres(tmp_path / "pg", "studies") as server:
        shared = f"sqlite:///{tmp_path / 'mlflow.db'}"
        code = (
            "import os\nstudy = 's'\nos.environ['MLFLOW_TRACKING_URI'] = sys.argv.pop()\nsys.argv[2] +="
            " str(os.getpid())\n"
        )
        said = at_once(code + FIRST_USE, 3, tmp_path / "w", tiny, server.address("studies"), shared)
    assert len(set(said)) == 1
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert connection.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone() == (1,)
