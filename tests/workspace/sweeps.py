"""A sweep so small that tests of workspaces can afford several, and what a folder holds."""

import json
import subprocess
from pathlib import Path

from tests.services import command
from tests.test_end_to_end import inside

ROOT = Path(__file__).resolve().parents[2]
TINY = """
question: Does {name} run?
preset: tiny
fixed:
  data.train_pairs: 128
  data.eval_pairs: 24
  warm_start.source: train
  warm_start.steps: 2
  warm_start.batch_size: 16
  optimisation.steps: 2
  optimisation.batch_size: 16
  evaluation.every: 2
  evaluation.pairs: 16
  evaluation.final_pairs: 16
  evaluation.robustness_pairs: 4
factors: {{objectives.itm.hard_ratio: [0.0]}}
baseline: {{objectives.itm.hard_ratio: 0.0}}
seeds: {{count: 1}}
primary: val/itm_auc
margin: 0.25
"""


def wb(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`wb` in this process, which has loaded everything already."""
    return inside(*map(str, arguments))


def sweep(file: Path, workspace: Path, *more: str, apart: bool = False) -> dict[str, object]:
    """A sweep to its end, as `--json` tells it; `apart`: in a process of its own, so that nothing stays open."""
    arguments = ["sweep", str(file), "--workspace", str(workspace), "--launcher", "here", "--json", *more]
    done = (
        subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=300)
        if apart
        else wb(*arguments)
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    assert told["finished"] == told["planned"]
    return told


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Path -> size and time of change of all that a folder holds, and of itself."""
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in (folder, *sorted(folder.rglob("*")))}
