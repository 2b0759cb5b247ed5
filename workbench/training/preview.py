"""What the model sees of a training pair: the augmented image, and the masked and the rewritten caption."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from workbench.config.schema import Settings
from workbench.data.augment import augment
from workbench.data.loader import Order
from workbench.data.text import Tokeniser
from workbench.objectives.batch import BatchKey, draw_rewriting
from workbench.objectives.matching import written_captions
from workbench.objectives.step import teacher_logits
from workbench.objectives.teachers import make_teachers
from workbench.objectives.words import weights_of
from workbench.training.batches import training_batch
from workbench.training.features import image_features
from workbench.training.prepare import Prepared, Progress, prepare
from workbench.training.pretrain import starting_model


@dataclass(frozen=True)
class View:
    """A pair in the first step: `image` uint8 [3, H, W] after augmentation, and its texts."""

    image: np.ndarray
    caption: str
    masked: str
    written: str
    soft: str

    @property
    def lines(self) -> list[str]:
        named = {"caption": self.caption, "masked": self.masked, "written": self.written, "soft": self.soft}
        return [f"{name}: {text}" for name, text in named.items() if text]


def first_views(settings: Settings, seed: int, cache: Path, count: int, progress: Progress) -> list[View]:
    """The first `count` pairs of the first training step of these settings."""
    return _views(settings, seed, prepare(settings, cache, progress), count)


@torch.no_grad()
def _views(settings: Settings, seed: int, prepared: Prepared, count: int) -> list[View]:
    corpus, objectives = prepared.corpus, settings.objectives
    model = starting_model(settings, seed, prepared).eval()
    teachers = make_teachers(objectives, model, corpus)
    epoch, rows = Order(corpus.train.shares, settings.optimisation.batch_size, seed).at(0)
    rows = rows[:count]
    stored = torch.from_numpy(np.array(corpus.train.images[rows])).to(prepared.device)
    images = augment(stored, settings.data.augment, settings.data.image_size, rows, seed, epoch)
    features = image_features(model, images.cpu().numpy(), prepared.device)
    key = BatchKey(rows, seed, epoch)
    weigh = partial(weights_of, objectives, teachers=teachers, features=features, turns=rows + epoch)
    batch = training_batch(settings, prepared, teachers, None, key, weigh)
    token_ids = torch.from_numpy(batch.token_ids).to(prepared.device)

    written = [""] * len(rows)
    if objectives.itm.negatives == "synthesized":
        rewriting = draw_rewriting(
            batch.token_ids, objectives.itm, key, teachers.words.vocabulary, weigh(batch.token_ids).write
        )
        rewritten = written_captions(model, token_ids, rewriting, objectives, teachers)
        written = [words(corpus.tokeniser, ids) for ids in rewritten.tolist()]
    soft = [""] * len(rows)
    if objectives.mlm.soft_labels != "none":
        read = token_ids if objectives.mlm.teacher_input == "full" else batch.masked.token_ids.to(prepared.device)
        logits = teacher_logits(objectives.mlm, teachers, features, read, batch.masked.places(prepared.device))
        soft = _softened(corpus.tokeniser, logits / objectives.mlm.temperature, batch.masked.positions)
    return [
        View(
            images[place].cpu().numpy(),
            words(corpus.tokeniser, batch.token_ids[place].tolist()),
            words(corpus.tokeniser, batch.masked.token_ids[place].tolist()),
            written[place],
            soft[place],
        )
        for place in range(len(rows))
    ]


def words(tokeniser: Tokeniser, token_ids: list[int]) -> str:
    """A caption as text, with `<mask>` for masked tokens."""
    return tokeniser.decode(token_ids, special=True)


def _softened(tokeniser: Tokeniser, logits: torch.Tensor, positions: torch.Tensor, most: int = 3) -> list[str]:
    """The most likely words of the soft label at each caption's first masked position."""
    texts = []
    ends = positions.sum(dim=1).cumsum(dim=0).tolist()
    for end, count in zip(ends, positions.sum(dim=1).tolist(), strict=True):
        if not count:
            texts.append("")
            continue
        probability, token = logits[end - count].float().softmax(dim=-1).topk(most)
        named = [f"{tokeniser.decode([t])} {p:.0%}" for p, t in zip(probability.tolist(), token.tolist(), strict=True)]
        texts.append(", ".join(named))
    return texts
