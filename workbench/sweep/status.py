"""The state of a sweep according to its study. Starts and changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from workbench.config.schema import Experiment
from workbench.record import Living
from workbench.sweep.search import planned
from workbench.trial.heartbeat import Sightings
from workbench.trial.job import ATTRIBUTE
from workbench.trial.ledger import Ledger, names_of_studies
from workbench.trial.storage import open_storage
from workbench.workspace import Workspace


def known(workspace: Path, study: str, storage: str | None) -> Ledger | None:
    """Returns the study's ledger; None where it was never started."""
    opened = _opened(workspace, storage)
    return Ledger(opened, study) if opened and study in names_of_studies(opened) else None


def _opened(workspace: Path, storage: str | None) -> BaseStorage | None:
    """Returns the storage of studies; None where nothing was ever started in the workspace: opening the storage would
    create files in it."""
    is_new = storage is None and not Workspace(workspace).journal.exists()
    return None if is_new else open_storage(storage, workspace)


def living_in(workspace: Path, storage: str | None) -> Callable[[str, str], Living | None]:
    """Returns a function (study, run id) -> what of the sweep is running; None where the storage does not know it. The
    run is the sweep's, or that of a single training. A dead worker of another machine is detected only at a second
    look."""
    opened = _opened(workspace, storage)
    if opened is None:
        return lambda *_: None
    names, sightings = set(names_of_studies(opened)), Sightings(Workspace(workspace).studies)

    def living(study: str, run_id: str) -> Living | None:
        if study not in names:
            return None
        ledger = Ledger(opened, study)
        job = ledger.study.user_attrs.get(ATTRIBUTE)
        if job is not None and job["parent_run"] != run_id:  # a study of that name elsewhere
            return None
        running = frozenset(attempt.cell_key for attempt in ledger.running(sightings))
        process = ledger.is_attended(sightings)
        sightings.keep()
        return Living(process, running, frozenset(ledger.endings()))

    return living


def cells_of(experiment: Experiment, workspace: Path, study: str, storage: str | None) -> list[dict[str, Any]]:
    """Returns one row per cell: `name`, `state` (finished, diverged, pruned, running, failed, waiting), `value`,
    `run_id` of a trial that has ended, `progress`, `about`."""
    ledger = known(workspace, study, storage)
    endings = ledger.endings() if ledger else {}
    sightings = Sightings(Workspace(workspace).studies)
    running = {attempt.cell_key: attempt for attempt in ledger.running(sightings)} if ledger else {}
    if ledger:
        sightings.keep()
    plan = planned(experiment, endings)
    failures = ledger.all_failures(ledger.start) if ledger else {}
    rows = []
    for cell in plan.cells:
        state, value, progress, about, run_id = "waiting", None, "", "", None
        if cell.key in endings:
            ending = endings[cell.key]
            state, value, run_id = ending.outcome, ending.value, ending.run_id
        elif cell.key in running:
            attempt = running[cell.key]
            state, progress = "running", f"{attempt.step}/{attempt.steps or '?'}"
            about = f"  ({attempt.worker})"
        elif reasons := failures.get(cell.key):
            state, about = "failed", f"  {reasons[-1].splitlines()[0][:120]}"
        rows.append(
            {"name": cell.name, "state": state, "value": value, "run_id": run_id, "progress": progress, "about": about}
        )
    return rows
