"""Checks whether the trials of sweeps used the same data, starting weights and code: if not, more than their arms
differs."""

from collections.abc import Callable, Hashable, Sequence

from analysis.compare import titles
from analysis.runs import Runs
from analysis.wording import counted, listed
from workbench.config.schema import flattened
from workbench.record import TrialTags, is_start

DATA = ("data.",)
START = ("data.", "model.", "warm_start.")
# Settings in the same groups that affect neither the data nor the start.
FREE = ("data.augment", "data.workers", "data.caption_noise", "model.fusion.", "model.mlm_head")


def mixtures(*sweeps: Runs) -> list[str]:
    """Returns a sentence for each case where trials whose settings request the same data, or the same start, used
    different ones; also across several sweeps that are compared."""
    return [
        *_mixtures(sweeps, "data", DATA, lambda tags: (), lambda tags: tags.data),
        # The name of a start includes its data.
        *_mixtures(sweeps, "starting weights", START, lambda tags: (tags.data,), lambda tags: tags.warm_start),
    ]


def _mixtures(
    sweeps: Sequence[Runs],
    what: str,
    parts: tuple[str, ...],
    alike: Callable[[TrialTags], tuple[str, ...]],
    made_from: Callable[[TrialTags], str],
) -> list[str]:
    groups: dict[Hashable, dict[str, list[str]]] = {}
    for runs, title in zip(sweeps, titles(sweeps), strict=True):
        for run_id, arm in runs.trials.select("run_id", "arm").iter_rows():
            tags = runs.tags.get(run_id)
            if tags is not None and made_from(tags):
                group = groups.setdefault((_requested(runs, arm, parts), alike(tags)), {})
                group.setdefault(made_from(tags), []).append(f"{title}: {arm}" if len(sweeps) > 1 else arm)
    return [
        f"The trials were not all made from the same {what}: "
        f"{'; '.join(f'{name} ({listed(list(dict.fromkeys(arms)))})' for name, arms in names.items())}. "
        "A difference between these may come from that, and not from the arm."
        for names in map(_known_apart, groups.values())
        if len(names) > 1
    ]


def _requested(runs: Runs, arm: str, parts: tuple[str, ...]) -> Hashable:
    """Returns the settings of an arm that belong to `parts`; for an arm that the record does not know, its name."""
    if arm not in runs.record.arm_values:
        return runs.run_id, arm
    best = next((tuned.best for tuned in runs.record.tuned if tuned.arm == arm), None) or {}
    values = flattened(runs.record.settings) | runs.record.arm_values[arm] | best
    return tuple(
        sorted(
            (name, repr(level))
            for name, level in values.items()
            if f"{name}.".startswith(parts) and not f"{name}.".startswith(FREE)
        )
    )


def _known_apart(groups: dict[str, list[str]]) -> dict[str, list[str]]:
    """Drops older, shorter names where the full name is present, too."""
    return {
        name: arms
        for name, arms in groups.items()
        if not any(other != name and is_start(other, name) for other in groups)
    }


def code_states(runs: Runs) -> str:
    """Returns the versions of the code that the trials were run with, where there are several; else an empty text."""
    states: dict[str, int] = {}
    for run_id in runs.trials["run_id"]:
        for state in runs.tags[run_id].codes if run_id in runs.tags else ():
            states[state] = states.get(state, 0) + 1
    if len(states) < 2:
        return ""
    versions = listed([f"{state} ({counted(count, 'trial')})" for state, count in states.items()])
    return f"trials were run with {len(states)} different versions of the code: {versions}"
