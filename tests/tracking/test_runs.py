"""Which runs of a store are trials, whichever version wrote them."""

import json
from pathlib import Path

import pytest

from workbench.errors import UserError
from workbench.record import TrialTags
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.tracking.view import share_view

OLD = {"cell": "a=1", "kind": "trial", "data": "d", "warm_start": "w"}


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(ensure_store(tmp_path), tmp_path)


def test_the_trials_of_a_sweep_are_those_that_the_answer_rests_on(tracker: Tracker) -> None:
    parent, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})

    def trial(seed: int, tags: dict[str, str], **ending: str) -> str:
        run_id, _ = tracker.start("t", {"study": "s", "seed": str(seed), "config_hash": f"c{seed}"}, tags, {}, parent)
        tracker.finish(run_id, tags=ending)
        return run_id

    new = TrialTags(study="s", seed=1, cell="a=1", arm="a=1", pairs={"test": 4}).written()
    searching = TrialTags(study="s", seed=2, cell="a=1 · search 1", arm="a=1", kind="search").written()
    kept = [trial(0, OLD), trial(1, {name: new[name] for name in ("cell", "arm", "kind", "pairs")})]
    trial(2, {name: searching[name] for name in ("cell", "arm", "kind")})
    trial(3, OLD | {"kind": "search", "cell": "a=1 · search 2"})
    trial(4, OLD, outcome="diverged", diverged_at="5")
    assert tracker.trials_of(parent) == kept


def test_the_settings_of_a_trial_come_with_its_tags(tracker: Tracker) -> None:
    run_id, _ = tracker.start("t", {"study": "s", "seed": "3", "config_hash": "c"}, OLD, {})
    tracker.attach(run_id, {"data": {}}, "config.json")
    settings, tags = tracker.settings_of(run_id)
    assert (settings, tags.seed, tags.config_hash, tags.arm) == ({"data": {}}, 3, "c", "a=1")
    sweep, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    with pytest.raises(UserError, match="not of a sweep"):
        tracker.settings_of(sweep)


def test_the_name_of_a_run_fits_every_store(tracker: Tracker) -> None:
    """PostgreSQL takes no more than 250 letters, and a level may be a text of any length."""
    run_id, _ = tracker.start("exclude=" + "x" * 900, {"study": "s", "seed": "0", "config_hash": "c"}, OLD, {})
    name = tracker.client.get_run(run_id).info.run_name
    assert name is not None
    assert len(name) == 250
    assert name.endswith("...")


def test_the_page_of_runs_opens_on_the_columns_that_sweeps_are_compared_by(tracker: Tracker) -> None:
    experiment = tracker.experiment_id()
    fragment = share_view(tracker.client, experiment)
    assert fragment.startswith(f"#/experiments/{experiment}/runs?workflowType=machine_learning&")
    key = fragment.rpartition("=")[2]
    state = json.loads(tracker.client.get_experiment(experiment).tags[f"mlflow.sharedViewState.{key}"])
    assert state["selectedColumns"][:3] == ["tags.`arm`", "tags.`seed`", "metrics.`test/foil_accuracy`"]
