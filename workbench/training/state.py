"""The training state, which is saved and restored as a whole."""

import glob
import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from workbench.distributed import whole
from workbench.outage import Persist, at_once
from workbench.training.parallelize import restored

REST = ("step", "seconds", "waited", "joules", "counted", "sums", "measured", "measured_at", "made_from")


@dataclass
class TrainState:
    """The state of a training after `step` optimiser steps.

    Random numbers are keyed by (seed, step), so that no generator state is needed. `seconds`: training time without
    evaluation, of which `waited` for data. `joules`: the devices' energy. `sums` and `counted`: the training metrics
    since they were last logged. `measured`: the last validation, after `measured_at` steps. `made_from` identifies the
    data and the start, so that no trial resumes with others.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    ema: nn.Module | None = None
    queue: nn.Module | None = None
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    joules: float = 0.0
    counted: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)
    measured_at: int = 0
    made_from: str = ""

    def add(self, parts: dict[str, float]) -> None:
        self.counted += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """The mean of each training metric since the last call."""
        means = {f"train/{name}": total / self.counted for name, total in self.sums.items()}
        self.counted, self.sums = 0, {}
        return means


class Damaged(Exception):
    """A checkpoint whose bytes differ from those that were written."""


def save(state: TrainState, path: Path, writes: bool = True, persist: Persist = at_once) -> None:
    """Writes the state atomically: `path` is always complete, either the old or the new one. The old one is kept, too.

    The file does not depend on the number of processes. All of them must call this; the one with `writes` writes.
    """
    everything = {
        "model": {name: whole(tensor) for name, tensor in state.model.state_dict().items()},
        "optimiser": _each_moment(state.optimiser, state.optimiser.state_dict(), lambda moment, _: whole(moment)),
        "ema": state.ema.state_dict() if state.ema is not None else {},
        "queue": state.queue.state_dict() if state.queue is not None else {},
        "rest": {name: getattr(state, name) for name in REST},
    }
    if writes:
        persist(lambda: _write(everything, path))


def before(path: Path) -> Path:
    """The path of the previous checkpoint, which `path` has replaced."""
    return path.with_name(f"{path.name}.before")


def parts_file(path: Path) -> Path:
    """The path of the results measured after the last step, which is used until all are measured."""
    return path.with_suffix(".parts")


def remove(path: Path) -> None:
    """Removes a checkpoint, the previous one, and the results measured with it."""
    for file in (path, before(path), parts_file(path), *path.parent.glob(f"{glob.escape(path.stem)}.*part")):
        file.unlink(missing_ok=True)


class _Sealed:
    """A file that computes the SHA-256 of the bytes written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error  # torch replaces it with an error that no longer states the cause
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(everything: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.part")  # two processes may write at the same time, after one was suspended
    try:
        with open(half, "wb") as file:
            sealed = _Sealed(file)
            try:
                torch.save(everything, sealed)  # type: ignore[arg-type]
            except RuntimeError as error:
                raise (sealed.error or error) from error
            file.write(sealed.sha.digest())
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, before(path))
        os.replace(half, path)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, Any]:
    """The state that `save` wrote. Raises Damaged if the file cannot be read, or its final checksum does not match."""
    sha = hashlib.sha256()
    seal = sha.digest_size
    try:
        remaining = path.stat().st_size - seal
        with open(path, "rb") as file:
            while remaining > 0:
                part = file.read(min(remaining, 1 << 22))
                sha.update(part)
                remaining -= len(part)
            if file.read() != sha.digest():
                raise Damaged(f"{path} is damaged: its checksum does not match")
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def read_undamaged(path: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """The newest undamaged state of the checkpoint and the previous one, or None. `say` reports damaged ones."""
    for file in (path, before(path)):
        if file.exists():
            try:
                return read(file)
            except Damaged as damage:
                say(f"{damage}; resuming from the previous state")
    return None


def restore(state: TrainState, path: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Loads the checkpoint that `save` wrote into `state`; does nothing if there is none.

    A damaged checkpoint is skipped in favour of the previous one, or of a start from the beginning, and `say` reports
    it. A checkpoint that was made from other data or another start is skipped in the same way.
    """
    saved = read_undamaged(path, say)
    if saved is None:
        return
    if saved["rest"].get("made_from", state.made_from) != state.made_from:
        return say(f"{path.name} was made from other data or another start than the current ones; beginning again")
    like = state.model.state_dict()
    state.model.load_state_dict({name: restored(tensor, like[name]) for name, tensor in saved["model"].items()})
    state.optimiser.load_state_dict(_each_moment(state.optimiser, saved["optimiser"], restored))
    if state.ema is not None:
        state.ema.load_state_dict(saved["ema"])
    if state.queue is not None:
        state.queue.load_state_dict(saved["queue"])
    for name, value in saved["rest"].items():
        setattr(state, name, value)


def _each_moment(
    optimiser: torch.optim.Optimizer, saved: dict[str, Any], change: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Any]:
    """An optimiser's state dict in which `change(moment, parameter)` replaces every tensor of its parameter's shape."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    changed = {
        place: {
            name: change(value, parameters[place]) if value.shape == parameters[place].shape else value
            for name, value in moments.items()
        }
        for place, moments in saved["state"].items()
    }
    return saved | {"state": changed}
