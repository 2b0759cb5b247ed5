"""Data, weights and code that change between a sweep's start and its extension."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.inputs import code_states, mixtures
from analysis.runs import list_runs, read_runs
from workbench.config.schema import Experiment
from workbench.config.settings import apply
from workbench.errors import UserError
from workbench.events import Event, Said
from workbench.record import TrialTags
from workbench.sweep import run as sweep_run
from workbench.sweep.grid import expand
from workbench.sweep.inputs import check_inputs, refuse_changed_inputs
from workbench.sweep.run import Options, Outcome, run_sweep
from workbench.tracking.provenance import provenance
from workbench.training import warm_start
from workbench.trial import run as trial_run
from workbench.trial.inputs import Inputs

RATIO = "objectives.itm.hard_ratio"


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials end at once; what they are made from is prepared."""

    def train(_: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *more: object) -> dict[str, float]:
        final = {"val/itm_auc": 0.5 + 0.01 * seed}
        hooks.log(final, 6)
        return final

    monkeypatch.setattr(trial_run, "train", train)
    monkeypatch.setattr(trial_run, "keep_weights", lambda _: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "pics"
    home.mkdir()
    for index in range(40):
        Image.new("RGB", (20, 20), (5 * index, 90, 0)).save(home / f"{index:02d}.png")
        (home / f"{index:02d}.txt").write_text(f"thing {index}")
    return home


@pytest.fixture
def small(experiment: Experiment, folder: Path, tmp_path: Path) -> Experiment:
    """Two arms on a folder, whose vision encoder has weights from a file."""
    weights = tmp_path / "vision.safetensors"
    save_weights(weights, 0)
    data = experiment.settings.data.model_copy(update={"source": "folder", "path": str(folder), "image_size": 32})
    settings = experiment.settings.model_copy(update={"data": data})
    settings = apply(
        settings,
        {
            "model.vision.weights": str(weights),
            "warm_start.steps": 1,
            "warm_start.batch_size": 4,
            "optimisation.batch_size": 16,
        },
    )
    return with_levels(experiment.model_copy(update={"settings": settings, "primary": "val/itm_auc"}), 0.0, 0.5)


def save_weights(path: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_file(timm.create_model("test_byobnet", num_classes=0).state_dict(), path)


def with_levels(experiment: Experiment, *levels: float, name: str = RATIO, **more: Any) -> Experiment:
    arms = [{name: level} for level in levels]
    seeds = experiment.seeds.model_copy(update={"count": 1})
    changed = {"arms": arms, "factors": {name: list(levels)}, "baseline": arms[0], "seeds": seeds}
    return experiment.model_copy(update=changed | more)


def nothing_to_show(uri: str, run_id: str) -> Path:
    raise ValueError("no report is wanted")


def swept(experiment: Experiment, home: Path, told: list[Event] | None = None) -> Outcome:
    options = Options(1, 1, launcher="here")
    show = (told if told is not None else []).append
    return run_sweep(experiment, home, options, show, nothing_to_show)


def replace_an_image(folder: Path) -> None:
    Image.new("RGB", (30, 20), (0, 0, 250)).save(folder / "07.png")


def spoil_the_text(home: Path) -> None:
    (home / "text" / "model.safetensors").write_bytes(b"another")


CHANGES: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], object], str]] = {
    "a picture": (lambda home, _: replace_an_image(home / "pics"), "the data"),
    "a caption": (lambda home, _: (home / "pics" / "07.txt").write_text("another"), "the data"),
    "a picture is gone": (lambda home, _: (home / "pics" / "07.png").unlink(), "the data"),
    "vision weights": (lambda home, _: save_weights(home / "vision.safetensors", 1), "the start"),
    "text weights": (lambda home, _: spoil_the_text(home), "the start"),
    "a start": (lambda home, _: (home / "start.safetensors").write_bytes(b"another"), "the start"),
    "the warm start": (lambda _, patch: patch.setattr(warm_start, "VERSION", 0), "the start"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_trial_was_made_from_is_noticed_when_it_changes(
    small: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "model.safetensors").write_bytes(b"words")
    (tmp_path / "start.safetensors").write_bytes(b"all")
    files = {"model.text.weights": str(tmp_path / "text"), "model.weights": str(tmp_path / "start.safetensors")}
    wider = with_levels(small, 0.0, 0.5, 0.9)
    cells = expand(wider.model_copy(update={"settings": apply(wider.settings, files)}))
    data, start = Inputs(tmp_path).read(cells[0].settings)
    then = TrialTags(study="s", seed=0, cell="", arm="", data=data, warm_start=start)
    finished = [(cell, then) for cell in cells[:2]]
    refuse_changed_inputs("s", finished, Inputs(tmp_path))
    # As they were named before text weights were part of the name.
    old = then.model_copy(update={"warm_start": start.rpartition("-")[0]})
    refuse_changed_inputs("s", [(cells[0], old)], Inputs(tmp_path))
    change, named = CHANGES[what]
    change(tmp_path, monkeypatch)
    with pytest.raises(UserError) as refused:
        refuse_changed_inputs("s", finished, Inputs(tmp_path))
    said = str(refused.value)
    assert "`hard_ratio=0.0 · seed 0`, `hard_ratio=0.5 · seed 0`, were made from other inputs" in said
    assert [part for part in ("the data", "the start") if part in said] == [named]
    assert "--study NAME" in said


@pytest.mark.parametrize(
    ("name", "level", "said"),
    [
        ("model.weights", "/nowhere.safetensors", "`model.weights`: /nowhere.safetensors cannot be read"),
        ("model.vision.weights", "/nowhere.pth", "`model.vision.weights`: there is no file /nowhere.pth"),
        ("model.vision.pretrained", True, "`model.vision.pretrained`: the weights of `test_byobnet` are not on this"),
        ("model.vision.name", "resnet_nowhere", "timm cannot build `resnet_nowhere`"),
        (
            "model.text.weights",
            "nobody/none",
            "`model.text.weights`: no masked language model can be read from `nobody/none`",
        ),
        ("data.tokeniser", "nobody/none", "`data.tokeniser`: no tokeniser can be read from `nobody/none`"),
        ("data.path", "/nowhere", "there is no file or folder /nowhere"),
    ],
)
def test_what_is_missing_of_any_level_is_named_before_the_first_trial(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, level: Any, said: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    if name == "data.path":
        folder = apply(experiment.settings, {"data.source": "folder", "data.path": "/elsewhere"})
        experiment = experiment.model_copy(update={"settings": folder})
    state = torch.get_rng_state()
    with pytest.raises(UserError) as refused:
        check_inputs(expand(with_levels(experiment, level, name=name)), Inputs(tmp_path))
    assert said in str(refused.value)
    if name != "data.path":
        check_inputs(expand(with_levels(experiment, 0.0, 0.5)), Inputs(tmp_path))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sweep_is_not_extended_over_changed_data_and_says_where_the_code_has_changed(
    small: Experiment, untrained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, image = tmp_path / "w", tmp_path / "pics" / "07.png"
    first = swept(small, home)
    wider = with_levels(small, 0.0, 0.5, 0.9)
    kept, at = image.read_bytes(), image.stat()
    replace_an_image(tmp_path / "pics")
    assert swept(small, home).finished == 2  # nothing is set beside them
    with pytest.raises(UserError, match="were made from other inputs"):
        swept(wider, home)
    listed = list_runs(f"sqlite:///{home / 'mlflow.db'}").row(0, named=True)
    assert (listed["status"], listed["trials"]) == ("FINISHED", 2)
    image.write_bytes(kept)
    os.utime(image, ns=(at.st_atime_ns, at.st_mtime_ns))
    changed = provenance() | {"commit": "c" * 40, "diff_sha256": "d" * 64}
    for module in (sweep_run, trial_run):
        monkeypatch.setattr(module, "provenance", lambda: changed)
    told: list[Event] = []
    assert swept(wider, home, told).finished == 3
    said = next(event.message for event in told if isinstance(event, Said))
    assert said.startswith("2 of the finished trials were run with other code than there is now (")
    assert "now cccccccccccc+dddddddd" in said
    runs = read_runs(f"sqlite:///{home / 'mlflow.db'}", first.run_id)
    assert code_states(runs).startswith("trials were run with 2 different versions of the code: ")
    assert mixtures(runs) == []
