"""Where the states and weights of cells are kept: each study has a folder of its own, so that two studies of a
workspace that hold the same cell never touch each other's files."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from workbench.training.state import before, parts_file
from workbench.trial.ledger import Ledger, names_of_studies
from workbench.workspace import Workspace


def checkpoint_of(workspace: Path, study: str, name: str) -> Path:
    """The state of a cell, by its key, or of a fine-tuning; all its other files lie beside it."""
    return Workspace(workspace).checkpoints / study / f"{name}.pt"


def weights_of(workspace: Path, study: str, name: str) -> Path:
    """The weights of a finished cell or fine-tuning: where they are, else where they will be. Once all studies of a
    workspace shared one folder; since equal cells end with equal weights, those there are good for each of them."""
    made = checkpoint_of(workspace, study, name).with_suffix(".safetensors")
    shared = Workspace(workspace).checkpoints / made.name
    return shared if shared.is_file() and not made.is_file() else made


def take_over(ledger: Ledger, workspace: Path, cells: Iterable[str]) -> None:
    """Moves the states of these cells (by their keys) from the folder that studies once shared to the study's own,
    where they are surely its: the study has tried the cell, and no other study of the storage is still at it. Other
    states stay for `wb gc`, and their cells start anew."""
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
    """Moves a state, and what lies beside it, from the folder that studies once shared; nothing where the study has one
    already."""
    theirs, ours = checkpoint_of(workspace, "", name), checkpoint_of(workspace, study, name)
    if ours.exists() or not (theirs.exists() or before(theirs).exists()):
        return
    ours.parent.mkdir(parents=True, exist_ok=True)
    # The state last: where this is cut short, the next start moves the rest.
    for beside in (parts_file, before, lambda path: path):
        with suppress(FileNotFoundError):
            os.replace(beside(theirs), beside(ours))
