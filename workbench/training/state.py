"""The one train state, saved whole and restored whole."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from workbench.errors import UserError


@dataclass
class TrainState:
    """`step` optimiser steps are done. Randomness is keyed by (seed, step), so no generator state is needed.

    `seconds` is training time, evaluation excluded; `sums` and `counted` hold the training metrics since they were
    last logged.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    ema: nn.Module | None = None
    queue: nn.Module | None = None
    step: int = 0
    seconds: float = 0.0
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


def save(state: TrainState, path: Path) -> None:
    """Writes the state so that `path` is always a whole one: the old or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".part")
    whole = {
        "model": state.model.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "ema": state.ema.state_dict() if state.ema is not None else {},
        "queue": state.queue.state_dict() if state.queue is not None else {},
        "rest": {"step": state.step, "seconds": state.seconds, "counted": state.counted, "sums": state.sums},
    }
    try:
        with open(half, "wb") as file:
            torch.save(whole, file)
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
    state.model.load_state_dict(saved["model"])
    state.optimiser.load_state_dict(saved["optimiser"])
    if state.ema is not None:
        state.ema.load_state_dict(saved["ema"])
    if state.queue is not None:
        state.queue.load_state_dict(saved["queue"])
    for name, value in saved["rest"].items():
        setattr(state, name, value)
