from pathlib import Path

import pytest
import torch

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.record import is_start
from workbench.stop import Stopped
from workbench.training import warm_start as module
from workbench.training.loop import Diverged, Hooks
from workbench.training.prepare import Prepared, prepare
from workbench.training.warm_start import start_fingerprint, warm_start

CPU = torch.device("cpu")


def start(
    settings: Settings, prepared: Prepared, cache: Path, stop_at: int | None = None
) -> tuple[dict[str, torch.Tensor], list[int]]:
    steps: list[int] = []
    hooks = Hooks(lambda *_: None, lambda step, _: steps.append(step), lambda: bool(steps) and steps[-1] == stop_at)
    return warm_start(settings, prepared.corpus, CPU, cache, hooks), steps


def test_a_warm_start_that_was_stopped_goes_on_to_the_same_bits(
    settings: Settings, prepared: Prepared, tmp_path: Path
) -> None:
    whole, steps = start(settings, prepared, tmp_path / "whole")
    assert steps == list(range(1, settings.warm_start.steps + 1))
    with pytest.raises(Stopped):
        start(settings, prepared, tmp_path / "cut", stop_at=5)
    assert list((tmp_path / "cut").glob("*.pt"))
    resumed, rest = start(settings, prepared, tmp_path / "cut")
    assert rest == steps[5:]
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not list((tmp_path / "cut").glob("*.pt*"))
    assert start(settings, prepared, tmp_path / "cut")[1] == []


def test_preparation_hands_on_the_wish_to_stop(settings: Settings, tmp_path: Path) -> None:
    seen: list[str] = []

    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        seen.append(stage)

    with pytest.raises(Stopped):
        prepare(settings, tmp_path, progress, lambda: "warm start" in seen)


def test_a_warm_start_whose_loss_is_no_number_has_diverged(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "words_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(Diverged, match="step 1"):
        start(apply(settings, {"warm_start.seed": 7}), prepared, tmp_path)


def test_prepared_images_of_another_side_are_another_start(settings: Settings) -> None:
    """Their data have one fingerprint, whatever the side; a name from before the side was in it still counts."""
    prepared = {"data.source": "prepared", "data.mix": {"some": 1.0}}
    small, large = (
        start_fingerprint(apply(settings, prepared | {"data.image_size": side}), "mixed-1") for side in (64, 96)
    )
    assert small != large
    assert is_start(small, small.removesuffix("-64px"))
    assert not is_start(small, large)
