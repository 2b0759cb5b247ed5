from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.courses import run, steady
from workbench.config.schema import Settings
from workbench.config.settings import apply, dotted_keys
from workbench.errors import UserError
from workbench.evaluation import robustness
from workbench.stop import Stopped
from workbench.training import validation
from workbench.training.batches import FoilTable
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import train
from workbench.training.schedule import rate


@pytest.mark.parametrize(
    "change",
    [
        {"objectives.mlm.soft_labels": "frozen_lm"},
        {"objectives.mlm.soft_labels": "ema", "objectives.itc.weight": 1.0},
    ],
)
def test_a_stopped_and_resumed_trial_ends_with_the_same_bits(
    settings: Settings, prepared: Prepared, tmp_path: Path, change: dict[str, Any]
) -> None:
    settings = apply(settings, {"model.fusion.dropout": 0.1} | change)
    whole, logged = run(settings, prepared, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        run(settings, prepared, tmp_path / "cut.pt", stop_at=4)
    resumed, logged_again = run(settings, prepared, tmp_path / "cut.pt")
    assert resumed == whole
    curve = steady(logged)
    assert all(curve[key] == logged_again[key] for key in curve if key[1] > 4)
    assert len(whole) > 60


def test_no_split_is_measured_twice_and_the_end_is_about_the_test_split(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"evaluation.pairs": 24, "evaluation.final_pairs": 40, "evaluation.robustness_pairs": 8}
    settings = apply(settings, counts)
    measured: list[tuple[str, int]] = []
    disturbed: list[tuple[bool, int]] = []

    class OnSplit(validation.OnSplit):
        def __init__(self, subject: validation.Subject, split: str, count: int) -> None:
            measured.append((split, count))
            super().__init__(subject, split, count)

    class Robustness(robustness.Robustness):
        def __init__(self, model: Any, data: Any, *rest: Any, **more: Any) -> None:
            disturbed.append((data.pairs is prepared.corpus.test, len(data)))
            super().__init__(model, data, *rest, **more)

    monkeypatch.setattr(validation, "OnSplit", OnSplit)
    monkeypatch.setattr(validation, "Robustness", Robustness)
    final, logged = run(settings, prepared, tmp_path / "x.pt")
    assert measured == [("val", 24), ("val", 24), ("test", 40)]
    assert disturbed == [(True, 8)]
    last = {name: value for (name, step), value in logged.items() if step == 6}
    assert all(last[name] == value for name, value in final.items())
    assert {"val/itm_auc", "test/itm_auc"} <= set(final)
    # A process that goes on from the last step's state knows its validation.
    measured.clear()
    again, _ = run(settings, prepared, tmp_path / "x.pt")
    assert measured == [("test", 40)]
    assert again == final


def test_disturbed_images_and_captions_are_made_once_for_all_trials_of_a_frozen_encoder(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = apply(settings, {"evaluation.robustness_pairs": 8})
    encoded: list[int] = []
    perturbed: list[int] = []

    class Robustness(robustness.Robustness):
        def _corrupted_features(self, kind: str, severity: int) -> torch.Tensor:
            encoded.append(severity)
            return super()._corrupted_features(kind, severity)

        def _perturbed(self, kind: str, level: int) -> torch.Tensor:
            perturbed.append(level)
            return super()._perturbed(kind, level)

    monkeypatch.setattr(validation, "Robustness", Robustness)
    elsewhere = replace(prepared, cache_dir=tmp_path / "cache")
    first, _ = run(settings, elsewhere, tmp_path / "first.pt")
    assert (len(encoded), len(perturbed)) == (20, 15)
    again, _ = run(settings, elsewhere, tmp_path / "again.pt")
    run(apply(settings, {"objectives.itm.hard_ratio": 1.0}), elsewhere, tmp_path / "other.pt")
    assert (len(encoded), len(perturbed)) == (20, 15)
    assert again == first
    for kept in ("kept_by_trials", "captions_kept_by_trials"):
        monkeypatch.setattr(validation, kept, lambda *_: lambda _, make: make())
    anew, _ = run(settings, elsewhere, tmp_path / "anew.pt")
    assert (len(encoded), len(perturbed)) == (40, 30)
    assert anew == first


def test_another_wordnet_is_another_entry_of_perturbed_captions(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(prepared, cache_dir=tmp_path)
    for part in ("noun", "verb", "adj"):
        (tmp_path / f"data.{part}").write_text("another")
    calls: list[int] = []

    def make() -> torch.Tensor:
        calls.append(len(calls))
        return torch.tensor(calls)

    for folder, count in ((tmp_path / "none", 8), (tmp_path / "none", 8), (tmp_path, 8), (tmp_path, 9)):
        monkeypatch.setenv("WNSEARCHDIR", str(folder))
        validation.captions_kept_by_trials(elsewhere, count)("synonym_replacement-1", make)
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("asked", [2, 5, 9, 14, 20, 28])
def test_a_stop_within_an_evaluation_loses_no_part_and_no_metric(
    settings: Settings, prepared: Prepared, tmp_path: Path, asked: int
) -> None:
    """Stopped when `stop` has been asked so many times, which falls before steps, into validations and into the end."""
    settings = apply(settings, {"evaluation.every": 2, "evaluation.robustness_pairs": 8, "optimisation.steps": 4})
    whole, logged = run(settings, prepared, tmp_path / "whole.pt")
    told: dict[tuple[str, int], float] = {}
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count == asked

    def log(metrics: dict[str, float], step: int) -> None:
        again = {name for name in metrics if (name, step) in told and not name.startswith(("perf/", "seconds"))}
        assert all(told[name, step] == metrics[name] for name in again)
        told.update({(name, step): value for name, value in metrics.items()})

    hooks = Hooks(log, lambda *_: None, stop)
    with pytest.raises(Stopped):
        train(settings, 0, prepared, tmp_path / "cut.pt", hooks)
    final = train(settings, 0, prepared, tmp_path / "cut.pt", hooks)
    assert final == whole
    curve = steady(logged)
    assert {key: told[key] for key in curve} == curve


def test_examples_are_given_once_and_are_alike_for_trials_of_the_same_data(
    settings: Settings, prepared: Prepared, tmp_path: Path
) -> None:
    kept: list[dict[str, Any]] = []
    small = {"evaluation.robustness_pairs": 0, "optimisation.steps": 3}
    for name, change in (("a", {}), ("b", {"objectives.itm.hard_ratio": 1.0})):
        hooks = Hooks(lambda *_: None, lambda *_: None, keep_examples=kept.append)
        train(apply(settings, small | change), 0, prepared, tmp_path / name, hooks)
    assert len(kept) == 2
    shown = [
        [(pair["caption"], pair["other"], pair["kind"], pair["image"]) for pair in example["pairs"]] for example in kept
    ]
    assert shown[0] == shown[1]
    assert [pair["match"] for pair in kept[0]["pairs"]] != [pair["match"] for pair in kept[1]["pairs"]]


def test_another_seed_gives_other_numbers(settings: Settings, prepared: Prepared, tmp_path: Path) -> None:
    one, _ = run(settings, prepared, tmp_path / "one.pt", seed=0)
    two, _ = run(settings, prepared, tmp_path / "two.pt", seed=1)
    assert one["val/mlm_loss"] != two["val/mlm_loss"]


# The last key of each is the switch, those before it are what it needs.
REFERENCES: dict[str, dict[str, float]] = {}  # most switches are compared with one and the same training
SWITCHES: list[dict[str, Any]] = [
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.alpha": 0.9},
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.temperature": 4.0},
    {"objectives.itm.hard_ratio": 1.0},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.negatives": "foils"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.negatives": "random_image"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.synthesis_mask_ratio": 0.9},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.sampling_temperature": 0.1},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.generator": "frozen"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.generator": "ema"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.generator": "unigram"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.top_k": 2},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.top_p": 0.3},
    {
        "objectives.itm.hard_ratio": 1.0,
        "objectives.itm.synthesis_mask_ratio": 1.0,
        "optimisation.steps": 20,
        "objectives.itm.false_negative_filter": "none",
    },
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.false_negative_filter": "teacher"},
    {
        "objectives.itm.hard_ratio": 1.0,
        "objectives.itm.false_negative_filter": "teacher",
        "objectives.itm.filter_ratio": 1e9,
    },
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.negatives": "in_batch_hard"},
    {"objectives.itm.negatives": "in_batch_hard", "objectives.itm.similarity_temperature": 1e6},
    {"objectives.mlm.soft_labels": "ema"},
    {"objectives.mlm.soft_labels": "smoothing"},
    {"objectives.mlm.soft_labels": "unigram"},
    {"objectives.mlm.soft_labels": "ema", "objectives.ema_decay": 0.1},
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.alpha_ramp": 0.9},
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.teacher_input": "full"},
    {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.top_k": 1},
    {"model.fusion.kind": "merged"},
    {"model.fusion.initialisation": "bert"},
    {"model.image_pool": "first"},
    {"model.text_pool": "first"},
    {"model.image_positions": False},
    {"model.mlm_head": "language"},
    {"objectives.itc.weight": 1.0},
    {"objectives.itc.weight": 1.0, "objectives.itc.queue": 0},
    {"objectives.itc.weight": 1.0, "objectives.itc.alpha": 0.9},
    {"objectives.itc.weight": 1.0, "objectives.itc.temperature": 0.3},
    {"objectives.itc.weight": 1.0, "objectives.itc.width": 8},
    {"objectives.generator.mlm_weight": 0.0},
    {"objectives.mlm.mask_ratio": 0.5},
    {"objectives.mlm.whole_word": True},
    {"objectives.mlm.mask_words": "content"},
    {"objectives.mlm.mask_words": "salient"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.synthesis_words": "any"},
    {"objectives.itm.hard_ratio": 1.0, "objectives.itm.synthesis_words": "salient"},
    {
        "objectives.itm.hard_ratio": 1.0,
        "objectives.itm.synthesis_mask_ratio": 0.9,
        "objectives.itm.synthesis_rounds": 3,
    },
    {"objectives.mlm.weight": 0.1},
    {"objectives.itm.weight": 0.1},
    {"optimisation.encoder_rate": 0.1},
    {"optimisation.precision": "bfloat16"},
    {"optimisation.learning_rate": 1e-2},
    {"optimisation.weight_decay": 0.9},
    {"optimisation.warmup": 0.9},
    {"optimisation.clip": 0.01},
    {"optimisation.batch_size": 24},
    {"model.image_norm": False},
    {"model.fusion.layers": 1},
    {"model.fusion.heads": 2},
    {"model.fusion.mlp_ratio": 2.0},
    {"model.fusion.dropout": 0.3},
    {"model.fusion.norm_epsilon": 1e-2},
]


def test_no_switch_of_the_method_is_left_out() -> None:
    tested = {list(change)[-1] for change in SWITCHES}
    asked = {key for key in dotted_keys() if key.startswith(("objectives.", "model.fusion."))}
    assert asked <= tested | {"objectives.itm.false_negative_filter"} | {name for change in SWITCHES for name in change}
    assert asked - tested <= {"objectives.itm.negatives", "objectives.mlm.soft_labels"}


@pytest.mark.parametrize("change", SWITCHES, ids=lambda change: list(change)[-1])
def test_every_switch_changes_the_result(
    settings: Settings, prepared: Prepared, tmp_path: Path, change: dict[str, Any]
) -> None:
    small = {"evaluation.robustness_pairs": 0, "optimisation.steps": 3}
    *others, _ = change
    reference = small | {name: change[name] for name in others}
    known = repr(sorted(reference.items()))
    if known not in REFERENCES:
        REFERENCES[known], _ = run(apply(settings, reference), prepared, tmp_path / "before.pt")
    before = REFERENCES[known]
    after, _ = run(apply(settings, reference | change), prepared, tmp_path / "after.pt")
    assert before["val/mlm_loss"] != after["val/mlm_loss"] or before["test/itm_auc"] != after["test/itm_auc"]


def test_a_trained_vision_encoder_learns_and_a_frozen_one_does_not(
    settings: Settings, prepared: Prepared, cache_dir: Path, tmp_path: Path
) -> None:
    from workbench.training.prepare import prepare

    free = apply(settings, {"model.vision.frozen": False, "evaluation.robustness_pairs": 0})
    shared = prepare(free, cache_dir, lambda *_: None)
    assert not shared.features
    run(free, shared, tmp_path / "free.pt")
    run(settings, prepared, tmp_path / "frozen.pt")
    for path, moves in ((tmp_path / "free.pt", True), (tmp_path / "frozen.pt", False)):
        trained = torch.load(path, weights_only=True)["model"]
        started = shared.weights if moves else prepared.weights
        moved = [
            name for name in trained if name.startswith("vision.") and not torch.equal(trained[name], started[name])
        ]
        assert bool(moved) == moves


def test_drawn_foils_are_foils_of_their_own_pair(prepared: Prepared) -> None:
    table = FoilTable(prepared.corpus.train)
    rows = torch.arange(30).numpy()
    captions = prepared.corpus.train.token_ids[rows]
    drawn = table.draw(rows, captions, seed=0, step=1)
    known = prepared.corpus.train.captions.drop("caption", "paraphrase").rows()
    for row, ids in zip(rows, drawn, strict=True):
        text = prepared.corpus.tokeniser.decode([token for token in ids if token > 4])
        assert text in [foil for foil in known[row] if foil]
    assert (table.draw(rows, captions, 0, 1) == drawn).all()
    assert (table.draw(rows, captions, 0, 2) != drawn).any()


def test_foils_need_some_captions_that_are_known_to_be_false(settings: Settings, prepared: Prepared) -> None:
    from dataclasses import replace

    bare = replace(prepared.corpus.train, captions=prepared.corpus.train.captions.select("caption"))
    with pytest.raises(UserError, match="source: scenes"):
        FoilTable(bare)


def test_the_learning_rate_rises_and_falls_to_nearly_zero() -> None:
    rates = [rate(step, 100, 0.1) for step in range(100)]
    assert rates.index(max(rates)) == 9
    assert max(rates) == 1.0
    assert 0 < rates[-1] < 0.02
    assert rates[:10] == sorted(rates[:10])
