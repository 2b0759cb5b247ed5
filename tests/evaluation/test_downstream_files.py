"""The published files of the downstream tasks: miniatures with ties, duplicates, gaps, and texts that are empty or too
long."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from workbench.data.image_check import broken_images
from workbench.data.text import train_tokeniser
from workbench.errors import UserError
from workbench.evaluation.contract import evaluate
from workbench.evaluation.downstream.files import read_task, soft_targets
from workbench.evaluation.downstream.targets import Targets
from workbench.evaluation.downstream.tasks import TASKS, TaskSplit, published
from workbench.evaluation.downstream.vqa import plain
from workbench.training.finetune import Answers, Course, FineTuned, Recipe
from workbench.training.loop import Hooks

Asked = tuple[str, list[str], str]  # question, the ten answers, the most common one
TEXTS = ["", "what is it?", "what is it?", "and then " * 200, "is it made of `[x]`, or not"]


def image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(path)


def write_vqa(home: Path, asked: Mapping[str, Sequence[Asked]], images: int = 3) -> None:
    """Question n of a split is about image n % `images`, each of which is there."""
    for split, rows in asked.items():
        questions = [{"question_id": k, "image_id": k % images, "question": q} for k, (q, _, _) in enumerate(rows)]
        told = [
            {
                "question_id": k,
                "image_id": k % images,
                "answers": [{"answer": a, "answer_id": m + 1} for m, a in enumerate(given)],
                "multiple_choice_answer": most,
            }
            for k, (_, given, most) in enumerate(rows)
        ]
        (home / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(json.dumps({"questions": questions}))
        (home / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps({"annotations": told}))
        for k in range(images):
            image(home / f"{split}2014" / f"COCO_{split}2014_{k:012d}.jpg")


def write_nlvr2(home: Path, labels: Mapping[str, Sequence[Any]]) -> None:
    """All sentences of a file are about two pairs of images."""
    for name, given in labels.items():
        lines = []
        for k, label in enumerate(given):
            item = {"identifier": f"{name}-{k % 2}-0-{k}", "sentence": TEXTS[k % len(TEXTS)], "label": label}
            lines.append(json.dumps(item | ({"directory": 4} if name == "train" else {})))
        (home / f"{name}.json").write_text("\n".join(lines) + "\n")
        folder = home / "images" / name / "4" if name == "train" else home / name
        for k in range(4):
            image(folder / f"{name}-{k // 2}-0-img{k % 2}.png", 40 * k)


def write_snli_ve(home: Path, labels: Mapping[str, Sequence[str]], number: str = "Flickr30K_ID", end: str = "") -> None:
    for name, given in labels.items():
        items = [
            {"pairID": f"{name}{k}", number: f"{k % 3}{end}", "sentence2": TEXTS[k % len(TEXTS)], "gold_label": label}
            for k, label in enumerate(given)
        ]
        (home / f"snli_ve_{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
    for k in range(3):
        image(home / "flickr30k-images" / f"{k}.jpg", 40 * k)


def read(task: str, home: Path, limit: int | None = None) -> dict[str, TaskSplit]:
    return published(task, home, [home], 8, "squash", limit)


def targets_of(split: TaskSplit) -> list[list[float]]:
    return split.targets.dense(np.arange(len(split))).tolist()


def test_sparse_targets_are_those_that_dense_ones_would_be() -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((50, 7)) < 0.3, rng.random((50, 7)), 0).astype(np.float32)
    dense[[0, 10, 49]] = 0
    sparse = Targets.of(([(int(c), float(row[c])) for c in np.flatnonzero(row)] for row in dense), 7)
    rows = np.array([3, 3, 0, 49, 10, 20])
    assert len(sparse) == 50
    assert np.array_equal(sparse.dense(rows), dense[rows])
    assert np.array_equal(sparse.dense(rows[:0]), dense[:0])
    assert np.array_equal(sparse.take(rows).dense(np.arange(6)), dense[rows])
    assert sparse.totals() == pytest.approx(dense.sum(axis=0))
    empty = Targets.of([], 7)
    assert (len(empty), empty.dense(np.arange(0)).shape, empty.totals().tolist()) == (0, (0, 7), [0.0] * 7)


def test_the_targets_of_all_questions_are_the_scores_of_each() -> None:
    rng = np.random.default_rng(0)
    classes = ["2", "dog", "", "don't know"]
    pool = np.array(["two", "2", "a dog", "Dog!", "the", "", "dont know", "cat", "a cat"], dtype=object)
    given = [[str(text) for text in rng.choice(pool, int(rng.integers(0, 11)))] for _ in range(300)]
    targets = soft_targets(given, classes).dense(np.arange(len(given)))
    counts = [Counter(map(plain, answers)) for answers in given]
    scores = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}
    expected = [[scores.get(count[name], 1.0) for name in classes] for count in counts]
    assert targets == pytest.approx(np.array(expected, np.float32))
    assert len(np.unique(targets)) == 5
    assert soft_targets([], classes).dense(np.arange(0)).shape == (0, 4)


def test_the_vocabulary_counts_the_files_most_common_answers_of_train_and_val(tmp_path: Path) -> None:
    # Four people suffice for the full score, so that the scores do not tell which answer is the most common one.
    tied = ("colour?", ["red"] * 4 + ["Blue."] * 6, "blue")
    rare = ("colour?", ["green"] * 10, "green")
    write_vqa(tmp_path, {"train": [tied] * 5 + [rare] * 8, "val": [tied] * 4})
    splits = read("vqa", tmp_path)
    assert [split.classes for split in splits.values()] == [["blue"], ["blue"]]
    assert targets_of(splits["train"])[:6] == [[1.0]] * 5 + [[0.0]]
    write_vqa(tmp_path, {"train": [tied] * 5 + [rare] * 8, "val": [tied] * 3})
    with pytest.raises(UserError, match="none is the most common one of 9 questions"):
        read("vqa", tmp_path)
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text('{"questions": []}')
    with pytest.raises(UserError, match="not in vqa's published format"):
        read("vqa", tmp_path)


def test_a_limit_leaves_the_vocabulary_as_it_is(tmp_path: Path) -> None:
    asked = [("?", ["yes"] * 10, "yes")] * 9 + [("?", ["no"] * 9 + ["yes"], "no")] * 10
    write_vqa(tmp_path, {"train": asked, "val": asked[:2]})
    whole, cut = read("vqa", tmp_path), read("vqa", tmp_path, 10)
    assert whole["train"].classes == cut["train"].classes == ["yes", "no"]
    assert (len(cut["train"]), len(cut["val"])) == (10, 2)
    assert targets_of(cut["train"]) == targets_of(whole["train"])[:10]
    assert targets_of(cut["train"])[-1] == pytest.approx([0.3, 1.0])
    assert cut["train"].given == [["yes"] * 10] * 9 + [["no"] * 9 + ["yes"]]


def test_files_are_read_once_for_several_trials_and_anew_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [("?", ["yes"] * 10, "yes")] * 9
    write_vqa(tmp_path, {"train": asked, "val": asked})
    loads: list[int] = []

    def loading(text: str, **how: Any) -> Any:
        loads.append(len(text))
        return json.JSONDecoder(**how).decode(text)

    monkeypatch.setattr(json, "loads", loading)
    sizes = [published("vqa", tmp_path, [tmp_path], side, "pad", None)["val"].images.side for side in (8, 16)]
    assert (sizes, len(loads)) == ([8, 16], 4)
    write_vqa(tmp_path, {"train": asked, "val": asked + asked})
    assert len(read("vqa", tmp_path)["val"]) == 18
    assert len(loads) == 8


def test_the_test_splits_that_are_there_are_read(tmp_path: Path) -> None:
    for name in ("n", "s"):
        (tmp_path / name).mkdir()
    write_nlvr2(tmp_path / "n", {"train": ["True"], "dev": ["False"]})
    write_snli_ve(tmp_path / "s", {"train": ["neutral"], "dev": ["neutral"]})
    assert list(read("nlvr2", tmp_path / "n")) == list(read("snli_ve", tmp_path / "s")) == ["train", "val"]
    write_nlvr2(tmp_path / "n", {"test1": ["True", "False"]})
    write_snli_ve(tmp_path / "s", {"test": ["contradiction"]})
    assert targets_of(read("nlvr2", tmp_path / "n")["test"]) == [[0.0, 1.0], [1.0, 0.0]]
    assert targets_of(read("snli_ve", tmp_path / "s")["test"]) == [[0.0, 0.0, 1.0]]
    # A test split without any of its images does not keep the others from being used.
    for path in (tmp_path / "n" / "test1").glob("*"):
        path.unlink()
    splits = read("nlvr2", tmp_path / "n")
    assert (len(splits["test"]), list(splits["test"].missing)) == (0, ["test1-0-0-0", "test1-1-0-1"])
    assert len(splits["train"]) == 1


@pytest.mark.parametrize(("number", "end"), [("Flickr30K_ID", ""), ("Flikr30kID", ".jpg"), ("Flikr30kID", "")])
def test_snli_ve_is_read_in_both_forms_and_what_is_undecided_counted(tmp_path: Path, number: str, end: str) -> None:
    labels = ["neutral", "-", "entailment", "contradiction"]
    write_snli_ve(tmp_path, {"train": labels, "dev": labels}, number, end)
    train = read("snli_ve", tmp_path)["train"]
    assert train.ids == ["train0", "train2", "train3"]
    assert train.missing == {"train1": "its annotators agreed on no label"}
    assert [path.name for path in train.images.paths] == ["0.jpg", "2.jpg"]
    assert train.rows.tolist() == [[0], [1], [0]]
    assert read("snli_ve", tmp_path, 2)["train"].ids == ["train0", "train2"]


def test_labels_that_are_none_are_refused(tmp_path: Path) -> None:
    write_nlvr2(tmp_path, {"train": ["True", "Ture"], "dev": ["True"]})
    with pytest.raises(UserError, match=r"not in nlvr2's published format \(the label `Ture` is none of False, True\)"):
        read("nlvr2", tmp_path)


def test_examples_with_a_broken_image_are_left_out_and_named(tmp_path: Path) -> None:
    write_nlvr2(tmp_path, {"train": ["True", "False", "True"], "dev": ["True", "True"]})
    dead = tmp_path / "images" / "train" / "4" / "train-0-0-img1.png"
    dead.write_text("<html>404</html>")
    (tmp_path / "dev" / "dev-1-0-img0.png").unlink()
    splits = read("nlvr2", tmp_path)
    assert splits["train"].ids == ["train-1-0-1"]
    assert set(splits["train"].missing) == {"train-0-0-0", "train-0-0-2"}
    assert splits["train"].missing["train-0-0-0"].startswith(f"{dead}: ")
    assert splits["val"].missing == {"dev-1-0-1": f"{tmp_path / 'dev' / 'dev-1-0-img0.png'} is missing"}
    assert targets_of(splits["train"]) == [[1.0, 0.0]]
    before = splits["train"].digest
    image(dead)
    assert read("nlvr2", tmp_path)["train"].digest != before
    dead.write_text("broken since")
    with pytest.raises(UserError, match="remove its examples or replace it"):
        published("nlvr2", tmp_path, [tmp_path], 8, "pad", None, lambda _: {})["train"].images[np.arange(4)]


def test_images_lie_below_any_of_several_folders(tmp_path: Path) -> None:
    home, far = tmp_path / "home", tmp_path / "far"
    home.mkdir()
    asked = [("?", ["yes"] * 10, "yes")] * 9
    write_vqa(home, {"train": asked, "val": asked})
    (far / "coco").mkdir(parents=True)
    (home / "val2014").rename(far / "coco" / "val2014")
    splits = published("vqa", home, [home, far], 8, "pad", None, broken_images)
    assert (len(splits["train"]), len(splits["val"])) == (9, 9)
    with pytest.raises(UserError, match="none of the 9 examples has its images"):
        published("vqa", home, [home], 8, "pad", None)
    with pytest.raises(UserError, match=r"--images: there is no folder .*nowhere"):
        published("vqa", home, [tmp_path / "nowhere"], 8, "pad", None)


class Scorer(FineTuned):
    """Answers one example after another as it is told to, whatever it is shown."""

    def __init__(self, picked: np.ndarray, classes: int) -> None:
        nn.Module.__init__(self)
        self.classifier = nn.Sequential(nn.Linear(1, 1))
        self.logits, self.done = torch.nn.functional.one_hot(torch.from_numpy(picked), classes).float(), 0

    def forward(self, images: list[Tensor], token_ids: Tensor) -> Tensor:
        assert token_ids.shape[1] >= 2
        assert all(len(of_caption) == len(token_ids) for of_caption in images)
        self.done += len(token_ids)
        return self.logits[self.done - len(token_ids) : self.done]


def score(task: str, split: TaskSplit, picked: np.ndarray) -> dict[str, float]:
    tokeniser = train_tokeniser(TEXTS, 100, 8)
    course = Course(
        Recipe(1, 32, 1e-3, 1.0), 0, Path("unused"), Hooks(lambda *_: None, lambda *_: None), torch.device("cpu")
    )
    return evaluate(Answers(Scorer(picked, len(split.classes)), tokeniser, task, split, course))


def write_miniature(task: str, home: Path, count: int = 300) -> None:
    """As many examples with duplicates and ties, and with texts that are empty or longer than what is read."""
    home.mkdir()
    if task == "vqa":
        kinds = [
            (["yes"] * 10, "yes"),
            (["two"] * 5 + ["3"] * 5, "two"),  # a tie
            (["The dog."] * 4 + ["a cat"] * 4 + ["", " "], "dog"),
            ([""] * 6 + ["none"] * 4, "none"),
            (["don't know", "dont know"] * 5, "dont know"),
        ]
        asked = [(TEXTS[k // 5 % len(TEXTS)], *kinds[k % 5]) for k in range(count)]
        write_vqa(home, {"train": asked, "val": asked})
    elif task == "nlvr2":
        write_nlvr2(home, {"train": ["True", "False"], "dev": ["True", "False", False] * (count // 3)})
    else:
        labels = ["neutral", "contradiction", "entailment", "neutral", "-"] * (count // 5)
        write_snli_ve(home, {"train": labels, "dev": labels})


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_scorer_is_always_right_and_one_that_guesses_is_at_chance(task: str, tmp_path: Path) -> None:
    write_miniature(task, tmp_path / "home")
    split = read(task, tmp_path / "home")["val"]
    wanted = split.targets.dense(np.arange(len(split)))
    perfect = score(task, split, wanted.argmax(axis=1))
    assert perfect["accuracy"] == 1.0
    assert perfect["examples"] == len(split) == (240 if task == "snli_ve" else 300)
    assert perfect["majority"] < 1.0
    assert ("answers" in perfect, "accuracy_2017" in perfect) == (task == "vqa", task == "vqa")
    values = np.array([score(task, split, np.full(len(split), c))["accuracy"] for c in range(len(split.classes))])
    guesses = np.random.default_rng(0).integers(len(split.classes), size=len(split))
    chance = values.mean() if task == "vqa" else 1 / len(split.classes)
    # Four standard errors of a share; the accuracy of a guess lies between 0 and 1, so that it varies no more than
    # that.
    assert abs(score(task, split, guesses)["accuracy"] - chance) < 4 * (chance * (1 - chance) / len(split)) ** 0.5


def test_vqa_is_scored_by_both_versions(tmp_path: Path) -> None:
    write_miniature("vqa", tmp_path / "home")
    split = read("vqa", tmp_path / "home")["val"]
    scores = score("vqa", split, split.targets.dense(np.arange(len(split))).argmax(axis=1))
    assert scores["answers"] == len(split.classes) == 5
    # In 2017 neither `two`, nor `The dog` or `dont know`, matched an answer whose form is normal; of each tie the first
    # is picked.
    assert scores["accuracy_2017"] < scores["accuracy"]


def test_a_task_is_told_from_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--annotations: there is no folder"):
        read_task("nlvr2", tmp_path / "nowhere", None)
    with pytest.raises(UserError, match=r"train\.json is missing; nlvr2 needs it"):
        read_task("nlvr2", tmp_path, None)
