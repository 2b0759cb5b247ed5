"""Workspaces in folders of any name and place: their addresses, locks, moves, and what only reads them."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from sqlalchemy.engine import make_url

from analysis import report
from analysis.runs import list_runs, read_runs
from analysis.stores import store_at
from analysis.stores.server import ServerStore
from tests.services import command, free_port, postgres, until
from tests.test_end_to_end import inside
from workbench.config.schema import Experiment
from workbench.data.store import open_store as open_prepared
from workbench.errors import UserError
from workbench.sweep.grid import expand
from workbench.sweep.run import _run_of
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store, postgres_lock, sees
from workbench.trial.job import new_job, published
from workbench.trial.ledger import Ledger
from workbench.trial.run import start_run
from workbench.workspace import Workspace, database_file, database_uri, local_path

ROOT = Path(__file__).resolve().parent.parent
TINY = """
question: Does {name} run?
preset: tiny
fixed:
  data.train_pairs: 128
  data.eval_pairs: 24
  warm_start.source: train
  warm_start.steps: 2
  warm_start.batch_size: 16
  optimisation.steps: 2
  optimisation.batch_size: 16
  evaluation.every: 2
  evaluation.pairs: 16
  evaluation.final_pairs: 16
  evaluation.robustness_pairs: 4
factors: {{objectives.itm.hard_ratio: [0.0]}}
baseline: {{objectives.itm.hard_ratio: 0.0}}
seeds: {{count: 1}}
primary: val/itm_auc
margin: 0.25
"""
ODD = [
    "a#1 100% x",
    "ws?a",
    "ws%20x",
    "ws[b]x",
    "w*s",
    'it\'s "quoted"',
    "Ärbeit 日本",
    "n" * 200,
    "a;b&c=d@e:f,g+h~|\\<>$()",
    "two\nlines",
]


def wb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`wb` in this process, which has loaded everything already."""
    return inside(*map(str, arguments))


