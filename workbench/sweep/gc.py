"""Which files of a workspace are no longer needed."""

import time
from pathlib import Path

from workbench.trial.ledger import Ledger, names_of_studies
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace

STATES = ("*.pt", "*.pt.before", "*.part", "*.parts", "*.half")


def old_files(workspace: Path, days: float, weights: bool, storage: str | None) -> list[Path]:
    """States of unfinished trials (and, if asked, weights of finished ones) that were last written so many days ago,
    but for trials that somebody works on; and those of warm starts."""
    latest = time.time() - 86400 * days
    patterns = (*STATES, "*.safetensors") if weights else STATES
    opened = open_storage(storage, workspace)
    home = Workspace(workspace)
    folder = home.checkpoints
    busy = {(name, each.cell_key) for name in names_of_studies(opened) for each in Ledger(opened, name).running()}
    busy |= {(folder.name, cell) for _, cell in busy}
    depths = ("", "*/", "*/*/")  # of the time when studies shared one folder, of a study, of a fine-tuning in it
    found = {path for pattern in patterns for depth in depths for path in folder.glob(depth + pattern)}
    found |= {path for pattern in STATES for path in home.cache.glob(f"warm-*-state{pattern[1:]}")}
    return sorted(
        path
        for path in found
        if path.is_file()
        and path.stat().st_mtime <= latest
        and (path.parent.name, path.name.partition(".")[0]) not in busy
    )
