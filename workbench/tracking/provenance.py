"""The provenance of a run: code, packages, machine. Enough to explain why two runs differ."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "transformers", "tokenizers", "numpy", "polars", "optuna", "mlflow")


def provenance() -> dict[str, Any]:
    """Returns the workbench's Git commit and uncommitted changes, package versions, and hardware."""
    import torch

    import workbench

    root = Path(workbench.__file__).resolve().parent.parent
    diff = _git(root, "diff", "HEAD")
    return {
        "workbench": workbench.__version__,
        "commit": _git(root, "rev-parse", "HEAD") or None,
        "dirty": bool(diff),
        "diff": diff,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "python": sys.version.split()[0],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _git(root: Path, *arguments: str) -> str:
    if not (root / ".git").exists():
        return ""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
