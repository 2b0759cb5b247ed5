"""The display of a running sweep: bars on a terminal, one line per event elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from workbench.events import (
    Counted,
    Event,
    Mistaken,
    Planned,
    Preparing,
    Reported,
    Said,
    Stepped,
    Ticked,
    TrialEnded,
    TrialFailed,
    WorkerEnded,
    WorkerFailed,
)


class SweepDisplay:
    """Shows a bar for the sweep and one for each worker, with loss and pairs/s."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = _bars(console, "note")
        self.sweep: TaskID | None = None
        self.workers: dict[str, TaskID] = {}
        self.titles: dict[str, str] = {}
        self.stages: set[str] = set()
        self.marks: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> "SweepDisplay":
        self.bars.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.__exit__(kind, error, trace)

    def show(self, event: Event) -> None:
        match event:
            case Planned(cells, finished, workers, run_id):
                self.sweep = self.bars.add_task("trials", total=cells, completed=finished, note="", first=finished)
                again = f", {finished} already finished" if finished else ""
                self._line(f"{cells} trials{again}, {workers} worker(s), run {run_id}")
            case Preparing(worker, stage, done, total, figures):
                rate = self._rate(worker, done, 1, "") if self.titles.get(worker) == stage else ""
                self._bar(worker, stage, done, total, "  ".join(filter(None, [_figures(figures), rate])))
                if stage not in self.stages:
                    self.stages.add(stage)
                    self._line(f"preparing: {stage}")
            case Stepped(worker, cell, step, steps, figures):
                note = f"loss {figures['loss']:.3f}  " if "loss" in figures else ""
                if "pairs" in figures:
                    note += self._rate(worker, step, figures["pairs"])
                self._bar(worker, cell, step, steps, note)
            case Counted(cell, outcome, value):
                if self.sweep is not None:
                    self.bars.advance(self.sweep)
                self._line(f"{outcome} {cell}" + ("" if value is None else f": {value:.4f}"))
            case Said(worker, message):
                self._line(f"[yellow]{escape(worker)}[/yellow] {escape(message)}")
            case Reported(path):
                self._line(f"report: {path}")
            case TrialFailed(_, cell, reason):
                self._line(f"[red]failed[/red] {cell}: {escape(reason.splitlines()[0])}")
            case WorkerFailed(_, message):
                self._line(f"[red]failed[/red] worker: {escape(message.strip().splitlines()[-1])}")
            case TrialEnded() | Mistaken() | WorkerEnded() | Ticked():
                pass  # for the sweep itself, which turns them into events that are shown

    def _line(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _bar(self, worker: str, title: str, done: int, total: int, note: str) -> None:
        if self.titles.get(worker) != title:
            if worker in self.workers:
                self.bars.remove_task(self.workers[worker])
            self.workers[worker] = self.bars.add_task(title, total=total, completed=done, note="", first=done)
            self.titles[worker] = title
            self.marks[worker] = (time.monotonic(), done)
        self.bars.update(self.workers[worker], completed=done, note=note)

    def _rate(self, worker: str, step: int, pairs: float, what: str = " pairs") -> str:
        started, first = self.marks.get(worker, (time.monotonic(), step))
        seconds = time.monotonic() - started
        return f"{(step - first) * pairs / seconds:.0f}{what}/s" if seconds > 1 and step > first else ""


class TimeLeft(ProgressColumn):
    """The time left at the mean pace since the bar began; rich's own column knows the last half minute alone, in which
    few trials end. The task's field `first` is the number that was done before."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields["first"]
        if not done or not task.total or not task.elapsed or task.finished:
            return Text("")
        seconds = round(task.elapsed / done * (task.total - task.completed))
        return Text(f"{timedelta(seconds=seconds)} left", style="progress.remaining")


def _bars(console: Console, note: str) -> Progress:
    """Returns bars with counts, the text of the task field `note`, and times. They are shown only on a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn(f"{{task.fields[{note}]}}"),
        TimeElapsedColumn(),
        TimeLeft(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def counted(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar with rate and time left for work that counts. Yields `show(done, total)`."""
    with counting(console, what) as show:
        yield partial(show, what)


@contextmanager
def counting(console: Console, first: str) -> Iterator[Callable[[str, int, int], None]]:
    """Like `counted`, for several kinds of work. The `first` has its bar from the start. Yields `show(what, done,
    total)`."""
    bars = _bars(console, "rate")
    tasks = {first: bars.add_task(first, total=None, rate="", first=0)}
    started: dict[str, tuple[float, int]] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, rate="", first=done)
        began, before = started.setdefault(what, (time.monotonic(), done))
        seconds = time.monotonic() - began
        rate = f"{(done - before) / seconds:.0f} {what}/s" if seconds > 0.5 and done > before else ""
        bars.update(tasks[what], completed=done, total=total, rate=rate, first=before)

    with bars:
        yield show


def _figures(figures: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
