import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from workbench.config.schema import Settings
from workbench.data.lexicon import COLOURS, KINDS
from workbench.errors import UserError
from workbench.evaluation.contract import evaluate
from workbench.evaluation.downstream.files import soft_targets
from workbench.evaluation.downstream.tasks import TASKS, of_scenes, published
from workbench.evaluation.downstream.vqa import (
    answer_vocabulary,
    contractions,
    normalised,
    vqa_accuracy,
    without_punctuation,
)
from workbench.evaluation.retrieval import Gallery, Retrieval
from workbench.stop import Stopped
from workbench.training.finetune import Answers, Course, FineTuned, Recipe, finetune, finetune_retrieval
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import starting_model


@pytest.mark.parametrize(
    ("matches", "expected"),
    # The mean over every nine of ten of min(1, matches / 3), worked out by hand.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_the_official_accuracy(matches: int, expected: float) -> None:
    given = ["yes"] * matches + [f"other {k}" for k in range(10 - matches)]
    assert vqa_accuracy("yes", given) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("The two dogs!", "2 dogs"),
        ("1,000", "1000"),
        ("a/b", "b"),  # the slash becomes a space, and `a` is an article
        ("x / y", "x y"),
        ("top-left", "top left"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("None", "0"),
        ("an  Apple", "apple"),
        ("9 o'clock?", "9 o'clock"),
    ],
)
def test_answers_are_normalised_as_officially(raw: str, expected: str) -> None:
    assert normalised(without_punctuation(raw)) == expected


def test_what_all_agree_on_is_compared_as_it_is() -> None:
    assert vqa_accuracy("the dog", ["dog"] * 10) == 0.0
    assert vqa_accuracy("the dog", ["dog"] * 9 + ["cat"]) == 1.0
    assert vqa_accuracy("cat", ["The cat"] * 9 + ["dog"]) == 1.0
    # In 2017 the given answers lost their punctuation alone: `The cat` stayed, and no answer without article matched
    # it.
    assert vqa_accuracy("cat", ["The cat"] * 9 + ["dog"], "2017") == 0.0
    assert contractions()["cant"] == "can't"
    assert "well" not in contractions()


def test_vocabulary_and_soft_scores() -> None:
    assert answer_vocabulary(["Red."] * 9 + ["blue"] * 10 + ["rare"] * 8) == ["blue", "red"]
    given = ["red"] * 4 + ["Red "] * 1 + ["blue"] * 3 + ["a rose", "pink"]
    scores = soft_targets([given], ["red", "blue", "rose", "pink", "green"]).dense(np.arange(1))
    assert scores.tolist() == np.array([[1.0, 0.9, 0.3, 0.3, 0.0]], np.float32).tolist()


