"""Checks that the inputs of a sweep's finished trials are unchanged before further trials are compared with them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import UserError
from workbench.record import TrialTags
from workbench.trial.cell import Cell

if TYPE_CHECKING:
    from workbench.trial.inputs import Inputs

NAMED = 3  # cells that a sentence names


def look(study: str, finished: list[tuple[Cell, TrialTags]], missing: list[Cell], cache_dir: Path) -> None:
    """Raises UserError where the inputs of the finished trials have changed, or those of the missing ones cannot be
    read."""
    from workbench.trial.inputs import Inputs

    inputs = Inputs(cache_dir)
    refuse_changed_inputs(study, finished, inputs)
    check_inputs(missing, inputs)


def check_inputs(cells: Iterable[Cell], inputs: "Inputs") -> None:
    """Raises UserError where an input of these cells' trials is missing or does not fit, before the first trial
    starts."""
    for cell in cells:
        inputs.check(cell.settings)


def refuse_changed_inputs(study: str, finished: Iterable[tuple[Cell, TrialTags]], inputs: "Inputs") -> None:
    """Raises UserError where finished trials used other data or weights than a trial would use now."""
    names: list[str] = []
    changes: dict[str, None] = {}
    for cell, then in finished:
        with suppress(UserError):  # their inputs are gone, so no other trial can use them either
            changed = inputs.changes(cell.settings, then)
            names += [cell.name] if changed else []
            changes |= dict.fromkeys(changed)
    if not changes:
        return
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise UserError(
        f"{study}: finished trials of this study, `{'`, `'.join(names[:NAMED])}`{more}, were made from other inputs"
        f" than there are now: {'; '.join(changes)}. Restore the earlier inputs to extend the study, or run all trials"
        " in a separate study with `--study NAME`."
    )


def other_code(trials: Sequence[TrialTags], now: str) -> str | None:
    """Returns a sentence where finished trials were run with another version of the code than `now`; else None."""
    others = {state for tags in trials for state in tags.codes if state != now}
    if not others:
        return None
    count = sum(bool(others & set(tags.codes)) for tags in trials)
    return (
        f"{count} of the finished trials were run with other code than there is now ({', '.join(sorted(others))}; now "
        f"{now}); the report says so, too"
    )
