"""The fused start: language encoder and fusion trained on masked and replaced words before any trial."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from workbench.config.schema import Phase, Settings
from workbench.config.settings import apply
from workbench.data import lexicon
from workbench.errors import UserError
from workbench.model.fusion import ALL, Rows
from workbench.stop import Stopped
from workbench.training.fused_start import Detecting, Words, fused_start, phase_losses, phase_steps
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared, prepare, refuse_large_batches
from workbench.training.pretrain import starting_model
from workbench.training.warm_start import new_model, phase_names, start_fingerprint
from workbench.trial.inputs import Inputs

CPU = torch.device("cpu")
PHASES: list[dict[str, Any]] = [
    {"steps": 3, "words": "relations", "batch_size": 16},
    {"steps": 4, "replaced": 0.5, "batch_size": 16},
]


@pytest.fixture
def phased(settings: Settings) -> Settings:
    return apply(settings, {"warm_start.fusion": PHASES})


def start(
    settings: Settings, prepared: Prepared, cache: Path, stop_at: int | None = None
) -> tuple[dict[str, Tensor], list[int]]:
    steps: list[int] = []
    hooks = Hooks(lambda *_: None, lambda step, _: steps.append(step), lambda: bool(steps) and steps[-1] == stop_at)
    return fused_start(settings, prepared.corpus, CPU, cache, hooks, prepared.weights), steps


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_fused_start_that_was_stopped_goes_on_to_the_same_bits(
    phased: Settings, prepared: Prepared, tmp_path: Path, stop_at: int
) -> None:
    whole, steps = start(phased, prepared, tmp_path / "whole")
    assert steps == list(range(1, phase_steps(phased) + 1))
    with pytest.raises(Stopped):
        start(phased, prepared, tmp_path / "cut", stop_at)
    resumed, rest = start(phased, prepared, tmp_path / "cut")
    assert rest == steps[stop_at:]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not list((tmp_path / "cut").glob("*.pt*"))
    assert start(phased, prepared, tmp_path / "cut")[1] == []


def test_it_trains_language_and_fusion_and_leaves_vision_and_matching(
    phased: Settings, prepared: Prepared, tmp_path: Path
) -> None:
    trained, _ = start(phased, prepared, tmp_path)
    assert all(torch.equal(trained[name], prepared.weights[name]) for name in trained if name.startswith("vision."))
    fresh = new_model(phased, prepared.corpus, phased.warm_start.seed).state_dict()
    moved = {name for name in trained if name not in prepared.weights and not torch.equal(trained[name], fresh[name])}
    assert {name.split(".")[0] for name in moved} >= {"fusion", "mlm_head", "mlm_decoder"}
    assert not any(name.startswith(("itm_head", "text_pooler", "image_pooler")) for name in trained)
    name = "language.lm_head.bias"
    assert not torch.equal(trained[name], prepared.weights[name])


def test_trials_start_from_it_unless_they_are_told_not_to(phased: Settings, tmp_path: Path) -> None:
    without = apply(phased, {"warm_start.fused": False})
    fused, alone = (prepare(variant, tmp_path, lambda *_: None) for variant in (phased, without))
    assert fused.fingerprint != alone.fingerprint
    assert fused.fingerprint == start_fingerprint(phased, fused.corpus.fingerprint)
    ours, other = (starting_model(variant, 1, data) for variant, data in ((phased, fused), (without, alone)))
    assert torch.equal(ours.mlm_decoder.weight, fused.weights["mlm_decoder.weight"])
    assert not torch.equal(ours.mlm_decoder.weight, other.mlm_decoder.weight)
    assert torch.equal(ours.itm_head.weight, other.itm_head.weight)


def test_each_phase_and_the_fusion_give_it_another_name(phased: Settings, settings: Settings) -> None:
    names = phase_names(phased, "data")
    assert len(set(names)) == 3
    assert phase_names(settings, "data") == names[:1]
    assert phase_names(apply(phased, {"model.fusion.layers": 1}), "data")[0] == names[0]
    assert phase_names(apply(phased, {"model.fusion.layers": 1}), "data")[1] != names[1]
    longer = apply(phased, {"warm_start.fusion": [PHASES[0], PHASES[1] | {"steps": 5}]})
    assert phase_names(longer, "data")[:2] == names[:2]
    assert phase_names(longer, "data")[2] != names[2]


def test_arms_that_differ_in_the_fusion_have_each_a_start(phased: Settings, settings: Settings, tmp_path: Path) -> None:
    """Found out by one reader, which keeps what settings share."""
    other = {"model.fusion.layers": 1}
    inputs = Inputs(tmp_path)
    (_, ours), (_, theirs) = inputs.read(phased), inputs.read(apply(phased, other))
    assert ours != theirs
    assert inputs.read(settings) == inputs.read(apply(settings, other))


def test_a_batch_that_an_epoch_cannot_fill_is_refused(phased: Settings, prepared: Prepared) -> None:
    refuse_large_batches(phased, prepared.corpus)
    large = apply(phased, {"warm_start.fusion": [PHASES[0], PHASES[1] | {"batch_size": 5000}]})
    with pytest.raises(UserError, match=r"`warm_start.fusion.1.batch_size` is 5000"):
        refuse_large_batches(large, prepared.corpus)
    refuse_large_batches(apply(large, {"warm_start.fused": False}), prepared.corpus)


class Seen:
    """What the fusion was given to read, and which words were asked for."""

    def __init__(self, settings: Settings, prepared: Prepared, phase: Phase, step: int) -> None:
        model = starting_model(settings, 0, prepared)
        self.words = Words.of(prepared.corpus, CPU)
        rows = np.arange(32)
        self.ids = prepared.corpus.train.texts(rows, 0, 0).astype(np.int64)
        fuse = model.fuse

        def heard(
            text_states: Tensor, image_tokens: Tensor, token_ids: Tensor, paired: Rows = ALL
        ) -> tuple[Tensor, Tensor]:
            self.read = token_ids.numpy()
            return fuse(text_states, image_tokens, token_ids, paired)

        model.fuse = heard  # type: ignore[method-assign]
        features = torch.from_numpy(np.array(prepared.features["train"][rows])).float()
        detecting = Detecting(model, settings.model.width)
        self.losses = phase_losses(detecting, phase, features, self.ids, rows, self.words, (0, 0, step))
        self.changed = self.read != self.ids


def test_relations_alone_are_hidden_where_they_are_asked_for(settings: Settings, prepared: Prepared) -> None:
    seen = Seen(settings, prepared, Phase(steps=1, words="relations"), step=1)
    assert seen.changed.any()
    decode = prepared.corpus.tokeniser.decode
    hidden = {decode([token]) for token in seen.ids[seen.changed]}
    assert hidden <= set(lexicon.RELATION_WORDS)
    assert "replaced" not in seen.losses


def test_words_are_written_anew_in_the_share_that_is_asked_for(settings: Settings, prepared: Prepared) -> None:
    seen = Seen(settings, prepared, Phase(steps=1, replaced=0.9), step=1)
    masks = (seen.read == 4) & seen.changed
    assert (seen.changed & ~masks).sum() > masks.sum()
    assert seen.losses["replaced"].item() > 0
    assert seen.losses["loss"].item() == pytest.approx(
        sum(value.item() for name, value in seen.losses.items() if name != "loss"), rel=1e-5
    )


def test_captions_without_relations_are_refused_in_a_sentence(
    settings: Settings, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexicon, "RELATION_WORDS", ("zenith",))
    with pytest.raises(UserError, match="no caption says where things are"):
        Words.of(prepared.corpus, CPU)
