"""Fine-tuning on a downstream task: a classifier on the pooled pair, METER's recipes, the task's own score."""

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
from workbench.evaluation.contract import Made, Part, evaluate
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

FALSE_TEXTS = 15  # captions of others that retrieval ranks beside the true one (METER)
SAVED_EVERY = 60.0  # seconds
ANSWERED = 64  # examples of a part, at most


@dataclass(frozen=True)
class Recipe:
    """`head_rate`: factor on the learning rate of the classifier; the fusion learns five times as fast as the encoders
    (METER)."""

    epochs: int
    batch_size: int
    learning_rate: float
    head_rate: float
    fusion_rate: float = 5.0
    weight_decay: float = 0.01
    warmup: float = 0.1
    image_size: int | None = None  # None: the run's own
    micro_batches: int = (
        1  # into which a batch is cut where it does not fit the memory; changes no result but for rounding
    )


@dataclass(frozen=True)
class Course:
    """How a fine-tuning runs: by which recipe, from which seed, where its state is kept, who hears of it, and on what.
    `made_from` names the examples, so that no state goes on with others."""

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
    """The model with a classifier on the pooled pairs of its images; a second image has a type of its own
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
        """`images`: for each image of an example uint8 [B, 3, H, W] or features [B, N, C]; `token_ids` [B, L] ->
        logits [B, C]."""
        states = self.model.encode_text(token_ids)
        pooled = []
        for place, image in enumerate(images):
            features = image if image.is_floating_point() else self.model.image_features(image)
            tokens = self.model.adapt_image(features)
            pooled.append(self.model.fuse(states, tokens + self.second_type if place else tokens, token_ids)[1])
        made: Tensor = self.classifier(torch.cat(pooled, dim=-1))
        return made


def finetune(model: ViLTA, tokeniser: Tokeniser, task: str, train: TaskSplit, course: Course) -> FineTuned:
    """Trains on `train`, going on from the course's checkpoint where there is one; to be scored by `Answers`.

    VQA: binary cross-entropy of every answer, summed, scored by the official accuracy; else cross-entropy and accuracy.
    """
    device = course.device
    torch.manual_seed(key("classifier", course.seed, task))
    tuned = FineTuned(model, train.rows.shape[1], len(train.classes)).to(device)
    token_ids = tokeniser.encode(train.texts)

    def loss(rows: np.ndarray, step: int, part: slice) -> Tensor:
        own = rows[part]
        logits = tuned(
            read_images(train, own, device), torch.from_numpy(tokeniser.vocabulary.trim(token_ids[own])).to(device)
        ).float()
        wanted = torch.from_numpy(train.targets.dense(own)).to(device)
        if task == "vqa":
            return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(rows)
        return len(own) / len(rows) * F.cross_entropy(logits, wanted)

    head = [*tuned.classifier.parameters(), tuned.second_type]
    _train(tuned, model, head, len(train), course, loss)
    return tuned


def finetune_retrieval(model: ViLTA, images: Any, token_ids: np.ndarray, image_of: np.ndarray, course: Course) -> None:
    """Trains the matching head to rank each image's caption above others (METER): cross-entropy over their log odds
    of a match. `token_ids` int64 [M, L], `image_of` int64 [M] the row of `images` of each caption."""
    captions, device = len(image_of), course.device

    def loss(rows: np.ndarray, step: int, part: slice) -> Tensor:
        others = generator("false texts", course.seed, step).integers(1, captions, (len(rows), FALSE_TEXTS))[part]
        own_rows = rows[part]
        texts = np.concatenate([own_rows[:, None], (own_rows[:, None] + others) % captions], axis=1)
        # Another caption of the same image is no false one.
        own = torch.from_numpy(image_of[texts] == image_of[own_rows][:, None]).to(device)
        own[:, 0] = False
        ids = torch.from_numpy(trim(token_ids[texts.ravel()], model.pad)).to(device)
        read = torch.from_numpy(np.array(images[image_of[own_rows]])).to(device)
        features = read.float() if read.is_floating_point() else model.image_features(read)
        image = model.adapt_image(features).repeat_interleave(texts.shape[1], dim=0)
        logits = model.itm_logits(model.fuse(model.encode_text(ids), image, ids)[1]).float()
        odds = (logits[:, 1] - logits[:, 0]).view(texts.shape).masked_fill(own, -torch.inf)
        wanted = torch.zeros(len(own_rows), dtype=torch.long, device=device)
        return len(own_rows) / len(rows) * F.cross_entropy(odds, wanted)

    _train(model, model, [*model.itm_head.parameters()], captions, course, loss)


def _train(
    module: nn.Module,
    model: ViLTA,
    head: list[nn.Parameter],
    examples: int,
    course: Course,
    loss: Callable[[np.ndarray, int, slice], Tensor],
) -> None:
    """The recipe's epochs over `loss(rows, step, part)`, the part's share of the mean over `rows`; `module` is what is
    trained and saved, `head` what learns fastest of it."""
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
    """Tells also of how many steps."""
    return lambda step, losses: hooks.progress(step, losses | {"steps": float(steps)})


class Answers:
    """What a fine-tuned model answers on a split: `accuracy` (VQA: the official one of today, and beside it
    `accuracy_2017`), and `majority`, what always giving the most frequent answer reaches; `examples` counts them, and
    VQA's `answers` those to choose from."""

    def __init__(self, tuned: FineTuned, tokeniser: Tokeniser, task: str, split: TaskSplit, course: Course) -> None:
        tuned.eval()
        self.tuned, self.task, self.split, self.course = tuned, task, split, course
        self.token_ids, self.vocabulary = tokeniser.encode(split.texts), tokeniser.vocabulary
        # Kept answers are those of these weights to these examples, and no others.
        weights = b"".join(tensor.detach().cpu().numpy().tobytes() for tensor in tuned.classifier.parameters())
        self.digest = hashlib.sha256(weights + split.digest.encode()).hexdigest()[:16]

    def parts(self) -> list[Part]:
        size = min(self.course.recipe.batch_size, ANSWERED)
        starts = range(0, len(self.split), size)
        return [Part(f"{self.digest} from {start}", partial(self._answers, start, start + size)) for start in starts]

    def metrics(self, made: Mapping[str, Made]) -> Iterator[tuple[str, float]]:
        answers = np.concatenate([np.array(part, dtype=np.int64) for part in made.values()])
        most = int(self.split.targets.totals().argmax())
        yield "accuracy", self._accuracy(answers)
        if self.task == "vqa":
            yield "accuracy_2017", self._accuracy(answers, "2017")
            yield "answers", float(len(self.split.classes))
        yield "majority", self._accuracy(np.full_like(answers, most))
        yield "examples", float(len(self.split))

    @torch.no_grad()
    def _answers(self, start: int, end: int) -> Made:
        rows = np.arange(start, min(end, len(self.split)))
        ids = torch.from_numpy(self.vocabulary.trim(self.token_ids[rows])).to(self.course.device)
        with precision(self.course.device, self.course.precision):
            return self.tuned(read_images(self.split, rows, self.course.device), ids).argmax(dim=-1).tolist()

    def _accuracy(self, picked: np.ndarray, version: Version = "2021") -> float:
        if self.task == "vqa":
            pairs = zip(picked, self.split.given, strict=True)
            return float(np.mean([vqa_accuracy(self.split.classes[answer], given, version) for answer, given in pairs]))
        return float(np.mean(picked == self.split.targets.dense(np.arange(len(picked))).argmax(axis=1)))