@pytest.fixture(autouse=True)
def one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time."""
    monkeypatch.setattr(report, "FORMS", {"svg": report.FORMS["svg"]})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("yaml") / "tiny.yaml"
    file.write_text(TINY.format(name="it"))
    return file


def sweep(file: Path, workspace: Path, *more: str, apart: bool = False) -> dict[str, object]:
    """A sweep to its end, as `--json` tells it; `apart`: in a process of its own, so that nothing stays open."""
    arguments = ["sweep", str(file), "--workspace", str(workspace), "--launcher", "here", "--json", *more]
    done = (
        subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=300)
        if apart
        else wb(*arguments)
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    assert told["finished"] == told["planned"]
    return told


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change of all that a folder holds, and of itself."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in (folder, *sorted(folder.rglob("*")))}


@pytest.mark.parametrize("name", ODD)
def test_addresses_lead_back_to_where_they_come_from(tmp_path: Path, name: str) -> None:
    home = Workspace(tmp_path / name)
    assert database_file(home.database_uri) == home.database
    assert make_url(home.database_uri).database == str(home.database)
    assert local_path(home.artifacts_uri) == home.artifacts
    assert home.owns(home.database_uri)
    assert not home.owns(database_uri(tmp_path / "mlflow.db"))


def test_a_plain_folder_keeps_its_plain_address(tmp_path: Path) -> None:
    assert Workspace(tmp_path).database_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.parametrize("name", ["a#1 100% x", "ws?a%20[b]*'\"日", "n" * 200])
def test_a_run_is_logged_and_read_wherever_the_workspace_is(tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    uri = ensure_store(home)
    tracker = Tracker(uri, home)
    run_id, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    tracker.attach(run_id, {"question": "?", "primary": "val/itm_auc"}, "experiment.json")
    assert tracker.attached(run_id, "experiment.json")["question"] == "?"
    assert [path.name for path in Path(tracker.client.download_artifacts(run_id, "")).iterdir()] == ["experiment.json"]
    assert list_runs(uri)["run_id"].to_list() == [run_id]
    assert os.listdir(tmp_path) == [name]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xffb"))
    with pytest.raises(UserError, match="not valid UTF-8"):
        ensure_store(home)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def other_mount() -> Iterator[Path]:
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no /dev/shm beside the temporary folder")
    home = Path(tempfile.mkdtemp(dir=shm))
    yield home
    shutil.rmtree(home)


def test_a_sweep_runs_and_is_used_in_a_folder_of_an_odd_name(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "real").mkdir()
    home = tmp_path / "a#1 100% [x]?*'é"
    home.symlink_to(tmp_path / "real", target_is_directory=True)
    told = sweep(tiny, home)
    assert json.loads(wb("runs", "--json", "--workspace", home).stdout)[0]["run_id"] == told["run_id"]
    page = wb("report", "--run-id", str(told["run_id"]), "--workspace", home, "--out", tmp_path / "out")
    assert page.returncode == 0, page.stderr
    assert "Does it run?" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == sorted([home.name, "out", "real"])


def test_a_sweep_runs_on_another_mount_by_a_relative_path_and_is_reproduced(other_mount: Path, tiny: Path) -> None:
    home = other_mount / "ws%20x?b [c]#"
    sweep(tiny, Path(os.path.relpath(home, ROOT)))
    assert os.listdir(other_mount) == [home.name]
    (trial,) = read_runs(
        Workspace(home).database_uri, json.loads(wb("runs", "--json", "--workspace", home).stdout)[0]["run_id"]
    ).trials["run_id"]
    again = wb("reproduce", "--run-id", trial, "--json", "--workspace", home)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["off"] == {}


@pytest.mark.long
def test_the_ui_shows_the_runs_of_a_folder_of_an_odd_name(tmp_path: Path) -> None:
    import urllib.request

    home = tmp_path / "ws?a%20[b]#"
    tracker = Tracker(ensure_store(home), home)
    run_id, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    tracker.attach(run_id, {"question": "shown?"}, "experiment.json")
    port = free_port()
    process = subprocess.Popen(
        command("ui", "--workspace", str(home), "--port", str(port)),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def got(path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return bytes(answer.read())
        except OSError:
            return b""

    try:
        until(lambda: got("/health"), 90)
        assert b'"s"' in got(f"/ajax-api/2.0/mlflow/runs/get?run_id={run_id}")
        assert b"shown?" in got(f"/get-artifact?run_uuid={run_id}&path=experiment.json")
    finally:
        os.killpg(process.pid, 15)
        process.wait()
    assert os.listdir(tmp_path) == [home.name]


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


def test_the_tables_of_a_postgresql_storage_are_made_once(tmp_path: Path) -> None:
    names = ("first", "second", "third")
    with postgres(tmp_path / "pg", *names) as server:
        each = f"for each in sys.argv[3:]:\n    sys.argv[3] = each\n    exec({STORAGE!r})\n"
        said = at_once(each, 3, tmp_path, *map(server.address, names))
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


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, str]:
    """A workspace with a finished sweep, which tests copy, and the sweep's run."""
    home = tmp_path_factory.mktemp("swept") / "w"
    return home, str(sweep(tiny, home, "--smoke", apart=True)["run_id"])


