"""The interface of every evaluation: parts that are measured one after another, and metrics computed from them.

A part is slow, uses the model, and returns plain JSON, so that its result can be stored and is not measured twice.
`metrics` is fast and uses only the results of the parts. An evaluation that was stopped between two parts resumes with
the remaining ones.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from workbench.files import append_line, read_lines
from workbench.outage import Persist, at_once, never
from workbench.stop import Stopped, cut

PartResult = Any  # JSON-serialisable
Show = Callable[[int, int], None]  # (parts done, parts in total)


@dataclass(frozen=True)
class Part:
    """A part of an evaluation; `name` is unique within the evaluation, and differs for other inputs."""

    name: str
    measure: Callable[[], PartResult]


class Evaluation(Protocol):
    def parts(self) -> Sequence[Part]: ...

    def metrics(self, results: Mapping[str, PartResult], /) -> Iterator[tuple[str, float]]:
        """(name, value) of each metric, from the results of all parts by name."""
        ...


@dataclass(frozen=True)
class Kept:
    """Stored results of parts, by name; with a `file`, also on disk for the next start, one part per line."""

    made: dict[str, PartResult] = field(default_factory=dict)
    file: Path | None = None
    persist: Persist = at_once

    @classmethod
    def of(cls, file: Path, persist: Persist = at_once) -> "Kept":
        """The results that earlier starts wrote to `file`."""
        results: dict[str, PartResult] = {}
        for entry in read_lines(file):
            results |= entry
        return cls(results, file, persist)

    def add(self, name: str, result: PartResult) -> None:
        self.made[name] = result
        if self.file is not None:
            self.persist(lambda: append_line(self.file, {name: result}))  # type: ignore[arg-type]


def left(evaluation: Evaluation, kept: Kept) -> list[Part]:
    """The parts that are not measured yet."""
    return [part for part in evaluation.parts() if part.name not in kept.made]


def evaluate(
    evaluation: Evaluation,
    kept: Kept | None = None,
    stop: Callable[[], bool] = never,
    show: Show = lambda *_: None,
    through: Callable[[Callable[[], PartResult]], PartResult] = lambda measure: measure(),
) -> dict[str, float]:
    """Measures the remaining parts, and returns all metrics by name.

    Raises Stopped if `stop()` is true before a part, or becomes true during it if `stop` is a Stop that a signal sets.
    `through` calls a part's measurement, for models that must be entered in a special way (FSDP).
    """
    kept = Kept() if kept is None else kept
    parts = evaluation.parts()
    for done, part in enumerate(parts):
        if part.name not in kept.made:
            if stop():
                raise Stopped
            with cut(stop):
                result = through(part.measure)
            kept.add(part.name, result)
        show(done + 1, len(parts))
    return dict(evaluation.metrics({part.name: kept.made[part.name] for part in parts}))


class Several:
    """Several evaluations as one, run one after another, each with its own name."""

    def __init__(self, evaluations: Mapping[str, Evaluation]) -> None:
        self.evaluations = dict(evaluations)

    def parts(self) -> list[Part]:
        return [
            Part(f"{name}: {part.name}", part.measure)
            for name, evaluation in self.evaluations.items()
            for part in evaluation.parts()
        ]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        for name, evaluation in self.evaluations.items():
            yield from evaluation.metrics({part.name: results[f"{name}: {part.name}"] for part in evaluation.parts()})
