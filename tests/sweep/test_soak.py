"""Two minutes of what `just soak` does for twenty."""

import subprocess
from pathlib import Path

import pytest

from tests.services import mlflow_server
from tests.soak import small_disk, soak


def test_a_sweep_under_fire_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk):
        pytest.skip("filling up a disk needs the right to mount one")
    try:
        with mlflow_server(tmp_path / "server") as server:
            fired = soak(tmp_path, disk, server, steps=8, pause=5)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert fired.stops == 2
    assert fired.kills >= 3
    assert fired.server_seconds >= 20
    assert fired.full_seconds >= 6
    assert all(fired.told.values()), fired
