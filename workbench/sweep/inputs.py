"""Whether what a sweep's finished trials were made from is still there, before others are set beside them."""

from collections.abc import Mapping, Sequence

from workbench.errors import UserError
from workbench.record import TrialTags
from workbench.trial.cell import Cell
from workbench.trial.inputs import Inputs

NOTHING = TrialTags(study="", seed=0, cell="", arm="")  # what is recorded of a cell that has no trial yet
NAMED = 3  # cells that a sentence names


def refuse_changed_inputs(
    study: str, cells: Sequence[Cell], made: Mapping[str, TrialTags], inputs: Inputs, elsewhere: bool
) -> None:
    """Raises UserError where finished trials, given by their cell's key, were made from other data or other weights than
    a trial would be now; or where a cell's cannot be read, unless its trials run `elsewhere`."""
    cell_names: list[str] = []
    changes: dict[str, None] = {}
    for cell in cells:
        try:
            found = inputs.changes(cell.settings, made.get(cell.key, NOTHING))
        except UserError:
            if not elsewhere:
                raise
            continue
        cell_names += [cell.name] if found else []
        changes |= dict.fromkeys(found)
    if not changes:
        return
    more = f" and {len(cell_names) - NAMED} more" if len(cell_names) > NAMED else ""
    raise UserError(
        f"{study}: finished trials of this study, `{'`, `'.join(cell_names[:NAMED])}`{more}, were made from other inputs "
        f"than there are now: {'; '.join(changes)}. Put back what was there to extend it, or run all trials anew, apart from "
        "these, with `--study NAME`."
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