def test_a_copy_elsewhere_goes_on_and_leaves_the_first_place_alone(
    tmp_path: Path, tiny: Path, swept: tuple[Path, str]
) -> None:
    old, run_id = swept
    before = contents(old)
    new = tmp_path / "restored #1"
    shutil.copytree(old, new)
    assert wb("report", "--run-id", run_id, "--workspace", new, "--out", tmp_path / "out").returncode == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Does it run?" in page
    assert "smoke run" in page
    uri = Workspace(new).database_uri
    record = read_runs(uri, run_id).record
    assert (record.question, record.margin, record.baseline_arm) == ("Does it run?", 0.25, "hard_ratio=0.0")
    more = wb("sweep", tiny, "--smoke", "--workspace", new, "--launcher", "here", "--seeds", "2")
    assert more.returncode == 0, more.stderr
    assert "1 already finished" in more.stdout
    assert " ".join(f"this workspace was at {old}; its runs".split()) in " ".join(more.stdout.split())
    trial = read_runs(uri, run_id).trials["run_id"][0]
    common = ("--run-id", trial, "--workspace", new, "--json")
    for arguments in (
        ("eval", "--suite", "robustness", "--limit", "4"),
        ("finetune", "retrieval", "--epochs", "1", "--limit", "16"),
    ):
        done = wb(*arguments, *common)
        assert done.returncode == 0, done.stderr
    # In a process of its own, as the trial was: the last bit may depend on what a process has computed before.
    again = subprocess.run(
        command("reproduce", *map(str, common)), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stdout
    assert contents(old) == before
    with sqlite3.connect(new / "mlflow.db") as connection:
        recorded = [address for (address,) in connection.execute("SELECT artifact_uri FROM runs")]
    assert {path and path.parent.parent for path in map(local_path, recorded)} == {new / "artifacts"}


def test_a_renamed_workspace_writes_nothing_where_it_was(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    tracker = Tracker(ensure_store(old), old)
    run_id, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    tracker.attach(run_id, {"question": "first?"}, "experiment.json")
    old.rename(new)
    moved = Tracker(Workspace(new).database_uri, new)  # as a reader, and a worker that joins, have it
    assert moved.attached(run_id, "experiment.json") == {"question": "first?"}
    record = next(record for _, record in store_at(moved.uri).all_runs())
    assert record is not None
    assert record.question == "first?"
    moved.attach(run_id, {"question": "second?"}, "experiment.json")
    moved.attach_text(run_id, "why", "failure.txt")
    moved.attach_folder(run_id, tmp_path / "new" / "artifacts" / run_id / "artifacts", "copy")
    assert os.listdir(tmp_path) == ["new"]
    said: list[str] = []
    again = Tracker(ensure_store(new, said.append), new)
    assert said == [f"this workspace was at {old}; its runs now refer to files in {new}"]
    assert sorted(each.path for each in again.client.list_artifacts(run_id)) == [
        "copy",
        "experiment.json",
        "failure.txt",
    ]
    assert ensure_store(new, said.append)
    assert len(said) == 1
    assert os.listdir(tmp_path) == ["new"]


def test_what_a_study_keeps_of_its_store_moves_with_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    address = Tracker(ensure_store(old), old).address
    old.rename(new)
    assert Tracker(address, new).uri == Workspace(new).database_uri
    assert not sees(address, new, "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    assert Tracker(ensure_store(new), new).address == f"sqlite:///{tmp_path / 'shared.db'}"


def reading(home: Path, run_id: str, tiny: Path, out: Path) -> None:
    """What only reads a workspace."""
    listed = wb("runs", "--json", "--workspace", home)
    assert [row["run_id"] for row in json.loads(listed.stdout)] == [run_id], listed.stderr
    for arguments in (
        ("report", "--run-id", run_id, "--out", out / "report"),
        ("export", "--run-id", run_id, "--out", out / "frames"),
        ("sweep", tiny, "--smoke", "--status"),
    ):
        done = wb(*arguments, "--workspace", home)
        assert done.returncode == 0, done.stderr
    assert "1 trials: 1 finished" in done.stdout


def test_reading_leaves_no_trace(tmp_path: Path, tiny: Path, swept: tuple[Path, str]) -> None:
    home, run_id = swept
    before = contents(home)
    reading(home, run_id, tiny, tmp_path)
    assert contents(home) == before
    nothing = tmp_path / "nothing"
    assert json.loads(wb("sweep", tiny, "--status", "--json", "--workspace", nothing).stdout)[0]["state"] == "waiting"
    assert "No runs" in wb("runs", "--workspace", nothing).stdout
    assert not nothing.exists()


@pytest.mark.parametrize("left_open", [False, True], ids=["closed", "with a log left behind"])
def test_a_workspace_on_a_read_only_mount_is_read(
    tmp_path: Path, tiny: Path, swept: tuple[Path, str], left_open: bool
) -> None:
    home, mount = tmp_path / "w", tmp_path / "mount"
    shutil.copytree(swept[0], home)
    mount.mkdir()
    if left_open:
        code = (
            "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute(\"UPDATE runs SET name = 'late' WHERE"
            " name = 'tiny-smoke'\"); c.commit(); os._exit(0)"
        )
        subprocess.run([sys.executable, "-c", code, str(home / "mlflow.db")], check=True)
        assert (home / "mlflow.db-wal").stat().st_size
        (home / "mlflow.db-shm").unlink()
    tried = subprocess.run(["mount", "--bind", "-o", "ro", str(home), str(mount)], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here ({tried.stderr.strip()})")
    try:
        assert os.statvfs(mount).f_flag & os.ST_RDONLY
        reading(mount, swept[1], tiny, tmp_path / "out")
        name = list_runs(Workspace(mount).database_uri)["name"][0]
        assert name == ("late" if left_open else "tiny-smoke")
        refused = wb("report", "--run-id", swept[1], "--workspace", mount)
        assert refused.returncode == 2
        assert "name another folder with --out" in refused.stderr
        writing = wb("sweep", tiny, "--smoke", "--workspace", mount, "--launcher", "here")
        assert writing.returncode == 2, writing.stderr
        assert "Read-only file system" in writing.stderr
        assert writing.stderr.strip().count("\n") == 0
    finally:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.mark.parametrize("wrong", ["garbage", "a folder", "no table", "a file for a workspace", "a link to nowhere"])
def test_an_error_is_not_shown_as_emptiness(tmp_path: Path, wrong: str) -> None:
    home = tmp_path / "w"
    if wrong == "a file for a workspace":
        home.write_text("")
    elif wrong == "a link to nowhere":
        home.symlink_to(tmp_path / "gone")
    else:
        home.mkdir()
        if wrong == "garbage":
            (home / "mlflow.db").write_bytes(b"no database" * 1000)
        elif wrong == "a folder":
            (home / "mlflow.db").mkdir()
        else:
            sqlite3.connect(home / "mlflow.db").execute("CREATE TABLE other (a)")
    done = wb("runs", "--workspace", home)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip().count("\n") == 0
    assert str(tmp_path) in done.stderr


def test_sweeps_of_one_name_in_a_shared_store_stay_apart(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    first = sweep(tiny, tmp_path / "mine")
    before = read_runs(uri, str(first["run_id"]))
    other = tmp_path / tiny.name
    other.write_text(tiny.read_text().replace("Does it run?", "Does another?").replace("0.25", "0.5"))
    second = sweep(other, tmp_path / "theirs")
    assert second["run_id"] != first["run_id"]
    after = read_runs(uri, str(first["run_id"]))
    assert (after.record, after.trials.to_dicts()) == (before.record, before.trials.to_dicts())
    theirs = read_runs(uri, str(second["run_id"]))
    assert (theirs.record.question, theirs.record.margin) == ("Does another?", 0.5)
    # The cell is the same, its run is not.
    assert set(theirs.tags).isdisjoint(before.tags)
    assert [of.config_hash for of in theirs.tags.values()] == [of.config_hash for of in before.tags.values()]
    with sqlite3.connect(tmp_path / "shared.db") as connection:
        named = dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = 'sweep'").fetchall())
    for runs, run_id in ((before, first["run_id"]), (theirs, second["run_id"])):
        assert {named[trial] for trial in runs.tags} == {named[str(run_id)]}
    assert len(set(named.values())) == 2


def test_runs_from_before_sweeps_had_names_of_their_own_get_one(tmp_path: Path, experiment: Experiment) -> None:
    ledger = Ledger.of_workspace(tmp_path, "s")
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    cell = expand(experiment)[0]
    parent, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    trial, _ = tracker.start("t", {"study": "s", "seed": str(cell.seed), "config_hash": cell.key}, {}, {}, parent)
    new_job("s", experiment, parent, tracker.uri).publish(ledger)
    told = ledger.study.user_attrs["job"]
    ledger.study.set_user_attr("job", {name: value for name, value in told.items() if name != "sweep"})
    assert published(ledger).sweep == ""
    assert _run_of(ledger, tracker, experiment) == parent
    job = new_job("s", experiment, parent, tracker.uri, sweep=ledger.sweep())
    splits = SimpleNamespace(train=[], val=[], test=[], fingerprint="d")
    data: Any = SimpleNamespace(corpus=splits, fingerprint="w")
    assert start_run(tracker, job, cell, data) == (trial, True)
    for run_id in (parent, trial):
        assert tracker.client.get_run(run_id).data.tags["sweep"] == ledger.sweep()
    assert Ledger.of_workspace(tmp_path, "s").sweep() == ledger.sweep()


@pytest.fixture
def copied(tmp_path: Path, swept: tuple[Path, str]) -> tuple[Path, str, str]:
    """A copy of the finished sweep's workspace, its run and its trial."""
    home = tmp_path / "w"
    shutil.copytree(swept[0], home)
    (trial,) = read_runs(Workspace(home).database_uri, swept[1]).trials["run_id"]
    return home, swept[1], trial


def again(tiny: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return wb("sweep", tiny, "--smoke", "--workspace", home, "--launcher", "here", "--json")


def test_a_trial_that_was_deleted_in_mlflow_is_out_of_sight_until_the_sweep_restores_it(
    copied: tuple[Path, str, str], tiny: Path
) -> None:
    home, run_id, trial = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    tracker.client.delete_run(trial)
    listed = json.loads(wb("runs", "--json", "--workspace", home).stdout)
    assert [(row["run_id"], row["finished"]) for row in listed] == [(run_id, 0)]
    refused = wb("eval", "--run-id", trial, "--suite", "robustness", "--workspace", home)
    assert refused.returncode == 2
    assert f"mlflow runs restore --run-id {trial}" in refused.stderr
    done = again(tiny, home)
    assert done.returncode == 0, done.stderr
    assert "1 of its trials had been deleted in MLflow" in done.stderr
    assert read_runs(tracker.uri, run_id).trials["run_id"].to_list() == [trial]


def test_a_sweeps_run_that_was_deleted_in_mlflow_is_restored(copied: tuple[Path, str, str], tiny: Path) -> None:
    home, run_id, trial = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    tracker.client.delete_run(run_id)
    refused = wb("report", "--run-id", run_id, "--workspace", home)
    assert refused.returncode == 2
    assert f"mlflow runs restore --run-id {run_id}" in refused.stderr
    done = again(tiny, home)
    assert done.returncode == 0, done.stderr
    assert f"run {run_id} was deleted in MLflow" in done.stderr
    assert json.loads(done.stdout)["run_id"] == run_id
    assert read_runs(tracker.uri, run_id).trials["run_id"].to_list() == [trial]


def test_runs_that_are_gone_for_good_are_made_again(copied: tuple[Path, str, str], tiny: Path) -> None:
    home, run_id, trial = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    for gone in (run_id, trial):
        tracker.client.delete_run(gone)
        tracker.client._tracking_client.store._hard_delete_run(gone)  # as `mlflow gc` does
        done = again(tiny, home)
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        found = read_runs(tracker.uri, made["run_id"])
        assert made["run_id"] != run_id
        assert len(found.trials) == 1
        assert (found.trials["run_id"][0] == trial) == (gone == run_id)


def test_an_experiment_that_was_deleted_in_mlflow_is_named_with_the_command_that_restores_it(
    copied: tuple[Path, str, str], tiny: Path
) -> None:
    home, run_id, _ = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    tracker.client.delete_experiment(tracker.experiment_id())
    for done in (
        wb("runs", "--workspace", home),
        wb("report", "--run-id", run_id, "--workspace", home),
        again(tiny, home),
    ):
        assert done.returncode == 2, done.stdout
        assert "the experiment `workbench` was deleted in MLflow" in done.stderr
        assert done.stderr.strip().count("\n") == 0
    command_line = done.stderr.split("`")[3]
    mlflow = f"{sys.executable} -m mlflow"
    subprocess.run(command_line.replace("mlflow experiments", f"{mlflow} experiments"), shell=True, check=True)
    assert [row["run_id"] for row in json.loads(wb("runs", "--json", "--workspace", home).stdout)] == [run_id]


def test_a_server_tells_of_what_was_deleted_as_a_database_does(tmp_path: Path) -> None:
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    run_id, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    stores = (store_at(tracker.uri), ServerStore(tracker.uri))
    tracker.client.delete_run(run_id)
    for store in stores:
        with pytest.raises(UserError, match=f"mlflow runs restore --run-id {run_id}"):
            store.members(run_id)
    tracker.client.delete_experiment(tracker.experiment_id())
    for store in stores:
        for ask in (store.all_runs, partial(store.members, run_id)):
            with pytest.raises(UserError, match="mlflow experiments restore --experiment-id 1"):
                ask()
