from typing import Any

import pytest

from workbench.config.schema import Experiment, Search
from workbench.record import SweepRecord
from workbench.sweep.describe import sweep_record
from workbench.sweep.search import Plan, Planner, course_metric, planned, pruned_by, search_of, value_metric
from workbench.trial.cell import Cell, Ending

RATE = "optimisation.learning_rate"


def tuned(experiment: Experiment, **changes: Any) -> Experiment:
    search = {"settings": {RATE: {"low": 1e-4, "high": 1e-2, "log": True}, "objectives.mlm.mask_ratio": [0.15, 0.3]}}
    return experiment.model_copy(
        update={
            "arms": experiment.arms[:2],
            "search": Search.model_validate(search | {"trials": 6, "batch": 3} | changes),
        }
    )


def play(experiment: Experiment, order: int = 1) -> tuple[Plan, dict[str, Ending], list[Cell]]:
    """Ends cells with a made-up value that is best at a rate of .001, the last known first when `order` is -1."""
    endings: dict[str, Ending] = {}
    ran: list[Cell] = []
    while todo := [cell for cell in planned(experiment, endings).cells if cell.key not in endings][::order]:
        cell = todo[0]
        value = 1 - abs(cell.settings.optimisation.learning_rate - 1e-3)
        endings[cell.key] = Ending("run", "finished", value, {3: value / 2, 6: value})
        ran.append(cell)
    return planned(experiment, endings), endings, ran


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_search_is_the_same_in_whatever_order_its_trials_end(experiment: Experiment, sampler: str) -> None:
    searched = tuned(experiment, sampler=sampler)
    plan, _endings, ran = play(searched)
    other, _, ran_too = play(searched, -1)
    assert [cell.key for cell in plan.cells] == [cell.key for cell in other.cells]
    assert [cell.key for cell in ran] != [cell.key for cell in ran_too]
    assert plan.whole
    assert plan.total == 2 * (6 + searched.seeds.count)


def test_every_arm_has_the_same_budget_and_its_best_is_run_with_fresh_seeds(experiment: Experiment) -> None:
    searched = tuned(experiment)
    plan, endings, _ = play(searched)
    tried = [search_of(searched, arm, endings) for arm in searched.arms]
    assert [len(search.tried) for search in tried] == [6, 6]
    assert [given for _, given, _ in tried[0].tried[:3]] == [given for _, given, _ in tried[1].tried[:3]]
    for search in tried:
        best = max(search.tried, key=lambda row: row[2].value if row[2] and row[2].value else 0)
        assert search.best == best[1]
        confirming = [c for c in plan.cells if c.searching is None and search.arm.items() <= c.values.items()]
        assert {cell.seed for cell in confirming} == set(range(searched.seeds.count))
        assert all(cell.values[RATE] == best[1][RATE] for cell in confirming)
        assert "search" not in confirming[0].label
    assert searched.search is not None
    assert all(cell.seed == searched.search.seed for cell in plan.cells if cell.searching is not None)


def test_a_search_of_few_settings_plans_each_trial_once(experiment: Experiment) -> None:
    searched = tuned(experiment, settings={"objectives.mlm.mask_ratio": [0.15, 0.3]})
    plan, endings, _ = play(searched)
    assert plan.whole
    assert len(endings) == len(plan.cells) == plan.total < 2 * (6 + searched.seeds.count)


def test_a_search_that_finishes_nothing_is_over(experiment: Experiment) -> None:
    searched = tuned(experiment)
    endings: dict[str, Ending] = {}
    while todo := [cell for cell in planned(searched, endings).cells if cell.key not in endings]:
        arm = todo[0].arm
        ending = (
            Ending("a", "finished", 0.5, {6: 0.5}) if arm == "hard_ratio=0.25" else Ending("a", "diverged", None, {})
        )
        endings[todo[0].key] = ending
    plan = planned(searched, endings)
    assert plan.whole
    assert plan.total == len(endings) == 2 * 6 + searched.seeds.count
    assert {cell.arm for cell in plan.cells if cell.searching is None} == {"hard_ratio=0.25"}
    record = sweep_record(searched, plan, endings, is_smoke=False)
    assert record.planned == searched.seeds.count


def test_a_planner_asked_again_and_again_plans_as_one_that_is_new(experiment: Experiment) -> None:
    searched, planner = tuned(experiment), Planner()
    endings: dict[str, Ending] = {}
    while todo := [cell for cell in planner(searched, endings).cells if cell.key not in endings]:
        assert planner(searched, endings) == planned(searched, endings)
        value = todo[-1].settings.optimisation.learning_rate
        endings[todo[-1].key] = Ending("a", "finished", value, {6: value})
    assert planner(searched, endings) == planned(searched, endings)
    assert planner(experiment, endings) == planned(experiment, endings)


