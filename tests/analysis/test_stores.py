"""Both stores, over one database: a reader cannot tell them apart, and what version 1 wrote is read."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from analysis.runs import Runs, list_runs, read_runs
from analysis.stores import store_at
from analysis.stores.store import Store
from tests.analysis.toy import toy_examples, toy_experiment, toy_findings_runs, toy_store, toy_tags
from tests.services import MlflowServer
from workbench.errors import UserError
from workbench.record import EXAMPLES, FILE
from workbench.tracking.runs import Tracker

ARMS = toy_experiment(2).arms
RATE = "optimisation.learning_rate"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A sweep of two arms with a trial that diverged, one that failed and two of a search: its database and run."""
    workspace = tmp_path_factory.mktemp("stores")
    uri, parent = toy_store(workspace, arms=2, seeds=1)
    tracker = Tracker(uri, workspace)
    tracker.attach(parent, {"packages": {"torch": "2.9"}}, "provenance.json")
    gone = toy_tags(ARMS[1], 1).model_copy(update={"outcome": "diverged", "diverged_at": 70})
    run_id, _ = tracker.start("gone", gone.written(), {}, {}, parent)
    for step in (25, 50):
        tracker.log(run_id, {"val/foil_accuracy": 0.5 + step / 500, "val/itm_auc": 0.5, "system/cpu": 1.0}, step)
    tracker.finish(run_id)
    failed, _ = tracker.start("failed", toy_tags(ARMS[0], 1).written(), {}, {}, parent)
    tracker.finish(failed, "FAILED")
    for number, split in ((1, "val"), (2, "test")):
        tags = toy_tags(ARMS[0], 1000).model_copy(update={"cell": f"{ARMS[0]} · search {number}", "kind": "search"})
        run_id, _ = tracker.start(f"search {number}", tags.written(), {}, {RATE: number / 10}, parent)
        tracker.log(run_id, {f"{split}/foil_accuracy": 0.9}, 50)
        tracker.finish(run_id)
    return uri, parent


