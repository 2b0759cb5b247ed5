"""One trial: setup, training, evaluation, logging and saving."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workbench.config.schema import Settings
from workbench.data.loader import Order
from workbench.distributed import ALONE, World
from workbench.evaluation.contract import Evaluation, Kept, evaluate
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import BatchKey, BatchPart
from workbench.objectives.step import alpha_at, losses
from workbench.objectives.teachers import make_teachers
from workbench.stop import Stopped, cut
from workbench.training.batches import FoilTable, on_device, read_images, training_batch, training_foils
from workbench.training.energy import energy_meter
from workbench.training.finetune import TrialEnd
from workbench.training.loop import Diverged, Hooks, Losses, Pruned, Training, backward, fit, seed_dropout
from workbench.training.parallelize import check_cut, speed_up, spread_over
from workbench.training.prepare import Prepared, choose_kernels, precision
from workbench.training.schedule import adamw
from workbench.training.state import TrainState, parts_file, restore, save
from workbench.training.validation import Subject, at_the_end, examples, validation
from workbench.training.warm_start import new_model
from workbench.training.word_choice import WordChoice

T = TypeVar("T")


def train(
    settings: Settings, seed: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, world: World = ALONE
) -> dict[str, float]:
    """Trains to the last step and returns the final metrics; resumes from `checkpoint` if there is one.

    The numbers are reproducible for the same settings, seed, machine, and thread and process counts, even if the trial
    was stopped and resumed. The validation metrics are those of the last step. Every process of the `world` must call
    this. Only the first process calls `log`, `progress` and `keep_examples`; `stop` and `prune` take effect from any.
    Raises Stopped, Pruned and Diverged.
    """
    trial = _Trial(settings, seed, prepared, checkpoint, hooks, world)
    state, steps = trial.state, settings.optimisation.steps
    training = Training(
        steps,
        settings.optimisation.warmup,
        trial.learn,
        partial(nn.utils.clip_grad_norm_, list(trial.model.parameters()), settings.optimisation.clip),
        trial.keep,
        due=lambda: state.step % settings.optimisation.checkpoint_every == 0,
        follow=trial.follow,
    )
    trial.validate_if_due()  # a stop may have come between a step and its validation
    for _ in fit(state, training, hooks, world):
        trial.validate_if_due()
    final = state.measured | trial.measure(partial(at_the_end, end=trial.end()), trial.kept_parts())
    hooks.log(final | trial.cost(), state.step)  # repeats the metrics of the last validation with equal values
    examples_of_pairs = trial.through(partial(examples, trial.subject))
    if world.rank == 0:
        hooks.keep_examples(examples_of_pairs)
    return final


class _Trial:
    """A trial in progress: the objects that its steps share."""

    def __init__(
        self, settings: Settings, seed: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, world: World
    ) -> None:
        self.settings, self.seed, self.prepared = settings, seed, prepared
        self.checkpoint, self.hooks, self.world = checkpoint, hooks, world
        corpus, optimisation, objectives = prepared.corpus, settings.optimisation, settings.objectives
        choose_kernels(settings)
        self.model = starting_model(settings, seed, prepared)
        self.order = Order(corpus.train.shares, optimisation.batch_size, seed)
        check_cut(settings, self.order.size, self.model, world)
        self.teachers = make_teachers(objectives, self.model, corpus)
        self.foils = FoilTable(training_foils(settings, prepared)) if objectives.itm.negatives == "foils" else None
        speed_up(self.model, settings)
        self.call = spread_over(self.model, optimisation.sharding, world)
        optimiser = optimiser_for(self.model, settings)
        self.state = TrainState(
            self.model,
            optimiser,
            self.teachers.ema,
            self.teachers.queue,
            made_from=f"{corpus.fingerprint} {prepared.fingerprint}",
        )
        world.any(False, prepared.device)  # wait: the first process may have removed a useless checkpoint
        restore(self.state, checkpoint, hooks.say)
        if self.state.step < optimisation.steps and world.rank == 0:
            parts_file(checkpoint).unlink(missing_ok=True)  # measured with other weights
        self.reader = read_images(settings, prepared, self.order, world, self.state.step)
        self.words = WordChoice(settings, prepared, self.teachers, world)
        self.joules = energy_meter(prepared.device, self.state.joules, world)
        self.subject = Subject(self.model, settings, prepared, self.teachers)

    def learn(self, step: int) -> list[Losses]:
        settings, world, optimisation = self.settings, self.world, self.settings.optimisation
        train_mode(self.model, settings)
        epoch, rows = self.order.at(step)
        key = BatchKey(rows, self.seed, epoch, step)
        began = time.perf_counter()
        read = next(self.reader)
        self.state.waited += time.perf_counter() - began

        def shown() -> Iterator[tuple[slice, Tensor]]:
            for place, pool in enumerate(read):
                part = world.part(len(rows), place, len(read))
                yield part, on_device(settings, self.prepared, pool, key, part)

        weigh = partial(self.words.weigh, key, shown)
        batch = training_batch(settings, self.prepared, self.teachers, self.foils, key, weigh)
        alpha = alpha_at(settings.objectives.mlm, step, optimisation.steps)

        def micro_batch(place: int, pool: Tensor) -> Losses:
            part: BatchPart = batch.part(place, len(read), world)
            images = on_device(settings, self.prepared, pool, key, part.rows)
            seed_dropout("dropout", self.seed, step, place, world)
            with precision(images.device, optimisation.precision):
                micro_losses: Losses = self.call(
                    losses,
                    images,
                    part,
                    settings.objectives,
                    self.teachers,
                    alpha,
                    world,
                    optimisation.length_buckets,
                )
            return micro_losses

        micro_batches = [partial(micro_batch, place, pool) for place, pool in enumerate(read)]
        return backward(self.call, micro_batches, world)

    def follow(self) -> None:
        self.teachers.follow(self.model, self.settings.objectives.ema_decay)

    def keep(self) -> None:
        self.state.joules = self.joules()
        save(self.state, self.checkpoint, self.world.rank == 0, self.hooks.persist)

    def validate_if_due(self) -> None:
        """Validates and logs if this step is due and not validated yet. Raises Pruned if the trial shall not continue.

        Every `evaluation.every` steps and the last step are due.
        """
        state, steps = self.state, self.settings.optimisation.steps
        due = state.step % self.settings.evaluation.every == 0 or state.step == steps
        if not due or state.step == state.measured_at:
            return
        measured = self.measure(validation, Kept())
        state.measured, state.measured_at = measured, state.step
        figures = {"seconds": state.seconds, "samples_seen": float(state.step * self.order.size)}
        self.hooks.log(state.means() | measured | figures, state.step)
        if state.step < steps and self.world.any(self.hooks.prune(), self.prepared.device):
            raise Pruned

    def measure(self, make: Callable[[Subject], Evaluation], kept: Kept) -> dict[str, float]:
        """The metrics of the evaluation that `make` returns.

        Every process measures, so that none has to send its numbers to the others. Raises Stopped, after saving the
        state, and Diverged.
        """
        # With several processes, none may leave a part in which the others wait for it.
        stop = self.hooks.stop if self.world.size == 1 else self.stopped
        try:
            with cut(stop):
                evaluation = self.through(partial(make, self.subject))
            return evaluate(evaluation, kept, stop, through=self.finite)
        except Stopped:
            self.keep()
            raise

    def end(self) -> TrialEnd:
        """How a copy of the model is fine-tuned at the end; its state is stored next to the trial's."""
        quiet = Hooks(lambda *_: None, lambda *_: None, self.hooks.stop, say=self.hooks.say, persist=self.hooks.persist)
        return TrialEnd(self.seed, self.checkpoint, quiet)

    def kept_parts(self) -> Kept:
        """The results that an earlier start measured after the last step."""
        kept = Kept.of(parts_file(self.checkpoint), self.hooks.persist)
        self.world.any(False, self.prepared.device)  # wait: no process may write before all have read
        return kept if self.world.rank == 0 else Kept(kept.made)

    def stopped(self) -> bool:
        return self.world.any(self.hooks.stop(), self.prepared.device)

    @torch.no_grad()
    def through(self, function: Callable[[], T]) -> T:
        """Calls `function` inside the model's `forward`, as DDP and FSDP2 require."""
        result: T = self.call(lambda _: function())
        return result

    def finite(self, part: Callable[[], Any]) -> Any:
        """The result of a part of an evaluation. Raises Diverged if a number is not finite.

        The last update may have made the weights useless, which only the next loss would show.
        """
        result = self.through(part)
        if not _all_finite(result):
            raise Diverged(self.state.step, "what was measured is")
        return result

    def cost(self) -> dict[str, float]:
        state, seconds = self.state, max(self.state.seconds, 1e-9)
        cost = {
            "perf/device_seconds": seconds * self.world.size,
            "perf/pairs_per_second": state.step * self.order.size / seconds,
            "perf/data_wait": state.waited / seconds,  # fraction of the training time
        }
        if used := self.joules():
            cost["perf/energy_joules"] = used  # evaluation included
        return cost


