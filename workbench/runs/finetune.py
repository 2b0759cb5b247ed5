"""A finished run, fine-tuned on a downstream task; the score lands in the run."""

from dataclasses import dataclass, replace
from pathlib import Path

from workbench.evaluation.downstream.tasks import TaskSplit, of_scenes, published
from workbench.randomness import key
from workbench.runs.evaluate import Published, Result, Trained, evaluate_retrieval, gallery
from workbench.training.finetune import Course, Recipe, finetune, finetune_retrieval
from workbench.training.loop import Hooks
from workbench.training.prepare import pick_device, prepare
from workbench.training.state import remove
from workbench.trial.run import keep_weights

SHORTLIST = 128  # candidates of each query that ITM ranks


@dataclass(frozen=True)
class Tuning:
    """What is asked for. `files`: the task's, None for what the facts of the run's rendered scenes give (`retrieval`:
    the run's own pairs); `seed`: of classifier and order; `limit`: at most so many examples of each split."""

    task: str
    recipe: Recipe
    seed: int = 0
    limit: int | None = None
    files: Published | None = None


def finetune_run(trained: Trained, tuning: Tuning, workspace: Path, hooks: Hooks) -> Result:
    """Fine-tunes a finished run's model on a task and scores it on the task's validation split (retrieval: the run's
    test split).

    Goes on where the same call was stopped. Raises Stopped.
    """
    settings, task, limit = trained.settings, tuning.task, tuning.limit
    if settings.model.vision.frozen:
        trained.model.vision.requires_grad_(False)
    annotations = tuning.files and tuning.files.annotations
    name = f"{key(trained.run_id, task, tuning.seed, repr(tuning.recipe), repr(annotations), repr(limit)):016x}"
    checkpoint = workspace / "checkpoints" / f"{task}-{name}.pt"
    course = Course(tuning.recipe, tuning.seed, checkpoint, hooks, pick_device(), settings.optimisation.precision)
    missing: dict[str, str] = {}
    if task == "retrieval":
        shown = gallery(trained, "train", limit)
        pictures = shown.pictures
        if settings.model.vision.frozen and not trained.stores:
            pictures = prepare(settings, workspace / "cache", lambda *_: None).features["train"]
        finetune_retrieval(trained.model, pictures, shown.token_ids, shown.picture_of, course)
        found = evaluate_retrieval(replace(trained, model=trained.model.eval()), limit, SHORTLIST, lambda *_: None)
        made = {name.removeprefix("retrieval/"): value for name, value in found.metrics.items()}
        examples = found.examples
    else:
        splits = _task_splits(trained, tuning, workspace)
        made = finetune(trained.model, trained.corpus.tokeniser, task, splits["train"], splits["val"], course)
        missing, examples = splits["train"].missing | splits["val"].missing, len(splits["val"])
    keep_weights(checkpoint)
    remove(checkpoint)
    return Result({f"downstream/{task}/{n}": v for n, v in made.items()}, examples, missing)


def _task_splits(trained: Trained, tuning: Tuning, workspace: Path) -> dict[str, TaskSplit]:
    task, limit, files = tuning.task, tuning.limit, tuning.files
    if files is not None:
        side = trained.settings.data.image_size
        return published(task, files.annotations, files.images, side, trained.fit, limit)
    prepared = prepare(trained.settings, workspace / "cache", lambda *_: None)
    splits = {}
    for split in ("train", "val"):
        pairs = getattr(prepared.corpus, split)
        splits[split] = of_scenes(task, pairs, prepared.features[split] if prepared.features else pairs.images, limit)
    return splits
