from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.noise import CaptionNoise
from workbench.data.text import trim
from workbench.evaluation import matching
from workbench.evaluation.contract import evaluate
from workbench.evaluation.corruptions import corrupt
from workbench.evaluation.matching import (
    BlankFoils,
    Matching,
    hold_out,
    match_scores,
    negatives_truth,
    random_caption_scores,
)
from workbench.evaluation.noisy import NoisyCaptions
from workbench.evaluation.robustness import Disturbances, Robustness
from workbench.metrics import metric, outcomes
from workbench.model.vilta import ViLTA
from workbench.objectives.teachers import make_teachers
from workbench.training.features import image_features
from workbench.training.prepare import Prepared
from workbench.training.validation import OnSplit, Subject, at_the_end, held_out
from workbench.training.warm_start import new_model

CPU = torch.device("cpu")


def test_every_metric_that_a_question_may_name_is_measured(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0)
    corpus = prepared.corpus
    teachers = make_teachers(settings.objectives, model, corpus)
    measured = evaluate(OnSplit(Subject(model, settings, prepared, teachers), "val", 24))
    assert set(outcomes(settings.data, ("val",))) | {"val/itm_ece_floor", "val/mlm_ece_floor"} <= set(measured)
    assert all(np.isfinite(value) for value in measured.values())


def test_the_end_of_a_trial_tells_what_the_text_gives_away_and_how_sure_the_model_is(
    settings: Settings, prepared: Prepared
) -> None:
    model = new_model(settings, prepared.corpus, 0)
    corpus = prepared.corpus
    teachers = make_teachers(settings.objectives, model, corpus)
    final = evaluate(at_the_end(Subject(model, settings, prepared, teachers)))
    assert set(outcomes(settings.data, ("test",))) <= set(final)
    assert not any(name.startswith("val/") for name in final)
    kinds = {name.removeprefix("compositional/scenes/") for name in final if name.startswith("compositional/scenes/")}
    assert kinds
    assert kinds == {name.removeprefix("blank_image/scenes/") for name in final if name.startswith("blank_image/")}
    for head in ("itm", "mlm"):
        bins = {name.split("/")[2] for name in final if name.startswith(f"reliability/{head}/")}
        rows = [[final[f"reliability/{head}/{b}/{n}"] for n in ("confidence", "accuracy", "share")] for b in bins]
        assert sum(share for *_, share in rows) == pytest.approx(1.0)
        assert sum(abs(a - b) * c for a, b, c in rows) == pytest.approx(final[f"test/{head}_ece"])


