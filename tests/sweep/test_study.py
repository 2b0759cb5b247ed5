import time
from pathlib import Path

import pytest

from workbench.config.schema import Experiment
from workbench.sweep.grid import expand, study_name
from workbench.sweep.study import Ledger, missing


def test_a_claim_is_exclusive_and_ends_with_its_holder(experiment: Experiment, tmp_path: Path) -> None:
    cells = expand(experiment)
    one, two = Ledger(tmp_path, "s"), Ledger(tmp_path, "s")
    with one.claim(cells[0]) as first, two.claim(cells[0]) as second, two.claim(cells[1]) as other:
        assert (first, second, other) == (True, False, True)
    with two.claim(cells[0]) as again:
        assert again


def test_a_finished_cell_is_never_claimed_again(experiment: Experiment, tmp_path: Path) -> None:
    cells = expand(experiment)
    ledger = Ledger(tmp_path, "s")
    ledger.record(cells[0], "run", 0.5)
    with Ledger(tmp_path, "s").claim(cells[0]) as ours:
        assert not ours
    assert missing(cells, ledger) == cells[1:]
    ledger.record_failure(cells[1], "boom")
    assert len(ledger.failures(cells[1])) == 1
    assert not ledger.failures(cells[1], since=time.time() + 1)
    assert missing(cells, ledger) == cells[1:]


@pytest.mark.parametrize("levels", [[0.0, 0.5, 0.9], [0.0, 0.1]])
def test_more_levels_and_seeds_extend_a_study(experiment: Experiment, levels: list[float]) -> None:
    name = next(iter(experiment.factors))
    wider = experiment.model_copy(
        update={
            "factors": {name: levels},
            "arms": [{name: level} for level in levels],
            "seeds": experiment.seeds.model_copy(update={"count": 4}),
        }
    )
    assert study_name(wider) == study_name(experiment)
    shared = {cell.key for cell in expand(wider)} & {cell.key for cell in expand(experiment)}
    assert len(shared) == experiment.seeds.count * len(set(levels) & set(experiment.factors[name]))


def test_levels_that_are_words_can_be_added_to_a_study(experiment: Experiment, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "s")
    for place, level in enumerate(["none", "frozen_lm", 0.5, 3, True]):
        cell = expand(experiment)[place]
        object.__setattr__(cell, "values", {"x": level})
        ledger.record(cell, "run", float(place))
    assert len(ledger.finished()) == 5


def test_a_changed_setting_is_another_study(experiment: Experiment) -> None:
    from workbench.config.load import apply

    changed = experiment.model_copy(update={"settings": apply(experiment.settings, {"optimisation.steps": 7})})
    cosmetic = experiment.model_copy(
        update={"settings": apply(experiment.settings, {"optimisation.checkpoint_every": 7})}
    )
    assert study_name(changed) != study_name(experiment)
    assert study_name(cosmetic) == study_name(experiment)
    assert [c.key for c in expand(cosmetic)] == [c.key for c in expand(experiment)]
