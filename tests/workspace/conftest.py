"""Fixtures of workspaces: a tiny experiment, and a workspace in which it has run."""

from pathlib import Path

import pytest

from analysis import report
from tests.workspace.sweeps import TINY, sweep


@pytest.fixture(autouse=True)
def one_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of a report's time."""
    monkeypatch.setattr(report, "FORMS", {"svg": report.FORMS["svg"]})


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("yaml") / "tiny.yaml"
    file.write_text(TINY.format(name="it"))
    return file


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> tuple[Path, str]:
    """A workspace with a finished sweep, which tests copy or only read, and the sweep's run."""
    home = tmp_path_factory.mktemp("swept") / "w"
    return home, str(sweep(tiny, home, "--smoke", apart=True)["run_id"])
