"""Which tuned setting mattered: on a store that is written here, where one of two settings decides."""

import pytest

from analysis.runs import Runs, read_runs
from analysis.tuning import FEWEST, importances, section
from tests.analysis.toy import toy_store
from workbench.record import SweepRecord
from workbench.tracking.runs import Tracker

SETTINGS = {
    "optimisation.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "optimisation.clip": [0.5, 1.0],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    workspace = tmp_path_factory.mktemp("ws")
    uri, parent = toy_store(workspace, arms=2, seeds=2)
    tracker = Tracker(uri, workspace)
    told = tracker.attached(parent, "experiment.json") | {"search": {"settings": SETTINGS}}
    told["tuned"] = [
        {
            "arm": arm,
            "tried": 12,
            "pruned": 1,
            "diverged": 0,
            "best": {"optimisation.learning_rate": 0.002},
            "value": 0.8,
        }
        for arm in told["arms"]
    ]
    tracker.attach(parent, told, "experiment.json")
    for arm, count in zip(told["arms"], (12, FEWEST - 1), strict=True):
        for number in range(count):
            rate, clip = 10 ** (-4 + 2 * number / 12), [0.5, 1.0][number % 2]
            tags = {"cell": f"{arm} · search {number + 1}", "seed": "1000", "study": "toy", "kind": "search"}
            params = {"optimisation.learning_rate": rate, "optimisation.clip": clip, "seed": 1000}
            run_id, _ = tracker.start(f"{arm} {number}", tags, {}, params, parent)
            tracker.log(run_id, {"val/foil_accuracy": 0.5 + 0.03 * number}, 10)
            tracker.finish(run_id, tags={"outcome": "pruned"} if number == 5 else {})
    return read_runs(uri, parent)


def test_the_trials_of_a_search_are_read_apart(runs: Runs) -> None:
    assert set(runs.trials["seed"]) == {0, 1}
    counts = dict(runs.searched.group_by("arm").len().iter_rows())
    assert counts == {runs.arms[0]: 11, runs.arms[1]: FEWEST - 1}  # one was pruned


def test_the_setting_that_decides_is_found(runs: Runs) -> None:
    found = importances(runs)
    assert set(found["arm"]) == {runs.arms[0]}  # the other has too few trials
    shares = dict(found.select("setting", "importance").iter_rows())
    assert shares["optimisation.learning_rate"] > 0.8 > shares["optimisation.clip"]
    assert sum(shares.values()) == pytest.approx(1.0)
    tuning = section(runs)
    assert tuning is not None
    assert [plot.name for plot in tuning.plots] == ["importances"]
    assert "validation" in tuning.split


def test_where_nothing_was_tuned_there_is_none(runs: Runs) -> None:
    assert importances(Runs("r", "n", SweepRecord(), runs.trials, runs.metrics)).is_empty()
