"""A frozen vision encoder's features: the same numbers wherever they lie and however they are read."""

import json
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench.config.load import load_experiment
from workbench.config.schema import Settings, Vision
from workbench.config.settings import apply
from workbench.data import features as features_module
from workbench.data.corpus import SPLITS, split_sizes
from workbench.data.features import BLOCK, Features, Layout, open_of_one_file
from workbench.data.loader import Order, StepImages, in_background
from workbench.distributed import World
from workbench.errors import UserError
from workbench.model.encoders import VisionEncoder, feature_shape
from workbench.sweep.disk import rooms
from workbench.training import batches as batches_module
from workbench.training import features as module
from workbench.training.features import features_name, image_features, read_features, room_of, stored_features
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared, prepare
from workbench.training.pretrain import train
from workbench.training.warm_start import new_model, start_fingerprint

CPU = torch.device("cpu")


def one_array(prepared: Prepared, settings: Settings, split: str) -> np.ndarray:
    """float16 [N, T, C] of a split, computed in blocks into a single array, as before there were shards."""
    model = new_model(settings, prepared.corpus, settings.warm_start.seed)
    model.load_state_dict(prepared.weights, strict=False)
    model.eval()
    pairs = getattr(prepared.corpus, split)
    array = np.empty((len(pairs), model.vision.tokens, model.vision.channels), np.float16)
    for start in range(0, len(pairs), 512):
        images = pairs.images[start : start + 512]
        array[start : start + len(images)] = image_features(model, images, CPU).numpy()
    return array


def losses(settings: Settings, prepared: Prepared, checkpoint: Path) -> list[tuple[int, float]]:
    """Everything that a short training logs, but for times."""
    logged: list[tuple[int, float]] = []

    def log(metrics: dict[str, float], step: int) -> None:
        logged.extend((step, value) for name, value in metrics.items() if not name.startswith(("perf/", "seconds")))

    short = apply(settings, {"optimisation.steps": 3, "evaluation.robustness_pairs": 0})
    train(short, 0, prepared, checkpoint, Hooks(log, lambda *_: None))
    return logged


