"""Fine-tuning on a downstream task: a classifier on the pooled pair, METER's recipes, and the task's official score."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workbench.config.schema import Settings, TaskFiles
from workbench.data.loader import Order
from workbench.data.text import Tokeniser, trim
from workbench.distributed import ALONE, World
from workbench.errors import UserError
from workbench.evaluation.contract import Part, PartResult, evaluate
from workbench.evaluation.downstream.tasks import TaskSplit
from workbench.evaluation.downstream.vqa import Version, vqa_accuracy
from workbench.model.vilta import ViLTA
from workbench.randomness import generator, key
from workbench.training.loop import Hooks, Losses, Progress, Training, backward, fit, seed_dropout
from workbench.training.parallelize import check_parts, spread
from workbench.training.prepare import Prepared, precision
from workbench.training.schedule import adamw, every
from workbench.training.state import TrainState, remove, restore, save
from workbench.training.suites import task_splits
from workbench.training.warm_start import new_model

FALSE_TEXTS = 15  # other images' captions that are ranked together with the true one (METER)
SAVED_EVERY = 60.0  # seconds
ANSWERED = 64  # maximum number of examples per part


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a fine-tuning.

    `head_rate`, `fusion_rate`: factors on the learning rate, for the classifier and the fusion. In METER the fusion
    learns five times as fast as the encoders. `image_size` None: that of the run. `micro_batches`: the number of parts
    of a batch that does not fit into memory; they change results only by rounding.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    head_rate: float
    fusion_rate: float = 5.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    image_size: int | None = None
    micro_batches: int = 1


@dataclass(frozen=True)
class Course:
    """How a fine-tuning runs: its recipe, seed, checkpoint, hooks and devices.

    `made_from` identifies the examples, so that no state is resumed with other examples.
    """

    recipe: Recipe
    seed: int
    checkpoint: Path
    hooks: Hooks
    device: torch.device
    precision: str = "auto"
    world: World = ALONE
    made_from: str = ""


# METER (Dou et al. 2022), from its public code.
METER: Final = {
    "vqa": Recipe(10, 512, 5e-6, 50.0, image_size=576),
    "nlvr2": Recipe(10, 256, 1e-5, 10.0, image_size=288),
    "snli_ve": Recipe(5, 64, 2e-6, 10.0, image_size=384),
    "retrieval": Recipe(10, 512, 5e-6, 5.0, image_size=384),
}
TINY: Final = Recipe(4, 64, 5e-4, 2.0, 2.0)  # for `tiny` on rendered scenes


class FineTuned(nn.Module):
    """The model with a classifier on the pooled pairs of its images; a second image has its own type embedding
    (NLVR2)."""

    def __init__(self, model: ViLTA, images: int, classes: int) -> None:
        super().__init__()
        width = model.text_type.shape[0]
        self.model = model
        self.second_type = nn.Parameter(torch.zeros(width))
        hidden = 2 * width
        self.classifier = nn.Sequential(
            nn.Linear(images * 2 * width, hidden), nn.LayerNorm(hidden), nn.GELU(), nn.Linear(hidden, classes)
        )

    def forward(self, images: list[Tensor], token_ids: Tensor) -> Tensor:
        """The logits [B, C] of captions `token_ids` [B, L].

        `images`: one tensor per image of an example, uint8 [B, 3, H, W] or features [B, N, C].
        """
        states = self.model.encode_text(token_ids)
        pooled = []
        for place, image in enumerate(images):
            features = image if image.is_floating_point() else self.model.image_features(image)
            tokens = self.model.adapt_image(features)
            pooled.append(self.model.fuse(states, tokens + self.second_type if place else tokens, token_ids)[1])
        logits: Tensor = self.classifier(torch.cat(pooled, dim=-1))
        return logits


def finetune(model: ViLTA, tokeniser: Tokeniser, task: str, train: TaskSplit, course: Course) -> FineTuned:
    """Fine-tunes the model on `train`, resuming from the course's checkpoint if there is one.

    The loss is cross-entropy; for VQA, the sum of every answer's binary cross-entropy. `Answers` scores the result.
    """
    device = course.device
    torch.manual_seed(key("classifier", course.seed, task))
    tuned = FineTuned(model, train.rows.shape[1], len(train.classes)).to(device)
    token_ids = tokeniser.encode(train.texts)

    def loss(rows: np.ndarray, step: int, part: slice) -> Tensor:
        part_rows = rows[part]
        ids = torch.from_numpy(tokeniser.vocabulary.trim(token_ids[part_rows])).to(device)
        logits = tuned(read_images(train, part_rows, device), ids).float()
        targets = torch.from_numpy(train.targets.dense(part_rows)).to(device)
        if task == "vqa":
            return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / len(rows)
        return len(part_rows) / len(rows) * F.cross_entropy(logits, targets)

    head = [*tuned.classifier.parameters(), tuned.second_type]
    _train(tuned, model, head, len(train), course, loss)
    return tuned


def finetune_retrieval(model: ViLTA, images: Any, token_ids: np.ndarray, image_of: np.ndarray, course: Course) -> None:
    """Fine-tunes the model for retrieval: the matching head ranks each image's caption above others (METER).

    The loss is cross-entropy over their log odds of a match. `token_ids` int64 [M, L]; `image_of` int64 [M]: each
    caption's row of `images`.
    """
    captions, device = len(image_of), course.device

    def loss(rows: np.ndarray, step: int, part: slice) -> Tensor:
        others = generator("false texts", course.seed, step).integers(1, captions, (len(rows), FALSE_TEXTS))[part]
        part_rows = rows[part]
        texts = np.concatenate([part_rows[:, None], (part_rows[:, None] + others) % captions], axis=1)
        # Another caption of the same image is not a false one.
        same_image = torch.from_numpy(image_of[texts] == image_of[part_rows][:, None]).to(device)
        same_image[:, 0] = False
        ids = torch.from_numpy(trim(token_ids[texts.ravel()], model.pad)).to(device)
        read = torch.from_numpy(np.array(images[image_of[part_rows]])).to(device)
        features = read.float() if read.is_floating_point() else model.image_features(read)
        image = model.adapt_image(features).repeat_interleave(texts.shape[1], dim=0)
        logits = model.itm_logits(model.fuse(model.encode_text(ids), image, ids)[1]).float()
        odds = (logits[:, 1] - logits[:, 0]).view(texts.shape).masked_fill(same_image, -torch.inf)
        labels = torch.zeros(len(part_rows), dtype=torch.long, device=device)
        return len(part_rows) / len(rows) * F.cross_entropy(odds, labels)

    _train(model, model, [*model.itm_head.parameters()], captions, course, loss)


def _train(
    module: nn.Module,
    model: ViLTA,
    head: list[nn.Parameter],
    examples: int,
    course: Course,
    loss: Callable[[np.ndarray, int, slice], Tensor],
) -> None:
    """Trains for the recipe's epochs.

    `loss(rows, step, part)`: the part's share of the mean over `rows`. `module` is trained and saved; `head` are its
    parameters with the highest learning rate.
    """
    encoders = [*model.vision.parameters(), *model.language.parameters()]
    known = {id(parameter) for parameter in (*encoders, *head)}
    fusion = [parameter for parameter in model.parameters() if id(parameter) not in known]
    recipe, hooks, checkpoint, world = course.recipe, course.hooks, course.checkpoint, course.world
    base = recipe.learning_rate
    groups = [(head, base * recipe.head_rate), (fusion, base * recipe.fusion_rate), (encoders, base)]
    order = Order(((examples, 1.0),), recipe.batch_size, course.seed)
    check_parts(order.size, recipe.micro_batches, world)
    state = TrainState(module, adamw(groups, recipe.weight_decay), made_from=course.made_from)
    restore(state, checkpoint, hooks.say)
    call = spread(module, world)
    steps = recipe.epochs * (examples // order.size)

    def learn(step: int) -> list[Losses]:
        module.train()
        if not any(parameter.requires_grad for parameter in model.vision.parameters()):
            model.vision.eval()
        rows = order.at(step)[1]

        def micro_batch(place: int) -> Losses:
            seed_dropout("downstream dropout", course.seed, step, place, world)
            part = world.part(order.size, place, recipe.micro_batches)
            with precision(course.device, course.precision):
                return {"loss": call(lambda _: loss(rows, step, part))}

        return backward(call, [partial(micro_batch, place) for place in range(recipe.micro_batches)], world)

    def keep() -> None:
        save(state, checkpoint, world.rank == 0, hooks.persist)

    saved = every(SAVED_EVERY)
    training = Training(
        steps,
        recipe.warmup,
        learn,
        partial(nn.utils.clip_grad_norm_, list(module.parameters()), 1.0),
        keep,
        due=lambda: world.any(saved(), course.device),
    )
    for _ in fit(state, training, replace(hooks, progress=_counting(hooks, steps)), world):
        pass


def _counting(hooks: Hooks, steps: int) -> Progress:
    """A progress callback that adds the total number of steps."""
    return lambda step, losses: hooks.progress(step, losses | {"steps": float(steps)})


class Answers:
    """The scores of a fine-tuned model on a split.

    `accuracy`: for VQA, the current official one; `accuracy_2017` is the earlier one. `majority`: the accuracy of
    always predicting the most frequent answer. `examples`: their number. `answers`: the number of classes (only VQA).
    """

    def __init__(self, tuned: FineTuned, tokeniser: Tokeniser, task: str, split: TaskSplit, course: Course) -> None:
        tuned.eval()
        self.tuned, self.task, self.split, self.course = tuned, task, split, course
        self.token_ids, self.vocabulary = tokeniser.encode(split.texts), tokeniser.vocabulary
        # Stored answers are valid for exactly these weights and examples.
        weights = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in tuned.classifier.parameters())
        self.digest = hashlib.sha256(weights + split.digest.encode()).hexdigest()[:16]

    def parts(self) -> list[Part]:
        size = min(self.course.recipe.batch_size, ANSWERED)
        starts = range(0, len(self.split), size)
        return [Part(f"{self.digest} from {start}", partial(self._answers, start, start + size)) for start in starts]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        answers = np.concatenate([np.array(part, dtype=np.int64) for part in results.values()])
        most = int(self.split.targets.totals().argmax())
        yield "accuracy", self._accuracy(answers)
        if self.task == "vqa":
            yield "accuracy_2017", self._accuracy(answers, "2017")
            yield "answers", float(len(self.split.classes))
        yield "majority", self._accuracy(np.full_like(answers, most))
        yield "examples", float(len(self.split))

    @torch.no_grad()
    def _answers(self, start: int, end: int) -> PartResult:
        rows = np.arange(start, min(end, len(self.split)))
        ids = torch.from_numpy(self.vocabulary.trim(self.token_ids[rows])).to(self.course.device)
        with precision(self.course.device, self.course.precision):
            return self.tuned(read_images(self.split, rows, self.course.device), ids).argmax(dim=-1).tolist()

    def _accuracy(self, picked: np.ndarray, version: Version = "2021") -> float:
        if self.task == "vqa":
            pairs = zip(picked, self.split.given, strict=True)
            return float(np.mean([vqa_accuracy(self.split.classes[answer], human, version) for answer, human in pairs]))
        return float(np.mean(picked == self.split.targets.dense(np.arange(len(picked))).argmax(axis=1)))


@dataclass(frozen=True)
class TrialEnd:
    """How a trial's model is fine-tuned at the trial's end.

    `seed`: for the classifier and the order of examples. `checkpoint`: that of the trial, next to which the state of
    fine-tuning is stored.
    """

    seed: int
    checkpoint: Path
    hooks: Hooks


class FineTuning:
    """A copy of a trial's model, fine-tuned on a downstream task and scored on its splits.

    The metrics are those of `Answers`, with the prefix `test/` for the test split. The evaluation is a single part,
    which resumes from its own state.
    """

    def __init__(
        self, model: ViLTA, settings: Settings, prepared: Prepared, name: str, task: TaskFiles, end: TrialEnd
    ) -> None:
        self.model, self.settings, self.prepared = model, settings, prepared
        self.name, self.task, self.end = name, task, end

    def parts(self) -> list[Part]:
        return [Part(f"{key('fine-tuning', self.end.seed, self.task.model_dump_json()):016x}", self._tune)]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        for result in results.values():
            yield from result.items()

    def _tune(self) -> PartResult:
        if torch.distributed.is_initialized():
            raise UserError(
                f"`evaluation.suites.{self.name}`: at a trial's end a model is fine-tuned by a single process; leave"
                f" it out and run `wb finetune {self.name} --nproc N` on the finished trials."
            )
        settings, prepared, task, end = self.settings, self.prepared, self.task, self.end
        corpus, checkpoint = prepared.corpus, end.checkpoint.with_suffix(f".{self.name}.pt")
        splits = task_splits(self.name, task, settings, corpus, prepared.features, prepared.cache_dir)
        train = splits.pop("train")
        rates = (task.learning_rate, task.head_rate, task.fusion_rate)
        recipe = Recipe(task.epochs, task.batch_size, *rates)
        course = Course(
            recipe,
            end.seed,
            checkpoint,
            end.hooks,
            prepared.device,
            settings.optimisation.precision,
            ALONE,
            train.digest,
        )
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            copied = new_model(settings, corpus, end.seed)
            copied.load_state_dict(self.model.state_dict())
            copied.to(prepared.device)
            if settings.model.vision.frozen:
                copied.vision.requires_grad_(False)
            tuned = finetune(copied, corpus.tokeniser, self.name, train, course)
        metrics: dict[str, float] = {}
        with torch.no_grad():
            for split, read in splits.items():
                answers = evaluate(Answers(tuned, corpus.tokeniser, self.name, read, course), stop=end.hooks.stop)
                metrics |= {name if split == "val" else f"{split}/{name}": value for name, value in answers.items()}
        remove(checkpoint)
        return metrics


def read_images(split: TaskSplit, rows: np.ndarray, device: torch.device) -> list[Tensor]:
    """The images of the examples `rows`, one tensor per image of an example: uint8 images, or float features."""
    read = [torch.from_numpy(np.array(split.images[split.rows[rows, place]])) for place in range(split.rows.shape[1])]
    return [(part.float() if part.is_floating_point() else part).to(device) for part in read]
