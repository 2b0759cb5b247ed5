"""Encoders that come with the package: made by a recipe, read back, refused where they do not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench.config.schema import Experiment, Settings
from workbench.config.settings import apply
from workbench.data import scenes
from workbench.errors import UserError
from workbench.evaluation.knowledge import probe
from workbench.model import shipped
from workbench.model.shipped import FOLDER, MOST_BYTES, made_for, read
from workbench.model.weights import file_digest
from workbench.training.prepare import prepare
from workbench.training.pretrain import starting_model
from workbench.training.ship import Made, make_encoders

PACKAGE = {"warm_start.source": "package"}
RECIPE = Path("short recipe.yaml")
SHAPES = {"data.train_pairs": 96, "data.eval_pairs": 32}


def make(experiment: Experiment, home: Path) -> Made:
    short = experiment.model_copy(update={"settings": apply(experiment.settings, SHAPES)})
    return make_encoders(short, RECIPE, home / "cache", home / "out", lambda *_: None)


@pytest.fixture(scope="module")
def made(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(experiment, tmp_path_factory.mktemp("encoders"))


def test_a_recipe_gives_the_same_bytes_twice(experiment: Experiment, made: Made, tmp_path: Path) -> None:
    again = make(experiment, tmp_path)
    assert again.card["sha256"] == made.card["sha256"] == file_digest(made.folder / "tiny.safetensors")
    other = experiment.model_copy(update={"settings": apply(experiment.settings, {"warm_start.seed": 1})})
    assert make(other, tmp_path / "other").card["sha256"] != made.card["sha256"]


def test_the_card_says_what_they_are_and_what_they_know(made: Made, settings: Settings) -> None:
    card = json.loads((made.folder / "tiny.json").read_text())
    assert (card["recipe"], card["steps"], card["seed"], card["pairs"]) == (RECIPE.name, 8, 0, 96)
    assert card["bytes"] == (made.folder / "tiny.safetensors").stat().st_size < MOST_BYTES
    assert [known["name"] for known in card["knows"]["probes"]] == ["kind", "colour", "size", "texture", "position"]
    assert all(0 <= known["score"] <= 1 for known in card["knows"]["probes"])
    assert card["knows"]["perplexity"] > 1
    assert card["made_for"] == made_for(settings)
    text = (made.folder / "tiny.md").read_text()
    assert card["sha256"] in text
    assert made.table in text


def test_trials_start_from_them_in_their_words(settings: Settings, made: Made, tmp_path: Path) -> None:
    """With other numbers of scenes, another seed and noise, and without a warm start of their own."""
    given = apply(settings, PACKAGE | {"data.seed": 3, "data.caption_noise": 0.2, "warm_start.batch_size": 4096})
    stages: list[str] = []
    prepared = prepare(given, tmp_path, lambda stage, *_: stages.append(stage), folder=made.folder)
    assert "warm start" not in stages
    model = starting_model(given, 0, prepared)
    known = read(given, made.folder)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in known.weights.items())
    assert prepared.corpus.tokeniser.inner.to_str() == known.tokeniser.inner.to_str()
    assert prepared.features["val"].shape[0] == settings.data.eval_pairs
    told = prepared.corpus.tokeniser.decode(prepared.corpus.val.token_ids[0].tolist())
    assert told == prepared.corpus.val.captions["caption"][0]
    assert prepared.fingerprint.startswith("package-")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.width": 32}, "were trained for `model.width` 64 and not 32"),
        ({"data.image_size": 96}, "`data.image_size` 64 and not 96"),
        ({"data.max_length": 20}, "`data.max_length` 28 and not 20"),
        ({"data.vocabulary": 100}, "`data.vocabulary` 2000 and not 100"),
        ({"model.text.layers": 1}, "`model.text.layers` 2 and not 1"),
        ({"data.source": "folder", "data.path": "/pictures"}, "rendered scenes and their vocabulary"),
    ],
)
def test_what_they_were_not_trained_for_is_named(
    settings: Settings, made: Made, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as error:
        read(apply(settings, PACKAGE | change), made.folder)
    assert said in str(error.value)
    assert str(error.value).endswith("set `warm_start.source: train`.")
    assert "\n" not in str(error.value)


def test_scenes_of_another_version_are_named(settings: Settings, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "VERSION", scenes.VERSION + 1)
    with pytest.raises(UserError, match="scenes of another version"):
        read(apply(settings, PACKAGE), made.folder)


def test_missing_and_damaged_files_are_named(settings: Settings, made: Made, tmp_path: Path) -> None:
    given = apply(settings, PACKAGE)
    with pytest.raises(UserError, match="there are no encoders in"):
        read(given, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    file = copy / "tiny.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="is damaged, its SHA-256 differs from that of its card"):
        read(given, copy)
    (copy / "tiny.json").write_text("{}")
    with pytest.raises(UserError, match=r"tiny\.json is damaged"):
        read(given, copy)


def test_more_than_a_package_carries_is_refused(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match="at most"):
        make(experiment, tmp_path)


def test_a_probe_reads_what_is_linear_and_guesses_the_rest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5))
    read_off = np.where(x[:, 0] + 0.5 * x[:, 1] > 0, "left", "right")
    unknown = rng.choice(["a", "b", "c"], size=600, p=[0.6, 0.2, 0.2])
    score, chance, cases = probe(x[:400], read_off[:400], x[400:], read_off[400:])
    assert score > 0.9
    assert chance == pytest.approx(np.mean(read_off[400:] == "left"), abs=0.2)
    assert cases == 200
    assert probe(x[:400], unknown[:400], x[400:], unknown[400:])[0] == pytest.approx(0.6, abs=0.1)


@pytest.mark.skipif(not (FOLDER / "tiny.safetensors").is_file(), reason="the package carries no encoders yet")
def test_the_package_is_whole(experiment: Experiment) -> None:
    known = read(apply(experiment.settings, PACKAGE))
    assert known.card["sha256"] == known.digest
    assert known.card["bytes"] < MOST_BYTES
