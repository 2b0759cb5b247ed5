"""One trial: set up, train, evaluate, log, save."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workbench.config.schema import Settings
from workbench.data.loader import Order
from workbench.model.vilta import ViLTA
from workbench.objectives.companions import Companions, make_companions
from workbench.objectives.plan import Part
from workbench.objectives.step import alpha_at, losses
from workbench.outage import Persist, at_once
from workbench.randomness import key
from workbench.training.batches import FoilTable, on_device, plan_batch, read_pictures
from workbench.training.distributed import check_cut, speed_up, spread_over, without_exchange
from workbench.training.energy import energy_meter
from workbench.training.measures import examples, final_metrics, validate
from workbench.training.prepare import Prepared, precision
from workbench.training.schedule import adamw, rate, set_rate
from workbench.training.state import TrainState, restore, save
from workbench.training.warm_start import new_model
from workbench.world import ALONE, World, whole

T = TypeVar("T")
Log = Callable[[dict[str, float], int], None]
Progress = Callable[[int, dict[str, float]], None]


class Stopped(Exception):
    """The trial was asked to stop; its state is saved."""


class Pruned(Exception):
    """The trial's course is too poor to go on; its state is not saved."""


class Diverged(Exception):
    """The loss or its gradient is no longer a finite number, after `step` steps."""

    def __init__(self, step: int) -> None:
        super().__init__(f"loss or gradient not finite in step {step}")
        self.step = step


@dataclass(frozen=True)
class Hooks:
    """How a trial speaks to whoever runs it: `log(metrics, step)`, `progress(step, figures)`, `stop()`, `say(sentence)`; `persist` runs
    what writes a checkpoint, and may wait until there is room for it; `keep_examples` is given what the trained model makes of a few
    test pairs; `prune()` is asked after each validation but the last, when it was logged."""

    log: Log
    progress: Progress
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None
    persist: Persist = at_once
    keep_examples: Callable[[dict[str, Any]], None] = lambda _: None
    prune: Callable[[], bool] = lambda: False


def train(
    settings: Settings, seed: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, world: World = ALONE
) -> dict[str, float]:
    """Trains to the last step and gives the final metrics; goes on from `checkpoint` where there is one.

    Same settings, seed, machine, thread and process count: same numbers, also when it was stopped and resumed.
    The validation metrics are those of the last step. Every process of the `world` must call this; only the first one's `log`,
    `progress` and `keep_examples` are heard; any one's `stop` and `prune` counts. Raises Stopped, Pruned and Diverged.
    """
    device, pairs = prepared.device, prepared.corpus.train
    optimisation, evaluation, objectives = settings.optimisation, settings.evaluation, settings.objectives
    model = starting_model(settings, seed, prepared)
    order = Order(pairs.shares, optimisation.batch_size, seed)
    check_cut(settings, order.size, model, world)
    companions = make_companions(
        objectives, model, pairs.token_ids, prepared.corpus.synonyms, prepared.corpus.tokeniser
    )
    foils = FoilTable(pairs) if objectives.itm.negatives == "foils" else None
    speed_up(model, settings)
    call = spread_over(model, optimisation.sharding, world)
    state = TrainState(model, optimiser_for(model, settings), companions.ema, companions.queue)
    restore(state, checkpoint, hooks.say)
    reader = read_pictures(settings, prepared, order, world, state.step)
    joules = energy_meter(prepared.device, state.joules, world)
    started = time.perf_counter() - state.seconds

    def keep() -> None:
        state.joules = joules()
        save(state, checkpoint, world.rank == 0, hooks.persist)

    def measure_validation() -> dict[str, float]:
        return _measure(call, validate, settings, prepared, companions, "val", evaluation.pairs)

    measured: dict[str, float] = {}
    while state.step < optimisation.steps:
        if world.any(hooks.stop(), device):
            keep()
            raise Stopped
        step = state.step
        train_mode(model, settings)
        set_rate(state.optimiser, rate(step, optimisation.steps, optimisation.warmup))
        epoch, rows = order.at(step)
        asked = time.perf_counter()
        read = next(reader)
        state.waited += time.perf_counter() - asked
        plan = plan_batch(settings, prepared, companions, foils, rows, seed, epoch, step)
        alpha = alpha_at(objectives.mlm, step, optimisation.steps)
        state.optimiser.zero_grad(set_to_none=True)
        made = []
        for micro_batch, pictures in enumerate(read):
            part = plan.part(micro_batch, len(read), world)
            images = on_device(settings, prepared, pictures, rows[part.rows], seed, epoch)
            # The first part's dropout is that of a batch in one piece.
            place = micro_batch * world.size + world.rank
            torch.manual_seed(key("dropout", seed, step, *([place] if place else [])))
            with without_exchange(call, micro_batch + 1 == len(read)):
                made.append(_learn(call, settings, companions, part, images, alpha, world))
        norm = whole(nn.utils.clip_grad_norm_(model.parameters(), optimisation.clip))
        parts = _add_up(made, world)
        if not math.isfinite(parts["loss"]) or not math.isfinite(float(norm)):
            raise Diverged(step + 1)
        state.optimiser.step()
        companions.follow(model, objectives.ema_decay)
        state.add(parts | {"gradient_norm": float(norm)})
        state.step = step + 1
        state.seconds = time.perf_counter() - started
        hooks.progress(state.step, parts)

        if state.step % evaluation.every == 0 or state.step == optimisation.steps:
            measured = measure_validation()
            hooks.log(
                state.means() | measured | {"seconds": state.seconds, "samples_seen": state.step * order.size},
                state.step,
            )
            if state.step < optimisation.steps and world.any(hooks.prune(), device):
                raise Pruned
            started = time.perf_counter() - state.seconds
        if state.step % optimisation.checkpoint_every == 0 or state.step == optimisation.steps:
            keep()
            started = time.perf_counter() - state.seconds
    # A process that went on from the last step's checkpoint has not measured it.
    validated = measured or measure_validation()
    final = validated | _measure(call, final_metrics, settings, prepared, companions)
    seconds = max(state.seconds, 1e-9)
    cost = {
        "perf/device_seconds": seconds * world.size,
        "perf/pairs_per_second": state.step * order.size / seconds,
        "perf/data_wait": state.waited / seconds,  # share of the training time
    }
    if used := joules():
        cost["perf/energy_joules"] = used  # evaluation included
    hooks.log(final | cost, state.step)  # what was measured at the last step already is the same once more
    made_of_pairs = _measure(call, examples, settings, prepared, companions)
    if world.rank == 0:
        hooks.keep_examples(made_of_pairs)
    return final


