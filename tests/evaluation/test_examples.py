"""What a trial keeps of a few test pairs, for people to look at."""

import base64
import io
import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.scene_captions import FOILS
from workbench.evaluation.examples import MASKED, image_url, make_examples
from workbench.evaluation.matching import match_scores
from workbench.objectives.teachers import make_teachers
from workbench.training.prepare import Prepared
from workbench.training.validation import Subject, examples, held_out
from workbench.training.warm_start import new_model


def made_with(settings: Settings, prepared: Prepared, change: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    settings = apply(settings, change)
    corpus = prepared.corpus
    model = new_model(settings, corpus, seed)
    teachers = make_teachers(settings.objectives, model, corpus)
    with torch.no_grad():
        return examples(Subject(model, settings, prepared, teachers))


def test_pairs_come_with_a_foil_of_every_kind_in_turn(settings: Settings, prepared: Prepared) -> None:
    shown = made_with(settings, prepared, {})
    assert json.loads(json.dumps(shown)) == shown
    assert shown == made_with(settings, prepared, {})
    assert shown["split"] == "test"
    test = prepared.corpus.test
    assert [pair["row"] for pair in shown["pairs"]] == list(range(48))
    for pair in shown["pairs"]:
        assert pair["caption"] == test.captions["caption"][pair["row"]]
        assert pair["other"] == test.captions[pair["kind"]][pair["row"]]
    kinds = Counter(pair["kind"] for pair in shown["pairs"])
    assert set(kinds) == set(FOILS)
    assert max(kinds.values()) - min(kinds.values()) <= 2
    for pair in shown["pairs"][:3]:
        head, _, data = pair["image"].partition(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (64, 64)
    assert len(json.dumps(shown)) < 300_000


def test_the_log_odds_are_those_of_the_matching_head(settings: Settings, prepared: Prepared) -> None:
    model = new_model(settings, prepared.corpus, 0).eval()
    shown = made_with(settings, prepared, {})
    data = held_out(model, prepared, "test", 48)
    own = match_scores(model, data.features, np.arange(48), data.token_ids, 7)
    assert [pair["match"] for pair in shown["pairs"]] == pytest.approx(own.tolist(), abs=1e-3)


def test_without_foils_the_false_caption_is_another_pairs(settings: Settings, prepared: Prepared) -> None:
    corpus = prepared.corpus
    bare = replace(corpus.test, captions=corpus.test.captions.select("caption"))
    shown = made_with(settings, replace(prepared, corpus=replace(corpus, test=bare)), {})
    assert {pair["kind"] for pair in shown["pairs"]} == {"another caption"}
    assert all(pair["other"] != pair["caption"] for pair in shown["pairs"])
    assert {pair["other"] for pair in shown["pairs"]} <= set(corpus.test.captions["caption"])


@pytest.mark.parametrize(
    "change",
    [
        {"objectives.mlm.soft_labels": "none"},
        {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.temperature": 2.0},
        {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.top_k": 2},
        {"objectives.mlm.soft_labels": "frozen_lm", "objectives.mlm.teacher_input": "full"},
        {"objectives.mlm.soft_labels": "ema"},
        {"objectives.mlm.soft_labels": "smoothing"},
        {"objectives.mlm.soft_labels": "unigram", "objectives.mlm.whole_word": True},
        {"objectives.mlm.mask_ratio": 0.9},
        {"objectives.itm.generator": "ema"},
        {"objectives.itm.generator": "frozen", "objectives.itm.false_negative_filter": "teacher"},
        {"objectives.itm.generator": "unigram", "objectives.itm.synthesis_mask_ratio": 1.0},
        {"objectives.itm.negatives": "random_image"},
    ],
    ids=lambda change: ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in change.items()),
)
def test_the_method_is_shown_as_the_settings_have_it(
    settings: Settings, prepared: Prepared, change: dict[str, Any]
) -> None:
    shown = made_with(settings, prepared, change)
    mlm, itm = (getattr(apply(settings, change).objectives, part) for part in ("mlm", "itm"))
    method = shown["method"]
    assert method["caption"] in prepared.corpus.test.captions["caption"]
    assert len(method["masked"]) >= MASKED
    words = method["caption"].lower().split()
    for row in method["masked"]:
        assert row["word"] in words
        for named in (row["label"], row["model"]):
            shares = [share for _, share in named]
            assert 1 <= len(named) <= 5
            assert shares == sorted(shares, reverse=True)
            assert 0 < sum(shares) <= 1 + 1e-4
        if mlm.soft_labels == "none":
            assert row["label"] == [[row["word"], 1.0]]
        if mlm.top_k:
            assert len(row["label"]) == mlm.top_k
            assert sum(share for _, share in row["label"]) == pytest.approx(1.0, abs=1e-4)
        if mlm.soft_labels == "smoothing":
            assert {share for _, share in row["label"]} == {round(1 / prepared.corpus.tokeniser.size, 6)}
    assert len(method["written"]) == (0 if itm.negatives != "synthesized" else 3)
    assert len({method["caption"].lower(), *method["written"]}) == 1 + len(method["written"])


def test_the_same_words_are_masked_whoever_trains(settings: Settings, prepared: Prepared) -> None:
    shown = [
        (made["method"]["caption"], [row["word"] for row in made["method"]["masked"]])
        for made in (
            made_with(settings, prepared, {"objectives.mlm.soft_labels": kind}, seed)
            for seed, kind in enumerate(("none", "frozen_lm"))
        )
    ]
    assert shown[0] == shown[1]


def test_reduced_precision_gives_examples_too(settings: Settings, prepared: Prepared) -> None:
    corpus = prepared.corpus
    model = new_model(settings, corpus, 0).eval()
    settings = apply(settings, {"objectives.mlm.soft_labels": "frozen_lm"})
    teachers = make_teachers(settings.objectives, model, corpus)
    data = held_out(model, prepared, "test", 48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = make_examples(model, data, settings, teachers)
    fine = make_examples(model, data, settings, teachers)
    assert json.dumps(rough)
    for one, other in zip(rough["pairs"], fine["pairs"], strict=True):
        assert one["match"] == pytest.approx(other["match"], abs=0.2)


def test_a_large_image_becomes_small() -> None:
    url = image_url(np.zeros((3, 384, 384), dtype=np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (64, 64)
