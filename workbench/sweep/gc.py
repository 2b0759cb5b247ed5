"""Finds the files of a workspace that are no longer needed."""

import time
from pathlib import Path

from workbench.trial.ledger import Ledger, names_of_studies
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace

STATES = ("*.pt", "*.pt.before", "*.part", "*.parts", "*.half")


def old_files(workspace: Path, days: float, weights: bool, storage: str | None) -> list[Path]:
    """Returns states of unfinished trials and of warm starts that were last written at least `days` days ago, except
    those of running trials. With `weights`, also the weights of finished trials."""
    latest = time.time() - 86400 * days
    patterns = (*STATES, "*.safetensors") if weights else STATES
    opened = open_storage(storage, workspace)
    home = Workspace(workspace)
    folder = home.checkpoints
    busy = {(name, attempt.cell_key) for name in names_of_studies(opened) for attempt in Ledger(opened, name).running()}
    busy |= {(folder.name, cell) for _, cell in busy}
    depths = ("", "*/", "*/*/")  # the folder that studies once shared, a study's, and a fine-tuning's within it
    files = {path for pattern in patterns for depth in depths for path in folder.glob(depth + pattern)}
    files |= {path for pattern in STATES for path in home.cache.glob(f"warm-*-state{pattern[1:]}")}
    return sorted(
        path
        for path in files
        if path.is_file()
        and path.stat().st_mtime <= latest
        and (path.parent.name, path.name.partition(".")[0]) not in busy
    )
