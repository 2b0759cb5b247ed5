"""The one train state, saved whole and restored whole."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import UserError
from workbench.training.distributed import restored
from workbench.world import whole


@dataclass
class TrainState:
    """`step` optimiser steps are done. Randomness is keyed by (seed, step), so no generator state is needed.

    `seconds` is training time, evaluation excluded, of which `waited` for data; `sums` and `counted` hold the training metrics since they were
    last logged.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    ema: nn.Module | None = None
    queue: nn.Module | None = None
    step: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    counted: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, parts: dict[str, float]) -> None:
        self.counted += 1
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """The mean of each training metric since the last call."""
        means = {f"train/{name}": total / self.counted for name, total in self.sums.items()}
        self.counted, self.sums = 0, {}
        return means


def save(state: TrainState, path: Path, writes: bool = True) -> None:
    """Writes the state so that `path` is always a whole one: the old or the new.

    The state does not tell how many processes trained. All of them must call this; the one that `writes` does.
    """
    everything = {
        "model": {name: whole(tensor) for name, tensor in state.model.state_dict().items()},
        "optimiser": _each_moment(state.optimiser, state.optimiser.state_dict(), lambda moment, _: whole(moment)),
        "ema": state.ema.state_dict() if state.ema is not None else {},
        "queue": state.queue.state_dict() if state.queue is not None else {},
        "rest": {
            "step": state.step,
            "seconds": state.seconds,
            "waited": state.waited,
            "counted": state.counted,
            "sums": state.sums,
        },
    }
    if not writes:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    try:
        with open(half, "wb") as file:
            torch.save(everything, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: the checkpoint cannot be written ({error}); free some space and run again."
        ) from error


def restore(state: TrainState, path: Path) -> None:
    """Puts what `save` wrote back into `state`; does nothing where there is no checkpoint yet."""
    if not path.exists():
        return
    saved = torch.load(path, map_location="cpu", weights_only=True)
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
    """An optimiser's state dict with `change(moment, parameter)` in place of every tensor that has its parameter's shape."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    changed = {
        place: {
            name: change(value, parameters[place]) if value.shape == parameters[place].shape else value
            for name, value in moments.items()
        }
        for place, moments in saved["state"].items()
    }
    return saved | {"state": changed}
