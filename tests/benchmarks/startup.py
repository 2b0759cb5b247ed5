"""How soon commands answer that only look: `wb --help`, `wb runs`, `wb sweep --status`."""

from pathlib import Path

from tests.benchmarks.figures import Figure, figure
from tests.benchmarks.ledger import filled as filled_study
from tests.benchmarks.runs import filled as filled_store
from tests.benchmarks.studies import Took, wb, written
from workbench.config.load import load_experiment

SWEEPS, TRIALS = 10, 100
CELLS = 1000
GOALS = {"help": 0.2, "runs": 1.0, "status": 1.0}  # seconds


def measure(repeats: int, home: Path) -> list[Figure]:
    workspace = home / "w"
    workspace.mkdir()
    filled_store(workspace, SWEEPS, TRIALS, 1, 1)
    yaml = written(home / "bench.yaml", {}, [place / 10 for place in range(10)], CELLS // 10)
    filled_study(load_experiment(yaml), workspace, CELLS // 2)
    commands: dict[str, tuple[str, list[str | Path]]] = {
        "help": ("`wb --help`", ["--help"]),
        "runs": (f"`wb runs`, {SWEEPS * TRIALS:,} runs", ["runs", "--workspace", workspace]),
        "status": (f"`wb sweep --status`, {CELLS:,} cells", ["sweep", yaml, "--status", "--workspace", workspace]),
    }
    took: dict[str, list[Took]] = {name: [] for name in commands}
    for _, arguments in commands.values():
        wb(*arguments)
    for _ in range(repeats):
        for name, (_, arguments) in commands.items():
            took[name].append(wb(*arguments))
    return [
        made
        for name, (title, _) in commands.items()
        for made in (
            figure(title, "s", [each.wall for each in took[name]], f"wall clock; goal {GOALS[name]} s"),
            figure(f"{title}, work", "s", [each.work for each in took[name]], "CPU seconds"),
        )
    ]
