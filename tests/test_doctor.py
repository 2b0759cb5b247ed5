"""`wb doctor`: what is here, and what an experiment lacks."""

import json
from pathlib import Path

import huggingface_hub
import pytest
from typer.testing import CliRunner

from tests.services import free_port
from workbench.cli.doctor import lacking_of
from workbench.cli.options import app
from workbench.config.load import load_experiment
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.trial.cell import make_cell

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # and back again, since the command sets it
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read once, at its import


def test_it_names_what_is_here_and_makes_nothing(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["doctor", "--workspace", str(tmp_path / "new"), "--json"])
    assert told.exit_code == 0
    there = json.loads(told.stdout)["there"]
    assert "torch " in there["libraries"]
    assert "does not exist yet" in there["workspace"]
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_read_ends_with_1(tmp_path: Path) -> None:
    damaged = tmp_path / "mlflow.db"
    damaged.write_bytes(b"no database")
    told = CliRunner().invoke(app, ["doctor", "--workspace", str(tmp_path)])
    assert told.exit_code == 1
    assert "lacking: " in told.stdout
    assert "mlflow.db" in told.stdout
    unread = CliRunner().invoke(app, ["doctor", str(tmp_path / "none.yaml"), "--workspace", str(tmp_path / "new")])
    assert unread.exit_code == 1
    assert "none.yaml" in unread.stdout


def test_a_server_that_does_not_answer_is_named_among_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    told = CliRunner().invoke(app, ["doctor", "--workspace", str(tmp_path)])
    assert told.exit_code == 1
    assert "libraries" in told.stdout
    assert f"lacking: a server cannot be reached ({address})" in told.stdout


def test_an_experiment_lacks_nothing_or_each_thing_is_named_once(settings: Settings, tmp_path: Path) -> None:
    assert lacking_of([settings, settings], tmp_path) == []
    experiment = load_experiment(ROOT / "experiments" / "flickr30k_itm.yaml")
    lacking = lacking_of([make_cell(experiment, arm, 0).settings for arm in experiment.arms], tmp_path)
    assert len(lacking) == 4
    for name, sentence in zip(("tokeniser", "model.text", "model.vision", "flickr30k"), lacking, strict=True):
        assert name in sentence
    assert "hf download" in lacking[0]
    assert lacking_of([apply(settings, {"model.vision.weights": "/nowhere.pth"})], tmp_path)
