"""Workspaces in folders of any name and place: their addresses, and what runs and is used there."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy.engine import make_url

from analysis.runs import list_runs, read_runs
from tests.services import command, free_port, until
from tests.workspace.sweeps import ROOT, sweep, wb
from workbench.errors import UserError
from workbench.stop import CODE
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.workspace import Workspace, database_file, database_uri, local_path

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


@pytest.mark.long
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
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(10) == CODE
        assert family
        assert not psutil.wait_procs(family, timeout=5)[1]
    assert os.listdir(tmp_path) == [home.name]
