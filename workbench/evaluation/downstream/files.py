"""Readers of the published files of the downstream tasks, without their images."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from workbench.errors import UserError, first_line
from workbench.evaluation.downstream.targets import Targets
from workbench.evaluation.downstream.vqa import LEAST, SCORES, answer_vocabulary, plain

ENTAILMENT: Final = ("entailment", "neutral", "contradiction")
TRUTH: Final = ("False", "True")
UNDECIDED: Final = "-"
# Task -> split -> its files. VQAv2's test splits have no public answers. The other test splits are optional.
FILES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "vqa": {
        split: (f"v2_OpenEnded_mscoco_{split}2014_questions.json", f"v2_mscoco_{split}2014_annotations.json")
        for split in ("train", "val")
    },
    "nlvr2": {"train": ("train.json",), "val": ("dev.json",), "test": ("test1.json",)},
    "snli_ve": {"train": ("snli_ve_train.jsonl",), "val": ("snli_ve_dev.jsonl",), "test": ("snli_ve_test.jsonl",)},
}
Names = tuple[str, ...]  # possible paths of an image, for `ImageFolders.find`


@dataclass(frozen=True)
class Examples:
    """A split, before its images are looked for.

    `images`: the images of each example. `given`: the human answers (only VQA). `left_out`: examples without a target,
    and the reason.
    """

    ids: list[str]
    images: list[tuple[Names, ...]]
    texts: list[str]
    targets: Targets
    given: list[list[str]]
    left_out: dict[str, str]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Task:
    classes: list[str]
    splits: dict[str, Examples]


def read_task(task: str, folder: Path, limit: int | None) -> Task:
    """The task's train and val splits, and its test split if present, with at most `limit` examples each.

    VQA's classes are the answers that are the most common one of at least nine questions of train and val, regardless
    of the limit, as in METER. The last result is cached for the next trial. Raises UserError if a file is missing or
    not as published.
    """
    if not folder.is_dir():
        raise UserError(f"--annotations: there is no folder {folder}.")
    try:
        return _read(task, folder, limit, tuple(_versions(task, folder)))
    except FileNotFoundError as error:
        raise UserError(f"--annotations {folder}: {error.filename} is missing; {task} needs it.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: a file is not in {task}'s published format ({first_line(error)}).") from error


def _versions(task: str, folder: Path) -> Iterator[tuple[str, Path, int, int]]:
    """(split, path, size, modification time in ns) of each file."""
    for split, names in FILES[task].items():
        for path in (folder / name for name in names):
            if split != "test" or path.exists():
                facts = path.stat()
                yield split, path, facts.st_size, facts.st_mtime_ns


@lru_cache(1)
def _read(task: str, folder: Path, limit: int | None, versions: tuple[tuple[str, Path, int, int], ...]) -> Task:
    splits = dict.fromkeys(split for split, *_ in versions)
    if task == "vqa":
        return _vqa(folder, splits, limit)
    read, classes = (_nlvr2, TRUTH) if task == "nlvr2" else (_snli_ve, ENTAILMENT)
    return Task(list(classes), {split: read(folder / FILES[task][split][0], limit) for split in splits})


@dataclass(frozen=True)
class Questions:
    """VQAv2's questions of a split, up to the limit; `common`: the most common answer of all its questions."""

    ids: list[str]
    images: list[tuple[Names, ...]]
    texts: list[str]
    given: list[list[str]]
    common: list[str]


def _vqa(folder: Path, splits: Iterable[str], limit: int | None) -> Task:
    """VQAv2, with soft targets over the answer vocabulary."""
    read = {split: _questions(folder, split, limit) for split in splits}
    classes = answer_vocabulary(answer for questions in read.values() for answer in questions.common)
    if not classes:
        raise UserError(f"--annotations {folder}: too few answers; none is the most common one of {LEAST} questions.")
    examples = {
        split: Examples(q.ids, q.images, q.texts, soft_targets(q.given, classes), q.given, {})
        for split, q in read.items()
    }
    return Task(classes, examples)