@pytest.fixture
def shards(prepared: Prepared, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """The same features in several shards."""
    monkeypatch.setattr(features_module, "SHARD", 1)
    monkeypatch.setattr(features_module, "BLOCK", 64)
    features = stored_features(settings, prepared.corpus, prepared.weights, CPU, tmp_path / "shards", lambda *_: None)
    assert len(features["train"].files) > 2
    return replace(prepared, features=features)


def test_shards_hold_what_one_file_held_and_train_alike(
    prepared: Prepared, settings: Settings, shards: Prepared, tmp_path: Path
) -> None:
    for split in SPLITS:
        np.save(tmp_path / f"{split}.npy", one_array(prepared, settings, split))
    sizes = {split: len(getattr(prepared.corpus, split)) for split in SPLITS}
    old = open_of_one_file(tmp_path, sizes)
    assert old is not None
    for split in SPLITS:
        assert (old[split][:].view(np.uint16) == prepared.features[split][:].view(np.uint16)).all()
    logged = losses(settings, replace(prepared, features=old), tmp_path / "old.pt")
    assert len(logged) > 10
    assert losses(settings, prepared, tmp_path / "new.pt") == logged
    # A block of 64 is encoded as one batch, and so may round otherwise; the files decide nothing.
    rows = np.arange(sizes["train"])[::-1]
    assert np.abs(shards.features["train"][rows].astype(float) - old["train"][rows].astype(float)).max() < 0.01


def test_an_old_store_is_opened_without_a_model(
    prepared: Prepared, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in SPLITS:
        np.save(tmp_path / f"{split}.npy", prepared.features[split][:])
    monkeypatch.setattr(module, "new_model", None)
    features = stored_features(settings, prepared.corpus, {}, CPU, tmp_path, lambda *_: None)
    assert (features["val"][:] == prepared.features["val"][:]).all()


def test_shards_end_where_encoded_batches_do(prepared: Prepared) -> None:
    layout = Layout.of((16, 128), {"train": 50_000}, "x")
    assert all(shard.rows.start % BLOCK == 0 for shard in layout.shards)
    assert BLOCK % 256 == 0


def reading(prepared: Prepared, settings: Settings) -> tuple[Features, Order, list[slice], range]:
    features = prepared.features["train"]
    order = Order(((len(features), 1.0),), 8, seed=3)
    return features, order, [slice(0, 5), slice(5, 8)], range(2, 9)


def same(prepared: Prepared, settings: Settings) -> None:
    """Asserts that what is read are the rows of each step."""
    features, order, parts, steps = reading(prepared, settings)
    plain = StepImages(features, order, parts)
    got = list(read_features(features, order, parts, steps, CPU))
    assert len(got) == len(steps)
    for step, batch in zip(steps, got, strict=True):
        for part, wanted in zip(batch, plain[step], strict=True):
            assert part.dtype == torch.float16
            assert torch.equal(part, wanted)


def test_a_thread_reads_ahead_the_same_rows(shards: Prepared, settings: Settings) -> None:
    same(shards, settings)


def test_features_that_fit_stay_in_memory(
    shards: Prepared, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Features] = []
    keep = module.on_gpu

    def keeping(features: Features, device: torch.device) -> torch.Tensor:
        kept.append(features)
        return keep(features, device)

    monkeypatch.setattr(module, "on_gpu", keeping)
    needed = shards.features["train"].nbytes / module.RESIDENT
    monkeypatch.setattr(module, "free_memory", lambda _: int(needed) - 10)
    same(shards, settings)
    assert not kept
    plain = losses(settings, shards, tmp_path / "plain.pt")
    monkeypatch.setattr(module, "free_memory", lambda _: int(needed) + 10)
    same(shards, settings)
    assert kept == [shards.features["train"]]
    assert losses(settings, shards, tmp_path / "kept.pt") == plain


def test_without_room_after_all_they_are_read_ahead(
    shards: Prepared, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(features: Features, device: torch.device) -> torch.Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(module, "free_memory", lambda _: 2**60)
    monkeypatch.setattr(module, "on_gpu", full)
    same(shards, settings)


def test_a_processor_has_no_memory_of_its_own() -> None:
    assert module.free_memory(CPU) == 0


@pytest.mark.parametrize(("workers", "thread"), [(None, True), (0, False)])
def test_workers_that_are_asked_for_read_instead(
    prepared: Prepared, settings: Settings, monkeypatch: pytest.MonkeyPatch, workers: int | None, thread: bool
) -> None:
    asked: list[bool] = []

    def reader(in_a_thread: bool) -> Callable[..., Iterator[Any]]:
        def read(*_: object) -> Iterator[Any]:
            asked.append(in_a_thread)
            return iter([])

        return read

    monkeypatch.setattr(batches_module, "read_features", reader(True))
    monkeypatch.setattr(batches_module, "read_ahead", reader(False))
    order = Order(((len(prepared.features["train"]), 1.0),), 8, seed=3)
    given = apply(settings, {"data.workers": workers})
    batches_module.read_images(given, prepared, order, World(0, 1), 0)
    assert asked == [thread]


def test_reading_in_the_background_keeps_order_raises_in_turn_and_ends() -> None:
    def read(step: int) -> int:
        if step == 5:
            raise ValueError("five")
        return step

    others = set(threading.enumerate())  # those of trials of other tests
    steps = in_background(read, range(9))
    assert [next(steps) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(steps)
    started: list[int] = []

    def start(step: int) -> int:
        started.append(step)
        return step

    stopped = in_background(start, range(100), ahead=2)
    assert isinstance(stopped, Generator)
    assert next(stopped) == 0
    stopped.close()
    assert len(started) <= 4
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith("read ahead"):
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("vision", "size"),
    [(Vision(), 64), (Vision(name="test_vit", tokens="final", stage=3, pretrained=True), 160)],
)
def test_shapes_are_known_without_weights(vision: Vision, size: int) -> None:
    encoder = VisionEncoder(vision.model_copy(update={"pretrained": False}), size)
    assert feature_shape(vision, size) == (encoder.tokens, encoder.channels)


def test_shapes_of_an_encoder_that_does_not_exist_are_refused() -> None:
    with pytest.raises(UserError, match="timm cannot build"):
        feature_shape(Vision(name="no_such_net"), 64)


def test_the_room_is_what_the_store_takes(prepared: Prepared, settings: Settings, cache_dir: Path) -> None:
    corpus = prepared.corpus
    assert split_sizes(settings.data, cache_dir) == {split: len(getattr(corpus, split)) for split in SPLITS}
    name = features_name(settings, corpus.fingerprint, start_fingerprint(settings, corpus.fingerprint))
    room = room_of(settings, cache_dir / name)
    assert room.bytes == sum(features.nbytes for features in prepared.features.values())
    assert room.missing == 0
    assert room.home.is_dir()
    assert room_of(settings, cache_dir / "other" / name).missing == room.bytes


def test_the_room_of_features_is_told_from_shapes(tmp_path: Path) -> None:
    file = Path(__file__).parents[2] / "experiments" / "ablation_itm.yaml"
    [room] = rooms(load_experiment(file, ["data.train_pairs=1000000"]), tmp_path)  # the arms share one store
    assert (room.images, room.row) == (1_001_024, (16, 128))
    assert room.missing == room.bytes == 1_001_024 * 16 * 128 * 2
    assert rooms(load_experiment(file, ["model.vision.frozen=false"]), tmp_path) == []


def test_progress_counts_images_and_states_the_size(prepared: Prepared, settings: Settings, tmp_path: Path) -> None:
    told: list[tuple[int, int, dict[str, float]]] = []

    def tell(done: int, of: int, figures: dict[str, float]) -> None:
        told.append((done, of, figures))

    stored_features(settings, prepared.corpus, prepared.weights, CPU, tmp_path / "f", tell)
    total = sum(len(getattr(prepared.corpus, split)) for split in SPLITS)
    assert {of for _, of, _ in told} == {total}
    assert told[0][0] == 0
    assert told[-1][0] == total
    assert told[0][2]["GB"] * 1e9 == sum(features.nbytes for features in prepared.features.values())
    manifest = json.loads((tmp_path / "f" / "store.json").read_text())
    assert settings.model.vision.name in manifest["made_from"]


def test_preparing_again_makes_nothing(
    prepared: Prepared, settings: Settings, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "new_model", None)
    again = prepare(settings, cache_dir, lambda *_: None)
    assert (again.features["train"][:] == prepared.features["train"][:]).all()
