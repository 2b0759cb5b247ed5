"""The one training loop: pre-training, warm start and fine-tuning run through it."""

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
    """The trial's course is too poor to go on; its state is not saved."""


class Diverged(Exception):
    """The loss, its gradient or what is measured is no longer a finite number, after `step` steps."""

    def __init__(self, step: int, what: str = "loss or gradient") -> None:
        super().__init__(f"{what} not finite in step {step}")
        self.step = step


@dataclass(frozen=True)
class Hooks:
    """How a training speaks to whoever runs it: `log(metrics, step)`, `progress(step, figures)`, `stop()`,
    `say(sentence)`; `persist` runs what writes a checkpoint, and may wait until there is room for it; `keep_examples`
    is given what the trained model makes of a few test pairs; `prune()` is asked after each validation but the last,
    when it was logged."""

    log: Log
    progress: Progress
    stop: Callable[[], bool] = never
    say: Callable[[str], None] = lambda _: None
    persist: Persist = at_once
    keep_examples: Callable[[dict[str, Any]], None] = lambda _: None
    prune: Callable[[], bool] = never


@dataclass(frozen=True)
class Training:
    """What is trained: `learn(step)` adds the gradients of this process's part of a batch, and gives the losses of its
    micro-batches; `clip()` bounds the gradient and gives its norm; `follow()` comes after each optimiser step; `keep()`
    saves the state, at the end and whenever it is `due`."""

    steps: int
    warmup: float  # share of the steps in which the learning rate rises
    learn: Callable[[int], list[Losses]]
    clip: Callable[[], Tensor]
    keep: Callable[[], None]
    due: Callable[[], bool] = never
    follow: Callable[[], None] = lambda: None


def fit(state: TrainState, training: Training, hooks: Hooks, world: World = ALONE) -> Iterator[dict[str, float]]:
    """Takes the optimiser steps that are left, and yields after each the step's losses, before its state is saved.

    Every process of the `world` must go through it. Raises Stopped, with the state saved, where one of them is asked to
    stop, and Diverged where loss or gradient is not finite.
    """
    device = next(state.model.parameters()).device
    while state.step < training.steps:
        if world.any(hooks.stop(), device):
            training.keep()
            raise Stopped
        began = time.perf_counter()
        set_rate(state.optimiser, rate(state.step, training.steps, training.warmup))
        state.optimiser.zero_grad(set_to_none=True)
        made = training.learn(state.step)
        norm = float(whole(training.clip()))
        losses = _add_up(made, world)
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
    """Forward and backward of a step's micro-batches, one after another; their losses, without gradient. Each loss is
    its share of the step's mean."""
    made = []
    for place, micro_batch in enumerate(micro_batches):
        with without_exchange(call, place + 1 == len(micro_batches)):
            losses = micro_batch()
            # DDP and FSDP2 average over processes; the parts of a mean add up.
            (losses["loss"] * world.size).backward()
        made.append({name: value.detach() for name, value in losses.items()})
    return made


def seed_dropout(what: str, seed: int, step: int, micro_batch: int, world: World) -> None:
    """The first part's dropout is that of a batch in one piece."""
    place = micro_batch * world.size + world.rank
    torch.manual_seed(key(what, seed, step, *([place] if place else [])))


def _add_up(made: list[Losses], world: World) -> dict[str, float]:
    """The step's mean of each loss, over micro-batches and processes."""
    total = world.sum(
        torch.stack([torch.stack([part.float() for part in parts.values()]) for parts in made]).sum(dim=0)
    )
    return dict(zip(made[0], total.tolist(), strict=True))
