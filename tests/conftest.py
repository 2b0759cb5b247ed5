"""Fixtures: a shrunk experiment, prepared once."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from workbench.config.load import load_experiment
from workbench.config.schema import Experiment, Settings
from workbench.sweep.grid import smoke
from workbench.training.prepare import Prepared, prepare
from workbench.trial.job import WorkerSpec
from workbench.trial.quiet import quiet

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_needed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_needed(report)
    return report


def _fail_if_needed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fails a test that is skipped because something is not installed that WB_TESTS_NEED names (a list with commas)."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    for name in filter(None, os.environ.get("WB_TESTS_NEED", "").split(",")):
        if reason.startswith(f"{name} is not installed"):
            report.outcome, report.longrepr = "failed", f"{reason}, and WB_TESTS_NEED names it"


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