def soft_targets(human_answers: Sequence[Sequence[str]], classes: Sequence[str]) -> Targets:
    """The soft targets of questions: an answer scores 0, .3, .6, .9 or 1 by how many of ten people gave it (Anderson et
    al. 2018, METER).

    Answers that are not among the classes have no target.
    """
    column = {answer: place for place, answer in enumerate(classes)}
    column_of = {text: column.get(plain(text), -1) for text in {text for answers in human_answers for text in answers}}
    columns = np.array([column_of[text] for answers in human_answers for text in answers], np.int64)
    rows = np.repeat(np.arange(len(human_answers)), np.array([len(answers) for answers in human_answers], np.int64))
    known = columns >= 0
    places, counts = np.unique(rows[known] * len(classes) + columns[known], return_counts=True)
    starts = np.searchsorted(places, np.arange(len(human_answers) + 1) * len(classes))
    values = np.array(SCORES, np.float32)[np.minimum(counts, len(SCORES) - 1)]
    return Targets(starts, (places % len(classes)).astype(np.int32), values, len(classes))


def _questions(folder: Path, split: str, limit: int | None) -> Questions:
    question_file, answer_file = (folder / name for name in FILES["vqa"][split])
    known: dict[str, str] = {}

    def lean(item: dict[str, Any]) -> Any:
        """A human answer as its text alone, with equal texts shared; complete answers would fill gigabytes."""
        return known.setdefault(item["answer"], item["answer"]) if "answer" in item else item

    @cache
    def image(number: int) -> tuple[Names, ...]:
        return ((f"{split}2014/COCO_{split}2014_{number:012d}.jpg",),)

    annotations = json.loads(answer_file.read_text(encoding="utf-8"), object_hook=lean)["annotations"]
    questions = {
        item["question_id"]: item["question"]
        for item in json.loads(question_file.read_text(encoding="utf-8"))["questions"]
    }
    chosen = annotations[: limit or None]
    return Questions(
        [str(item["question_id"]) for item in chosen],
        [image(item["image_id"]) for item in chosen],
        [questions[item["question_id"]] for item in chosen],
        [item["answers"] for item in chosen],
        [item["multiple_choice_answer"] for item in annotations],
    )


def _nlvr2(file: Path, limit: int | None) -> Examples:
    """NLVR2, one JSON object per line. Its images are `<split>-<set>-<k>-img0.png` and `-img1.png`."""
    lines = list(islice(_lines(file), limit or None))
    images: list[tuple[Names, ...]] = []
    for item in lines:
        stem = item["identifier"].rsplit("-", 1)[0]
        folder = f"images/{file.stem}/{item['directory']}" if "directory" in item else file.stem
        images.append(tuple((f"{folder}/{stem}-img{k}.png",) for k in (0, 1)))
    targets = _one_hot([str(item["label"]) for item in lines], TRUTH)
    ids, texts = [item["identifier"] for item in lines], [item["sentence"] for item in lines]
    return Examples(ids, images, texts, targets, [[] for _ in lines], {})


def _snli_ve(file: Path, limit: int | None) -> Examples:
    """SNLI-VE, one JSON object per line, in its current form or that of 2019. Its images are Flickr30K's."""
    lines: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    for item in _lines(file):
        if limit and len(lines) == limit:
            break
        if item["gold_label"] == UNDECIDED:
            left_out[str(item["pairID"])] = "its annotators agreed on no label"
        else:
            lines.append(item)
    return Examples(
        [str(item["pairID"]) for item in lines],
        [_of_flickr(str(item["Flickr30K_ID"] if "Flickr30K_ID" in item else item["Flikr30kID"])) for item in lines],
        [item["sentence2"] for item in lines],
        _one_hot([item["gold_label"] for item in lines], ENTAILMENT),
        [[] for _ in lines],
        left_out,
    )


def _of_flickr(number: str) -> tuple[Names, ...]:
    name = f"{number.removesuffix('.jpg')}.jpg"
    return ((name, f"flickr30k-images/{name}"),)


def _one_hot(labels: Sequence[str], classes: Sequence[str]) -> Targets:
    """One-hot targets of labels. Raises ValueError if a label is none of the classes."""
    column = {name: place for place, name in enumerate(classes)}
    if unknown := set(labels) - set(classes):
        raise ValueError(f"the label `{min(unknown)}` is none of {', '.join(classes)}")
    return Targets.of(([(column[label], 1.0)] for label in labels), len(classes))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line)
