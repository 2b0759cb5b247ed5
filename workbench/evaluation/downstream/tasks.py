"""Downstream tasks as one form: pictures, a text, and a target over classes. Read from the published files, or made of the facts of
rendered scenes, so that every path can be run without a download."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from workbench.data.corpus import Pairs
from workbench.data.lexicon import COLOURS, KINDS
from workbench.data.pictures import BrokenPicture, Fit, decode
from workbench.errors import UserError, first_line
from workbench.evaluation.downstream.vqa import answer_vocabulary, soft_scores
from workbench.randomness import generator

TASKS: Final = ("vqa", "nlvr2", "snli_ve")
ENTAILMENT: Final = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class TaskSplit:
    """`rows` int64 [N, P]: the pictures of each example (P = 2 for NLVR2), rows of `pictures`. `targets` float32 [N, C] over
    `classes`. `given`: the people's answers (VQA). `missing`: examples left out, and why."""

    pictures: Any
    rows: np.ndarray
    texts: list[str]
    targets: np.ndarray
    classes: list[str]
    given: list[list[str]]
    missing: dict[str, str]

    def __len__(self) -> int:
        return len(self.texts)


class PictureFiles:
    """Picture files, decoded whenever they are read: `files[rows]` is uint8 [n, 3, side, side]."""

    def __init__(self, paths: Sequence[Path], side: int, fit: Fit) -> None:
        self.paths, self.side, self.fit = list(paths), side, fit

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        made = []
        for row in np.atleast_1d(rows):
            try:
                made.append(decode(self.paths[int(row)], self.side, self.fit))
            except BrokenPicture as error:
                raise UserError(f"{self.paths[int(row)]}: {error}; remove its examples or replace it.") from error
        return np.stack(made)


@dataclass(frozen=True)
class Found:
    """An example of a published file."""

    id: str
    pictures: tuple[Path, ...]
    text: str
    target: dict[str, float]
    given: tuple[str, ...] = ()


def published(
    task: str, annotations: Path, images: Path, side: int, fit: Fit, limit: int | None
) -> dict[str, TaskSplit]:
    """The task's train and val splits. Raises UserError where a file is missing or not as published."""
    for option, folder in (("--annotations", annotations), ("--images", images)):
        if not folder.is_dir():
            raise UserError(f"{option}: there is no folder {folder}.")
    try:
        found = {split: READERS[task](annotations, images, split) for split in ("train", "val")}
    except FileNotFoundError as error:
        raise UserError(f"--annotations {annotations}: {error.filename} is missing; {task} needs it.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{annotations}: a file is not {task}'s as published ({first_line(error)}).") from error
    if task == "vqa":
        common = answer_vocabulary(max(e.target, key=e.target.__getitem__) for e in found["train"])
        if not common:
            raise UserError(f"--annotations {annotations}: too few answers; none occurs nine times.")
    classes = {"vqa": common if task == "vqa" else [], "nlvr2": ["False", "True"], "snli_ve": list(ENTAILMENT)}[task]
    return {split: _split(examples[: limit or None], classes, side, fit) for split, examples in found.items()}


def _split(examples: Sequence[Found], classes: list[str], side: int, fit: Fit) -> TaskSplit:
    missing = {e.id: f"{picture} is missing" for e in examples for picture in e.pictures if not picture.exists()}
    kept = [e for e in examples if e.id not in missing]
    if not kept:
        raise UserError(
            f"--images: none of the {len(examples)} examples has its pictures ({next(iter(missing.values()), '')})."
        )
    files = sorted({picture for e in kept for picture in e.pictures})
    place = {picture: number for number, picture in enumerate(files)}
    column = {name: number for number, name in enumerate(classes)}
    targets = np.zeros((len(kept), len(classes)), np.float32)
    for row, example in enumerate(kept):
        for answer, score in example.target.items():
            if answer in column:
                targets[row, column[answer]] = score
    rows = np.array([[place[picture] for picture in e.pictures] for e in kept])
    return TaskSplit(
        PictureFiles(files, side, fit),
        rows,
        [e.text for e in kept],
        targets,
        classes,
        [list(e.given) for e in kept],
        missing,
    )


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    return (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip())


