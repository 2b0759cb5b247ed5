"""Resolves the names that users give to runs on the command line."""

import re
from pathlib import Path
from typing import Annotated

import typer

from workbench.errors import UserError

WHOLE = re.compile("[0-9a-f]{32}")
LETTERS = re.compile("[0-9a-f]{4,}")
STUDY = re.compile(r"[\w+=-][\w .+=-]*")  # the name of a study, which is also that of a folder
SHORT = 8  # characters of an id that `wb runs` shows
NAMES = "its id or the first characters of it, its name, or `latest`"
OfSweepOrTrial = Annotated[str, typer.Option("--run-id", help=f"A sweep or a trial: {NAMES}.")]
OfTrials = Annotated[
    str, typer.Option("--run-id", help=f"A sweep (all of its finished trials), a trial or a single training: {NAMES}.")
]
OfTrial = Annotated[str, typer.Option("--run-id", help=f"A finished trial: {NAMES}.")]


def run_named(uri: str, name: str) -> str:
    """Returns the id of a run that is given by its id or the first characters of it, by name (the newest sweep or
    single training of that name), or as `latest`, the newest of all.

    Raises UserError where there is no such run, or where several ids start with these characters.
    """
    if WHOLE.fullmatch(name):
        return name
    from analysis.runs import every_run

    runs = every_run(uri)
    if not runs:
        raise UserError(
            f"--run-id {name}: there are no runs yet; start with `wb sweep FILE` or name another --workspace."
        )
    tops = sorted((run for run in runs if run.tags.get("kind") in ("sweep", "train")), key=lambda run: -run.started)
    named = [run.run_id for run in tops if name in ("latest", run.name)]
    if named:
        return named[0]
    matches = [run.run_id for run in runs if run.run_id.startswith(name)] if LETTERS.fullmatch(name) else []
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(
            f"--run-id {name}: {len(matches)} runs start with it; give more characters (`wb runs --json` has all)."
        )
    raise UserError(f"--run-id {name}: there is no such run in this workspace; give {NAMES}. `wb runs` lists them.")


def report_folder(uri: str, run_id: str) -> str:
    """Returns the name of the folder for the report of a run: for the newest sweep of a name that name, as the sweep
    itself does, else the id."""
    from analysis.runs import every_run

    sweeps = [run for run in every_run(uri) if run.tags.get("kind") == "sweep"]
    newest = {run.name: run.run_id for run in sorted(sweeps, key=lambda run: run.started)}
    # A run can be renamed in MLflow, to anything.
    return next((name for name, its_id in newest.items() if its_id == run_id and STUDY.fullmatch(name)), run_id)


def run_in(workspace: Path, name: str) -> str:
    """Returns `run_named` for the store of a workspace."""
    from workbench.tracking.store import tracking_uri

    return run_named(tracking_uri(workspace), name)
