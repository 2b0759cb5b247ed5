"""The fused start: language encoder and fusion are trained together on masked and replaced words, once for all trials.

It stands in for the early phase of a long pre-training, before its arms differ, in which a model learns which words an
image explains. Trials of a few minutes cannot learn relations from scratch (docs/testbed.md). The matching heads stay
untrained, since matching is what trials compare.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.config.schema import Phase, Settings
from workbench.data import lexicon
from workbench.data.augment import resize
from workbench.data.corpus import Corpus
from workbench.data.loader import Order
from workbench.data.masking import choose_positions
from workbench.data.text import Tokeniser, Vocabulary
from workbench.distributed import ALONE
from workbench.errors import UserError
from workbench.model.fusion import NONE
from workbench.model.shipped import OF_ENCODERS
from workbench.model.vilta import ViLTA
from workbench.objectives.negatives import choose
from workbench.randomness import RowRandom, generator, key
from workbench.training.loop import Hooks, Losses, Training, backward, fit
from workbench.training.schedule import adamw, every
from workbench.training.state import TrainState, restore, save
from workbench.training.warm_start import SAVED_EVERY, handed_on, new_model, phases, start_homes, trained_once

CHOSEN = 0.2  # of a caption's words
OFTEN = 4.0  # weight with which details are chosen; other words have weight 1
ALONE_EVERY = 4  # one of this many steps chooses only relations, so that they are not forgotten
WARMUP = 0.05
WEIGHT_DECAY = 0.02
GENERATOR_WEIGHT = 0.5  # of the language encoder's own MLM loss, as in trials
# What trials start from. Poolers and the heads of matching and contrast are not trained here.
KEPT = (
    *OF_ENCODERS,
    *("fusion.", "mlm_head.", "mlm_decoder.", "row_positions", "column_positions", "text_type", "image_type"),
)


class Detecting(nn.Module):
    """A model with a head that only the fused start needs: it detects for each fused word whether it was replaced."""

    def __init__(self, model: ViLTA, width: int) -> None:
        super().__init__()
        self.model, self.replaced = model, nn.Linear(width, 1)


def phase_steps(settings: Settings) -> int:
    """The number of steps of all phases."""
    return sum(phase.steps for phase in phases(settings))


def fused_start(
    settings: Settings,
    corpus: Corpus,
    device: torch.device,
    cache_dir: Path,
    hooks: Hooks,
    weights: dict[str, Tensor],
) -> dict[str, Tensor]:
    """The weights of encoders and fusion after all phases, starting from the encoders' `weights`.

    Each phase is cached by content. Raises Stopped, after saving the state next to the cache's entry, and Diverged.
    """
    done = 0
    homes = start_homes(settings, corpus.fingerprint, cache_dir)[1:]
    for phase, home in zip(phases(settings), homes, strict=True):
        phase_hooks = replace(hooks, progress=partial(_progress_after, hooks, done))
        weights = trained_once(home, partial(_train, settings, phase, corpus, device, weights, phase_hooks))
        done += phase.steps
    return weights


def _progress_after(hooks: Hooks, done: int, step: int, losses: dict[str, float]) -> None:
    hooks.progress(done + step, losses)


def _train(
    settings: Settings,
    phase: Phase,
    corpus: Corpus,
    device: torch.device,
    begin: dict[str, Tensor],
    hooks: Hooks,
    checkpoint: Path,
) -> tuple[dict[str, Tensor], float]:
    """Trains one phase -> the weights, and the seconds of training."""
    seed = settings.warm_start.seed
    model = new_model(settings, corpus, seed)
    model.load_state_dict(begin, strict=False)
    model.vision.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key("replaced words", seed))
        state_model = Detecting(model, settings.model.width).to(device).train()
    model.vision.eval()
    trained = [parameter for parameter in state_model.parameters() if parameter.requires_grad]
    state = TrainState(state_model, adamw([(trained, phase.learning_rate)], WEIGHT_DECAY))
    restore(state, checkpoint, hooks.say)
    order = Order(corpus.train.shares, phase.batch_size, seed)
    words = Words.of(corpus, device)

    def losses(step: int) -> Losses:
        torch.manual_seed(key("fused start", seed, step))
        epoch, rows = order.at(step)
        ids = words.vocabulary.trim(corpus.train.texts(rows, seed, epoch)).astype(np.int64)
        with torch.no_grad():
            images = torch.from_numpy(np.array(corpus.train.images[rows])).to(device)
            features = model.image_features(resize(images, settings.data.image_size))
        return phase_losses(state_model, phase, features, ids, rows, words, (seed, epoch, step))

    training = Training(
        phase.steps,
        WARMUP,
        lambda step: backward(state_model, [partial(losses, step)], ALONE),
        lambda: nn.utils.clip_grad_norm_(trained, 1.0),
        lambda: save(state, checkpoint, persist=hooks.persist) if state.step < phase.steps else None,
        due=every(SAVED_EVERY),
    )
    for _ in fit(state, training, hooks):
        pass
    return handed_on(model, KEPT), state.seconds


class Words:
    """Tables about the vocabulary.

    `relations` bool [V]: tokens of relations. `details` bool [V]: these, and tokens of size and texture. `weights`
    float [V]: how often each token is chosen. `synonyms` int64 [V, K].
    """

    def __init__(self, relations: np.ndarray, details: np.ndarray, synonyms: Tensor, vocabulary: Vocabulary) -> None:
        self.relations, self.details, self.synonyms, self.vocabulary = relations, details, synonyms, vocabulary
        self.special = torch.tensor(vocabulary.special, device=synonyms.device)
        self.weights = np.where(details, OFTEN, 1.0)

    @classmethod
    def of(cls, corpus: Corpus, device: torch.device) -> "Words":
        relations = _tokens(corpus.tokeniser, [lexicon.RELATION_WORDS])
        if not relations[np.asarray(corpus.train.token_ids[:10_000])].any():
            raise UserError(
                "`warm_start.fusion`: no caption says where things are (`left`, `above`); leave its phases out."
            )
        details = relations | _tokens(corpus.tokeniser, [*lexicon.SIZES.values(), *lexicon.TEXTURES.values()])
        return cls(relations, details, torch.from_numpy(corpus.synonyms).to(device), corpus.tokeniser.vocabulary)


def _tokens(tokeniser: Tokeniser, groups: list[tuple[str, ...]]) -> np.ndarray:
    is_named = np.zeros(tokeniser.size, dtype=bool)
    is_named[[token for names in groups for token in map(tokeniser.word_id, names) if token is not None]] = True
    return is_named


def phase_losses(
    detecting: Detecting,
    phase: Phase,
    features: Tensor,
    ids: np.ndarray,
    rows: np.ndarray,
    words: Words,
    at: tuple[int, int, int],
) -> Losses:
    """The losses of a batch of captions int64 [B, L] of the pairs `rows`, with their images' features [B, N, C].

    `at`: (seed, epoch, step).
    """
    (seed, epoch, step), model, device = at, detecting.model, features.device
    alone = phase.words == "relations" or step % ALONE_EVERY == 0
    relations = words.relations[ids]
    candidates = relations if alone else words.details[ids] if phase.words == "details" else None
    weights = words.weights[ids] if candidates is None else candidates.astype(np.float64)
    chosen = choose_positions(
        ids, CHOSEN, RowRandom(rows, "fused start", seed, epoch), words.vocabulary, weights=weights
    )
    if candidates is not None:
        chosen &= candidates  # in a caption without candidates, other words were chosen
    rng = generator("fused start", seed, step)
    written = chosen & (rng.random(ids.shape) < phase.replaced)
    labels, hidden = torch.from_numpy(ids).to(device), torch.from_numpy(chosen & ~written).to(device)
    read = torch.where(torch.from_numpy(chosen).to(device), words.vocabulary.mask, labels)
    place = torch.from_numpy(written).to(device)
    if written.any():
        with torch.no_grad():
            guess = model.predict_words(model.encode_text(read)[place]).float()
            guess[:, words.special] = -torch.inf
            draws = torch.from_numpy(rng.random(ids.shape, dtype=np.float32)).to(device)[place]
            read[place] = choose(guess.softmax(dim=-1), draws)
    states = model.encode_text(read)
    fused, _ = model.fuse(states, model.adapt_image(features), read, NONE)
    losses = {
        "words": _mean_loss(model.mlm_logits(fused[hidden]), labels[hidden]),
        "generator": GENERATOR_WEIGHT * _mean_loss(model.predict_words(states[hidden]), labels[hidden]),
    }
    if phase.replaced > 0:
        seen = model.ordinary[labels] & ~hidden
        if candidates is not None:
            seen &= torch.from_numpy(candidates).to(device)
        wrong = (words.synonyms[labels[seen]] != read[seen][:, None]).all(dim=1)
        scores = detecting.replaced(fused[seen]).squeeze(-1)
        losses["replaced"] = F.binary_cross_entropy_with_logits(scores, wrong.float())
    return {"loss": torch.stack(list(losses.values())).sum()} | losses


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over words; 0 if there are none."""
    return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
