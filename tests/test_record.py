"""What runs record of themselves, and what older versions recorded."""

import pytest

from workbench.record import SweepRecord, TrialTags, read_tags

# As version 1 wrote them, shortened.
OLD_SWEEP = {
    "name": "ablation_itm",
    "question": "Do hard negatives help?",
    "preset": "tiny",
    "settings": {"data": {"source": "scenes"}, "optimisation": {"steps": 400}},
    "factors": {"objectives.itm.hard_ratio": [0.0, 0.5]},
    "arms": ["hard_ratio=0.0", "hard_ratio=0.5"],
    "baseline": {"objectives.itm.hard_ratio": 0.0},
    "seeds": {"count": 6, "first": 0},
    "search": {
        "settings": {"optimisation.learning_rate": {"low": 0.001, "high": 0.01, "log": True}},
        "trials": 8,
        "batch": 4,
        "sampler": "tpe",
        "pruner": "median",
        "seed": 1000,
    },
    "target": {"metric": "val/itm_auc", "value": 0.95},
    "primary": "val/foil_accuracy",
    "baseline_arm": "hard_ratio=0.0",
    "arm_values": {
        "hard_ratio=0.0": {"objectives.itm.hard_ratio": 0.0},
        "hard_ratio=0.5": {"objectives.itm.hard_ratio": 0.5},
    },
    "cells": {"0123456789abcdef": "hard_ratio=0.0"},
    "planned": 12,
    "smoke": False,
    "tuned": [
        {
            "arm": "hard_ratio=0.0",
            "tried": 8,
            "pruned": 2,
            "diverged": 0,
            "best": {"optimisation.learning_rate": 0.002},
            "value": 0.8,
        }
    ],
}
OLD_TRIAL = {
    "study": "s",
    "seed": "3",
    "config_hash": "c",
    "cell": "hard_ratio=0.5",
    "kind": "trial",
    "data": "scenes-1",
    "warm_start": "w",
    "mlflow.user": "me",
}


def test_a_sweep_of_version_1_is_read() -> None:
    record = SweepRecord.model_validate(OLD_SWEEP)
    assert (record.version, record.margin, record.primary) == (1, None, "val/foil_accuracy")
    assert record.tuned[0].value == 0.8
    assert record.search is not None
    assert record.search.trials == 8
    assert record.setting("optimisation.steps") == 400
    assert record.setting("optimisation.nothing", 5) == 5
    assert set(OLD_SWEEP) - set(record.model_dump(mode="json")) == {"factors", "baseline"}
    assert SweepRecord.model_validate({}).cells is None


@pytest.mark.parametrize(
    "tags",
    [
        TrialTags(
            study="s", seed=0, config_hash="c", cell="a=1", arm="a=1", data="d", warm_start="w", pairs={"train": 9}
        ),
        TrialTags(
            study="s", seed=1000, config_hash="c", cell="a=1 · search 2", arm="a=1", kind="search", outcome="pruned"
        ),
        TrialTags(study="s", seed=1, cell="a=1", arm="a=1", kind="train", outcome="diverged", diverged_at=7),
    ],
)
def test_tags_come_back_as_they_were_written(tags: TrialTags) -> None:
    written = tags.written()
    assert all(isinstance(value, str) for value in written.values())
    assert read_tags(written | {"mlflow.user": "me"}) == tags


def test_tags_of_version_1_are_read() -> None:
    tags = read_tags(OLD_TRIAL)
    assert tags == TrialTags(
        study="s", seed=3, config_hash="c", cell="hard_ratio=0.5", arm="hard_ratio=0.5", data="scenes-1", warm_start="w"
    )
    searched = read_tags(OLD_TRIAL | {"cell": "hard_ratio=0.5 · search 4", "kind": "search", "outcome": "pruned"})
    assert searched is not None
    assert (searched.arm, searched.kind, searched.outcome, searched.pairs) == ("hard_ratio=0.5", "search", "pruned", {})
    diverged = read_tags(OLD_TRIAL | {"outcome": "diverged", "diverged_at": "5"})
    assert diverged is not None
    assert diverged.diverged_at == 5


def test_a_run_that_is_no_trial_has_no_tags_of_one() -> None:
    assert read_tags({"study": "s", "kind": "sweep"}) is None