def starting_model(settings: Settings, seed: int, prepared: Prepared) -> ViLTA:
    """The model as training begins: fresh fusion and heads of this seed, encoders as the warm start left them."""
    model = new_model(settings, prepared.corpus, seed)
    model.load_state_dict(prepared.weights, strict=False)
    if settings.model.mlm_head == "language":
        model.copy_language_head()
    model.to(prepared.device)
    if settings.model.vision.frozen:
        model.vision.requires_grad_(False)
    return model


def _learn(
    call: nn.Module,
    settings: Settings,
    companions: Companions,
    part: Part,
    images: Tensor,
    alpha: float,
    world: World,
) -> dict[str, Tensor]:
    """Forward and backward of this process's part of a micro-batch; the parts of its loss, without gradient."""
    optimisation = settings.optimisation
    with precision(images.device, optimisation.precision):
        made: dict[str, Tensor] = call(
            losses, images, part, settings.objectives, companions, alpha, world, optimisation.length_buckets
        )
    # DDP and FSDP2 average over processes; the parts of a mean add up.
    (made["loss"] * world.size).backward()
    return made | {"loss": made["loss"].detach()}


def _add_up(made: list[dict[str, Tensor]], world: World) -> dict[str, float]:
    """The step's mean of each part of the loss, over micro-batches and processes."""
    total = world.sum(
        torch.stack([torch.stack([part.float() for part in parts.values()]) for parts in made]).sum(dim=0)
    )
    return dict(zip(made[0], total.tolist(), strict=True))


@torch.no_grad()
def _measure(call: nn.Module, function: Callable[..., T], *arguments: object) -> T:
    """A measurement on the model; every process makes it, so that none has to send its numbers to the others."""
    measured: T = call(function, *arguments)
    return measured


def optimiser_for(model: ViLTA, settings: Settings) -> torch.optim.AdamW:
    """The encoders learn at `encoder_rate` of the learning rate, as METER trains its fresh parts faster."""
    config = settings.optimisation
    encoders = [*model.vision.parameters(), *model.language.parameters()]
    known = {id(parameter) for parameter in encoders}
    fresh = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return adamw(
        [(fresh, config.learning_rate), (encoders, config.learning_rate * config.encoder_rate)], config.weight_decay
    )


def train_mode(model: ViLTA, settings: Settings) -> None:
    """Training mode, but for a frozen vision encoder, whose batch statistics must not move."""
    model.train()
    if settings.model.vision.frozen:
        model.vision.eval()
