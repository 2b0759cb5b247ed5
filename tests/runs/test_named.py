"""Runs named as people name them."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from workbench.cli.named import report_folder, run_in
from workbench.cli.options import app
from workbench.errors import UserError
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    """Two sweeps of one name, the second with a trial, and one of another name."""
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    ids = {}
    for key, name in (("old", "itm"), ("new", "itm"), ("last", "components")):
        ids[key], _ = tracker.start(name, {"study": key}, {"kind": "sweep"}, {})
    ids["trial"], _ = tracker.start("seed 0", {"study": "new", "cell": "a"}, {"kind": "trial"}, {}, ids["new"])
    return ids


def test_a_run_is_found_by_its_id_its_first_letters_its_name_or_as_the_newest(
    tmp_path: Path, made: dict[str, str]
) -> None:
    for run_id in made.values():
        assert run_in(tmp_path, run_id) == run_id
        assert run_in(tmp_path, run_id[:12]) == run_id
    assert run_in(tmp_path, "itm") == made["new"]
    assert run_in(tmp_path, "latest") == made["last"]
    assert run_in(tmp_path, "0" * 32) == "0" * 32  # whatever reads it says that it is not there


def test_what_names_no_run_or_several_is_refused(tmp_path: Path, made: dict[str, str]) -> None:
    for given in ("nothing", "abc", made["old"][:3], "g" * 32):
        with pytest.raises(UserError, match="there is no such run in this workspace"):
            run_in(tmp_path, given)


def test_letters_that_several_ids_begin_with_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    run_ids = [tracker.start("x", {"study": str(n)}, {"kind": "trial"}, {})[0] for n in range(17)]
    letter = next(first for first in "0123456789abcdef" if sum(run_id[0] == first for run_id in run_ids) > 1)
    monkeypatch.setattr("workbench.cli.named.LETTERS", re.compile("[0-9a-f]+"))
    with pytest.raises(UserError, match="runs start with it"):
        run_in(tmp_path, letter)


def test_the_list_shows_short_ids_and_the_newest_is_reported_without_one(tmp_path: Path, made: dict[str, str]) -> None:
    listed = CliRunner().invoke(app, ["runs", "--workspace", str(tmp_path)]).stdout
    assert made["last"][:8] in listed
    assert made["last"] not in listed
    (tmp_path / "empty").mkdir()
    ensure_store(tmp_path / "empty")
    missing = CliRunner().invoke(app, ["report", "--workspace", str(tmp_path / "empty")])
    assert "no runs yet" in str(missing.exception)


def test_the_newest_sweep_of_a_name_is_reported_where_the_sweep_did_it(tmp_path: Path, made: dict[str, str]) -> None:
    uri = ensure_store(tmp_path)
    assert report_folder(uri, made["new"]) == "itm"
    assert report_folder(uri, made["last"]) == "components"
    assert report_folder(uri, made["old"]) == made["old"]  # the folder `itm` is the newer one's
    assert report_folder(uri, made["trial"]) == made["trial"]


def test_a_run_that_was_renamed_to_a_path_is_reported_under_its_id(tmp_path: Path, made: dict[str, str]) -> None:
    uri = ensure_store(tmp_path)
    Tracker(uri, tmp_path).client.set_tag(made["new"], "mlflow.runName", "../elsewhere")
    assert report_folder(uri, made["new"]) == made["new"]
