"""A trial run in this process, and what it has logged."""

from pathlib import Path

from workbench.config.schema import Settings
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared
from workbench.training.pretrain import train

Logged = dict[tuple[str, int], float]  # (metric, step) -> value


def run(
    settings: Settings, prepared: Prepared, path: Path, stop_at: int | None = None, seed: int = 0
) -> tuple[dict[str, float], Logged]:
    """The final metrics of a trial, and all that it logged. `stop_at`: after so many steps it is asked to stop."""
    logged: Logged = {}
    seen = [0]

    def log(metrics: dict[str, float], step: int) -> None:
        logged.update({(name, step): value for name, value in metrics.items()})

    def progress(step: int, figures: dict[str, float]) -> None:
        seen[0] = step

    final = train(settings, seed, prepared, path, Hooks(log, progress, lambda: seen[0] == stop_at))
    return final, logged


def steady(logged: Logged) -> Logged:
    """Without what depends on the machine's hour."""
    return {key: value for key, value in logged.items() if not key[0].startswith(("perf/", "seconds"))}
