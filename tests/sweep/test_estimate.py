"""What an estimate makes of what was measured: arithmetic with made-up times, and what it says where something does not
fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from workbench.config.schema import Experiment, Settings
from workbench.config.settings import apply
from workbench.errors import UserError
from workbench.sweep import estimate as estimates
from workbench.sweep.estimate import GIB, Asking, Estimate, Here, measured, sampled, too_little_disk, too_little_memory
from workbench.sweep.probe import START_STEPS, Memory, Probed, Stages, Timed, Watch, cut, grown, share_of
from workbench.training.shapes import Shapes

SHAPES = Shapes(1000, 800, 300, 4, 8, 0, 0.0)
TIMED = Timed(
    loading=1.0,
    setup=2.0,
    step=0.5,
    validation=3.0,
    final=8.0,
    save=0.25,
    examples=0.5,
    step_bytes=2 * GIB,
    evaluation_bytes=GIB,
    state_bytes=10_000,
    parameters=1000,
    trained=800,
    micro_batches=1,
)


class Clock:
    """Seconds that are put forward by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def here(**changes: Any) -> Here:
    return replace(Here([], SHAPES, "CPU", False, 16 * GIB, 1), **changes)


@pytest.fixture
def two(experiment: Experiment) -> Experiment:
    """Two arms of 100 steps, with a validation after every 25 and a state after every 50."""
    changes = {"optimisation.steps": 100, "optimisation.checkpoint_every": 50, "evaluation.every": 25}
    settings = apply(experiment.settings, changes)
    return experiment.model_copy(update={"arms": experiment.arms[:2], "settings": settings})


def made(experiment: Experiment, home: Path, probes: list[Probed], workers: int = 2, todo: int = 5) -> Estimate:
    arms = [experiment.settings] * 2
    return measured(Asking(experiment, home, todo, workers, 4), arms, here(), probes, 300, 100 * GIB)


def test_a_trial_is_its_steps_its_evaluations_and_what_it_saves(two: Experiment, tmp_path: Path) -> None:
    probe = Probed((TIMED, replace(TIMED, final=4.0)), {"data": 20.0}, GIB, 0.5, stored=True, device="CPU")
    estimate = made(two, tmp_path, [probe, probe])
    trial = estimate.trial
    assert trial.training_seconds == 100 * 0.5
    assert trial.evaluation_seconds == (4 * 3.0 + 4.0) / 0.5  # the first trial also made the disturbed images
    assert trial.other_seconds == 2.0 + 3 * 0.25 + 0.5
    assert estimate.preparing == {"data": 20.0, "images of the evaluation": 4.0 / 0.5, "reading": 1.0}
    seconds_of_a_trial = 50 + 32 + 3.25
    assert estimate.seconds_left == pytest.approx(29 + 3 * seconds_of_a_trial)  # five trials by two workers
    assert estimate.device_seconds == pytest.approx(29 + 5 * seconds_of_a_trial)
    assert estimate.pairs_per_second == two.settings.optimisation.batch_size / 0.5
    assert (trial.parameters_trained, trial.parameters_frozen, trial.memory_bytes) == (800, 200, 2 * GIB)
    assert trial.memory_parts["activations"] == 2 * GIB - 4 * 1000 - 12 * 800
    assert estimate.does_not_fit == []
    assert estimate.figures()["seconds_per_trial"] == pytest.approx(seconds_of_a_trial)


def test_times_are_means_over_workers_and_memory_is_the_greatest(two: Experiment, tmp_path: Path) -> None:
    slow = replace(TIMED, step=1.5, step_bytes=3 * GIB)
    probes = [Probed((timed, timed), {}, GIB, 1.0, stored=False, device="CPU") for timed in (TIMED, slow)]
    trial = made(two, tmp_path, probes).trial
    assert (trial.seconds_per_step, trial.memory_bytes) == (1.0, 3 * GIB)


def test_a_sweep_that_is_done_takes_nothing(two: Experiment, tmp_path: Path) -> None:
    probe = Probed((TIMED, TIMED), {}, GIB, 1.0, stored=False, device="CPU")
    estimate = made(two, tmp_path, [probe], todo=0)
    assert (estimate.seconds_left, estimate.device_seconds, estimate.checkpoints_bytes) == (0.0, 0.0, 0)


def test_of_many_arms_the_baseline_and_others_at_even_distances_are_measured() -> None:
    assert sampled([{"a": place} for place in range(5)]) == [{"a": 0}, {"a": 2}, {"a": 4}]
    assert sampled([{"a": 0}, {"a": 1}]) == [{"a": 0}, {"a": 1}]


@pytest.mark.parametrize(
    ("free", "batch", "evaluated", "checkpointing", "told"),
    [
        (60, 64, 1, False, "optimisation.micro_batches: 2`"),
        (35, 64, 1, False, "optimisation.micro_batches: 4`"),
        (12, 64, 1, False, "optimisation.activation_checkpointing: true` and `optimisation.micro_batches: "),
        (12, 64, 1, True, "`optimisation.batch_size` to "),
        (9, 64, 1, False, "`optimisation.sharding: fsdp`"),
        (100, 64, 98, False, "`evaluation.batch_size`"),
    ],
)
def test_what_does_not_fit_is_said_with_the_setting_that_makes_it_fit(
    two: Experiment, tmp_path: Path, free: int, batch: int, evaluated: int, checkpointing: bool, told: str
) -> None:
    changes = {"optimisation.batch_size": batch, "optimisation.activation_checkpointing": checkpointing}
    settings = apply(two.settings, changes)
    probe = Probed((TIMED, TIMED), {}, 0, 1.0, stored=False, device="GPU")
    parts = {"weights": 10 * GIB, "activations": 80 * GIB}
    trial = replace(
        made(two, tmp_path, [probe]).trial,
        memory_parts=parts,
        resting_bytes=0,
        memory_bytes=max(sum(parts.values()), evaluated * GIB),
        evaluation_bytes=evaluated * GIB,
    )
    [sentence] = too_little_memory(Asking(two, tmp_path, 1, 1, 4), settings, here(memory=free * GIB), trial)
    assert told in sentence
    assert too_little_memory(Asking(two, tmp_path, 1, 1, 4), settings, here(memory=200 * GIB), trial) == []
    assert too_little_memory(Asking(two, tmp_path, 1, 1, 4), settings, here(memory=None), trial) == []


