"""The bars of running work."""

import io

from rich.console import Console
from rich.progress import Progress

from workbench.progress import TimeLeft, counting


def test_each_kind_of_work_has_a_bar_of_its_own() -> None:
    out = io.StringIO()
    with counting(Console(file=out, force_terminal=True, width=100), "vqa") as show:
        show("images", 3, 40)
        show("vqa", 5, 600)
        show("images", 40, 40)
    first, second = (line for line in out.getvalue().splitlines()[-3:] if "/" in line)
    assert ("vqa" in first, "5/600" in first) == (True, True)
    assert ("images" in second, "40/40" in second) == (True, True)


def test_the_time_left_is_that_of_the_mean_pace_since_the_bar_began() -> None:
    clock = [0.0]
    bars = Progress(TimeLeft(), get_time=lambda: clock[0], console=Console(file=io.StringIO()))
    number = bars.add_task("trials", total=10, completed=4, first=4)
    (task,) = bars.tasks
    assert TimeLeft().render(task).plain == ""  # nothing is known yet
    for clock[0], done, left in ((99.0, 5, "0:08:15 left"), (100.0, 6, "0:03:20 left"), (150.0, 10, "")):
        bars.update(number, completed=done)
        assert TimeLeft().render(task).plain == left
