import numpy as np
import pytest

from workbench.errors import UserError
from workbench.evaluation.downstream.targets import Targets
from workbench.evaluation.downstream.tasks import TaskSplit
from workbench.runs.evaluate import check_data
from workbench.runs.finetune import refuse_part


@pytest.mark.parametrize(("then", "told"), [("", 0), ("folder-1", 0), ("folder-2", 1)])
def test_data_that_have_changed_since_a_training_are_told_of(then: str, told: int) -> None:
    said: list[str] = []
    check_data("r", then, "folder-1", False, said.append)
    assert len(said) == told
    assert all("(folder-2 then, folder-1 now)" in each for each in said)


def test_a_run_with_the_words_of_other_encoders_is_refused() -> None:
    check_data("r", "scenes-1", "scenes-1", True, pytest.fail)
    with pytest.raises(UserError, match="install the version of then"):
        check_data("r", "scenes-1", "scenes-2", True, pytest.fail)


def split_of(whole: int, imageless: int) -> TaskSplit:
    ids = [str(k) for k in range(whole)]
    targets = Targets.of(([(0, 1.0)] for _ in ids), 2)
    missing = {f"x{k}": "the picture is missing" for k in range(imageless)}
    rows = np.zeros((whole, 1), np.int64)
    return TaskSplit(None, rows, ids, targets, ["a", "b"], [[] for _ in ids], missing, ids, imageless)


@pytest.mark.parametrize(("whole", "imageless", "refused"), [(99, 1, False), (98, 2, True), (0, 5, False)])
def test_a_part_of_a_split_is_refused_before_training(whole: int, imageless: int, refused: bool) -> None:
    """A split without any image is told of, and has no score."""
    if not refused:
        refuse_part("nlvr2's test split", split_of(whole, imageless))
        return
    with pytest.raises(
        UserError, match=r"nlvr2's test split has whole images for 98 of its 100 examples .*--allow-partial"
    ):
        refuse_part("nlvr2's test split", split_of(whole, imageless))