def test_trials_that_fit_alone_but_not_side_by_side_need_fewer_workers(two: Experiment, tmp_path: Path) -> None:
    probe = Probed((TIMED, TIMED), {}, GIB, 1.0, stored=False, device="CPU")
    trial = made(two, tmp_path, [probe]).trial
    [sentence] = too_little_memory(Asking(two, tmp_path, 4, 4, 4), two.settings, here(memory=8 * GIB), trial)
    assert "4 trial(s) on CPU need 12.0 GiB of 8.0 GiB" in sentence
    assert "take fewer workers" in sentence


def test_a_disk_that_is_too_small_is_said(two: Experiment, tmp_path: Path) -> None:
    probe = Probed((TIMED, TIMED), {}, GIB, 1.0, stored=False, device="CPU")
    small = replace(made(two, tmp_path, [probe]), features_bytes=10 * GIB, disk_free_bytes=4 * GIB)
    [sentence] = too_little_disk(small)
    assert "`--workspace`" in sentence
    assert "4.0 GiB are free" in sentence


def test_seconds_grow_along_a_line_that_never_falls() -> None:
    assert grown([100, 300], [2.0, 4.0], 1300) == pytest.approx(14.0)
    assert grown([100, 300], [4.0, 2.0], 1300) == 2.0
    assert grown([100, 100], [1.0, 2.0], 1300) == 2.0


def test_a_stage_takes_as_long_as_its_measured_part_tells(settings: Settings) -> None:
    phases = [{"steps": 100}, {"steps": 200, "replaced": 0.5}]
    asked = apply(settings, {"warm_start.steps": 1000, "warm_start.fusion": phases})
    clock = Clock()
    stages = Stages(clock)
    stages.hear("data", 0, 1, {})
    for step in range(1, START_STEPS + 1):
        clock.now += 5.0 if step == 1 else 0.5  # the first step is slow, and not counted
        stages.hear("warm start", step, START_STEPS, {})
    for step in range(1, 2 * START_STEPS + 1):
        clock.now += 1.0 if step <= START_STEPS else 2.0
        stages.hear("fused start", step, 2 * START_STEPS, {})
    for done in (100, 150):
        clock.now += 10.0
        stages.hear("features", done, 150, {})
    assert stages.seconds(asked, 1500) == {"warm start": 500.0, "fused start": 100.0 + 400.0, "features": 300.0}


def test_a_short_trial_is_timed_by_what_it_says(tmp_path: Path) -> None:
    clock, memory = Clock(), Memory(False)
    memory.end()
    watch = Watch(5, memory, tmp_path / "state.pt", clock)
    for step in range(1, 6):
        watch.stop()
        clock.now += 9.0 if step <= 2 else 0.5
        watch.progress(step, {})
    clock.now += 3.0
    watch.log({}, 5)

    def write() -> None:
        clock.now += 0.25
        watch.checkpoint.write_bytes(b"state")

    watch.persist(write)
    clock.now += 7.0
    watch.persist(lambda: None)  # a part of the evaluation at the end
    watch.log({}, 5)
    assert watch.step() == 0.5
    assert watch.at["validated"] - watch.marks[-1] == 3.0
    assert watch.at["ended"] - watch.at["saved"] == 7.0
    assert (watch.save, watch.state_bytes) == (0.25, 5)


def test_a_short_trial_has_few_steps_and_the_same_share_of_each_evaluation(settings: Settings) -> None:
    changes = {"data.eval_pairs": 1024, "evaluation.pairs": 256, "evaluation.final_pairs": 512}
    asked = apply(settings, changes | {"evaluation.robustness_pairs": 0, "optimisation.batch_size": 256})
    short = cut(asked, share_of(asked))
    assert (short.optimisation.steps, short.evaluation.every, short.optimisation.batch_size) == (5, 5, 256)
    assert (short.evaluation.pairs, short.evaluation.final_pairs, short.evaluation.robustness_pairs) == (64, 128, 0)
    assert cut(asked, 1.0, processes=4).optimisation.batch_size == 64


def test_where_weights_are_missing_all_is_counted_and_each_is_named(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "in_workers", lambda actions: [action() for action in actions])
    changes = {"model.text.weights": "/nowhere", "data.tokeniser": "/nowhere", "model.vision.weights": "/nowhere.pth"}
    settings = apply(experiment.settings, changes | {"warm_start.source": "train"})
    asked = experiment.model_copy(update={"settings": settings})
    estimate = estimates.estimate(Asking(asked, tmp_path / "new", 10, 2, 2))
    assert len(estimate.missing_weights) == 3
    assert any("model.vision.weights" in sentence for sentence in estimate.missing_weights)
    assert estimate.measured == []
    assert estimate.trial.memory_bytes > 4 * estimate.trial.parameters_trained
    assert not (tmp_path / "new").exists()


def test_a_model_that_cannot_be_built_is_refused_all_the_same(settings: Settings) -> None:
    with pytest.raises(UserError, match="timm cannot build"):
        estimates.look(apply(settings, {"model.vision.name": "no_such_model"}))
