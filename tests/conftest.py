"""Fixtures: a shrunk experiment, prepared once."""

import os
from pathlib import Path

import pytest
import torch

from tests.needed import pytest_make_collect_report, pytest_runtest_makereport
from workbench.config.load import load_experiment
from workbench.config.schema import Experiment, Settings
from workbench.sweep.grid import smoke
from workbench.training.prepare import Prepared, prepare
from workbench.trial.job import WorkerSpec
from workbench.trial.quiet import quiet

__all__ = ["pytest_make_collect_report", "pytest_runtest_makereport"]  # hooks
ROOT = Path(__file__).resolve().parent.parent

# Files of real processes and servers, which wait for one another: they come first, so that neither of the two test
# processes is left with one of them alone at the end.
LONGEST = [
    *("test_end_to_end", "test_first_use", "test_names", "test_moves", "test_deletions", "test_stopping"),
    *("test_launchers", "test_distributed", "test_faults", "test_loop", "test_http", "test_postgresql"),
    *("test_downstream", "test_stores"),
]

# Files that train, sweep, draw or start a process, for seconds per test.
SLOW = {
    *LONGEST,
    *("test_reading", "test_shared_store", "test_contradictions", "test_worker", "test_hours", "test_run"),
    *("test_inputs", "test_scenes", "test_suites", "test_report", "test_page", "test_figures", "test_language"),
    *("test_state", "test_speed", "test_foils", "test_system", "test_single", "test_ship", "test_mixture"),
    *("test_features", "test_warm_start", "test_fused_start", "test_whole_suites", "test_doors", "test_status"),
    *("test_needed", "test_mutations", "test_tuning", "test_disturbances", "test_simulation", "test_export"),
}

# Rounding depends on the number of threads, and so do numbers that tests compare. Commands that tests start inherit it.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
quiet()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))
    for item in items:
        if item.path.stem in SLOW or item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def experiment() -> Experiment:
    return smoke(load_experiment(ROOT / "experiments" / "ablation_itm.yaml", ["warm_start.source=train"]))


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
def place(cache_dir: Path, prepared: Prepared, tmp_path: Path) -> WorkerSpec:
    """A workspace of its own, in which what trials share is there already."""
    (tmp_path / "cache").symlink_to(cache_dir)
    return WorkerSpec(tmp_path, None, "w")
