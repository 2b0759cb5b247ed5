"""The training loop that pre-training, warm start and fine-tuning share."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.distributed import ALONE, World, whole
from workbench.outage import Persist, at_once, never
from workbench.randomness import key
from workbench.stop import Stopped
from workbench.training.parallelize import without_exchange
from workbench.training.schedule import rate, set_rate
from workbench.training.state import TrainState

Log = Callable[[dict[str, float], int], None]
Progress = Callable[[int, dict[str, float]], None]
Losses = dict[str, Tensor]  # scalars; `loss` carries the gradient


class Pruned(Exception):
    """The trial's results are too poor to continue; its state is not saved."""


class Diverged(Exception):
    """The loss, its gradient or a measured value is no longer finite, after `step` steps."""

    def __init__(self, step: int, what: str = "loss or gradient") -> None:
        super().__init__(f"{what} not finite in step {step}")
        self.step = step


@dataclass(frozen=True)
class Hooks:
    """The callbacks of a training run: `log(metrics, step)`, `progress(step, figures)`, `stop()`, `say(sentence)`.

    `persist` runs the function that writes a checkpoint, and may wait for disk space. `keep_examples` receives the
    trained model's outputs on a few test pairs. `prune()` is called after each validation except the last, once it is
    logged.
    """

    log: Log
    progress: Progress
    stop: Callable[[], bool] = never
    say: Callable[[str], None] = lambda _: None
    persist: Persist = at_once
    keep_examples: Callable[[dict[str, Any]], None] = lambda _: None
    prune: Callable[[], bool] = never


@dataclass(frozen=True)
class Training:
    """The functions of a training run.

    `learn(step)` adds the gradients of this process's part of a batch, and returns the losses of its micro-batches.
    `clip()` clips the gradient and returns its norm. `follow()` is called after each optimiser step. `keep()` saves the
    state, at the end and whenever `due()`.
    """

    steps: int
    warmup: float  # fraction of the steps in which the learning rate rises
    learn: Callable[[int], list[Losses]]
    clip: Callable[[], Tensor]
    keep: Callable[[], None]
    due: Callable[[], bool] = never
    follow: Callable[[], None] = lambda: None


def fit(state: TrainState, training: Training, hooks: Hooks, world: World = ALONE) -> Iterator[dict[str, float]]:
    """Takes the remaining optimiser steps; after each, yields its losses, and only then saves the state.

    Every process of the `world` must iterate over it. Raises Stopped, after saving the state, if any process is asked
    to stop, and Diverged if the loss or the gradient is not finite.
    """
    device = next(state.model.parameters()).device
    while state.step < training.steps:
        if world.any(hooks.stop(), device):
            training.keep()
            raise Stopped
        began = time.perf_counter()
        set_rate(state.optimiser, rate(state.step, training.steps, training.warmup))
        state.optimiser.zero_grad(set_to_none=True)
        parts = training.learn(state.step)
        norm = float(whole(training.clip()))
        losses = _add_up(parts, world)
        if not math.isfinite(losses["loss"]) or not math.isfinite(norm):
            raise Diverged(state.step + 1)
        state.optimiser.step()
        training.follow()
        state.add(losses | {"gradient_norm": norm})
        state.step += 1
        state.seconds += time.perf_counter() - began
        hooks.progress(state.step, losses)
        yield losses
        if training.due() or state.step == training.steps:
            training.keep()


def backward(call: nn.Module, micro_batches: Sequence[Callable[[], Losses]], world: World) -> list[Losses]:
    """Runs the forward and backward passes of a step's micro-batches in turn, and returns their losses, detached.

    Each loss is its share of the step's mean.
    """
    detached = []
    for place, micro_batch in enumerate(micro_batches):
        with without_exchange(call, place + 1 == len(micro_batches)):
            losses = micro_batch()
            # DDP and FSDP2 average gradients over processes, but the shares of a mean must be summed.
            (losses["loss"] * world.size).backward()
        detached.append({name: value.detach() for name, value in losses.items()})
    return detached


def seed_dropout(what: str, seed: int, step: int, micro_batch: int, world: World) -> None:
    """Seeds the dropout of a micro-batch; the first one's equals that of an undivided batch."""
    place = micro_batch * world.size + world.rank
    torch.manual_seed(key(what, seed, step, *([place] if place else [])))


def _add_up(micro_batches: list[Losses], world: World) -> dict[str, float]:
    """The mean of each loss over the whole step, summed over micro-batches and processes."""
    total = world.sum(
        torch.stack([torch.stack([part.float() for part in parts.values()]) for parts in micro_batches]).sum(dim=0)
    )
    return dict(zip(micro_batches[0], total.tolist(), strict=True))