def test_a_model_that_reads_no_image_scores_the_same_with_a_grey_one(
    settings: Settings, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model(settings, prepared.corpus, 0)
    data = held_out(model, prepared, "val", 32)
    monkeypatch.setattr(matching, "match_scores", lambda m, f, rows, ids, size: ids.sum(axis=1).astype(float))
    measured = evaluate(Matching(model, data, data.token_ids, 16))
    blank = evaluate(BlankFoils(model, data, 16))
    assert {name.removeprefix("blank_"): value for name, value in blank.items()} == {
        name: value for name, value in measured.items() if name.startswith("foil/")
    }


def test_a_perfect_scorer_gets_all_and_a_random_one_chance(
    settings: Settings, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model(settings, prepared.corpus, 0)
    data = held_out(model, prepared, "val", 32)
    written = data.token_ids.copy()
    written[:, 1] = 6 + (written[:, 1] == 6)
    true = prepared.corpus.val.captions["caption"].to_list()
    decode = prepared.corpus.tokeniser.decode

    def perfect(
        model: ViLTA, features: torch.Tensor, rows: np.ndarray, token_ids: np.ndarray, batch_size: int
    ) -> np.ndarray:
        return np.array(
            [
                1.0 if decode([t for t in ids if t > 4]) == true[row] else -1.0
                for row, ids in zip(rows, token_ids, strict=True)
            ]
        )

    monkeypatch.setattr(matching, "match_scores", perfect)
    scores = evaluate(Matching(model, data, written, 16))
    assert (
        scores["itm_auc"] == scores["itm_accuracy"] == scores["foil_accuracy"] == scores["synthesized_accuracy"] == 1.0
    )

    rng = np.random.default_rng(0)
    monkeypatch.setattr(matching, "match_scores", lambda *arguments: rng.normal(size=len(arguments[2])))
    repeated = [evaluate(Matching(model, data, written, 16)) for _ in range(30)]
    assert np.mean([scores["itm_auc"] for scores in repeated]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([scores["foil_accuracy"] for scores in repeated]) == pytest.approx(0.5, abs=0.04)


@pytest.mark.parametrize("size", [16, 96])
def test_a_caption_of_many_images_is_encoded_once_and_captions_are_read_with_those_of_their_length(
    settings: Settings, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    model = new_model(settings, prepared.corpus, 0).eval()
    data = held_out(model, prepared, "test", 48)
    rows, captions = matching.own_and_other(data, data.token_ids)
    direct = []
    with torch.no_grad():
        for start in range(0, len(rows), size):
            ids = torch.from_numpy(trim(captions[start : start + size], model.pad))
            image = model.adapt_image(data.features[rows[start : start + size]])
            logits = model.itm_logits(model.fuse(model.encode_text(ids), image, ids)[1]).double()
            direct.append((logits[:, 1] - logits[:, 0]).numpy())
    encoded: list[torch.Tensor] = []
    encode = model.encode_text

    def counted(ids: torch.Tensor) -> torch.Tensor:
        encoded.append(ids)
        return encode(ids)

    monkeypatch.setattr(model, "encode_text", counted)
    scores = match_scores(model, data.features, rows, captions, size)
    np.testing.assert_allclose(scores, np.concatenate(direct), rtol=0, atol=1e-5)
    different = len(np.unique(data.token_ids, axis=0))
    assert different <= sum(len(ids) for ids in encoded) < different + len(encoded)
    assert max(len(ids) for ids in encoded) <= size
    padding = sum(int((ids == model.pad).sum()) for ids in encoded)
    widest = trim(data.token_ids, model.pad)
    assert padding < (widest == model.pad).sum() / 2


def test_images_that_are_corrupted_meet_captions_that_were_read_once(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0).eval()
    data = held_out(model, prepared, "test", 24)
    calls: list[int] = []
    read = model.language.base_model.register_forward_hook(lambda *_: calls.append(1))
    images = Disturbances(image_kinds=("contrast",), caption_kinds=())
    measured = {part.name: part.measure() for part in Robustness(model, data, 16, images).parts()}
    read.remove()
    assert len(calls) <= 3
    assert len(measured) == 6
    assert measured["clean/0"] == [scores.tolist() for scores in random_caption_scores(model, data, 16)]
    features = image_features(model, corrupt(torch.from_numpy(np.array(data.pairs.images[:24])), "contrast", 5), CPU)
    direct = random_caption_scores(model, replace(data, features=features), 16)
    assert measured["contrast/5"] == [scores.tolist() for scores in direct]


def test_a_kind_of_foil_that_no_measured_pair_has_does_not_count(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0)
    data = held_out(model, prepared, "val", 16)
    captions = data.pairs.captions
    late = [None] * 16 + ["a lamp"] * (len(captions) - 16)
    unlike = captions.with_columns(none=pl.lit(None, pl.String), late=pl.Series(late, dtype=pl.String))
    data = replace(data, pairs=replace(data.pairs, captions=unlike))
    measured = evaluate(Matching(model, data, data.token_ids, 16)) | evaluate(BlankFoils(model, data, 16))
    assert np.isfinite(measured["foil_accuracy"])
    assert not {"foil/none", "foil/late", "blank_foil/none", "blank_foil/late"} & {*measured}
    assert any(name.startswith("blank_foil/") for name in measured)


def test_a_random_caption_is_never_the_own_one(prepared: Prepared) -> None:
    pairs = prepared.corpus.val
    data = hold_out(pairs, torch.zeros(30, 1, 1))
    texts = pairs.captions["caption"].to_list()
    assert all(texts[other] != texts[row] for row, other in enumerate(data.shuffled))


def test_the_share_of_false_negatives_is_counted_by_the_facts(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0)
    data = held_out(model, prepared, "val", 32)
    rows, paraphrases = data.pairs.variants["paraphrase"]
    width = max(data.token_ids.shape[1], paraphrases.shape[1])

    def wide(ids: np.ndarray) -> np.ndarray:
        return np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=1)

    data = replace(data, token_ids=wide(data.token_ids))
    written = data.token_ids.copy()
    true = rows[rows < 32][:8]
    written[true] = wide(paraphrases)[:8]  # said otherwise, and still true
    foil_rows, foils = data.pairs.variants["replace_object"]
    false = [place for place, row in enumerate(foil_rows) if row < 32 and row not in true][:8]
    written[foil_rows[false]] = wide(foils)[false]
    assert negatives_truth(data, written) == {"unchanged_share": 0.5, "false_negative_share": 0.5}
    assert negatives_truth(data, data.token_ids) == {"unchanged_share": 1.0}


@pytest.mark.parametrize("words", ["content", "surprising", "salient"])
def test_what_text_gives_away_is_measured_over_the_chosen_words_whatever_the_negatives(
    settings: Settings, prepared: Prepared, words: str
) -> None:
    changed = apply(settings, {"objectives.itm.negatives": "random_image", "objectives.itm.synthesis_words": words})
    model = new_model(changed, prepared.corpus, 0)
    teachers = make_teachers(changed.objectives, model, prepared.corpus)
    measured = evaluate(OnSplit(Subject(model, changed, prepared, teachers), "val", 16))
    assert np.isfinite(measured["val/blank_image_accuracy"])


def test_noisy_captions_are_measured_beside_the_clean_ones(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0)
    teachers = make_teachers(settings.objectives, model, prepared.corpus)
    final = evaluate(OnSplit(Subject(model, settings, prepared, teachers), "test", 48))
    for name in ("itm_auc", "itm_accuracy", "mlm_accuracy", "mlm_loss", "synonym_mass"):
        assert np.isfinite(final[f"test/noisy/{name}"])
        assert metric(f"test/noisy/{name}").title.endswith("noisy captions")
    assert final["test/noisy/mlm_loss"] != final["test/mlm_loss"]
    # A wrong word is not to be guessed: with nothing wrong and nothing missing the numbers are those of the clean
    # captions.
    data = held_out(model, prepared, "test", 48)
    for rate, same in ((0.0, True), (0.5, False)):
        noise = CaptionNoise.of(rate, prepared.corpus.content, prepared.corpus.train.token_ids, "evaluation")
        scores = evaluate(
            NoisyCaptions(model, data, noise, settings.objectives.mlm.mask_ratio, prepared.corpus.synonyms, 64)
        )
        assert (scores["noisy/mlm_loss"] == final["test/mlm_loss"]) == same
        assert (scores["noisy/itm_auc"] == final["test/itm_auc"]) == same
