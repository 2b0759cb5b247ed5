"""What every evaluation is: parts that are measured one after another, and the metrics that are read off them.

A part is slow, knows the model, and gives plain JSON, so that it can be kept and is not measured twice. `metrics` is
fast and knows what the parts gave, nothing else. An evaluation that was stopped between two parts goes on with what is
left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from workbench.files import append_line, read_lines
from workbench.outage import Persist, at_once, never
from workbench.stop import Stopped, cut

Made = Any  # what a part gave, as JSON takes it
Show = Callable[[int, int], None]  # parts done, of how many


@dataclass(frozen=True)
class Part:
    """`name` tells a part from the others of its evaluation, and from parts of other inputs."""

    name: str
    measure: Callable[[], Made]


class Evaluation(Protocol):
    def parts(self) -> Sequence[Part]: ...

    def metrics(self, made: Mapping[str, Made]) -> Iterator[tuple[str, float]]:
        """(name, value) of each metric, from what every part has given."""
        ...


@dataclass(frozen=True)
class Kept:
    """What parts have given, by name; with a `file`, one part a line, also for the next start."""

    made: dict[str, Made] = field(default_factory=dict)
    file: Path | None = None
    persist: Persist = at_once

    @classmethod
    def of(cls, file: Path, persist: Persist = at_once) -> "Kept":
        """With the parts that an earlier start has written to `file`."""
        made: dict[str, Made] = {}
        for entry in read_lines(file):
            made |= entry
        return cls(made, file, persist)

    def add(self, name: str, made: Made) -> None:
        self.made[name] = made
        if self.file is not None:
            self.persist(lambda: append_line(self.file, {name: made}))  # type: ignore[arg-type]


def left(evaluation: Evaluation, kept: Kept) -> list[Part]:
    """The parts that are still to be measured."""
    return [part for part in evaluation.parts() if part.name not in kept.made]


def evaluate(
    evaluation: Evaluation,
    kept: Kept | None = None,
    stop: Callable[[], bool] = never,
    show: Show = lambda *_: None,
    through: Callable[[Callable[[], Made]], Made] = lambda measure: measure(),
) -> dict[str, float]:
    """Measures what is left, and gives all metrics by name. Raises Stopped where `stop()` before a part, or in it where
    it is a Stop that a signal sets.

    `through` calls a part's measurement, where the model must be entered in a way of its own (FSDP).
    """
    kept = Kept() if kept is None else kept
    parts = evaluation.parts()
    for done, part in enumerate(parts):
        if part.name not in kept.made:
            if stop():
                raise Stopped
            with cut(stop):
                given = through(part.measure)
            kept.add(part.name, given)
        show(done + 1, len(parts))
    return dict(evaluation.metrics({part.name: kept.made[part.name] for part in parts}))


class Several:
    """Evaluations one after another, each under a name of its own."""

    def __init__(self, evaluations: Mapping[str, Evaluation]) -> None:
        self.evaluations = dict(evaluations)

    def parts(self) -> list[Part]:
        return [
            Part(f"{name}: {part.name}", part.measure)
            for name, evaluation in self.evaluations.items()
            for part in evaluation.parts()
        ]

    def metrics(self, made: Mapping[str, Made]) -> Iterator[tuple[str, float]]:
        for name, evaluation in self.evaluations.items():
            yield from evaluation.metrics({part.name: made[f"{name}: {part.name}"] for part in evaluation.parts()})
