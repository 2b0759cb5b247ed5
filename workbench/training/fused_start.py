"""The fused start: language encoder and fusion trained together on masked and replaced words, once, for all trials.

It stands in for what a long pre-training has learned by the time that its arms differ: which words an image explains.
Trials of a few minutes cannot learn relations from scratch (docs/testbed.md). Heads of matching stay fresh: matching is
what trials are about.
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
OFTEN = 4.0  # details are chosen so much more often than other words
ALONE_EVERY = 4  # steps, one of which is about relations alone, or they are forgotten
WARMUP = 0.05
WEIGHT_DECAY = 0.02
GENERATOR_WEIGHT = 0.5  # of the language encoder's own masked words, as in trials
# What trials start from. Poolers and the heads of matching and contrast are not trained here.
KEPT = (
    *OF_ENCODERS,
    *("fusion.", "mlm_head.", "mlm_decoder.", "row_positions", "column_positions", "text_type", "image_type"),
)


class Detecting(nn.Module):
    """A model, and what only a fused start needs: a head that says of each fused word whether it is the caption's
    own."""

    def __init__(self, model: ViLTA, width: int) -> None:
        super().__init__()
        self.model, self.replaced = model, nn.Linear(width, 1)


def phase_steps(settings: Settings) -> int:
    """Steps of all phases."""
    return sum(phase.steps for phase in phases(settings))


def fused_start(
    settings: Settings,
    corpus: Corpus,
    device: torch.device,
    cache_dir: Path,
    hooks: Hooks,
    weights: dict[str, Tensor],
) -> dict[str, Tensor]:
    """`weights` of the encoders, trained further through all phases with the fusion, whose weights join them; each
    phase is cached by content. Raises Stopped, with the state saved beside the cache's entry, and Diverged."""
    done = 0
    homes = start_homes(settings, corpus.fingerprint, cache_dir)[1:]
    for phase, home in zip(phases(settings), homes, strict=True):
        told = replace(hooks, progress=partial(_further, hooks, done))
        weights = trained_once(home, partial(_train, settings, phase, corpus, device, weights, told))
        done += phase.steps
    return weights


def _further(hooks: Hooks, done: int, step: int, losses: dict[str, float]) -> None:
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
    """The weights and the seconds of training."""
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
    """Which tokens are relations, and which these or words of size and texture (bool [V]); how often each is chosen
    (float [V]), and which mean the same (int64 [V, K])."""

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
    found = np.zeros(tokeniser.size, dtype=bool)
    found[[token for names in groups for token in map(tokeniser.word_id, names) if token is not None]] = True
    return found


def phase_losses(
    detecting: Detecting,
    phase: Phase,
    features: Tensor,
    ids: np.ndarray,
    rows: np.ndarray,
    words: Words,
    at: tuple[int, int, int],
) -> Losses:
    """The losses of a batch of captions int64 [B, L] of the pairs `rows` with their images' features [B, N, C]; `at`
    is (seed, epoch, step)."""
    (seed, epoch, step), model, device = at, detecting.model, features.device
    alone = phase.words == "relations" or step % ALONE_EVERY == 0
    relations = words.relations[ids]
    asked = relations if alone else words.details[ids] if phase.words == "details" else None
    weights = words.weights[ids] if asked is None else asked.astype(np.float64)
    chosen = choose_positions(
        ids, CHOSEN, RowRandom(rows, "fused start", seed, epoch), words.vocabulary, weights=weights
    )
    if asked is not None:
        chosen &= asked  # a caption that has none of them has others chosen
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
    made = {
        "words": _mean_loss(model.mlm_logits(fused[hidden]), labels[hidden]),
        "generator": GENERATOR_WEIGHT * _mean_loss(model.predict_words(states[hidden]), labels[hidden]),
    }
    if phase.replaced > 0:
        seen = model.ordinary[labels] & ~hidden
        if asked is not None:
            seen &= torch.from_numpy(asked).to(device)
        wrong = (words.synonyms[labels[seen]] != read[seen][:, None]).all(dim=1)
        scores = detecting.replaced(fused[seen]).squeeze(-1)
        made["replaced"] = F.binary_cross_entropy_with_logits(scores, wrong.float())
    return {"loss": torch.stack(list(made.values())).sum()} | made


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """0 where no word is asked for."""
    return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
