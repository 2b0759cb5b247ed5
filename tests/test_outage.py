"""How a wait for the end of an outage goes: its pauses, what is said of it, and its end."""

import errno
import os
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from tests.faults.provoked import NOBODY, caught, raised, soon_give_up, through_requests
from workbench.errors import Interrupted, UserError
from workbench.faults import DISK, SERVER
from workbench.outage import GaveUp, Patience
from workbench.stop import GIVE_UP, Stop


@pytest.fixture(autouse=True)
def impatient_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    soon_give_up(monkeypatch)


class Clock:
    """Time that passes when somebody sleeps. The action fails with `errors`, the last one for ever; None: it works."""

    def __init__(self, *errors: Exception | None) -> None:
        self.now, self.errors, self.tried, self.told = 0.0, list(errors), list[float](), list[tuple[float, str]]()

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.1, "a stop must be seen within 0.1 s"
        self.now += seconds

    def say(self, sentence: str) -> None:
        self.told.append((round(self.now), sentence))

    def action(self) -> str:
        self.tried.append(self.now)
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            raise error
        return "done"

    def patience(self, **options: Any) -> Patience:
        given: dict[str, Any] = {"stopped": lambda: self.now > 3600, "chance": lambda: 0.5} | options
        return Patience(self.say, clock=lambda: self.now, sleep=self.sleep, **given)

    def pauses(self) -> list[float]:
        return [round(after - before, 1) for before, after in zip(self.tried, self.tried[1:], strict=False)]


def refused() -> Exception:
    return caught(lambda: through_requests(NOBODY))


def test_pauses_grow_to_half_a_minute() -> None:
    time = Clock(*[refused()] * 8, None)
    assert time.patience()(time.action) == "done"
    assert time.pauses() == [1, 2, 4, 8, 16, 30, 30, 30]


def test_pauses_differ_between_workers_and_touch_no_seed() -> None:
    def pauses() -> list[float]:
        time = Clock(refused(), None)
        Patience(time.say, clock=lambda: time.now, sleep=time.sleep)(time.action)
        return time.pauses()

    def seeded() -> tuple[list[int], list[int]]:
        return np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state().tolist()

    before = seeded()
    first = [pause for _ in range(20) for pause in pauses()]
    assert all(0.7 <= pause <= 1.3 for pause in first)
    assert len(set(first)) > 1
    assert seeded() == before


def test_a_wait_is_told_of_every_minute_and_what_can_be_done_once() -> None:
    time = Clock(refused())
    with pytest.raises(Interrupted):
        time.patience(stopped=lambda: time.now > 605)(time.action)
    assert time.told == [
        (0, f"waiting: {SERVER} ({NOBODY}); continuing as soon as possible"),
        *[(60 * n, f"still waiting after {n} min: {SERVER} ({NOBODY})") for n in range(1, 6)],
        (300, f"what can be done: start the server at {NOBODY} or see its log, or check MLFLOW_TRACKING_URI"),
        *[(60 * n, f"still waiting after {n} min: {SERVER} ({NOBODY})") for n in range(6, 11)],
    ]


def test_the_sentences_follow_what_is_out_of_order() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.pt")
    time = Clock(*[refused()] * 16, full)
    with pytest.raises(Interrupted):
        time.patience(stopped=lambda: time.now > 500)(time.action)
    assert f"still waiting after 8 min: {DISK} (/data/x.pt)" in [sentence for _, sentence in time.told]
    advice = [sentence.partition(": ")[2] for _, sentence in time.told if sentence.startswith("what can be done")]
    assert advice[0].startswith("start the server")
    assert advice[1:] == ["free space on the disk of /data/x.pt"]


def test_a_wait_that_ends_says_so_and_an_action_that_works_says_nothing() -> None:
    time = Clock(refused(), None)
    time.patience()(time.action)
    time.patience()(time.action)
    assert [sentence.partition(":")[0] for _, sentence in time.told] == ["waiting", "continuing"]


def test_a_fault_ends_a_wait() -> None:
    time = Clock(refused(), KeyError("x"))
    with pytest.raises(KeyError):
        time.patience()(time.action)


def test_giving_up_is_the_users_to_mend_and_is_not_waited_out_again() -> None:
    time = Clock(refused())
    inner = time.patience(give_up_after=100.0)
    with pytest.raises(GaveUp) as end:
        Patience(lambda sentence: pytest.fail(sentence))(lambda: inner(time.action))
    assert isinstance(end.value, UserError)
    assert str(end.value) == (
        f"gave up after waiting 2 min: {SERVER} ({NOBODY}); start the server at {NOBODY} or see its log, "
        "or check MLFLOW_TRACKING_URI; then run the same command again."
    )
    assert time.pauses()[-1] < 30
    assert 100 <= time.tried[-1] < 100.2  # one last attempt


def test_giving_up_at_once() -> None:
    time = Clock(refused())
    with pytest.raises(GaveUp):
        time.patience(give_up_after=0.0)(time.action)
    assert (len(time.tried), time.told) == (1, [])


def test_every_wait_has_the_same_end_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Patience(print).give_up_after is None
    monkeypatch.setenv(GIVE_UP, "1.5")
    assert Patience(print).give_up_after == 90
    monkeypatch.setenv(GIVE_UP, "0")
    with pytest.raises(GaveUp):
        Patience(print)(lambda: raised(ConnectionError("refused")))
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv(GIVE_UP, wrong)
        with pytest.raises(UserError, match=GIVE_UP):
            Patience(print)


@pytest.mark.parametrize("command", ["sweep", "train", "worker"])
def test_the_option_holds_for_workers_in_other_processes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from workbench.cli.options import app, current

    monkeypatch.setenv(GIVE_UP, "")  # so that it is put back at the end
    before = current.set(Stop())  # as `wb` does before it runs a command
    end = CliRunner().invoke(app, [command, "no-such-study", "--give-up-after", "2.5"])
    current.reset(before)
    assert isinstance(end.exception, UserError)
    assert Patience(print).give_up_after == 150
    assert CliRunner().invoke(app, [command, "no-such-study", "--give-up-after", "-1"]).exit_code == 2


def test_a_stop_ends_a_wait_within_a_tenth_of_a_second() -> None:
    asked: list[float] = []
    stop = threading.Timer(0.3, lambda: asked.append(time.monotonic()))
    stop.start()
    with pytest.raises(Interrupted):
        Patience(lambda _: None, lambda: bool(asked), pause=30.0)(lambda: raised(ConnectionError("refused")))
    assert time.monotonic() - asked[0] < 0.1