@dataclass(frozen=True)
class TrialEnd:
    """How a trial's model is fine-tuned at the trial's end: the `seed` of classifier and order, the trial's
    `checkpoint`, beside which the state of fine-tuning is kept, and who hears of it."""

    seed: int
    checkpoint: Path
    hooks: Hooks


class FineTuning:
    """A copy of a trial's model, fine-tuned on a downstream task and scored on its splits; metrics as those of
    `Answers`, those of the test split as `test/<name>`. All of it is one part, which goes on from its own state."""

    def __init__(
        self, model: ViLTA, settings: Settings, prepared: Prepared, name: str, task: TaskFiles, end: TrialEnd
    ) -> None:
        self.model, self.settings, self.prepared = model, settings, prepared
        self.name, self.task, self.end = name, task, end

    def parts(self) -> list[Part]:
        return [Part(f"{key('fine-tuning', self.end.seed, self.task.model_dump_json()):016x}", self._tune)]

    def metrics(self, made: Mapping[str, Made]) -> Iterator[tuple[str, float]]:
        for given in made.values():
            yield from given.items()

    def _tune(self) -> Made:
        if torch.distributed.is_initialized():
            raise UserError(
                f"`evaluation.suites.{self.name}`: a model is fine-tuned at a trial's end by one process alone; leave"
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
        made: dict[str, float] = {}
        with torch.no_grad():
            for split, read in splits.items():
                answers = evaluate(Answers(tuned, corpus.tokeniser, self.name, read, course), stop=end.hooks.stop)
                made |= {name if split == "val" else f"{split}/{name}": value for name, value in answers.items()}
        remove(checkpoint)
        return made


def read_images(split: TaskSplit, rows: np.ndarray, device: torch.device) -> list[Tensor]:
    read = [torch.from_numpy(np.array(split.images[split.rows[rows, place]])) for place in range(split.rows.shape[1])]
    return [(part.float() if part.is_floating_point() else part).to(device) for part in read]
