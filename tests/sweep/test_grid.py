"""Which cells a grid has, and which studies it may extend."""

from pathlib import Path

import pytest

from workbench.config.schema import Experiment
from workbench.config.settings import apply
from workbench.errors import UserError
from workbench.sweep.grid import expand
from workbench.sweep.run import refuse_another_question
from workbench.trial.cell import Cell, Ending
from workbench.trial.job import new_job
from workbench.trial.ledger import Ledger

ENDING = Ending("run", "finished", 0.5, {3: 0.25, 6: 0.5})


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of_workspace(tmp_path, "s")


def end(ledger: Ledger, cell: Cell) -> None:
    ours = ledger.claim([cell], 1, 0, "me")
    assert ours
    ours.complete(ENDING)


@pytest.mark.parametrize("levels", [[0.0, 0.5, 0.9], [0.0, 0.1]])
def test_more_levels_and_seeds_extend_a_study(experiment: Experiment, levels: list[float], ledger: Ledger) -> None:
    name = next(iter(experiment.factors))
    wider = experiment.model_copy(
        update={
            "factors": {name: levels},
            "arms": [{name: level} for level in levels],
            "seeds": experiment.seeds.model_copy(update={"count": 4}),
        }
    )
    for cell in expand(experiment):
        end(ledger, cell)
    new_job("s", experiment, None, "").publish(ledger)
    refuse_another_question(ledger, wider)
    left = ledger.open_cells(expand(wider), 1, 0)
    assert len(expand(wider)) - len(left) == experiment.seeds.count * len(set(levels) & set(experiment.factors[name]))


def test_a_further_factor_extends_a_study(experiment: Experiment) -> None:
    name = next(iter(experiment.factors))
    held = experiment.settings.objectives.mlm.temperature
    wider = experiment.model_copy(
        update={
            "factors": experiment.factors | {"objectives.mlm.temperature": [held, 2.0]},
            "arms": [arm | {"objectives.mlm.temperature": t} for arm in experiment.arms for t in (held, 2.0)],
        }
    )
    known = {cell.key for cell in expand(experiment)}
    assert known < {cell.key for cell in expand(wider)}
    assert name in wider.factors


def test_another_file_of_the_name_is_refused_unless_one_grid_contains_the_other(
    experiment: Experiment, ledger: Ledger, tmp_path: Path
) -> None:
    """Two files of one name in two folders would write over each other's report. One that is gone was moved."""
    one = tmp_path / "x.yaml"
    one.touch()
    first = experiment.model_copy(update={"file": str(one)})
    new_job("s", first, None, "").publish(ledger)
    end(ledger, expand(first)[0])
    name = next(iter(experiment.factors))
    temperature = "objectives.mlm.temperature"
    fewer = {"arms": experiment.arms[:2], "factors": {name: experiment.factors[name][:2]}}
    more = {"arms": [*experiment.arms, {name: 0.9}], "factors": {name: [*experiment.factors[name], 0.9]}}
    swapped = {"arms": [experiment.arms[0], {name: 0.9}], "factors": {name: [0.0, 0.9]}}
    another = {"arms": [{temperature: level} for level in (1.0, 2.0)], "factors": {temperature: [1.0, 2.0]}}
    for changes in (fewer, more, swapped, another):
        for file in (str(one), "/two/x.yaml", ""):
            asked = experiment.model_copy(update=changes | {"file": file})
            if file == "/two/x.yaml" and changes in (swapped, another):
                with pytest.raises(UserError, match=rf"/two/x.yaml: .*another file of that name, {one}.*--study"):
                    refuse_another_question(ledger, asked)
                refuse_another_question(ledger, asked, named=True)
            else:
                refuse_another_question(ledger, asked)
    one.unlink()
    refuse_another_question(ledger, experiment.model_copy(update=another | {"file": "/two/x.yaml"}))


def test_another_question_in_a_study_is_refused_with_the_difference(experiment: Experiment, ledger: Ledger) -> None:
    changed = experiment.model_copy(update={"settings": apply(experiment.settings, {"optimisation.steps": 7})})
    cosmetic = experiment.model_copy(
        update={"settings": apply(experiment.settings, {"optimisation.checkpoint_every": 7}), "question": "Else?"}
    )
    new_job("s", experiment, None, "").publish(ledger)
    refuse_another_question(ledger, changed)  # nothing has ended that could be mixed
    end(ledger, expand(experiment)[0])
    refuse_another_question(ledger, cosmetic)
    assert [c.key for c in expand(cosmetic)] == [c.key for c in expand(experiment)]
    with pytest.raises(UserError, match=r"`optimisation.steps` is 7 here and 6 there.*--study"):
        refuse_another_question(ledger, changed)
    with pytest.raises(UserError, match="`primary` is val/mlm_loss here"):
        refuse_another_question(ledger, experiment.model_copy(update={"primary": "val/mlm_loss"}))
