"""Checkpoints on a disk that fails."""

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.soak import small_disk
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.distributed import ALONE
from workbench.errors import Interrupted
from workbench.faults import outage
from workbench.outage import Patience
from workbench.stop import Stopped
from workbench.training import energy, loop
from workbench.training.loop import Diverged, Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import train
from workbench.training.state import Damaged, TrainState, _write, before, read, restore, save


def state(value: float) -> TrainState:
    model = torch.nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.fill_(value)
    return TrainState(model, torch.optim.AdamW(model.parameters()), step=int(value))


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path, harm: str) -> None:
    path, told = tmp_path / "x.pt", list[str]()
    save(state(1.0), path)
    save(state(2.0), path)
    back = state(0.0)
    restore(back, path)
    assert back.step == 2
    raw = bytearray(path.read_bytes())
    if harm == "flip":
        raw[len(raw) // 2] ^= 1
    path.write_bytes({"flip": bytes(raw), "cut": bytes(raw[:-100]), "empty": b""}[harm])
    with pytest.raises(Damaged):
        read(path)
    restore(back, path, told.append)
    assert back.step == 1
    assert back.model.state_dict()["weight"][0, 0] == 1.0
    assert len(told) == 1
    before(path).write_bytes(b"")
    fresh = state(0.0)
    restore(fresh, path, told.append)
    assert fresh.step == 0
    assert len(told) == 3


@pytest.mark.parametrize("made_from", ["data 1", "data 2", None])
def test_nothing_goes_on_from_a_checkpoint_of_other_data(tmp_path: Path, made_from: str | None) -> None:
    path, told = tmp_path / "x.pt", list[str]()
    kept = state(2.0)
    kept.made_from = made_from or ""
    save(kept, path)
    if made_from is None:  # as it was before that was kept
        saved = read(path)
        del saved["rest"]["made_from"]
        _write(saved, path)
    back = state(0.0)
    back.made_from = "data 1"
    restore(back, path, told.append)
    other = made_from == "data 2"
    assert back.step == (0 if other else 2)
    assert back.model.state_dict()["weight"][0, 0] == back.step
    assert back.made_from == "data 1"
    message = "x.pt was made from other data or another start than the current ones; beginning again"
    assert told == ([message] if other else [])


def test_a_full_disk_is_waited_out_and_costs_no_checkpoint(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk, "256k"):
        pytest.skip("filling up a disk needs the right to mount one")
    try:
        path, told, left = disk / "x.pt", list[str](), list[int]()
        save(state(1.0), path)
        ballast = disk / "ballast"
        with suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(512)):
                pass

        def say(message: str) -> None:
            told.append(message)
            left.append(read(path)["rest"]["step"])
            ballast.unlink(missing_ok=True)

        save(state(2.0), path, persist=Patience(say, pause=0.1))
        assert read(path)["rest"]["step"] == 2
        assert left == [1, 2]
        assert told[0].startswith("waiting: no room left")
        assert told[1] == "continuing"
        assert {entry.name for entry in disk.iterdir()} == {"x.pt", "x.pt.before"}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_only_outages_are_waited_out_and_a_stop_ends_the_wait() -> None:
    with pytest.raises(ZeroDivisionError):
        Patience(print)(lambda: 1 / 0)
    with pytest.raises(Interrupted):
        Patience(print, lambda: True)(lambda: (_ for _ in ()).throw(ConnectionError()))
    assert outage(ValueError("no")) is None
    assert outage(RuntimeError("No space left on device (os error 28)")) is not None
    assert outage(FileNotFoundError(2, "no")) is None


def test_a_loss_that_is_no_number_ends_the_trial(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop._add_up

    def broken(*arguments: Any) -> dict[str, float]:
        parts = real(*arguments)
        return parts | {"loss": float("nan")} if len(logged) else parts

    logged: list[int] = []
    monkeypatch.setattr(loop, "_add_up", broken)
    with pytest.raises(Diverged) as end:
        train(settings, 0, prepared, tmp_path / "x.pt", Hooks(lambda _, step: logged.append(step), lambda *_: None))
    assert end.value.step == settings.evaluation.every + 1


def test_a_trial_goes_on_from_a_damaged_checkpoint_to_the_same_bits(
    settings: Settings, prepared: Prepared, tmp_path: Path
) -> None:
    settings = apply(settings, {"optimisation.checkpoint_every": 2})
    whole = train(settings, 0, prepared, tmp_path / "whole.pt", Hooks(lambda *_: None, lambda *_: None))
    seen, told = [0], list[str]()
    hooks = Hooks(lambda *_: None, lambda step, _: seen.__setitem__(0, step), lambda: seen[0] == 5, told.append)
    with pytest.raises(Stopped):
        train(settings, 0, prepared, tmp_path / "cut.pt", hooks)
    (tmp_path / "cut.pt").write_bytes(b"damaged")
    resumed = train(
        settings, 0, prepared, tmp_path / "cut.pt", Hooks(lambda *_: None, lambda *_: None, say=told.append)
    )
    assert resumed == whole
    assert len(told) == 1


def test_energy_is_what_the_device_counts_and_goes_on_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([100.0, 160.0, 190.0])
    monkeypatch.setattr(energy, "_counter", lambda device: next(readings))
    joules = energy.energy_meter(torch.device("cpu"), 7.0, ALONE)
    assert [joules(), joules()] == [67.0, 97.0]


def test_a_device_that_does_not_tell_uses_nothing() -> None:
    assert energy.energy_meter(torch.device("cpu"), 0.0, ALONE)() == 0.0