def _vqa(annotations: Path, images: Path, split: str) -> list[Found]:
    """VQAv2: `v2_OpenEnded_mscoco_<split>2014_questions.json`, `v2_mscoco_<split>2014_annotations.json`."""
    asked = json.loads((annotations / f"v2_OpenEnded_mscoco_{split}2014_questions.json").read_text(encoding="utf-8"))
    told = json.loads((annotations / f"v2_mscoco_{split}2014_annotations.json").read_text(encoding="utf-8"))
    questions = {item["question_id"]: item["question"] for item in asked["questions"]}
    made = []
    for item in told["annotations"]:
        name = f"COCO_{split}2014_{item['image_id']:012d}.jpg"
        nested = images / f"{split}2014" / name
        given = tuple(answer["answer"] for answer in item["answers"])
        picture = nested if nested.exists() else images / name
        made.append(
            Found(str(item["question_id"]), (picture,), questions[item["question_id"]], soft_scores(given), given)
        )
    return made


def _nlvr2(annotations: Path, images: Path, split: str) -> list[Found]:
    """NLVR2: `train.json`, `dev.json`, a JSON object a line; pictures `<split>-<set>-<k>-img0.png` and `-img1.png`."""
    name = {"train": "train", "val": "dev"}[split]
    made = []
    for item in _lines(annotations / f"{name}.json"):
        stem = item["identifier"].rsplit("-", 1)[0]
        folder = images / "images" / name / str(item["directory"]) if "directory" in item else images / name
        pair = [f"{stem}-img{k}.png" for k in (0, 1)]
        places = tuple(
            next((p for p in (folder / one, images / name / one, images / one) if p.exists()), images / one)
            for one in pair
        )
        made.append(Found(item["identifier"], places, item["sentence"], {str(item["label"]): 1.0}))
    return made


def _snli_ve(annotations: Path, images: Path, split: str) -> list[Found]:
    """SNLI-VE: `snli_ve_train.jsonl`, `snli_ve_dev.jsonl`; pictures of Flickr30K."""
    name = {"train": "train", "val": "dev"}[split]
    return [
        Found(
            str(item["pairID"]), (images / f"{item['Flickr30K_ID']}.jpg",), item["sentence2"], {item["gold_label"]: 1.0}
        )
        for item in _lines(annotations / f"snli_ve_{name}.jsonl")
        if item["gold_label"] in ENTAILMENT
    ]


READERS: Final[dict[str, Callable[[Path, Path, str], list[Found]]]] = {
    "vqa": _vqa,
    "nlvr2": _nlvr2,
    "snli_ve": _snli_ve,
}


def of_scenes(task: str, pairs: Pairs, pictures: Any, limit: int | None) -> TaskSplit:
    """The task on rendered scenes: questions about colour, kind and number with their answers (`vqa`), a true or false sentence
    about two pictures (`nlvr2`), a caption that follows, does not, or may (`snli_ve`). Keyed by the picture's row."""
    if pairs.scene is None:
        raise UserError(f"`{task}` without --annotations is made of facts: it needs a run with `data.source: scenes`.")
    made: list[tuple[list[int], str, str]] = []
    for row in range(min(len(pairs), limit or len(pairs))):
        made.append(SCENE_TASKS[task](pairs, row, generator("downstream", task, row)))
    classes = {
        "vqa": sorted(COLOURS) + sorted(KINDS) + ["2", "3"],
        "nlvr2": ["False", "True"],
        "snli_ve": list(ENTAILMENT),
    }[task]
    column = {name: number for number, name in enumerate(classes)}
    targets = np.zeros((len(made), len(classes)), np.float32)
    targets[np.arange(len(made)), [column[answer] for _, _, answer in made]] = 1.0
    given = [[answer] * 10 for _, _, answer in made]
    rows = np.array([rows for rows, _, _ in made])
    return TaskSplit(pictures, rows, [text for _, text, _ in made], targets, classes, given, {})


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
    """A hypothesis: an object that is there (entailment), one of another colour (contradiction), or one that is `heavy` or `light`,
    which no picture tells (neutral)."""
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
