"""Downstream tasks as one form: images, a text, and a target over classes. Read from the published files, or made of
the facts of rendered scenes, so that every path can be run without a download."""

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
    """`rows` int64 [N, P]: the images of each example (P = 2 for NLVR2), rows of `images`. `targets` [N, C] over
    `classes`. `given`: the people's answers (VQA). `missing`: examples left out, and why; `imageless` of them for want
    of an image. `ids`: the examples' names in the published file."""

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
        """Tells the list of examples from any other: what they are called, what they ask, and what is right."""
        sha = hashlib.sha256(json.dumps([self.classes, self.ids, self.texts]).encode())
        for part in (self.targets.starts, self.targets.columns, self.targets.values):
            sha.update(part.tobytes())
        return sha.hexdigest()[:16]


class ImageFiles:
    """Image files, decoded whenever they are read: `files[rows]` is uint8 [n, 3, side, side]."""

    def __init__(self, paths: Sequence[Path], side: int, fit: Fit) -> None:
        self.paths, self.side, self.fit = list(paths), side, fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        made = []
        for row in np.atleast_1d(rows):
            try:
                made.append(decode(self.paths[int(row)], self.side, self.fit))
            except BrokenImage as error:
                raise UserError(f"{self.paths[int(row)]}: {error}; remove its examples or replace it.") from error
        return np.stack(made)


def published(
    task: str,
    annotations: Path,
    images: Sequence[Path],
    side: int,
    fit: Fit,
    limit: int | None,
    check: Check = broken_images,
) -> dict[str, TaskSplit]:
    """The task's train and val splits, and its test split where the file is there. The images lie below any of the
    folders `images`; examples with one that is missing, or that `check` finds broken, are left out.

    Raises UserError where a file is missing or not as published, or no image of train or val can be read.
    """
    folders = ImageFolders.of(images)
    read = read_task(task, annotations, limit)
    names = dict.fromkeys(one for examples in read.splits.values() for each in examples.images for one in each)
    place_of = {each: folders.find(*each) for each in names}
    broken = check(place_of.values())
    files = {each: path for each, path in place_of.items() if path not in broken}
    reasons = {each: broken[path] for each, path in place_of.items() if path in broken}
    made = {}
    for split, examples in read.splits.items():
        made[split] = _split(examples, files, reasons, read.classes, side, fit)
        if not len(made[split]) and split != "test":
            why = next(iter(made[split].missing.values()), "")
            raise UserError(f"--images: none of the {len(examples)} examples has its images ({why}).")
    return made


def refuse_part(what: str, split: TaskSplit) -> None:
    """Raises UserError where a score would be of too few examples to stand for the split's."""
    total = len(split) + split.imageless
    if len(split) and len(split) < WHOLE * total:
        id, why = next(reversed(split.missing.items()))
        raise UserError(
            f"--images: {what} has whole images for {len(split):,} of its {total:,} examples (without: {id}, {why});"
            " give the rest, or score this part with --allow-partial."
        )


def _split(
    examples: Examples,
    files: Mapping[Names, Path],
    reasons: Mapping[Names, str],
    classes: list[str],
    side: int,
    fit: Fit,
) -> TaskSplit:
    """The examples whose images are all among the `files`; `reasons` tell of the others."""
    faults = [next((reasons[one] for one in each if one in reasons), "") for each in examples.images]
    kept = [place for place, fault in enumerate(faults) if not fault]
    shown = [examples.images[place] for place in kept]
    row_of = {one: row for row, one in enumerate(dict.fromkeys(one for each in shown for one in each))}
    left_out = {name: fault for name, fault in zip(examples.ids, faults, strict=True) if fault}
    return TaskSplit(
        ImageFiles([files[one] for one in row_of], side, fit),
        np.array([[row_of[one] for one in each] for each in shown], np.int64),
        [examples.texts[place] for place in kept],
        examples.targets.take(np.array(kept, np.int64)),
        classes,
        [examples.given[place] for place in kept],
        examples.left_out | left_out,
        [examples.ids[place] for place in kept],
        len(left_out),
    )


def of_scenes(task: str, pairs: Pairs, images: Any, limit: int | None) -> TaskSplit:
    """The task on rendered scenes: questions about colour, kind and number with their answers (`vqa`), a true or false
    sentence about two images (`nlvr2`), a caption that follows, does not, or may (`snli_ve`). Keyed by the image's
    row."""
    if pairs.scene is None:
        raise UserError(f"`{task}` without --annotations is made of facts: it needs a run with `data.source: scenes`.")
    made: list[tuple[list[int], str, str]] = []
    for row in range(min(len(pairs), limit or len(pairs))):
        made.append(SCENE_TASKS[task](pairs, row, generator("downstream", task, row)))
    classes = {
        "vqa": sorted(COLOURS) + sorted(KINDS) + ["2", "3"],
        "nlvr2": list(TRUTH),
        "snli_ve": list(ENTAILMENT),
    }[task]
    column = {name: number for number, name in enumerate(classes)}
    targets = Targets.of(([(column[answer], 1.0)] for _, _, answer in made), len(classes))
    given = [[answer] * 10 for _, _, answer in made]
    rows = np.array([rows for rows, _, _ in made])
    texts, ids = [text for _, text, _ in made], [str(row) for row in range(len(made))]
    return TaskSplit(images, rows, texts, targets, classes, given, {}, ids)


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
    """`both pictures show a red thing`, or one of them; half of the sentences are true."""
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
    """A hypothesis: an object that is there (entailment), one of another colour (contradiction), or one that is `heavy`
    or `light`, which no image tells (neutral)."""
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