def test_nothing_is_confirmed_before_the_search_of_its_arm_has_ended(experiment: Experiment) -> None:
    plan = planned(tuned(experiment), {})
    assert not plan.whole
    assert len(plan.cells) == 2 * 3
    assert all(cell.searching is not None for cell in plan.cells)


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_poor_trial_is_pruned_a_good_one_and_a_confirming_one_are_not(experiment: Experiment, pruner: str) -> None:
    searched = tuned(experiment, pruner=pruner, trials=12)
    plan, endings, _ = play(searched)
    late = next(cell for cell in plan.cells if cell.searching is not None and cell.searching >= 9)
    first = next(cell for cell in plan.cells if cell.searching == 0)
    confirming = next(cell for cell in plan.cells if cell.searching is None)
    poor, good = {1: 0.0, 3: 0.0}, {1: 2.0, 3: 2.0}
    assert pruned_by(searched, late, endings, poor)
    assert not pruned_by(searched, late, endings, good)
    assert not pruned_by(searched, first, endings, poor)  # it has nothing to be compared with
    assert not pruned_by(searched, confirming, endings, poor)
    assert not pruned_by(tuned(experiment, pruner="none", trials=12), late, endings, poor)


def test_diverged_and_pruned_trials_are_never_the_best(experiment: Experiment) -> None:
    searched = tuned(experiment)
    endings: dict[str, Ending] = {}
    while not (plan := planned(searched, endings)).whole:
        for number, cell in enumerate(cell for cell in plan.cells if cell.key not in endings):
            endings[cell.key] = [
                Ending("a", "diverged", None, {}),
                Ending("b", "pruned", 9.0, {3: 9.0}),
                Ending("c", "finished", 0.5, {3: 0.4, 6: 0.5}),
            ][number % 3]
    for arm in searched.arms:
        search = search_of(searched, arm, endings)
        assert [given for _, given, e in search.tried if e and e.outcome == "finished" and given == search.best]


def test_a_search_goes_by_the_validation_split_and_only_what_confirms_by_the_test_split(experiment: Experiment) -> None:
    searched = tuned(experiment).model_copy(update={"primary": "test/foil_accuracy"})
    plan, _, _ = play(searched)
    assert course_metric(searched) == "val/foil_accuracy"
    asked = {(cell.searching is not None, value_metric(searched, cell)) for cell in plan.cells}
    assert asked == {(True, "val/foil_accuracy"), (False, "test/foil_accuracy")}


def test_less_is_better_on_the_validation_split_too(experiment: Experiment) -> None:
    searched = tuned(experiment).model_copy(update={"primary": "test/mlm_loss"})
    _, endings, _ = play(searched)
    search = search_of(searched, searched.arms[0], endings)
    worst = min(search.tried, key=lambda row: row[2].value if row[2] and row[2].value else 0)
    assert search.best == worst[1]


def test_every_trial_names_its_arm_also_in_a_search(experiment: Experiment) -> None:
    plan, _, _ = play(tuned(experiment))
    assert {cell.arm for cell in plan.cells} == {"hard_ratio=0.0", "hard_ratio=0.25"}
    assert any(cell.label == "hard_ratio=0.25 · search 1" and cell.arm == "hard_ratio=0.25" for cell in plan.cells)


def test_a_sweep_records_what_its_readers_need(experiment: Experiment) -> None:
    searched = tuned(experiment)
    plan, endings, _ = play(searched)
    record = sweep_record(searched, plan, endings, is_smoke=True)
    assert SweepRecord.model_validate_json(record.model_dump_json()) == record
    assert SweepRecord.model_validate(record.model_dump(mode="json")) == record
    assert (record.version, record.margin, record.smoke) == (2, 0.02, True)
    assert record.arms == ["hard_ratio=0.0", "hard_ratio=0.25"]
    assert record.arm_values["hard_ratio=0.25"] == {"objectives.itm.hard_ratio": 0.25}
    compared = [cell for cell in plan.cells if cell.searching is None]
    assert record.cells == {cell.key: cell.arm for cell in compared}
    assert record.planned == len(compared)
    assert [(row.arm, row.tried, row.value) for row in record.tuned] == [
        (arm, 6, max(e.value for _, _, e in search_of(searched, values, endings).tried if e and e.value))
        for arm, values in record.arm_values.items()
    ]
    assert record.setting("optimisation.steps") == searched.settings.optimisation.steps
    assert sweep_record(experiment, planned(experiment, {}), {}, False).tuned == []
