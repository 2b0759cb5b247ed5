import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.distributed import ALONE, World
from workbench.errors import UserError
from workbench.training.prepare import Prepared

SCRIPT = Path(__file__).with_name("several_processes.py")
Curves = dict[str, dict[str, Any]]  # processes -> variant -> metric at a step -> value; or a task's losses

spec = importlib.util.spec_from_file_location("several_processes", SCRIPT)
assert spec is not None
assert spec.loader is not None
several = importlib.util.module_from_spec(spec)
spec.loader.exec_module(several)


@pytest.fixture(scope="module")
def base(settings: Settings) -> Settings:
    return apply(settings, {"evaluation.robustness_pairs": 0})


@pytest.fixture(scope="module")
def curves(
    base: Settings, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Curves:
    """The curves of one process, and of two of half the batch each, in the variants that are tested in this run; each
    of them also goes on from the other's checkpoint."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    asked = {item.callspec.params.get("name") for item in items if item.path == Path(__file__)}
    variants = [name for name in several.VARIANTS if name in asked]
    resumed = [name for name in several.RESUMED if name in variants]
    folder = tmp_path_factory.mktemp("two")
    (folder / "settings.json").write_text(base.model_dump_json())
    one: dict[str, Any] = {}
    for name in variants:
        one[name] = several.curve(several.variant(base, name, ALONE), cache_dir, folder / f"alone {name}.pt")
    for name in resumed:
        several.curve(several.variant(base, name, ALONE), cache_dir, folder / f"{name} from one.pt", stop_at=3)
    for task in several.TUNED:
        one[task] = several.tuned(base, cache_dir, folder / f"alone {task}.pt", task)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    ran = subprocess.run(
        [*command, str(folder / "settings.json"), str(cache_dir), str(folder), *variants],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    two = json.loads((folder / "curves.json").read_text())
    for name in resumed:
        settings = several.variant(base, name, ALONE)
        one[f"{name} from two"] = several.curve(settings, cache_dir, folder / f"{name} from two.pt")
    return {"one": one, "two": two}


def same(made: dict[str, float], expected: dict[str, float], from_step: int = 1) -> None:
    """Losses and shifts agree but for rounding; a count over 32 pairs may differ by one of them where two scores
    tie."""
    compared = [name for name in made if int(name.rpartition("@")[2]) >= from_step]
    losses = [name for name in compared if "_loss@" in name or "_shift@" in name or "norm@" in name]
    counts = [name for name in compared if "accuracy@" in name or "_auc@" in name]
    assert len(losses) > 6
    assert len(counts) > 6
    for name in losses:
        assert made[name] == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name
    for name in counts:
        assert made[name] == pytest.approx(expected[name], abs=1.01 / 32), name


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if name in several.LONG else ()) for name in several.VARIANTS],
)
def test_two_processes_of_half_the_batch_follow_one_process_of_the_whole(curves: Curves, name: str) -> None:
    same(curves["two"][name], curves["one"][name])


@pytest.mark.parametrize("name", several.RESUMED)
def test_a_checkpoint_of_one_world_size_goes_on_in_another(curves: Curves, name: str) -> None:
    same(curves["two"][f"{name} from one"], curves["one"][name], from_step=4)
    same(curves["one"][f"{name} from two"], curves["two"][name], from_step=4)


@pytest.mark.parametrize("task", several.TUNED)
def test_two_processes_fine_tune_as_one(curves: Curves, task: str) -> None:
    assert len(curves["one"][task]) >= 6
    assert curves["two"][task] == pytest.approx(curves["one"][task], rel=1e-4)


def test_a_batch_that_cannot_be_cut_is_refused(settings: Settings, prepared: Prepared) -> None:
    from workbench.training.parallelize import check_cut
    from workbench.training.pretrain import starting_model

    model = starting_model(settings, 0, prepared)
    check_cut(settings, 16, model, World(0, 2))
    with pytest.raises(UserError, match="multiple of 24"):
        check_cut(settings, 16, model, World(0, 3))
    with pytest.raises(UserError, match="batch norms"):
        check_cut(apply(settings, {"model.vision.frozen": False}), 16, model, World(0, 2))
