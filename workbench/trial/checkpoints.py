"""Paths of the states and weights of cells. Each study has its own folder, so that two studies of a workspace with the
same cell never touch each other's files."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from workbench.training.state import before, parts_file
from workbench.trial.ledger import Ledger, names_of_studies
from workbench.workspace import Workspace


def checkpoint_of(workspace: Path, study: str, name: str) -> Path:
    """Returns the path of a cell's state, by its key, or of a fine-tuning's. All its other files are next to it."""
    return Workspace(workspace).checkpoints / study / f"{name}.pt"


def weights_of(workspace: Path, study: str, name: str) -> Path:
    """Returns the path of the weights of a finished cell or fine-tuning, also before they exist. In earlier versions
    all studies of a workspace shared one folder. Equal cells end with equal weights, so those are valid for every
    study."""
    own = checkpoint_of(workspace, study, name).with_suffix(".safetensors")
    shared = Workspace(workspace).checkpoints / own.name
    return shared if shared.is_file() and not own.is_file() else own


def take_over(ledger: Ledger, workspace: Path, cells: Iterable[str]) -> None:
    """Moves the states of these cells (by their keys) from the folder that studies once shared to the study's own. It
    moves only states that certainly belong to the study: the study has tried the cell, and no other study of the
    storage has it unfinished. Other states stay for `wb gc`, and their cells start from the beginning."""
    shared = {path.name.partition(".")[0] for path in Workspace(workspace).checkpoints.glob("*.pt*")}
    wanted = shared.intersection(cells)
    if not wanted or not (wanted := wanted & ledger.unfinished()):
        return
    for name in names_of_studies(ledger.storage):
        if name != ledger.name:
            wanted -= Ledger(ledger.storage, name).unfinished()
    for key in wanted:
        move(workspace, ledger.name, key)


def move(workspace: Path, study: str, name: str) -> None:
    """Moves a state and the files next to it from the folder that studies once shared. Does nothing where the study has
    a state already."""
    theirs, ours = checkpoint_of(workspace, "", name), checkpoint_of(workspace, study, name)
    if ours.exists() or not (theirs.exists() or before(theirs).exists()):
        return
    ours.parent.mkdir(parents=True, exist_ok=True)
    # The state comes last: if this is interrupted, the next start moves the rest.
    for path_of in (parts_file, before, lambda path: path):
        with suppress(FileNotFoundError):
            os.replace(path_of(theirs), path_of(ours))
