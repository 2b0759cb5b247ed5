"""One trial: set up, train, evaluate, log, save."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workbench.config.schema import Settings
from workbench.data.corpus import Pairs
from workbench.data.loader import batch_indices
from workbench.data.text import PAD, trim
from workbench.errors import UserError
from workbench.evaluation.masked_lm import evaluate_masked_lm
from workbench.evaluation.matching import HeldOut, evaluate_matching, hold_out, negatives_truth
from workbench.evaluation.robustness import evaluate_robustness
from workbench.model.vilta import ViLTA
from workbench.objectives.companions import Companions, make_companions
from workbench.objectives.step import Batch, alpha_at, losses, written_captions
from workbench.randomness import generator, key
from workbench.training.prepare import Prepared, picture_features, precision
from workbench.training.schedule import adamw, rate, set_rate
from workbench.training.state import TrainState, restore, save
from workbench.training.warm_start import new_model

Log = Callable[[dict[str, float], int], None]
Progress = Callable[[int, dict[str, float]], None]


class Stopped(Exception):
    """The trial was asked to stop; its state is saved."""


@dataclass(frozen=True)
class Hooks:
    """How a trial speaks to whoever runs it: `log(metrics, step)`, `progress(step, figures)`, `stop()`."""

    log: Log
    progress: Progress
    stop: Callable[[], bool] = lambda: False


def train(settings: Settings, seed: int, prepared: Prepared, checkpoint: Path, hooks: Hooks) -> dict[str, float]:
    """Trains to the last step and gives the final metrics; goes on from `checkpoint` where there is one.

    Same settings, seed, machine and thread count: same numbers, also when it was stopped and resumed.
    """
    device, corpus = prepared.device, prepared.corpus
    optimisation, evaluation, objectives = settings.optimisation, settings.evaluation, settings.objectives
    model = new_model(settings, corpus, seed)
    model.load_state_dict(prepared.weights, strict=False)
    if settings.model.mlm_head == "language":
        model.copy_language_head()
    model.to(device)
    if settings.model.vision.frozen:
        model.vision.requires_grad_(False)
    companions = make_companions(objectives, model, corpus.train.token_ids, corpus.synonyms, corpus.tokeniser)
    foils = FoilTable(corpus.train) if objectives.itm.negatives == "foils" else None
    state = TrainState(model, optimiser_for(model, settings), companions.ema, companions.queue)
    restore(state, checkpoint)
    started = time.perf_counter() - state.seconds

    while state.step < optimisation.steps:
        if hooks.stop():
            save(state, checkpoint)
            raise Stopped
        step = state.step
        train_mode(model, settings)
        set_rate(state.optimiser, rate(step, optimisation.steps, optimisation.warmup))
        torch.manual_seed(key("dropout", seed, step))
        batch = load_batch(settings, model, prepared, foils, seed, step)
        with precision(device):
            made = losses(
                model,
                batch,
                objectives,
                companions,
                seed,
                step,
                alpha_at(objectives.mlm, step, optimisation.steps),
            )
        state.optimiser.zero_grad(set_to_none=True)
        made.total.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), optimisation.clip)
        state.optimiser.step()
        companions.follow(model, objectives.ema_decay)
        state.add(made.parts | {"gradient_norm": float(norm)})
        state.step = step + 1
        state.seconds = time.perf_counter() - started
        hooks.progress(state.step, made.parts)

        if state.step % evaluation.every == 0 or state.step == optimisation.steps:
            measured = validate(model, settings, prepared, companions, "val", evaluation.pairs)
            hooks.log(
                state.means()
                | measured
                | {"seconds": state.seconds, "samples_seen": state.step * len(batch.token_ids)},
                state.step,
            )
            started = time.perf_counter() - state.seconds
        if state.step % optimisation.checkpoint_every == 0 or state.step == optimisation.steps:
            save(state, checkpoint)
            started = time.perf_counter() - state.seconds
    final = final_metrics(model, settings, prepared, companions)
    hooks.log(
        final | {"perf/pairs_per_second": state.step * optimisation.batch_size / max(state.seconds, 1e-9)}, state.step
    )
    return final


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


def load_batch(
    settings: Settings, model: ViLTA, prepared: Prepared, foils: "FoilTable | None", seed: int, step: int
) -> Batch:
    """The pairs of `step`; with a frozen vision encoder its stored features instead of pictures."""
    pairs, device = prepared.corpus.train, prepared.device
    rows = batch_indices(len(pairs), settings.optimisation.batch_size, seed, step)
    if prepared.features:
        features = torch.from_numpy(prepared.features["train"][rows]).to(device).float()
    else:
        features = model.image_features(torch.from_numpy(np.array(pairs.images[rows])).to(device))
    token_ids = trim(pairs.token_ids[rows])
    if foils is None:
        return Batch(features, token_ids, None)
    foil_ids = trim(foils.draw(rows, seed, step))
    length = max(token_ids.shape[1], foil_ids.shape[1])
    return Batch(features, _widen(token_ids, length), _widen(foil_ids, length))


class FoilTable:
    """The true foils of each training pair; one is drawn for every pair and step (the positive control)."""

    def __init__(self, pairs: Pairs) -> None:
        kinds = {kind: made for kind, made in pairs.variants.items() if kind != "paraphrase"}
        if not kinds:
            raise UserError(
                "`objectives.itm.negatives: foils` needs pairs whose facts are known: `data.source: scenes`."
            )
        length = max(pairs.token_ids.shape[1], *(ids.shape[1] for _, ids in kinds.values()))
        self.token_ids = np.empty((len(kinds), len(pairs), length), dtype=np.int32)
        self.present = np.zeros((len(kinds), len(pairs)), dtype=bool)
        for table, present, (rows, ids) in zip(self.token_ids, self.present, kinds.values(), strict=True):
            table[:] = _widen(pairs.token_ids, length)
            table[rows] = _widen(ids, length)
            present[rows] = True

    def draw(self, rows: np.ndarray, seed: int, step: int) -> np.ndarray:
        """int64 [B, L]: a foil of a random kind for each row; the caption itself where it has none."""
        chance = generator("foil kinds", seed, step).random((len(self.present), len(rows)))
        kind = np.where(self.present[:, rows], chance, -1.0).argmax(axis=0)
        return self.token_ids[kind, rows].astype(np.int64)


def _widen(token_ids: np.ndarray, length: int) -> np.ndarray:
    return np.pad(token_ids, ((0, 0), (0, length - token_ids.shape[1])), constant_values=PAD)


def validate(
    model: ViLTA, settings: Settings, prepared: Prepared, companions: Companions, split: str, count: int
) -> dict[str, float]:
    """Matching and masked language modelling on the first `count` pairs of a split, as `<split>/<metric>`."""
    model.eval()
    data = held_out(model, prepared, split, count)
    size = settings.evaluation.batch_size
    objectives = settings.objectives
    itm = objectives.itm
    # Detectability compares arms, so its captions are written alike, whatever the arm trains with.
    alike = itm.model_copy(update={"generator": "current", "false_negative_filter": "synonyms"})
    neutral = objectives.model_copy(update={"itm": alike})
    written = written_captions(model, data.token_ids, neutral, companions, seed=-1, step=0).cpu().numpy()
    measured = evaluate_matching(model, data, written, size) | evaluate_masked_lm(
        model, data, objectives.mlm.mask_ratio, prepared.corpus.synonyms, size
    )
    if itm.negatives == "synthesized":
        if alike != itm:
            written = written_captions(model, data.token_ids, objectives, companions, seed=-1, step=0).cpu().numpy()
        measured |= negatives_truth(data, written)
    return {f"{split}/{name}": value for name, value in measured.items()}


def held_out(model: ViLTA, prepared: Prepared, split: str, count: int) -> HeldOut:
    pairs: Pairs = getattr(prepared.corpus, split)
    if prepared.features:
        features = torch.from_numpy(np.array(prepared.features[split][:count])).to(prepared.device).float()
    else:
        features = picture_features(model, pairs.images[:count], prepared.device)
    return hold_out(pairs, features)


def final_metrics(model: ViLTA, settings: Settings, prepared: Prepared, companions: Companions) -> dict[str, float]:
    """The last word on a trial: the validation split once more, the test split, and robustness."""
    evaluation = settings.evaluation
    metrics = validate(model, settings, prepared, companions, "val", evaluation.pairs)
    tested = validate(model, settings, prepared, companions, "test", evaluation.final_pairs)
    metrics |= {name.replace("test/foil/", "compositional/scenes/"): value for name, value in tested.items()}
    if evaluation.robustness_pairs:
        data = held_out(model, prepared, "val", evaluation.robustness_pairs)
        metrics |= evaluate_robustness(model, data, evaluation.batch_size)
    return metrics
