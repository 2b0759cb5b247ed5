"""Foils of real captions in a trial: made once, measured on held-out pairs, and trained on where they are asked for."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from workbench.config.load import load_experiment
from workbench.config.schema import Data, Settings
from workbench.config.settings import apply, telling
from workbench.data.balance import symmetrical
from workbench.data.corpus import fingerprint_of, load_corpus
from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.errors import UserError
from workbench.evaluation.contract import evaluate
from workbench.metrics import filed, measured_afterwards, metric, outcomes
from workbench.objectives.teachers import make_teachers
from workbench.training import foils as training_foils_module
from workbench.training.batches import FoilTable, training_foils
from workbench.training.foils import FoilMaker
from workbench.training.prepare import Prepared, prepare
from workbench.training.validation import OnSplit, Subject
from workbench.training.warm_start import new_model

THINGS = ["dog", "cat", "horse", "apple", "truck", "boat", "bicycle", "umbrella", "pizza", "elephant"]
SIZES, COLOURS = ["large", "small"], ["red", "blue", "green", "white"]


def captions(k: int) -> tuple[str, str]:
    """Two captions of one image; what stands in them is drawn, so that texts tell little."""
    rng = np.random.default_rng(k)
    one, two = rng.choice(THINGS, 2, replace=False)
    size, colour = rng.choice(SIZES), rng.choice(COLOURS)
    return f"a {size} {one} behind the {colour} {two} number{k}", f"the {one} near a {two}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus of 560 images with two captions each, half of them held out."""
    home = tmp_path_factory.mktemp("real")
    raw = home / "raw"
    raw.mkdir()
    rows = []
    for k in range(560):
        Image.new("RGB", (24, 24), (k % 256, 90, 30)).save(raw / f"{k}.png")
        split = ("train", "val", "train", "test")[k % 4]
        rows += [(f"{k}.png", text, split) for text in captions(k)]
    pl.DataFrame(rows, schema=["file", "caption", "split"], orient="row").write_csv(raw / "captions.csv")
    prepare_source(read_source(raw), home / "data" / "made", 24, "crop", 1, lambda *_: None)
    return home


@pytest.fixture(scope="module")
def real(settings: Settings, home: Path) -> Settings:
    changes = {"source": "prepared", "mix": {"made": 1.0}, "image_size": 24, "eval_pairs": 140, "train_pairs": 280}
    return apply(settings, {f"data.{name}": value for name, value in changes.items()} | {"warm_start.steps": 2})


@pytest.fixture(scope="module")
def few() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(training_foils_module, "LEAST", 4)
    patch.setattr("workbench.data.foils.symmetrical", partial(symmetrical, width=6.0))  # signs alone
    yield
    patch.undo()


@pytest.fixture(scope="module")
def made(real: Settings, home: Path, few: None) -> Prepared:
    return prepare(real, home / "cache", lambda *_: None)


def test_held_out_captions_get_foils_that_differ_from_them_and_from_all_captions(made: Prepared) -> None:
    kinds = made.corpus.val.foil_kinds
    assert "replace_noun" in kinds
    assert kinds == made.corpus.test.foil_kinds
    for pairs in (made.corpus.val, made.corpus.test):
        every = pairs.every_caption(np.arange(len(pairs)))
        for kind in kinds:
            rows, token_ids = pairs.variants[kind]
            assert len(rows) >= 4
            assert token_ids.shape == (len(rows), pairs.tokeniser.max_length)
            assert not any(pairs.captions[kind][int(row)] in every[row] for row in rows)
    assert made.corpus.train.foil_kinds == []


