"""The `wb` command: one thin function per subcommand. Heavy imports stay inside the functions."""

import errno
import importlib
import os
import sys
import time
import traceback
from typing import Annotated

import typer

from workbench.cli.options import Silent, Verbose, app, current, debugging
from workbench.errors import UserError
from workbench.first_error import ProcessEnd, tell
from workbench.stop import CODE, MEMBER, Stop, the_commands
from workbench.streams import soften

# Importing a module registers its commands, in the order of `wb --help`.
for commands in ("train", "study", "runs", "measure", "data", "pretrain", "doctor"):
    importlib.import_module(f"workbench.cli.{commands}")


def _print_version(requested: bool) -> None:
    if requested:
        from workbench import __version__

        typer.echo(f"workbench {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    silent: Silent = False,
    verbose: Verbose = False,
) -> None:
    """Takes `-q` and `-v` also before a command's name."""


def main(stop: Stop | None = None) -> None:
    """Runs the console script. Errors end in one sentence; the exit code is 2 for a user error, 1 for an internal error
    and 130 for a stop.

    `stop`: the process's Stop, whose signal handlers are installed already; without one, handlers are installed while
    the command runs.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads yield their core; read by torch
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `optimisation.deterministic`; CUDA reads it once
    cut_short = soften()
    if stop is None:
        stop = the_commands(os.environ)
        forget = stop.listen()
    else:
        forget = lambda: None  # noqa: E731
    current.set(stop)
    try:
        code, sentence, trace = _run(stop)
    finally:
        forget()
    if MEMBER in os.environ and code:
        tell(ProcessEnd("stopped" if stop() else "user" if code == 2 else "failed", sentence, trace=trace))
        os._exit(code)  # leaving a process group normally may wait for a process that is gone
    if stop() and code:
        cut_short()
        stop.say(sentence)
        os._exit(code)  # a library's thread may be waiting for a server
    error = cut_short()
    if error is not None and error.errno not in (errno.EPIPE, errno.EIO):  # in these cases the reader has gone
        code, sentence = code or 1, sentence or f"wb: standard output could not be written ({error.strerror})."
    if sentence:
        _let_the_first_process_print()
        typer.echo(sentence, err=True)
    sys.exit(code)


def _run(stop: Stop) -> tuple[int, str, str]:
    """Runs the command. Returns its exit code, the sentence that is still to be printed, and the traceback of an
    error."""
    try:
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        return CODE if stop() and code else code, "", ""
    except KeyboardInterrupt:
        return CODE, "", ""
    except BaseException as error:
        # The interrupted work may have raised any error.
        if stop():
            return CODE, "", ""
        if debugging() and MEMBER not in os.environ:
            raise
        return *_message_of(error), traceback.format_exc()
    return 0, "", ""


def _message_of(error: BaseException) -> tuple[int, str]:
    """Returns the exit code and the sentence for an error."""
    from workbench.faults import diagnose
    from workbench.refusals import refusal

    if isinstance(error, UserError):
        return 2, f"wb: {error}"
    if sentence := refusal(error):
        return 2, f"wb: {sentence}"
    if type(error).__name__ == "OutOfMemoryError":
        advice = "split its batch: `wb finetune --micro-batches 2`, else --set optimisation.micro_batches=2, or more"
        return 2, f"wb: a process is out of GPU memory; {advice}."
    if outage := diagnose(error):
        return 2, f"wb: {outage}; {outage.advice}; then run the same command again."
    reason = " ".join(str(error).split()) or type(error).__name__
    return 1, f"wb: unexpected error: {reason} (run again with --debug for the traceback)"


def _let_the_first_process_print() -> None:
    """Delays other processes than the first one. Of several processes that torchrun started, most meet the same error;
    the first one prints it, and its end terminates the others."""
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(3)
