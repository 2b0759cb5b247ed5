"""Fixtures: a shrunk experiment, prepared once."""

from pathlib import Path

import pytest
import torch

from workbench.config.load import load_experiment
from workbench.config.schema import Experiment, Settings
from workbench.sweep.grid import smoke
from workbench.training.prepare import Prepared, prepare
from workbench.trial.job import Place
from workbench.trial.quiet import quiet

ROOT = Path(__file__).resolve().parent.parent

torch.set_num_threads(1)
quiet()


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return smoke(load_experiment(ROOT / "experiments" / "ablation_itm.yaml"))


@pytest.fixture(scope="session")
def settings(experiment: Experiment) -> Settings:
    return experiment.settings


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def prepared(settings: Settings, cache_dir: Path) -> Prepared:
    return prepare(settings, cache_dir, lambda *_: None)


@pytest.fixture
def place(cache_dir: Path, prepared: Prepared, tmp_path: Path) -> Place:
    """A workspace of its own, in which what trials share is there already."""
    (tmp_path / "cache").symlink_to(cache_dir)
    return Place(tmp_path, None, "w")
