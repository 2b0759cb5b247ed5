"""What a benchmark measures, as values: figures with one value a repeat, how they are timed, printed and written.

A ratio is one of times of the same repeat, in which the things compared take turns, so that load falls on all of them.
"""

import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent.parent
CPU = "CPU seconds of the process"
WALL = "wall clock"
Clock = Callable[[], float]


@dataclass(frozen=True)
class Figure:
    """What was measured, in a `unit` ("" of a ratio): its value in each of the repeats, one where it does not vary.
    `note`: which clock, and what the name leaves open."""

    name: str
    unit: str
    values: tuple[float, ...]
    note: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.values))


def figure(name: str, unit: str, values: Iterable[float], note: str = "") -> Figure:
    return Figure(name, unit, tuple(map(float, values)), note)


def ratio(name: str, over: np.ndarray, under: np.ndarray, note: str = CPU) -> Figure:
    """Of times of the same repeats."""
    return figure(name, "", over / under, note)


def by_turns(
    actions: Mapping[str, Callable[[], object]],
    repeats: int,
    clock: Clock = time.process_time,
    times: int = 1,
    warm: bool = True,
) -> dict[str, np.ndarray]:
    """Name -> seconds of an action in each of the repeats: each repeat does all of them in turn, each `times` times in
    a row. With `warm`, another one that does not count comes before the first."""
    made: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values() if warm else ():
        seconds(action, clock, times)
    for _ in range(repeats):
        for name, action in actions.items():
            made[name].append(seconds(action, clock, times))
    return {name: np.array(each) for name, each in made.items()}


def seconds(action: Callable[[], object], clock: Clock = time.perf_counter, times: int = 1) -> float:
    began = clock()
    for _ in range(times):
        action()
    return (clock() - began) / times


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of values = a * sizes ** b, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def curve(name: str, unit: str, points: Mapping[int, Iterable[float]], of: str, note: str = "") -> list[Figure]:
    """A figure for each size of what is `of`, and the exponent with which the values grow, fitted in each repeat."""
    values = {size: tuple(map(float, seconds)) for size, seconds in points.items()}
    exponents = [exponent(list(values), seconds) for seconds in zip(*values.values(), strict=True)]
    figures = [Figure(f"{name}, {size:,g} {of}", unit, seconds, note) for size, seconds in values.items()]
    return [*figures, figure(f"{name}: exponent over {of}", "", exponents, "of a line through the logarithms")]


def told(figures: Sequence[Figure]) -> list[str]:
    """A line a figure: name, median, range, unit, note; in columns."""
    rows = [(figure.name, short(figure.median), extent(figure), figure.unit, figure.note) for figure in figures]
    name, median, spread, unit = (max((len(row[column]) for row in rows), default=0) for column in range(4))
    return [
        f"{row[0]:<{name}}  {row[1]:>{median}}  {row[2]:<{spread}}  {row[3]:<{unit}}  {row[4]}".rstrip() for row in rows
    ]


def extent(made: Figure) -> str:
    return f"({short(min(made.values))} to {short(max(made.values))})" if len(made.values) > 1 else ""


def short(value: float) -> str:
    """Three digits that count, without an exponent."""
    size = abs(value)
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3 if size >= 0.1 or size == 0 else 5
    return f"{value:,.{places}f}"


def device() -> str:
    """The name of the GPU, else of the CPU."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "CPU"


def about(repeats: int) -> dict[str, Any]:
    """With what, and when, figures are measured."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "device": device(),
        "torch": torch.__version__,
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": repeats,
    }


def write(file: Path, made: dict[str, Any], figures: Mapping[str, Sequence[Figure]]) -> None:
    """`made`, as `about` says it, and the figures of each part, as JSON."""
    parts = {part: [asdict(figure) | {"median": figure.median} for figure in them] for part, them in figures.items()}
    file.write_text(json.dumps(made | {"figures": parts}, indent=1) + "\n")