@pytest.fixture(scope="module")
def server(toy: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    started = MlflowServer(tmp_path_factory.mktemp("server"), toy[0])
    try:
        started.start()
        yield started.uri
    except (AssertionError, OSError) as error:
        pytest.skip(f"no MLflow server starts here ({error})")
    finally:
        started.stop()


@pytest.fixture(params=["sql", "server"], scope="module")
def uri(request: pytest.FixtureRequest, toy: tuple[str, str]) -> str:
    return toy[0] if request.param == "sql" else str(request.getfixturevalue("server"))


@pytest.fixture(scope="module")
def store(uri: str) -> Store:
    return store_at(uri)


@pytest.fixture(scope="module")
def runs(uri: str, toy: tuple[str, str]) -> Runs:
    return read_runs(uri, toy[1])


def trials(store: Store, run_id: str) -> dict[str, str]:
    """Name -> id of a sweep's trials."""
    return {run.name: run.run_id for run in store.members(run_id).runs}


def test_members_are_a_sweeps_trials_with_their_tags_and_its_record(store: Store, toy: tuple[str, str]) -> None:
    members = store.members(toy[1])
    assert (members.name, members.record, members.children) == ("toy", toy_experiment(2), True)
    assert [run.name for run in members.runs][:2] == [f"{arm} · seed 0" for arm in ARMS]
    assert [run.started for run in members.runs] == sorted(run.started for run in members.runs)
    assert {run.status for run in members.runs} == {"FINISHED", "FAILED"}
    written = toy_tags(ARMS[0], 0).written()
    assert written.items() <= members.runs[0].tags.items()
    alone = store.members(members.runs[0].run_id)
    assert (alone.runs, alone.record, alone.children) == (members.runs[:1], None, False)
    assert alone.experiment_id == members.experiment_id


def test_values_are_what_was_logged_but_for_the_machines(store: Store, toy: tuple[str, str]) -> None:
    ids = trials(store, toy[1])
    searched, gone = ids["search 1"], ids["gone"]
    rows = store.values([searched, gone])
    assert [row for row in rows if row[0] == searched] == [(searched, "val/foil_accuracy", 50, 0.9)]
    assert sorted(row[1:] for row in rows if row[0] == gone) == [
        ("val/foil_accuracy", 25, 0.55),
        ("val/foil_accuracy", 50, 0.6),
        ("val/itm_auc", 25, 0.5),
        ("val/itm_auc", 50, 0.5),
    ]
    assert [row[2] for row in rows if row[:2] == (gone, "val/itm_auc")] == [25, 50]
    assert store.values([]) == []


def test_params_and_last_values(store: Store, toy: tuple[str, str]) -> None:
    ids = trials(store, toy[1])
    first, second, gone = ids["search 1"], ids["search 2"], ids["gone"]
    assert store.params([first, gone]) == {first: {RATE: "0.1"}, gone: {}}
    assert store.last("val/foil_accuracy", [first, second, gone]) == {first: 0.9, gone: 0.6}
    assert store.last("val/unknown", [first]) == {}


def test_artifacts_that_are_missing_are_left_out(store: Store, toy: tuple[str, str]) -> None:
    ids = trials(store, toy[1])
    chosen = ids[f"{ARMS[1]} · seed 0"]
    attached = store.artifacts([ids["gone"], chosen], EXAMPLES)
    assert {run: json.loads(held) for run, held in attached.items()} == {chosen: toy_examples(ARMS[1], 0)}
    assert store.artifacts([toy[1]], "none.json") == {}


def test_the_sweep_is_read(runs: Runs) -> None:
    whole = toy_findings_runs(2, 1)
    assert (runs.record, runs.arms, runs.baseline) == (whole.record, ARMS, ARMS[0])
    assert runs.final("val/foil_accuracy").equals(whole.final("val/foil_accuracy"))
    curves = runs.curves("val/itm_auc").filter((pl.col("arm") == ARMS[0]) | (pl.col("seed") == 0))
    assert curves.equals(whole.curves("val/itm_auc"))
    assert runs.names("test/") == ["test/foil_accuracy", "test/itm_auc"]
    assert runs.provenance == {"packages": {"torch": "2.9"}}
    assert sorted(runs.tags) == sorted(runs.trials["run_id"])
    assert {(tags.arm, tags.seed) for tags in runs.tags.values()} == set(runs.trials.select("arm", "seed").rows())
    assert {run: (of.arm, of.seed) for run, of in runs.tags.items() if run not in runs.examples} == {
        runs.diverged[0]: (ARMS[1], 1)
    }
    assert runs.searched.select("arm", "score").rows() == [(ARMS[0], 0.9)]  # the other has no value on validation


def test_a_trial_that_diverged_has_a_last_value_and_no_final_one(runs: Runs) -> None:
    assert runs.final("val/foil_accuracy").filter(arm=ARMS[1])["seed"].to_list() == [0]
    assert runs.last("val/foil_accuracy").filter(arm=ARMS[1]).rows()[1] == (ARMS[1], 1, 0.6)
    assert runs.outcomes().rows()[1:] == [(ARMS[1], 0, "finished"), (ARMS[1], 1, "diverged")]
    assert runs.last("val/none").is_empty()
    assert runs.last("val/none").schema == runs.final("val/foil_accuracy").schema


def test_both_stores_give_equal_frames(runs: Runs, uri: str, toy: tuple[str, str]) -> None:
    ours = read_runs(*toy)
    for one, other in (
        (ours.trials, runs.trials),
        (ours.metrics, runs.metrics),
        (ours.searched, runs.searched),
        (list_runs(toy[0]), list_runs(uri)),
    ):
        assert_frame_equal(one, other, check_row_order=False)
    assert (ours.examples, ours.provenance, ours.tags) == (runs.examples, runs.provenance, runs.tags)
    assert runs.home.partition("/#/")[2] == ours.home.partition("/#/")[2]


def test_the_sweep_is_listed_with_its_best_arm(uri: str) -> None:
    (row,) = list_runs(uri).rows(named=True)
    counts = {"finished": 5, "running": 0, "failed": 1, "trials": 6}
    assert counts.items() <= row.items()
    assert row["best_arm"] == ARMS[0]
    assert 0.8 < row["best"] < 1.0


def test_a_run_that_is_missing_is_named(uri: str) -> None:
    with pytest.raises(UserError, match=f"--run-id {'0' * 32}: no such run"):
        read_runs(uri, "0" * 32)


def test_a_store_that_is_missing_is_named(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(UserError, match="there are no runs yet; start with `wb sweep FILE`"):
        read_runs(uri, "0" * 32)
    assert list_runs(uri).is_empty()


def test_artifacts_that_only_the_server_holds_come_from_it(
    toy: tuple[str, str], server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(server, tmp_path)
    home = tracker.experiment_id("on the server")
    assert tracker.client.get_experiment(home).artifact_location.startswith("mlflow-artifacts:")
    run_id = tracker.client.create_run(home).info.run_id
    tracker.attach(run_id, {"question": "?"}, FILE)
    assert {run: json.loads(held) for run, held in store_at(server).artifacts([run_id], FILE).items()} == {
        run_id: {"question": "?"}
    }
    assert store_at(toy[0]).artifacts([run_id], FILE) == {}


def test_what_version_1_wrote_is_read(tmp_path: Path) -> None:
    uri, other = toy_store(tmp_path, arms=2, seeds=1)
    tracker = Tracker(uri, tmp_path)
    parent, _ = tracker.start("old", {"study": "old", "kind": "sweep"}, {}, {})
    told = toy_experiment(2).model_dump(mode="json", exclude={"version", "margin", "name", "smoke"})
    cells = {"c0": ARMS[0], "c1": ARMS[1], "c2": ARMS[1]}
    tracker.attach(parent, told | {"cells": cells, "factors": {}, "baseline": {}}, FILE)
    trials: list[tuple[str, str, str, dict[str, str]]] = [
        ("c0", ARMS[0], "trial", {}),
        ("c1", "before a new name", "trial", {}),
        ("left", ARMS[0], "trial", {}),
    ]
    trials += [("c2", ARMS[1], "trial", {"diverged_at": "5"}), ("s1", f"{ARMS[0]} · search 1", "search", {})]
    for place, (config, cell, kind, remarks) in enumerate(trials):
        tags = {"study": "old", "seed": str(place), "config_hash": config, "cell": cell, "kind": kind}
        run_id, _ = tracker.start(f"{cell} {place}", tags, {}, {}, parent)
        tracker.log(run_id, {"val/foil_accuracy": place / 10}, 5)
        tracker.finish(run_id, tags=remarks)
    runs = read_runs(uri, parent)
    assert (runs.record.version, runs.record.margin, runs.record.cells) == (1, None, cells)
    assert sorted(runs.outcomes().rows()) == [
        (ARMS[0], 0, "finished"),
        (ARMS[1], 1, "finished"),
        (ARMS[1], 3, "diverged"),
    ]
    assert runs.final("val/foil_accuracy").rows() == [(ARMS[0], 0, 0.0), (ARMS[1], 1, 0.1)]
    assert runs.searched.select("arm", "score").rows() == [(ARMS[0], 0.4)]
    assert (runs.examples, runs.provenance) == ({}, {})
    assert dict(list_runs(uri).select("run_id", "best").rows())[parent] == 0.0
    assert other in list_runs(uri)["run_id"]


def test_a_trial_by_itself_is_read(store: Store, uri: str, toy: tuple[str, str]) -> None:
    run_id = trials(store, toy[1])["gone"]
    alone = read_runs(uri, run_id)
    assert alone.record.question == f"What did run {run_id} reach?"
    assert (alone.arms, alone.baseline) == ([ARMS[1]], ARMS[1])
    assert (alone.diverged, alone.examples, alone.provenance) == ([run_id], {}, {})


def test_a_changed_copy_forgets_what_was_worked_out() -> None:
    runs: Runs = toy_findings_runs(2, 2)
    assert runs.final("val/itm_auc").height == 4
    assert replace(runs, metrics=runs.metrics.clear()).final("val/itm_auc").is_empty()
    lost = replace(runs, trials=runs.trials.with_columns(outcome=pl.lit("diverged")))
    assert (lost.final("val/itm_auc").height, lost.last("val/itm_auc").height) == (0, 4)
    assert lost.diverged == runs.trials["run_id"].to_list()
