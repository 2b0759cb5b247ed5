"""Fine-tuning on published files, from the files to what lands in the run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from workbench.config.schema import Settings
from workbench.errors import UserError
from workbench.outage import never
from workbench.runs.evaluate import Published, Result, Trained
from workbench.runs.finetune import Tuning, finetune_run
from workbench.stop import Stopped
from workbench.training.finetune import Recipe
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import starting_model

EPOCHS, BATCH, EXAMPLES = 3, 4, 8


def write(home: Path) -> None:
    for split in ("train", "dev", "test1"):
        (home / split).mkdir()
        items = [
            {"identifier": f"{split}-{k}-0-0", "sentence": f"both are {k}", "label": str(k % 2 == 0)}
            for k in range(EXAMPLES + 1)
        ]
        (home / f"{split}.json").write_text("\n".join(map(json.dumps, items)))
        for item in items:
            for which in (0, 1):
                image(home, str(item["identifier"])[:-2], which)


def image(home: Path, stem: str, which: int) -> Path:
    path = home / stem.split("-")[0] / f"{stem}-img{which}.png"
    Image.new("RGB", (32, 32), (200 * which, 0, 0)).save(path)
    return path


class Command:
    """One command, given again and again; notes what it says and the steps that it takes."""

    def __init__(self, home: Path, settings: Settings, prepared: Prepared, task: str = "nlvr2") -> None:
        self.home, self.settings, self.prepared, self.task = home, settings, prepared, task
        self.said: list[str] = []
        self.steps: list[int] = []
        self.shown: dict[str, list[tuple[int, int]]] = {}

    def __call__(self, stop: Callable[[], bool] = never, allow_partial: bool = False) -> Result:
        self.said, self.steps, self.shown = [], [], {}
        model = starting_model(self.settings, 0, self.prepared)
        trained = Trained("run", "study", self.settings, self.prepared.corpus, model, "squash", [])
        files = Published(self.task, self.home, (self.home,))
        tuning = Tuning(self.task, Recipe(EPOCHS, BATCH, 1e-4, 2.0), files=files, allow_partial=allow_partial)
        hooks = Hooks(lambda *_: None, lambda step, _: self.steps.append(step), stop, self.said.append)

        def show(what: str, done: int, total: int) -> None:
            self.shown.setdefault(what, []).append((done, total))

        return finetune_run(trained, tuning, self.home / "workspace", hooks, show)


@pytest.fixture
def command(tmp_path: Path, settings: Settings, prepared: Prepared) -> Command:
    write(tmp_path)
    return Command(tmp_path, settings, prepared)


def test_the_test_split_is_scored_beside_dev_and_what_is_left_out_is_named(command: Command) -> None:
    (command.home / "train" / "train-8-0-img1.png").write_text("<html>404</html>")
    (command.home / "test1" / "test1-8-0-img0.png").unlink()
    with pytest.raises(UserError, match="nlvr2's test split has readable images for 8 of its 9"):
        command()
    assert command.shown["images"][-1] == (53, 53)  # of 54, one of which is missing
    assert command.steps == []
    result = command(allow_partial=True)
    names = ("accuracy", "majority", "examples", "missing")
    assert set(result.metrics) == {f"downstream/nlvr2/{way}{name}" for way in ("", "test/") for name in names}
    assert result.metrics["downstream/nlvr2/examples"] == EXAMPLES + 1 == result.examples
    assert result.metrics["downstream/nlvr2/test/examples"] == EXAMPLES
    assert result.metrics["downstream/nlvr2/test/missing"] == 1
    assert result.metrics["downstream/nlvr2/missing"] == 0
    assert set(result.missing) == {"train train-8-0-0", "test test1-8-0-0"}
    assert len(command.steps) == EPOCHS * EXAMPLES // BATCH


def test_a_stopped_training_goes_on_but_not_with_other_examples(command: Command) -> None:
    with pytest.raises(Stopped):
        command(stop=lambda: len(command.steps) == 3)
    with pytest.raises(Stopped):
        command(stop=lambda: len(command.steps) == 1)
    assert (command.steps, command.said, command.shown) == ([4], [], {})
    (command.home / "train" / "train-8-0-img1.png").unlink()
    command()
    assert command.steps == list(range(1, 1 + EPOCHS * EXAMPLES // BATCH))
    assert [said for said in command.said if "beginning again" in said] == command.said[:1]
    assert command.said[0].startswith("nlvr2-")


def test_a_check_of_images_can_be_stopped(command: Command) -> None:
    with pytest.raises(Stopped):
        command(stop=lambda: True)
    assert (command.shown, command.steps) == ({}, [])
    assert command().examples == EXAMPLES + 1


def test_vqa_says_how_many_answers_there_are_to_choose_from(
    tmp_path: Path, settings: Settings, prepared: Prepared
) -> None:
    for split in ("train", "val"):
        told = [
            {
                "question_id": k,
                "image_id": 0,
                "answers": [{"answer": "two", "answer_id": m} for m in range(9)] + [{"answer": "2", "answer_id": 9}],
                "multiple_choice_answer": "two",
            }
            for k in range(5)
        ]
        asked = [{"question_id": k, "image_id": 0, "question": "how many are there?"} for k in range(5)]
        (tmp_path / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(json.dumps({"questions": asked}))
        (tmp_path / f"v2_mscoco_{split}2014_annotations.json").write_text(json.dumps({"annotations": told}))
        Image.new("RGB", (32, 32)).save(tmp_path / f"COCO_{split}2014_{0:012d}.jpg")
    command = Command(tmp_path, settings, prepared, "vqa")
    result = command()
    assert command.said == ["vqa: 1 answers, each the most common one of at least 9 questions"]
    scores = {name: result.metrics[f"downstream/vqa/{name}"] for name in ("answers", "accuracy", "accuracy_2017")}
    assert scores == {"answers": 1.0, "accuracy": 1.0, "accuracy_2017": pytest.approx(0.3)}