def _all_finite(result: Any) -> bool:
    """Whether every number in plain JSON is finite."""
    if isinstance(result, dict):
        return all(map(_all_finite, result.values()))
    if isinstance(result, list | tuple):
        return all(map(_all_finite, result))
    return not isinstance(result, float) or math.isfinite(result)


def starting_model(settings: Settings, seed: int, prepared: Prepared) -> ViLTA:
    """The model at the start of training: new fusion and heads from this seed, and the encoders of the warm start."""
    model = new_model(settings, prepared.corpus, seed)
    model.load_state_dict(prepared.weights, strict=False)
    if settings.model.mlm_head == "language":
        model.copy_language_head()
    model.to(prepared.device)
    if settings.model.vision.frozen:
        model.vision.requires_grad_(False)
    return model


def optimiser_for(model: ViLTA, settings: Settings) -> torch.optim.AdamW:
    """AdamW, with the learning rate of the encoders multiplied by `encoder_rate`; METER trains new parts faster."""
    config = settings.optimisation
    encoders = [*model.vision.parameters(), *model.language.parameters()]
    known = {id(parameter) for parameter in encoders}
    fresh = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return adamw(
        [(fresh, config.learning_rate), (encoders, config.learning_rate * config.encoder_rate)], config.weight_decay
    )


def train_mode(model: ViLTA, settings: Settings) -> None:
    """Sets training mode, except for a frozen vision encoder, whose batch statistics must not change."""
    model.train()
    if settings.model.vision.frozen:
        model.vision.eval()
