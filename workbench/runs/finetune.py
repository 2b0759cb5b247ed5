"""Fine-tunes a finished run on a downstream task. The score is logged to the run."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from workbench.data.image_check import broken_images
from workbench.distributed import ALONE, World
from workbench.errors import UserError
from workbench.evaluation.downstream.tasks import TaskSplit, of_scenes, published, refuse_part
from workbench.evaluation.downstream.vqa import LEAST
from workbench.metrics import of_first
from workbench.randomness import key
from workbench.runs.evaluate import How, Published, Result, Trained, gallery_of, measure_retrieval
from workbench.stop import cut
from workbench.training.finetune import Answers, Course, Recipe, finetune, finetune_retrieval
from workbench.training.loop import Diverged, Hooks
from workbench.training.parallelize import in_turn
from workbench.training.prepare import pick_device, prepare
from workbench.training.state import remove
from workbench.trial.checkpoints import checkpoint_of, move
from workbench.trial.run import keep_weights
from workbench.workspace import Workspace

ShowWork = Callable[[str, int, int], None]  # (kind of work, number done, total)
SHORTLIST = 128  # candidates per query that ITM ranks


@dataclass(frozen=True)
class Tuning:
    """The options of a fine-tuning. `files`: the task's published files; None for examples from the run's rendered
    scenes (`retrieval`: from the run's own pairs). `seed`: of the classifier and the order of examples. `limit`: use
    only the first `limit` examples of each split; the metrics' names say so. `allow_partial`: score a split even if
    more than 1 % of its examples lack an image."""

    task: str
    recipe: Recipe
    seed: int = 0
    limit: int | None = None
    files: Published | None = None
    allow_partial: bool = False


def finetune_run(
    trained: Trained,
    tuning: Tuning,
    workspace: Path,
    hooks: Hooks,
    show: ShowWork,
    world: World = ALONE,
) -> Result:
    """Fine-tunes a finished run's model on a task and scores it on the task's validation split (retrieval: the run's
    test split), and on its test split where the files include it.

    `show` receives the number of checked images, and then of answered examples. Every process of the world must call
    this; only the first one scores, the others get no metrics. Raises Stopped, after which the same call resumes, and
    UserError where the loss is no longer a number."""
    settings, task, device = trained.settings, tuning.task, pick_device()
    if settings.model.vision.frozen:
        trained.model.vision.requires_grad_(False)
    annotations = tuning.files and tuning.files.annotations
    # The number of micro-batches does not change the result, so a state can be resumed with another number.
    recipe = repr(tuning.recipe).replace(f", micro_batches={tuning.recipe.micro_batches}", "")
    name = f"{key(trained.run_id, task, tuning.seed, recipe, repr(annotations), repr(tuning.limit)):016x}"
    checkpoint = checkpoint_of(workspace, trained.study, f"{task}-{name}")
    if world.rank == 0:
        move(workspace, trained.study, f"{task}-{name}")
    course = Course(tuning.recipe, tuning.seed, checkpoint, hooks, device, settings.optimisation.precision, world)
    how = How(checkpoint.with_suffix(""), hooks.stop, partial(show, "answers"))
    tune = _retrieval if task == "retrieval" else partial(_classified, show=show)
    try:
        result = tune(trained, tuning, workspace, course, how)
    except Diverged as end:
        raise UserError(f"{task}: {end}; try a lower --learning-rate.") from end
    if world.rank == 0:
        keep_weights(checkpoint)
        remove(checkpoint)
        shutil.rmtree(how.home, ignore_errors=True)
    metrics = {of_first(f"downstream/{task}/{name}", tuning.limit): value for name, value in result.metrics.items()}
    return replace(result, metrics=metrics)


def _retrieval(trained: Trained, tuning: Tuning, workspace: Path, course: Course, how: How) -> Result:
    shown = gallery_of(trained, "train", tuning.limit)
    images = shown.images
    if trained.settings.model.vision.frozen and not trained.stores:
        prepared = in_turn(course.world, lambda: prepare(trained.settings, Workspace(workspace).cache, lambda *_: None))
        images = prepared.features["train"]
    finetune_retrieval(trained.model, images, shown.token_ids, shown.image_of, course)
    if course.world.rank > 0:
        return Result({}, 0, {})
    return measure_retrieval(replace(trained, model=trained.model.eval()), tuning.limit, SHORTLIST, how)


def _classified(trained: Trained, tuning: Tuning, workspace: Path, course: Course, how: How, show: ShowWork) -> Result:
    hooks = course.hooks
    with cut(hooks.stop):
        splits = in_turn(course.world, lambda: _task_splits(trained, tuning, workspace, hooks, show))
    tokeniser, train = trained.corpus.tokeniser, splits.pop("train")
    if not tuning.allow_partial:
        # Checked before hours of training.
        for name, split in splits.items():
            refuse_part(f"{tuning.task}'s {name} split", split)
    if tuning.files is not None:
        course = replace(course, made_from=train.digest)
        if tuning.task == "vqa" and course.world.rank == 0:
            hooks.say(f"vqa: {len(train.classes):,} answers, each the most common one of at least {LEAST} questions")
    tuned = finetune(trained.model, tokeniser, tuning.task, train, course)
    missing = {f"train {id}": why for id, why in train.missing.items()}
    missing |= {f"{name} {id}": why for name, split in splits.items() for id, why in split.missing.items()}
    metrics: dict[str, float] = {}
    if course.world.rank > 0:
        return Result(metrics, 0, missing)
    for name, split in splits.items():
        if len(split):
            answers = Answers(tuned, tokeniser, tuning.task, split, course)
            scores = how.measure(trained, answers, how.kept(f"answers-{name}"))
            scores["missing"] = float(split.imageless)
            metrics |= {metric if name == "val" else f"{name}/{metric}": value for metric, value in scores.items()}
    return Result(metrics, len(splits["val"]), missing)


def _task_splits(
    trained: Trained, tuning: Tuning, workspace: Path, hooks: Hooks, show: ShowWork
) -> dict[str, TaskSplit]:
    task, limit, files, cache = tuning.task, tuning.limit, tuning.files, Workspace(workspace).cache
    if files is not None:
        side = trained.settings.data.image_size
        check = partial(broken_images, cache=cache, show=partial(show, "images"), stop=hooks.stop)
        return published(task, files.annotations, files.images, side, trained.fit, limit, check)
    prepared = prepare(trained.settings, cache, lambda *_: None)
    splits = {}
    for split in ("train", "val"):
        pairs = getattr(prepared.corpus, split)
        splits[split] = of_scenes(task, pairs, prepared.features[split] if prepared.features else pairs.images, limit)
    return splits
