"""Every test here provokes errors of libraries that would otherwise try again for minutes."""

import pytest

from tests.faults.provoked import soon_give_up


@pytest.fixture(autouse=True)
def impatient_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    soon_give_up(monkeypatch)
