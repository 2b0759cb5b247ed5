"""Fine-tuning on a downstream task: a classifier on the pooled pair, METER's recipes, the task's own score."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.data.loader import Order
from workbench.data.text import Tokeniser, trim
from workbench.evaluation.downstream.tasks import TaskSplit
from workbench.evaluation.downstream.vqa import vqa_accuracy
from workbench.model.vilta import ViLTA
from workbench.randomness import generator, key
from workbench.training.loop import Hooks, Stopped
from workbench.training.prepare import precision
from workbench.training.schedule import adamw, rate, set_rate
from workbench.training.state import TrainState, restore, save


@dataclass(frozen=True)
class Recipe:
    """`head_rate`: factor on the learning rate of the classifier; the fusion learns five times as fast as the encoders (METER)."""

    epochs: int
    batch_size: int
    learning_rate: float
    head_rate: float
    fusion_rate: float = 5.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    image_size: int | None = None  # None: the run's own


@dataclass(frozen=True)
class Course:
    """How a fine-tuning runs: by which recipe, from which seed, where its state is kept, who hears of it, and on what."""

    recipe: Recipe
    seed: int
    checkpoint: Path
    hooks: Hooks
    device: torch.device
    precision: str = "auto"


# METER (Dou et al. 2022), from its public code.
METER: Final = {
    "vqa": Recipe(10, 512, 5e-6, 50.0, image_size=576),
    "nlvr2": Recipe(10, 256, 1e-5, 10.0, image_size=288),
    "snli_ve": Recipe(5, 64, 2e-6, 10.0, image_size=384),
    "retrieval": Recipe(10, 512, 5e-6, 5.0, image_size=384),
}
TINY: Final = Recipe(4, 64, 5e-4, 2.0, 2.0)  # for `tiny` on rendered scenes


class FineTuned(nn.Module):
    """The model with a classifier on the pooled pairs of its pictures; a second picture has a type of its own (NLVR2)."""

    def __init__(self, model: ViLTA, pictures: int, classes: int) -> None:
        super().__init__()
        width = model.text_type.shape[0]
        self.model = model
        self.second_type = nn.Parameter(torch.zeros(width))
        hidden = 2 * width
        self.classifier = nn.Sequential(
            nn.Linear(pictures * 2 * width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: list[Tensor], token_ids: Tensor) -> Tensor:
        """`images`: for each picture of an example uint8 [B, 3, H, W] or features [B, N, C]; `token_ids` [B, L] -> logits [B, C]."""
        states = self.model.encode_text(token_ids)
        pooled = []
        for place, image in enumerate(images):
            features = image if image.is_floating_point() else self.model.image_features(image)
            tokens = self.model.adapt_image(features)
            pooled.append(self.model.fuse(states, tokens + self.second_type if place else tokens, token_ids)[1])
        made: Tensor = self.classifier(torch.cat(pooled, dim=-1))
        return made


def finetune(
    model: ViLTA,
    tokeniser: Tokeniser,
    task: str,
    train: TaskSplit,
    val: TaskSplit,
    course: Course,
) -> dict[str, float]:
    """Trains on `train` and gives the score on `val`; goes on from `checkpoint` where there is one.

    VQA: binary cross-entropy of every answer, summed, scored by the official accuracy; else cross-entropy and accuracy.
    """
    device = course.device
    torch.manual_seed(key("classifier", course.seed, task))
    tuned = FineTuned(model, train.rows.shape[1], len(train.classes)).to(device)
    token_ids = tokeniser.encode(train.texts)
    targets = torch.from_numpy(train.targets)

    def loss(rows: np.ndarray, step: int) -> Tensor:
        logits = tuned(_pictures(train, rows, device), torch.from_numpy(trim(token_ids[rows])).to(device)).float()
        wanted = targets[torch.from_numpy(rows)].to(device)
        if task == "vqa":
            return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(rows)
        return F.cross_entropy(logits, wanted)

    head = [*tuned.classifier.parameters(), tuned.second_type]
    _train(tuned, model, head, len(train), course, loss)
    with precision(device, course.precision):
        return score(tuned, tokeniser, task, val, course.recipe.batch_size, device)


def finetune_retrieval(
    model: ViLTA,
    pictures: Any,
    token_ids: np.ndarray,
    picture_of: np.ndarray,
    course: Course,
    false_texts: int = 15,
) -> None:
    """Trains the matching head to rank each picture's caption above `false_texts` others (METER): cross-entropy over their log odds
    of a match. `token_ids` int64 [M, L], `picture_of` int64 [M] the row of `pictures` of each caption."""
    captions, device = len(picture_of), course.device

    def loss(rows: np.ndarray, step: int) -> Tensor:
        others = generator("false texts", course.seed, step).integers(1, captions, (len(rows), false_texts))
        texts = np.concatenate([rows[:, None], (rows[:, None] + others) % captions], axis=1)
        # Another caption of the same picture is no false one.
        own = torch.from_numpy(picture_of[texts] == picture_of[rows][:, None]).to(device)
        own[:, 0] = False
        ids = torch.from_numpy(trim(token_ids[texts.ravel()])).to(device)
        read = torch.from_numpy(np.array(pictures[picture_of[rows]])).to(device)
        features = read.float() if read.is_floating_point() else model.image_features(read)
        image = model.adapt_image(features).repeat_interleave(texts.shape[1], dim=0)
        logits = model.itm_logits(model.fuse(model.encode_text(ids), image, ids)[1]).float()
        odds = (logits[:, 1] - logits[:, 0]).view(texts.shape).masked_fill(own, -torch.inf)
        return F.cross_entropy(odds, torch.zeros(len(rows), dtype=torch.long, device=device))

    head = [*model.itm_head.parameters()]
    _train(model, model, head, captions, course, loss)


def _train(
    module: nn.Module,
    model: ViLTA,
    head: list[nn.Parameter],
    examples: int,
    course: Course,
    loss: Callable[[np.ndarray, int], Tensor],
) -> None:
    """The recipe's epochs over `loss(rows, step)`; `module` is what is trained and saved, `head` what learns fastest of it."""
    encoders = [*model.vision.parameters(), *model.language.parameters()]
    known = {id(parameter) for parameter in (*encoders, *head)}
    fusion = [parameter for parameter in model.parameters() if id(parameter) not in known]
    recipe, hooks, checkpoint = course.recipe, course.hooks, course.checkpoint
    base = recipe.learning_rate
    groups = [(head, base * recipe.head_rate), (fusion, base * recipe.fusion_rate), (encoders, base)]
    state = TrainState(module, adamw(groups, recipe.weight_decay))
    restore(state, checkpoint)
    order = Order(((examples, 1.0),), recipe.batch_size, course.seed)
    steps = recipe.epochs * (examples // order.size)
    saved = time.monotonic()
    while state.step < steps:
        if hooks.stop():
            save(state, checkpoint)
            raise Stopped
        module.train()
        if not any(parameter.requires_grad for parameter in model.vision.parameters()):
            model.vision.eval()
        set_rate(state.optimiser, rate(state.step, steps, recipe.warmup))
        torch.manual_seed(key("downstream dropout", course.seed, state.step))
        with precision(course.device, course.precision):
            made = loss(order.at(state.step)[1], state.step)
        state.optimiser.zero_grad(set_to_none=True)
        made.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        state.optimiser.step()
        state.step += 1
        hooks.progress(state.step, {"loss": float(made.detach()), "steps": steps})
        if time.monotonic() - saved > 60:
            save(state, checkpoint)
            saved = time.monotonic()
    save(state, checkpoint)


@torch.no_grad()
def score(
    tuned: FineTuned, tokeniser: Tokeniser, task: str, split: TaskSplit, batch_size: int, device: torch.device
) -> dict[str, float]:
    """`accuracy` (VQA: the official one), and `majority`, what always giving the most frequent answer reaches."""
    tuned.eval()
    token_ids = tokeniser.encode(split.texts)
    chosen = []
    for start in range(0, len(split), batch_size):
        rows = np.arange(start, min(start + batch_size, len(split)))
        ids = torch.from_numpy(trim(token_ids[rows])).to(device)
        chosen.append(tuned(_pictures(split, rows, device), ids).argmax(dim=-1).cpu().numpy())
    answers = np.concatenate(chosen)
    most = int(split.targets.sum(axis=0).argmax())

    def accuracy(picked: np.ndarray) -> float:
        if task == "vqa":
            pairs = zip(picked, split.given, strict=True)
            return float(np.mean([vqa_accuracy(split.classes[answer], given) for answer, given in pairs]))
        return float(np.mean(picked == split.targets.argmax(axis=1)))

    return {
        "accuracy": accuracy(answers),
        "majority": accuracy(np.full_like(answers, most)),
        "examples": float(len(split)),
    }


def _pictures(split: TaskSplit, rows: np.ndarray, device: torch.device) -> list[Tensor]:
    read = [torch.from_numpy(np.array(split.pictures[split.rows[rows, place]])) for place in range(split.rows.shape[1])]
    return [(part.float() if part.is_floating_point() else part).to(device) for part in read]
