"""Whether what a sweep's finished trials were made from is still there, before others are set beside them."""

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
    """Raises UserError where what the trials of these cells need is missing or does not fit, before the first of
    them."""
    for cell in cells:
        inputs.check(cell.settings)


def refuse_changed_inputs(study: str, finished: Iterable[tuple[Cell, TrialTags]], inputs: "Inputs") -> None:
    """Raises UserError where finished trials were made from other data or other weights than a trial would be now."""
    names: list[str] = []
    changes: dict[str, None] = {}
    for cell, then in finished:
        with suppress(UserError):  # what they were made from is gone, so that no other trial is made from it either
            found = inputs.changes(cell.settings, then)
            names += [cell.name] if found else []
            changes |= dict.fromkeys(found)
    if not changes:
        return
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    raise UserError(
        f"{study}: finished trials of this study, `{'`, `'.join(names[:NAMED])}`{more}, were made from other inputs"
        f" than there are now: {'; '.join(changes)}. Put back what was there to extend it, or run all trials anew,"
        " apart from these, with `--study NAME`."
    )


def told_of_code(made: Sequence[TrialTags], now: str) -> str | None:
    """A sentence where finished trials were run with another state of the code than `now`; None where none was."""
    others = {state for tags in made for state in tags.codes if state != now}
    if not others:
        return None
    count = sum(bool(others & set(tags.codes)) for tags in made)
    return (
        f"{count} of the finished trials were run with other code than there is now ({', '.join(sorted(others))}; now "
        f"{now}); the report says so, too"
    )
