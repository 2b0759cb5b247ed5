"""What only reads a workspace leaves no trace in it, and does not take an error for emptiness."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.runs import list_runs
from tests.workspace.sweeps import contents, wb
from workbench.workspace import Workspace


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
