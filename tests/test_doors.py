"""Imports run one way between the rooms, in no circle; what changes a whole process is done by entry points alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TRAINING = {"config", "data", "model", "objectives", "evaluation", "training"}
# What each room may import beside itself; the modules beside the rooms are open to all.
MAY: dict[str, set[str]] = {
    "config": set(),
    "data": {"config"},
    "model": {"config", "data"},
    "objectives": {"config", "data", "model"},
    "evaluation": {"config", "data", "model", "objectives"},
    "training": TRAINING,
    "tracking": {"config"},
    "trial": {*TRAINING, "tracking"},
    "sweep": {*TRAINING, "tracking", "trial"},
    "runs": {*TRAINING, "tracking", "trial"},
    "cli": {*TRAINING, "tracking", "trial", "sweep", "runs"},
}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("workbench", "analysis")
    for path in sorted((ROOT / package).rglob("*.py"))
}
# (file, function) where a process begins, or what another library has changed in it is put back.
ENTRIES = {
    ("workbench/trial/torchrun.py", "_recording"),
    ("workbench/trial/quiet.py", "quiet"),
    ("workbench/data/parallel.py", "_ignore_interrupt"),
    ("workbench/stop.py", "listen"),
    ("workbench/stop.py", "listen_again"),
    ("workbench/stop.py", "end"),
    ("workbench/stop.py", "end_with_parent"),
}
PROCESS_WIDE = {"signal.signal", "signal.set_wakeup_fd", "os._exit", "warnings.simplefilter", "warnings.filterwarnings"}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top, in a function or for types alone."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(MODULES)
            modules |= inner or {node.module}
    return modules


@pytest.mark.parametrize("room", MAY)
def test_a_room_imports_only_what_stands_before_it(room: str) -> None:
    analysis = {"cli": {"analysis.report", "analysis.runs"}, "runs": {"analysis.runs"}}
    for path in (ROOT / "workbench" / room).rglob("*.py"):
        for name in imports(path):
            first, _, rest = name.partition(".")
            assert first != "analysis" or name in analysis.get(room, ()), f"{path}: {name}"
            target = rest.split(".")[0]
            if first == "workbench" and target in MAY:
                assert target in {*MAY[room], room}, f"{path}: {name}"


def test_what_stands_beside_the_rooms_imports_nothing_of_them_but_the_configuration() -> None:
    for path in (ROOT / "workbench").glob("*.py"):
        if path.name != "__main__.py":
            assert not {n for n in imports(path) if n.split(".")[0] == "workbench" and n.split(".")[1] in MAY} - {
                "workbench.config.schema"
            }, path


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {name: imports(path) & set(MODULES) - {name} for name, path in MODULES.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("room", ["sweep", "trial", "runs"])
def test_no_function_takes_more_than_six_parameters(room: str) -> None:
    for path in (ROOT / "workbench" / room).rglob("*.py"):
        for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
            given = function.args
            named = [parameter.arg for parameter in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            more = [parameter.arg for parameter in (given.vararg, given.kwarg) if parameter]
            assert len([parameter for parameter in named + more if parameter not in ("self", "cls")]) <= 6, (
                f"{path}: {function.name}"
            )


def process_wide(path: Path) -> Iterator[tuple[str, str]]:
    """(outermost function, call) of each call in a file that changes the whole process; not of warnings that are
    caught."""

    def inside(node: ast.AST, function: str, caught: bool) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef) and not function:
            function = node.name
        if isinstance(node, ast.With):
            caught = caught or any("catch_warnings" in ast.unparse(item.context_expr) for item in node.items)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            quietened = called.rpartition(".")[2].startswith("set_verbosity")
            if quietened or (called in PROCESS_WIDE and not (caught and called.startswith("warnings."))):
                yield function, called
        for child in ast.iter_child_nodes(node):
            yield from inside(child, function, caught)

    return inside(ast.parse(path.read_text(encoding="utf-8")), "", False)


def test_only_entry_points_change_a_whole_process() -> None:
    changing = {
        (str(path.relative_to(ROOT)), function, called)
        for path in (ROOT / "workbench").rglob("*.py")
        for function, called in process_wide(path)
        if path.parent.name != "cli"
    }
    assert {(path, function) for path, function, _ in changing} == ENTRIES, changing


def test_analysis_never_loads_torch_or_the_workbench_rooms() -> None:
    for path in (ROOT / "analysis").rglob("*.py"):
        known = {
            f"workbench.{name}"
            for name in ("errors", "config.schema", "metrics", "record", "significance", "workspace")
        }
        assert not {n for n in imports(path) if n.startswith("workbench.")} - known, path
    code = "import sys, analysis.report; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "False"
    )


def test_the_command_line_loads_nothing_heavy() -> None:
    heavy = {"torch", "mlflow", "polars", "optuna", "timm", "matplotlib"}
    code = f"import sys, workbench.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "[]"


def test_a_look_at_runs_and_studies_loads_no_torch() -> None:
    code = "import sys, analysis.runs, workbench.sweep.status; print(sorted({'torch', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "[]"


def test_a_sweeps_own_process_loads_no_models() -> None:
    code = "import sys, workbench.sweep.run; print(sorted({'timm', 'torchvision', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "[]"
