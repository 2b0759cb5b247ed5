"""Which files of a workspace are no longer needed."""

import time
from pathlib import Path

from workbench.trial.ledger import Ledger, names_of_studies
from workbench.trial.storage import open_storage

STATES = ("*.pt", "*.pt.before", "*.part", "*.half")


def old_files(workspace: Path, days: float, weights: bool, storage: str | None) -> list[Path]:
    """States of unfinished trials (and, if asked, weights of finished ones) that were last written so many days ago,
    but for trials that somebody works on."""
    before = time.time() - 86400 * days
    patterns = (*STATES, "*.safetensors") if weights else STATES
    opened = open_storage(storage, workspace)
    busy = {each.cell_key for name in names_of_studies(opened) for each in Ledger(opened, name).running()}
    found = {path for pattern in patterns for path in (workspace / "checkpoints").glob(pattern)}
    return sorted(path for path in found if path.stat().st_mtime <= before and path.name.partition(".")[0] not in busy)
