from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from workbench.config.schema import Data, Settings
from workbench.config.settings import apply
from workbench.data.augment import augment, resize
from workbench.data.corpus import load_corpus
from workbench.data.loader import Order, epoch_length, epoch_order, read_ahead
from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.errors import UserError
from workbench.randomness import RowRandom
from workbench.stop import Stopped
from workbench.training.loop import Hooks
from workbench.training.prepare import prepare
from workbench.training.pretrain import train


def source(home: Path, name: str, images: int, captions: int, side: int = 24, split: str | None = None) -> None:
    """A prepared corpus whose image i has the colour i, and captions that name it."""
    folder = home / "raw" / name
    folder.mkdir(parents=True)
    rows = []
    for place in range(images):
        Image.new("RGB", (30, 30), (place, 100, 200)).save(folder / f"{place}.png")
        rows += [(f"{place}.png", f"{name} number {place} in words {k}") for k in range(captions)]
    frame = pl.DataFrame(rows, schema=["file", "caption"], orient="row")
    if split:
        frame = frame.with_columns(split=pl.lit(split))
    frame.write_csv(folder / "captions.csv")
    prepare_source(read_source(folder), home / "data" / name, side, "crop", 1, lambda *_: None)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    source(tmp_path, "one", 80, 1)
    source(tmp_path, "five", 60, 5)
    return tmp_path


def mixed(home: Path, **changes: object) -> Data:
    values = {"source": "prepared", "mix": {"one": 1.0, "five": 1.0}, "image_size": 24, "eval_pairs": 8}
    return Data.model_validate(values | changes)


def test_images_and_captions_belong_together_in_every_split(home: Path) -> None:
    corpus = load_corpus(mixed(home), home / "cache")
    seen: list[str] = []
    for pairs in (corpus.train, corpus.val, corpus.test):
        colours = pairs.images[np.arange(len(pairs))][:, 0, 12, 12]
        for place, caption in enumerate(pairs.captions["caption"]):
            name, _, number, *_ = caption.split()
            assert colours[place] == int(number)
            seen.append(f"{name} {number}")
            assert corpus.tokeniser.decode([t for t in pairs.token_ids[place] if t > 4]).startswith(f"{name} number")
    assert len(seen) == len(set(seen)) == 140
    assert len(corpus.val) == len(corpus.test) == 3 + 4
    again = load_corpus(mixed(home), home / "cache")
    assert again.fingerprint == corpus.fingerprint
    assert load_corpus(mixed(home, mix={"one": 1.0}), home / "cache").fingerprint != corpus.fingerprint


def test_one_caption_of_several_is_drawn_an_epoch(home: Path) -> None:
    pairs = load_corpus(mixed(home, mix={"five": 1.0}), home / "cache").train
    rows = np.arange(len(pairs))
    epochs = [pairs.texts(rows, 0, epoch) for epoch in range(12)]
    tokeniser = pairs.tokeniser
    for place in (0, 17):
        texts = [tokeniser.decode([t for t in ids[place] if t > 4]) for ids in epochs]
        number = pairs.captions["caption"][place].split()[2]
        assert {text.split()[2] for text in texts} == {number}
        assert len({text.split()[-1] for text in texts}) > 2
    assert (epochs[3] == pairs.texts(rows, 0, 3)).all()
    assert (epochs[3][[5, 9]] == pairs.texts(np.array([5, 9]), 0, 3)).all()
    assert (epochs[3] != pairs.texts(rows, 1, 3)).any()


def test_published_splits_are_kept_and_a_missing_one_is_halved(tmp_path: Path) -> None:
    source(tmp_path, "train", 20, 1)
    source(tmp_path, "val", 10, 1, split="val")
    corpus = load_corpus(mixed(tmp_path, mix={"train": 1.0, "val": 1.0}), tmp_path / "cache")
    names = [{caption.split()[0] for caption in pairs.captions["caption"]} for pairs in (corpus.train, corpus.val)]
    assert names == [{"train"}, {"val"}]
    assert (len(corpus.train), len(corpus.val), len(corpus.test)) == (20, 5, 5)


def test_sources_of_several_sides_are_refused(home: Path) -> None:
    source(home, "large", 9, 1, side=32)
    with pytest.raises(UserError, match="large has 32 px"):
        load_corpus(mixed(home, mix={"one": 1.0, "large": 1.0}), home / "cache")


