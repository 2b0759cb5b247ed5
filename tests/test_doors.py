"""Imports run one way between the rooms."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# A room may import itself and what stands before it; tracking stands beside, for sweep and cli alone.
ORDER = ["config", "data", "model", "objectives", "evaluation", "training", "sweep"]


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("room", [*ORDER, "tracking"])
def test_a_room_imports_only_what_stands_before_it(room: str) -> None:
    allowed = (
        {"config"}
        if room == "tracking"
        else {*ORDER[: ORDER.index(room) + 1], *(["tracking"] if room == "sweep" else [])}
    )
    for path in (ROOT / "workbench" / room).rglob("*.py"):
        for name in imports(path):
            first, _, rest = name.partition(".")
            assert first != "analysis", f"{path}: {name}"
            target = rest.split(".")[0]
            if first == "workbench" and target in (*ORDER, "tracking", "cli", "progress"):
                assert target in {*allowed, room}, f"{path}: {name}"


def test_analysis_never_loads_torch_or_the_workbench_rooms() -> None:
    for path in (ROOT / "analysis").rglob("*.py"):
        known = {f"workbench.{name}" for name in ("errors", "config.schema", "metrics", "record", "workspace")}
        assert not {n for n in imports(path) if n.startswith("workbench.")} - known, path
    code = "import sys, analysis.report; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "False"
    )


def test_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, workbench.cli; print(sorted({'torch', 'mlflow', 'polars', 'optuna', 'timm', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "[]"