def test_foils_are_made_once_and_anew_for_another_start(
    real: Settings, home: Path, made: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(settings: Settings) -> pl.DataFrame:
        return prepare(settings, home / "cache", lambda *_: None).corpus.val.captions

    with monkeypatch.context() as patch:
        patch.setattr(FoilMaker, "_make", lambda *_: pytest.fail("made twice"))
        assert again(real).equals(made.corpus.val.captions)
    heard: list[str] = []
    longer = apply(real, {"warm_start.steps": 3})
    prepare(longer, home / "cache", lambda what, *_: heard.append(what))
    assert {"foils of val", "foils of test"} <= set(heard)


def test_they_are_measured_with_the_image_and_with_a_grey_one(real: Settings, made: Prepared) -> None:
    model = new_model(real, made.corpus, 0)
    subject = Subject(model, real, made, make_teachers(real.objectives, model, made.corpus))
    kinds = made.corpus.val.foil_kinds
    val, test = evaluate(OnSplit(subject, "val", 140)), evaluate(OnSplit(subject, "test", 140))
    assert val["val/foil_accuracy"] == pytest.approx(np.mean([val[f"val/foil/{kind}"] for kind in kinds]))
    assert 0 <= test["test/foil_accuracy"] <= 1
    for kind in kinds:
        assert {f"compositional/captions/{kind}", f"blank_image/captions/{kind}"} <= set(test)
        assert not measured_afterwards(f"compositional/captions/{kind}")
        assert metric(f"compositional/captions/{kind}").chance == 0.5
    assert not any("scenes/" in name for name in test)
    assert filed("test", "foil/x") == "compositional/scenes/x"


def test_training_draws_foils_where_they_are_asked_for(real: Settings, made: Prepared) -> None:
    pairs = training_foils(real, made)
    rows = np.arange(len(pairs))
    drawn = FoilTable(pairs).draw(rows, pairs.token_ids, 0, 1)
    known = pairs.captions.drop("caption").rows()
    decode = pairs.tokeniser.decode
    lower = [[foil.lower() for foil in foils if foil] for foils in known]
    texts = [decode([token for token in ids if token > 4]) for ids in drawn]
    with_one = [row for row in rows if lower[row]]
    assert len(with_one) > 50
    assert all(texts[row].replace(" ", "") in [foil.replace(" ", "") for foil in lower[row]] for row in with_one)
    assert training_foils(real, made).captions.equals(pairs.captions)


def test_what_foils_are_is_no_part_of_the_corpus_or_of_older_hashes(real: Settings, home: Path, made: Prepared) -> None:
    without = apply(real, {"data.foils": "none"})
    assert telling(real) == telling(real).replace('foils":"', "")
    assert "foils" in telling(without)
    assert fingerprint_of(without.data, home / "cache") == made.corpus.fingerprint
    bare = prepare(without, home / "cache", lambda *_: None).corpus
    assert bare.val.foil_kinds == []
    assert load_corpus(real.data, home / "cache").val.foil_kinds == []


def test_a_question_about_foils_needs_some(real: Settings, made: Prepared, tmp_path: Path) -> None:
    from workbench.trial.job import Goal
    from workbench.trial.run import _refuse_unmeasured

    assert "test/foil_accuracy" in outcomes(real.data)
    assert "test/foil_accuracy" not in outcomes(Data(source="folder", path=str(tmp_path), foils="none"))
    assert "test/foil_accuracy" in outcomes(Data(foils="none"))
    assert "val/paraphrase_match" not in outcomes(real.data)
    goal = Goal("test/foil_accuracy", "val/foil_accuracy")
    _refuse_unmeasured(goal, made)
    bare = replace(made.corpus.val, captions=made.corpus.val.captions.select("caption"))
    without = replace(made, corpus=replace(made.corpus, val=bare))
    _refuse_unmeasured(Goal("test/itm_auc", "val/itm_auc"), without)
    with pytest.raises(UserError, match=r"`test/foil_accuracy` cannot be measured"):
        _refuse_unmeasured(goal, without)
    with pytest.raises(UserError, match=r"`data\.foils: words`"):
        FoilTable(bare)
    file = tmp_path / "e.yaml"
    file.write_text(
        "question: q?\npreset: tiny\nprimary: test/foil_accuracy\nfactors: {objectives.itm.hard_ratio: [0.0,"
        " 1.0]}\nbaseline: {objectives.itm.hard_ratio: 0.0}\n"
    )
    given = ["data.source=folder", f"data.path={tmp_path}", "warm_start.source=train"]
    assert load_experiment(file, given).primary == "test/foil_accuracy"
    with pytest.raises(UserError, match="unknown metric `test/foil_accuracy`"):
        load_experiment(file, [*given, "data.foils=none"])


def test_scenes_keep_their_own_foils(settings: Settings, prepared: Prepared) -> None:
    from workbench.data.scene_captions import FOILS

    assert prepared.corpus.val.foil_kinds == list(FOILS)
    assert training_foils(settings, prepared) is prepared.corpus.train
