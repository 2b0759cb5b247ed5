"""The Typer app, and what its commands share: options, JSON output, and the stop request."""

import json
import os
import sys
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from workbench.stop import GIVE_UP, Stop

if TYPE_CHECKING:
    from rich.console import Console

QUIET = "WB_QUIET"  # in the environment, so that every process of a command knows it


def set_quiet(wanted: bool) -> None:
    if wanted:
        os.environ[QUIET] = "1"


def set_verbose(context: typer.Context, wanted: bool) -> None:
    """Sets how much libraries log. It comes before any command's work, whether or not the option is given."""
    from workbench.trial.quiet import VERBOSE, quiet

    if wanted:
        os.environ[VERBOSE] = "1"
    if not isinstance(context.command, TyperGroup):
        quiet()


Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Silent = Annotated[
    bool, typer.Option("--quiet", "-q", callback=set_quiet, help="Show no progress, only results and errors.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=set_verbose, help="Let libraries log what they do.")]


@cache
def shared_options() -> list[Any]:
    """Returns the options that every command has. No command gets their values."""
    template = typer.Typer(add_completion=False)

    @template.command()
    def any_command(debug: Debug = False, silent: Silent = False, verbose: Verbose = False) -> None: ...

    shared = typer.main.get_command(template).params
    for option in shared:
        option.expose_value = False
    return shared


def debugging() -> bool:
    """Returns whether `--debug` was given."""
    return "--debug" in sys.argv


class Commands(TyperGroup):
    """A group that gives its commands the shared options."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in self.commands.values():
            if not isinstance(command, TyperGroup):
                command.params.extend(shared_options())


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Ablations of vision-language pre-training: what each part of a method does.

    `wb sweep experiments/ablation_itm.yaml` runs an ablation and writes its report; `wb ui` shows the runs in MLflow.
    """,
)

Workspace = Annotated[Path, typer.Option(help="Folder for runs, caches, checkpoints and reports.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a setting, such as optimisation.steps=200.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="Shrink the experiment to run in seconds; its numbers mean nothing.")
]
File = Annotated[Path, typer.Argument(help="The experiment's YAML file.", metavar="FILE")]
Storage = Annotated[
    str | None,
    typer.Option(
        envvar="WB_STORAGE",
        help=(
            "Where the study is stored: postgresql://... or grpc://HOST:PORT; default a journal file in the workspace,"
            " for one machine."
        ),
    ),
]


def _for_all_processes(minutes: float | None) -> float | None:
    """Sets the limit in the environment, from which each worker reads it, before any worker is started."""
    if minutes is not None:
        os.environ[GIVE_UP] = str(minutes)
    return minutes


GiveUpAfter = Annotated[
    float | None,
    typer.Option(
        envvar=GIVE_UP,
        metavar="MINUTES",
        min=0,
        callback=_for_all_processes,
        help="Give up after waiting this long for a full disk, a server or a database; default never.",
    ),
]
DEFAULT = Path(".wb")
GPUS = Path("/proc/driver/nvidia/gpus")
current: ContextVar[Stop] = ContextVar("current")  # the Stop of the running command


def console_for(as_json: bool) -> "Console":
    """Returns the console for progress: standard error next to JSON output, without colours where NO_COLOR is set, and
    silent after `-q`."""
    from rich.console import Console

    return Console(stderr=as_json, no_color="NO_COLOR" in os.environ or None, quiet=QUIET in os.environ)


def say_of_hidden_devices() -> None:
    """Warns where CUDA_VISIBLE_DEVICES names no device of a machine with GPUs: training would silently run on the
    CPU."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible not in ("", "-1") and GPUS.is_dir() and not torch.cuda.is_available():
        typer.echo(f"CUDA_VISIBLE_DEVICES={visible} names no device of this machine; continuing on the CPU.", err=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))
