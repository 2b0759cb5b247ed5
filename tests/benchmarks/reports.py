"""How long reports take, and how large pages and stores become, over their number of runs."""

from functools import partial
from pathlib import Path

from analysis.report import write_report
from tests.analysis.toy import toy_store
from tests.benchmarks.figures import CPU, Figure, by_turns, curve, figure
from workbench.workspace import Workspace

SEEDS = (2, 6, 20)  # of five arms
MANY_ARMS = (20, 5)  # arms and seeds of as many runs as the largest of these


def measure(repeats: int, home: Path) -> list[Figure]:
    """Whole reports with all their figures, of toy sweeps."""
    shapes = {f"{5 * seeds} runs": (5, seeds) for seeds in SEEDS} | {"many arms": MANY_ARMS}
    stores = {name: toy_store(home / name, *shape) for name, shape in shapes.items()}
    sizes = {name: Workspace(home / name).database.stat().st_size / 1e6 for name in shapes}
    pages = {name: home / f"report of {name}" for name in shapes}
    actions = {name: partial(write_report, *store, pages[name]) for name, store in stores.items()}
    times = by_turns(actions, repeats, warm=False)
    runs, wide = {5 * seeds: f"{5 * seeds} runs" for seeds in SEEDS}, f"{MANY_ARMS[0]} arms x {MANY_ARMS[1]} seeds"
    written = {name: [(page / "report.html").stat().st_size / 1e6] for name, page in pages.items()}
    return [
        *curve("report of 5 arms", "s", {count: times[name] for count, name in runs.items()}, "runs", CPU),
        figure(f"report of {wide}", "s", times["many arms"], CPU),
        *curve("its page", "MB", {count: written[name] for count, name in runs.items()}, "runs"),
        figure(f"page of {wide}", "MB", written["many arms"]),
        *curve("the store of those runs", "MB", {count: [sizes[name]] for count, name in runs.items()}, "runs"),
    ]
