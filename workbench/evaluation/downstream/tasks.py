"""Downstream tasks in a common form: images, a text, and a target over classes.

They are read from the published files, or generated from the facts of rendered scenes, so that every code path runs
without a download.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from workbench.data.corpus import Pairs
from workbench.data.image_check import Check, broken_images
from workbench.data.image_files import ImageFolders
from workbench.data.images import BrokenImage, Fit, decode
from workbench.data.lexicon import COLOURS, KINDS
from workbench.errors import UserError
from workbench.evaluation.coverage import WHOLE
from workbench.evaluation.downstream.files import ENTAILMENT, TRUTH, Examples, Names, read_task
from workbench.evaluation.downstream.targets import Targets
from workbench.randomness import generator

TASKS: Final = ("vqa", "nlvr2", "snli_ve")


@dataclass(frozen=True)
class TaskSplit:
    """A split of a task with its images.

    `rows` int64 [N, P]: the images of each example (P = 2 for NLVR2), as rows of `images`. `targets` [N, C] over
    `classes`. `given`: the human answers (VQA). `missing`: examples left out, and the reason; `imageless` is the number
    of those that lack an image. `ids`: the examples' names in the published file.
    """

    images: Any
    rows: np.ndarray
    texts: list[str]
    targets: Targets
    classes: list[str]
    given: list[list[str]]
    missing: dict[str, str]
    ids: list[str]
    imageless: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def digest(self) -> str:
        """A hash of the list of examples: their names, texts and targets."""
        sha = hashlib.sha256(json.dumps([self.classes, self.ids, self.texts]).encode())
        for part in (self.targets.starts, self.targets.columns, self.targets.values):
            sha.update(part.tobytes())
        return sha.hexdigest()[:16]


class ImageFiles:
    """Image files that are decoded on each access: `files[rows]` is uint8 [n, 3, side, side]."""

    def __init__(self, paths: Sequence[Path], side: int, fit: Fit) -> None:
        self.paths, self.side, self.fit = list(paths), side, fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        decoded = []
        for row in np.atleast_1d(rows):
            try:
                decoded.append(decode(self.paths[int(row)], self.side, self.fit))
            except BrokenImage as error:
                raise UserError(f"{self.paths[int(row)]}: {error}; remove its examples or replace it.") from error
        return np.stack(decoded)


def published(
    task: str,
    annotations: Path,
    images: Sequence[Path],
    side: int,
    fit: Fit,
    limit: int | None,
    check: Check = broken_images,
) -> dict[str, TaskSplit]:
    """The task's train and val splits, and its test split if the file is present.

    The images may be in any of the folders `images`. Examples with an image that is missing, or that `check` reports as
    broken, are left out. Raises UserError if a file is missing or not as published, or if no image of train or val can
    be read.
    """
    folders = ImageFolders.of(images)
    read = read_task(task, annotations, limit)
    images_of_all = dict.fromkeys(
        names for examples in read.splits.values() for names_of_example in examples.images for names in names_of_example
    )
    path_of = {names: folders.find(*names) for names in images_of_all}
    broken = check(path_of.values())
    files = {names: path for names, path in path_of.items() if path not in broken}
    reasons = {names: broken[path] for names, path in path_of.items() if path in broken}
    splits = {}
    for split, examples in read.splits.items():
        splits[split] = _split(examples, files, reasons, read.classes, side, fit)
        if not len(splits[split]) and split != "test":
            why = next(iter(splits[split].missing.values()), "")
            raise UserError(f"--images: none of the {len(examples)} examples has its images ({why}).")
    return splits


def refuse_part(what: str, split: TaskSplit) -> None:
    """Raises UserError if too many examples lack an image for a score to be valid for the whole split."""
    total = len(split) + split.imageless
    if len(split) and len(split) < WHOLE * total:
        id, why = next(reversed(split.missing.items()))
        raise UserError(
            f"--images: {what} has readable images for {len(split):,} of its {total:,} examples (without: {id}, {why});"
            " provide the rest, or score this part with --allow-partial."
        )


def _split(
    examples: Examples,
    files: Mapping[Names, Path],
    reasons: Mapping[Names, str],
    classes: list[str],
    side: int,
    fit: Fit,
) -> TaskSplit:
    """The examples whose images are all among the `files`; `reasons` says why the other images cannot be read."""
    faults = [next((reasons[image] for image in images if image in reasons), "") for images in examples.images]
    kept = [place for place, fault in enumerate(faults) if not fault]
    shown = [examples.images[place] for place in kept]
    row_of = {image: row for row, image in enumerate(dict.fromkeys(image for images in shown for image in images))}
    left_out = {name: fault for name, fault in zip(examples.ids, faults, strict=True) if fault}
    return TaskSplit(
        ImageFiles([files[image] for image in row_of], side, fit),
        np.array([[row_of[image] for image in images] for images in shown], np.int64),
        [examples.texts[place] for place in kept],
        examples.targets.take(np.array(kept, np.int64)),
        classes,
        [examples.given[place] for place in kept],
        examples.left_out | left_out,
        [examples.ids[place] for place in kept],
        len(left_out),
    )


def of_scenes(task: str, pairs: Pairs, images: Any, limit: int | None) -> TaskSplit:
    """The task on rendered scenes, keyed by the image's row.

    `vqa`: questions about colour, kind and number, with their answers. `nlvr2`: a true or false sentence about two
    images. `snli_ve`: a caption that the image entails, contradicts, or leaves open.
    """
    if pairs.scene is None:
        raise UserError(f"`{task}` without --annotations uses scenes: it needs a run with `data.source: scenes`.")
    examples: list[tuple[list[int], str, str]] = []
    for row in range(min(len(pairs), limit or len(pairs))):
        examples.append(SCENE_TASKS[task](pairs, row, generator("downstream", task, row)))
    classes = {
        "vqa": sorted(COLOURS) + sorted(KINDS) + ["2", "3"],
        "nlvr2": list(TRUTH),
        "snli_ve": list(ENTAILMENT),
    }[task]
    column = {name: number for number, name in enumerate(classes)}
    targets = Targets.of(([(column[answer], 1.0)] for _, _, answer in examples), len(classes))
    human_answers = [[answer] * 10 for _, _, answer in examples]
    rows = np.array([rows for rows, _, _ in examples])
    texts, ids = [text for _, text, _ in examples], [str(row) for row in range(len(examples))]
    return TaskSplit(images, rows, texts, targets, classes, human_answers, {}, ids)


def _scene_vqa(pairs: Pairs, row: int, rng: np.random.Generator) -> tuple[list[int], str, str]:
    assert pairs.scene is not None
    things = pairs.scene(row).things
    thing = things[int(rng.integers(len(things)))]
    same_kind = sum(other.kind == thing.kind for other in things) == 1
    same_colour = sum(other.colour == thing.colour for other in things) == 1
    choice = int(rng.integers(3))
    if choice == 0 and same_kind:
        return [row], f"what colour is the {KINDS[thing.kind][1][0]}", thing.colour
    if choice == 1 and same_colour:
        return [row], f"what is {COLOURS[thing.colour][1][0]}", thing.kind
    return [row], "how many things are there", str(len(things))


def _scene_nlvr2(pairs: Pairs, row: int, rng: np.random.Generator) -> tuple[list[int], str, str]:
    """A sentence such as `both pictures show a red thing`, about both images or one; half of the sentences are true."""
    assert pairs.scene is not None
    other = (row + 1 + int(rng.integers(len(pairs) - 1))) % len(pairs)
    colours = [{thing.colour for thing in pairs.scene(place).things} for place in (row, other)]
    wanted, both = bool(rng.integers(2)), bool(rng.integers(2))
    order = [str(colour) for colour in rng.permutation(sorted(COLOURS))]

    def holds(colour: str) -> bool:
        present = [colour in seen for seen in colours]
        return all(present) if both else any(present)

    colour = next((colour for colour in order if holds(colour) == wanted), order[0])
    text = f"{'both pictures show' if both else 'one picture shows'} a {COLOURS[colour][1][0]} thing"
    return [row, other], text, str(holds(colour))


def _scene_snli_ve(pairs: Pairs, row: int, rng: np.random.Generator) -> tuple[list[int], str, str]:
    """A hypothesis with its label.

    It names an object of the image (entailment), one in another colour (contradiction), or how many such objects were
    made, which no image shows (neutral).
    """
    assert pairs.scene is not None
    things = pairs.scene(row).things
    thing = things[int(rng.integers(len(things)))]
    label = ENTAILMENT[int(rng.integers(3))]
    name, colour = KINDS[thing.kind][1][0], COLOURS[thing.colour][1][0]
    if label == "contradiction":
        taken = {other.colour for other in things if other.kind == thing.kind}
        free = [word for word in sorted(COLOURS) if word not in taken]
        colour = COLOURS[free[int(rng.integers(len(free)))]][1][0]
    if label == "neutral":
        return [row], f"the {colour} {name} is one of {int(rng.integers(4, 9))} that were made", label
    return [row], f"there is a {colour} {name}", label


SCENE_TASKS: Final = {"vqa": _scene_vqa, "nlvr2": _scene_nlvr2, "snli_ve": _scene_snli_ve}
