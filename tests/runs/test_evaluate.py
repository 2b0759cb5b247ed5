import pytest

from workbench.errors import UserError
from workbench.runs.evaluate import check_data


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
