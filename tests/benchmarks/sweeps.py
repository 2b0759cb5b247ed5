"""How the time of a whole `wb sweep`, from start to report, grows with its number of very small trials."""

from pathlib import Path

from tests.benchmarks.figures import WALL, Figure, curve
from tests.benchmarks.studies import LITTLE, wb, written

TRIALS = (2, 4, 8)


def measure(repeats: int, home: Path) -> list[Figure]:
    """One worker, each sweep in a fresh workspace."""
    took: dict[int, list[float]] = {trials: [] for trials in TRIALS}
    files = {
        trials: written(home / f"{trials}.yaml", LITTLE, [place / trials for place in range(trials)])
        for trials in TRIALS
    }
    for number in range(repeats):
        for trials in TRIALS:
            took[trials].append(wb("sweep", files[trials], "--workspace", home / f"{trials}-{number}").wall)
    return curve("a sweep with one worker", "s", took, "trials", WALL)
