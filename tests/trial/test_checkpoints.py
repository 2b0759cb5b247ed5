"""Whose the files of a cell are: each study has its own, and those of older workspaces are still found."""

from pathlib import Path

import pytest

from workbench.config.schema import Experiment
from workbench.sweep.gc import old_files
from workbench.sweep.grid import expand
from workbench.trial.cell import Cell, Ending
from workbench.trial.checkpoints import checkpoint_of, move, take_over, weights_of
from workbench.trial.ledger import Ledger

ENDING = Ending("run", "finished", 0.5, {6: 0.5})


@pytest.fixture
def cells(experiment: Experiment) -> list[Cell]:
    return expand(experiment)[:2]


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def attempt(workspace: Path, study: str, cell: Cell, ending: Ending | None = None) -> Ledger:
    """A study that has tried the cell."""
    ledger = Ledger.of_workspace(workspace, study)
    ours = ledger.claim([cell], 1, 0, "me")
    assert ours
    if ending:
        ours.complete(ending)
    else:
        ours.release()
    return ledger


def test_two_studies_share_no_file(tmp_path: Path) -> None:
    one, two = (checkpoint_of(tmp_path, study, "c") for study in ("one", "two"))
    assert one.parent != two.parent
    assert weights_of(tmp_path, "one", "c") == one.with_suffix(".safetensors")


def test_weights_of_an_old_workspace_are_found_until_there_are_new_ones(tmp_path: Path) -> None:
    old = write(tmp_path / "checkpoints" / "c.safetensors")
    assert weights_of(tmp_path, "s", "c") == weights_of(tmp_path, "other", "c") == old
    new = write(checkpoint_of(tmp_path, "s", "c").with_suffix(".safetensors"))
    assert weights_of(tmp_path, "s", "c") == new
    assert weights_of(tmp_path, "other", "c") == old


def test_an_old_state_goes_to_the_one_study_that_has_tried_its_cell(cells: list[Cell], tmp_path: Path) -> None:
    folder, keys = tmp_path / "checkpoints", [cell.key for cell in cells]
    for key in keys:
        for end in (".pt", ".pt.before", ".parts"):
            write(folder / f"{key}{end}", end)
    ledger = attempt(tmp_path, "s", cells[0])
    attempt(tmp_path, "done", cells[0], ENDING)  # has no state any more
    take_over(ledger, tmp_path, keys)
    assert sorted(path.name.partition(".")[2] for path in (folder / "s").iterdir()) == ["parts", "pt", "pt.before"]
    assert checkpoint_of(tmp_path, "s", keys[0]).read_text() == ".pt"
    assert sorted(path.name for path in folder.glob(f"{keys[1]}*")) == [
        f"{keys[1]}{end}" for end in (".parts", ".pt", ".pt.before")
    ]  # the study has never tried that cell


def test_an_old_state_that_two_studies_may_have_written_is_nobodys(cells: list[Cell], tmp_path: Path) -> None:
    old = write(tmp_path / "checkpoints" / f"{cells[0].key}.pt")
    ledgers = [attempt(tmp_path, study, cells[0]) for study in ("one", "two")]
    for ledger in ledgers:
        take_over(ledger, tmp_path, [cells[0].key])
    assert old.exists()
    assert old_files(tmp_path, 0, False, None) == [old]


def test_a_move_that_was_cut_short_is_finished_and_a_state_of_its_own_is_kept(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "checkpoints" / "c.pt", checkpoint_of(tmp_path, "s", "c")
    write(theirs, "old")
    write(ours.with_name("c.pt.before"), "moved before")
    move(tmp_path, "s", "c")
    assert ours.read_text() == "old"
    write(theirs, "left behind")
    move(tmp_path, "s", "c")
    assert ours.read_text() == "old"


def test_gc_knows_whose_a_state_is(cells: list[Cell], tmp_path: Path) -> None:
    key = cells[0].key
    one, two = (write(checkpoint_of(tmp_path, study, key)) for study in ("one", "two"))
    shared = write(tmp_path / "checkpoints" / f"{key}.pt")
    parts = write(two.with_suffix(".parts"))
    weights = write(two.with_suffix(".safetensors"))
    lost = write(tmp_path / "checkpoints" / "estimate-x" / "estimate.pt")
    ours = Ledger.of_workspace(tmp_path, "one").claim(cells, 1, 0, "me")
    assert ours
    assert set(old_files(tmp_path, 0, False, None)) == {two, parts, lost}
    assert set(old_files(tmp_path, 0, True, None)) == {two, parts, lost, weights}
    ours.release()
    assert set(old_files(tmp_path, 0, False, None)) == {one, two, parts, shared, lost}