def test_an_epoch_shows_each_source_as_often_as_its_weight_says() -> None:
    shares = ((10, 1.0), (8, 2.5), (20, 0.25))
    assert epoch_length(shares) == 10 + 20 + 5
    epochs = [epoch_order(shares, 0, epoch) for epoch in range(8)]
    for order in epochs:
        counts = np.bincount(order, minlength=38)
        assert (counts[:10] == 1).all()
        assert set(counts[10:18]) == {2, 3}
        assert counts[10:18].sum() == 20
        assert counts[18:].sum() == 5
        assert counts[18:].max() == 1
    assert len({tuple(np.flatnonzero(np.bincount(order, minlength=38)[18:])) for order in epochs}) > 4


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_reading_goes_on_in_the_middle_of_an_epoch_for_any_number_of_workers(workers: int) -> None:
    images = np.arange(50)[:, None].repeat(2, axis=1)
    order = Order(((50, 1.0),), 8, seed=3)
    whole = [order.at(step)[1] for step in range(14)]
    parts = [slice(0, 4), slice(4, 8)]
    read = read_ahead(images, order, parts, range(4, 14), workers, pin=False)
    for step, got in zip(range(4, 14), read, strict=True):
        assert torch.cat(got)[:, 0].tolist() == whole[step].tolist()
    # Six batches an epoch: what is left of the first after four steps, and nothing twice.
    assert len(set(np.concatenate(whole[:6]))) == 48


def test_numbers_of_a_row_do_not_depend_on_its_batch() -> None:
    rows = np.arange(20_000)
    drawn = RowRandom(rows, "a", 1).random((len(rows), 3))
    assert (drawn[[7, 5]] == RowRandom(np.array([7, 5]), "a", 1).random((2, 3))).all()
    assert (drawn[:, :2] == RowRandom(rows, "a", 1).random((len(rows), 2))).all()
    assert abs(drawn.mean() - 0.5) < 0.005
    assert np.abs(np.corrcoef(np.c_[drawn, np.roll(drawn, 1, axis=0)].T) - np.eye(6)).max() < 0.03
    assert 0 <= drawn.min() < drawn.max() < 1
    whole = RowRandom(rows, "b").integers(3, 7, (len(rows), 2))
    assert np.bincount(whole.ravel())[3:].tolist() == pytest.approx([10_000] * 4, rel=0.05)


def test_views_are_keyed_by_pair_and_epoch() -> None:
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (6, 3, 40, 40), dtype=np.uint8))
    rows = np.arange(6) + 100
    for kind in ("crop", "rand_augment"):
        views = augment(images, kind, 32, rows, 0, 1)
        assert views.shape == (6, 3, 32, 32)
        assert views.dtype == torch.uint8
        assert torch.equal(views[[4, 1]], augment(images[[4, 1]], kind, 32, rows[[4, 1]], 0, 1))
        assert not torch.equal(views, augment(images, kind, 32, rows, 0, 2))
        assert not torch.equal(views, augment(images, kind, 32, rows, 1, 1))
    assert torch.equal(augment(images, "none", 32, rows, 0, 1), resize(images, 32))


def test_a_crop_keeps_left_left_and_at_least_half() -> None:
    ramp = torch.arange(64, dtype=torch.uint8).repeat(64, 1)[None, None].repeat(200, 3, 1, 1)
    views = augment(ramp, "crop", 64, np.arange(200), 0, 0)[:, 0].float()
    assert (views[:, :, -1] > views[:, :, 0]).all()
    across = (views[:, 32, -1] - views[:, 32, 0]) / 63
    assert across.min() > 0.6  # the narrowest allowed: sqrt(0.5 * 3 / 4)
    assert across.max() <= 1
    assert 0.75 < across.mean() < 0.95


def test_training_from_prepared_images_resumes_to_the_sample(home: Path, settings: Settings, tmp_path: Path) -> None:
    changes = {
        "model.vision.frozen": False,
        "model.vision.name": "test_vit",
        "model.vision.tokens": "final",
        "model.vision.stage": 0,
        "model.image_positions": False,
        "evaluation.robustness_pairs": 0,
        "evaluation.pairs": 4,
        "evaluation.final_pairs": 4,
        "optimisation.steps": 9,
    }
    settings = apply(
        settings.model_copy(update={"data": mixed(home, image_size=32)}), changes | {"data.augment": "rand_augment"}
    )
    prepared = prepare(settings, home / "cache", lambda *_: None)
    curves: dict[str, list[float]] = {}
    logged: dict[str, float] = {}

    def run(name: str, stop_at: int | None, workers: int) -> None:
        curve = curves.setdefault(name, [])
        hooks = Hooks(
            lambda metrics, _: logged.update(metrics),
            lambda _, figures: curve.append(figures["loss"]),
            lambda: len(curve) == stop_at,
        )
        changed = settings.model_copy(update={"data": settings.data.model_copy(update={"workers": workers})})
        train(changed, 0, prepared, tmp_path / f"{name}.pt", hooks)

    run("whole", None, 0)
    with pytest.raises(Stopped):
        run("cut", 5, 2)
    run("cut", None, 0)
    assert curves["cut"] == curves["whole"]
    settings = apply(settings, {"data.augment": "none"})
    run("plain", None, 0)
    assert curves["plain"] != curves["whole"]
    assert len(curves["whole"]) == 9
    assert 0 <= logged["perf/data_wait"] < 1