def image(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(path)


def write_vqa(home: Path) -> None:
    for split in ("train", "val"):
        questions, answers = [], []
        for k in range(12):
            questions.append({"question_id": k, "image_id": k, "question": f"what is {k}?"})
            told = [
                {"answer": "Yes." if m < 8 else "no", "answer_id": m, "answer_confidence": "yes"} for m in range(10)
            ]
            answers.append({"question_id": k, "image_id": k, "answers": told, "multiple_choice_answer": "yes"})
            if k < 11:
                image(home / f"{split}2014" / f"COCO_{split}2014_{k:012d}.jpg", 20 * k)
        (home / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(json.dumps({"questions": questions}))
        (home / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps({"annotations": answers}))


def write_nlvr2(home: Path) -> None:
    for split in ("train", "dev"):
        lines = []
        for k in range(4):
            item = {"identifier": f"{split}-{k}-0-1", "sentence": f"both {k}", "label": "True" if k % 2 else "False"}
            lines.append(json.dumps(item | ({"directory": 7} if split == "train" else {})))
            folder = home / "images" / "train" / "7" if split == "train" else home / "dev"
            for which in (0, 1):
                image(folder / f"{split}-{k}-0-img{which}.png", 40 * k + 20 * which)
        (home / f"{split}.json").write_text("\n".join(lines))


def write_snli_ve(home: Path) -> None:
    for split in ("train", "dev"):
        labels = ["entailment", "neutral", "contradiction", "-"]
        items = [
            {
                "pairID": f"{k}r1",
                "Flickr30K_ID": str(k),
                "sentence1": "premise",
                "sentence2": f"h {k}",
                "gold_label": label,
            }
            for k, label in enumerate(labels)
        ]
        (home / f"snli_ve_{split}.jsonl").write_text("\n".join(map(json.dumps, items)))
    for k in range(4):
        image(home / f"{k}.jpg", 40 * k)


def test_the_published_files_are_read(tmp_path: Path) -> None:
    for task, write in (("vqa", write_vqa), ("nlvr2", write_nlvr2), ("snli_ve", write_snli_ve)):
        home = tmp_path / task
        home.mkdir()
        write(home)
        splits = published(task, home, [home], 32, "squash", None)
        train = splits["train"]
        if task == "vqa":
            assert (train.classes, len(train), list(train.missing)) == (["yes"], 11, ["11"])
            assert train.targets.dense(np.arange(11))[:, 0].tolist() == [1.0] * 11
            assert train.given[3] == ["Yes."] * 8 + ["no"] * 2
            assert vqa_accuracy("yes", train.given[3]) == 1.0
        if task == "nlvr2":
            assert train.targets.dense(np.arange(4)).argmax(axis=1).tolist() == [0, 1, 0, 1]
            shades = [train.images[row][:, 0, 5, 5].tolist() for row in train.rows]
            assert shades == [[40 * k, 40 * k + 20] for k in range(4)]
            assert len(splits["val"]) == 4
        if task == "snli_ve":
            assert (train.texts, train.targets.dense(np.arange(3)).argmax(axis=1).tolist()) == (
                ["h 0", "h 1", "h 2"],
                [0, 1, 2],
            )
    with pytest.raises(UserError, match=r"snli_ve_train\.jsonl is missing"):
        published("snli_ve", tmp_path / "vqa", [tmp_path], 32, "pad", None)
    with pytest.raises(UserError, match="none of the 12 examples has its images"):
        published("vqa", tmp_path / "vqa", [tmp_path / "snli_ve"], 32, "pad", None)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_made_of_scenes_is_true(task: str, prepared: Prepared) -> None:
    pairs = prepared.corpus.train
    examples = of_scenes(task, pairs, prepared.features["train"], 120)
    assert len(examples) == 120
    assert pairs.scene is not None
    counts = np.zeros(len(examples.classes))
    colour_of = {names[0]: colour for colour, (_, names) in COLOURS.items()}
    for rows, text, target in zip(examples.rows, examples.texts, examples.targets.dense(np.arange(120)), strict=True):
        answer = examples.classes[int(target.argmax())]
        counts[int(target.argmax())] += 1
        scenes = [pairs.scene(int(row)).things for row in rows]
        named = next((colour_of[word] for word in text.split() if word in colour_of), None)
        if task == "vqa" and "how many" in text:
            assert answer == str(len(scenes[0]))
        elif task == "vqa" and text.startswith("what is"):
            assert [thing.kind for thing in scenes[0] if thing.colour == named] == [answer]
        elif task == "vqa":
            kind = next(kind for kind, (_, names) in KINDS.items() if text == f"what colour is the {names[0]}")
            assert [thing.colour for thing in scenes[0] if thing.kind == kind] == [answer]
        elif task == "nlvr2":
            shown = [any(thing.colour == named for thing in things) for things in scenes]
            assert answer == str(all(shown) if text.startswith("both") else any(shown))
        elif answer != "neutral":
            kinds = {names[0]: kind for kind, (_, names) in KINDS.items()}
            there = any(thing.colour == named and thing.kind == kinds[text.split()[-1]] for thing in scenes[0])
            assert there == (answer == "entailment")
    if task != "vqa":
        assert counts.min() > 0.2 * counts.sum() / len(counts)


def test_a_classifier_learns_what_it_is_shown_and_resumes_to_the_bit(
    settings: Settings, prepared: Prepared, tmp_path: Path
) -> None:
    corpus = prepared.corpus
    train = of_scenes("vqa", corpus.train, prepared.features["train"], 32)

    cut_up: list[float] = []

    def run(
        name: str, stop_at: int | None = None, micro_batches: int = 1, into: list[float] | None = None
    ) -> tuple[dict[str, float], list[float]]:
        recipe = Recipe(120, 16, 3e-3, 2.0, 1.0, micro_batches=micro_batches)
        curve: list[float] = [] if into is None else into
        hooks = Hooks(lambda *_: None, lambda _, f: curve.append(f["loss"]), lambda: len(curve) == stop_at)
        model = starting_model(settings, 0, prepared)
        course = Course(recipe, 0, tmp_path / name, hooks, torch.device("cpu"))
        tuned = finetune(model, corpus.tokeniser, "vqa", train, course)
        return evaluate(Answers(tuned, corpus.tokeniser, "vqa", train, course)), curve

    whole, curve = run("whole")
    assert len(curve) == 240
    assert curve[-1] < 0.3 * curve[0]
    assert whole["accuracy"] > whole["majority"] + 0.2
    with pytest.raises(Stopped):
        run("cut", stop_at=200)
    resumed, rest = run("cut")
    assert resumed == whole
    assert rest == curve[200:]
    with pytest.raises(Stopped):
        run("cut up", stop_at=20, micro_batches=4, into=cut_up)
    assert cut_up == pytest.approx(curve[:20], rel=1e-3)


def test_the_order_of_two_images_matters(settings: Settings, prepared: Prepared) -> None:
    model = starting_model(settings, 0, prepared)
    tuned = FineTuned(model, 2, 2).eval()
    features = torch.from_numpy(np.array(prepared.features["train"][:2])).float()
    token_ids = torch.from_numpy(prepared.corpus.train.token_ids[:1])
    with torch.no_grad():
        one = tuned([features[:1], features[1:]], token_ids)
        other = tuned([features[1:], features[:1]], token_ids)
    assert not torch.allclose(one, other, atol=1e-4)


def test_retrieval_learns_to_rank_the_own_caption_first(
    settings: Settings, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.training.finetune.FALSE_TEXTS", 7)
    pairs, count = prepared.corpus.train, 24
    model = starting_model(settings, 0, prepared)
    images, ids = prepared.features["train"][:count], pairs.token_ids[:count].astype(np.int64)
    features = torch.from_numpy(np.array(images)).float()

    def recall() -> float:
        return evaluate(Retrieval(model.eval(), Gallery(features, ids, np.arange(count)), count, 64))["text_r1"]

    before = recall()
    hooks = Hooks(lambda *_: None, lambda *_: None)
    course = Course(Recipe(60, 12, 2e-3, 1.0, 1.0), 0, tmp_path / "r.pt", hooks, torch.device("cpu"))
    finetune_retrieval(model, images, ids, np.arange(count), course)
    assert before < 0.3
    assert recall() > 0.6
