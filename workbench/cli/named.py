"""Runs as people name them on the command line."""

import re
from pathlib import Path
from typing import Annotated

import typer

from workbench.errors import UserError

WHOLE = re.compile("[0-9a-f]{32}")
LETTERS = re.compile("[0-9a-f]{4,}")
SHORT = 8  # letters of an id that `wb runs` shows
NAMES = "its id or the first letters of it, its name, or `latest`"
OfSweepOrTrial = Annotated[str, typer.Option("--run-id", help=f"A sweep or a trial: {NAMES}.")]
OfTrials = Annotated[
    str, typer.Option("--run-id", help=f"A sweep (all of its finished trials), a trial or a single training: {NAMES}.")
]
OfTrial = Annotated[str, typer.Option("--run-id", help=f"A finished trial: {NAMES}.")]


def run_named(uri: str, given: str) -> str:
    """The id of the run that is `given` by its id or the first letters of it; of the newest sweep or single training of
    that name; or of the newest of all, given as `latest`.

    Raises UserError where there is none, or where several ids begin so.
    """
    if WHOLE.fullmatch(given):
        return given
    from analysis.runs import every_run

    runs = every_run(uri)
    if not runs:
        raise UserError(
            f"--run-id {given}: there are no runs yet; start with `wb sweep FILE` or name another --workspace."
        )
    tops = sorted((run for run in runs if run.tags.get("kind") in ("sweep", "train")), key=lambda run: -run.started)
    named = [run.run_id for run in tops if given in ("latest", run.name)]
    if named:
        return named[0]
    begin = [run.run_id for run in runs if run.run_id.startswith(given)] if LETTERS.fullmatch(given) else []
    if len(begin) == 1:
        return begin[0]
    if begin:
        raise UserError(f"--run-id {given}: {len(begin)} runs begin so; give more letters (`wb runs --json` has all).")
    raise UserError(f"--run-id {given}: no run of this workspace; give {NAMES}. `wb runs` lists them.")


def run_in(workspace: Path, given: str) -> str:
    """`run_named` in the store of a workspace."""
    from workbench.tracking.store import tracking_uri

    return run_named(tracking_uri(workspace), given)
