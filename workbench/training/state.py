"""The one train state, saved whole and restored whole."""

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
    """`step` optimiser steps are done. Randomness is keyed by (seed, step), so no generator state is needed.

    `seconds` is training time, evaluation excluded, of which `waited` for data; `joules` the devices' energy; `sums`
    and `counted` hold the training metrics since they were last logged. `measured`: the last validation, after
    `measured_at` steps. `made_from` names the data and the start, so that no trial goes on with others.
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
    """A checkpoint whose bytes are not those that were written."""


def save(state: TrainState, path: Path, writes: bool = True, persist: Persist = at_once) -> None:
    """Writes the state so that `path` is always a whole one: the old or the new. The one before stays beside it.

    The state does not tell how many processes trained. All of them must call this; the one that `writes` does.
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
    """Where the checkpoint that `path` has replaced is kept."""
    return path.with_name(f"{path.name}.before")


def parts_file(path: Path) -> Path:
    """Where what was measured after the last step is kept until all of it is."""
    return path.with_suffix(".parts")


def remove(path: Path) -> None:
    """Removes a checkpoint, the one before it, and what was measured with it."""
    for each in (path, before(path), parts_file(path), *path.parent.glob(f"{glob.escape(path.stem)}.*part")):
        each.unlink(missing_ok=True)


class _Sealed:
    """A file that keeps the SHA-256 of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha = file, hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.sha.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error  # torch turns it into an error that no longer says what happened
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(everything: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(f".{os.getpid()}.part")  # two may write for a moment, after one was frozen
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
    """What `save` wrote; raises Damaged where the bytes do not have the checksum at their end, or cannot be read."""
    sha = hashlib.sha256()
    seal = sha.digest_size
    try:
        left = path.stat().st_size - seal
        with open(path, "rb") as file:
            while left > 0:
                part = file.read(min(left, 1 << 22))
                sha.update(part)
                left -= len(part)
            if file.read() != sha.digest():
                raise Damaged(f"{path} is damaged: its checksum is another one")
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return saved


def read_undamaged(path: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any] | None:
    """The newest whole state of the checkpoint and the one before it; None where there is none. `say` hears of a
    damaged one."""
    for each in (path, before(path)):
        if each.exists():
            try:
                return read(each)
            except Damaged as damage:
                say(f"{damage}; going on from the state before it")
    return None


def restore(state: TrainState, path: Path, say: Callable[[str], None] = lambda _: None) -> None:
    """Puts what `save` wrote back into `state`; does nothing where there is no checkpoint yet.

    A damaged checkpoint is passed over, and `say` told, for the one before it, or for a start from the beginning; so is
    one of a trial that was made from other data or another start.
    """
    saved = read_undamaged(path, say)
    if saved is None:
        return
    if saved["rest"].get("made_from", state.made_from) != state.made_from:
        return say(f"{path.name} is of other data or another start than there are now; beginning anew")
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
    """An optimiser's state dict with `change(moment, parameter)` in place of every tensor that has its parameter's
    shape."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    changed = {
        place: {
            name: change(value, parameters[place]) if value.shape == parameters[place].shape else value
            for name, value in moments.items()
        }
        for place, moments in saved["state"].items()
    }
    return saved | {"state": changed}
