"""The `wb` command: one thin function a command; heavy imports stay inside."""

import errno
import importlib
import os
import sys
import time
import traceback
from typing import Annotated

import typer

from workbench.cli.options import app, current
from workbench.errors import UserError
from workbench.first_error import Told, tell
from workbench.stop import CODE, MEMBER, Stop, the_commands
from workbench.streams import soften

# Importing a module adds its commands, in the order of `wb --help`.
for commands in ("train", "study", "runs", "measure", "data", "pretrain", "doctor"):
    importlib.import_module(f"workbench.cli.{commands}")


def _tell_version(asked: bool) -> None:
    if asked:
        from workbench import __version__

        typer.echo(f"workbench {__version__}")
        raise typer.Exit


@app.callback()
def before_every_command(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    from workbench.trial.quiet import quiet

    quiet()


def main(stop: Stop | None = None) -> None:
    """The console script: errors end in one sentence, 2 for the user's mistake and 1 for ours, and a stop in 130.

    Without a `stop` of the process that listens already, one listens while the command runs.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves its core to others; read by torch
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for `optimisation.deterministic`; read once, by CUDA
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
        tell(Told("stopped" if stop() else "user" if code == 2 else "failed", sentence, trace=trace))
        os._exit(code)  # leaving a group of processes may wait for one that is gone
    if stop() and code:
        cut_short()
        stop.say(sentence)
        os._exit(code)  # a library's thread may have to wait for a server
    error = cut_short()
    if error is not None and error.errno not in (errno.EPIPE, errno.EIO):  # whoever read it has left
        code, sentence = code or 1, sentence or f"wb: standard output could not be written ({error.strerror})."
    if sentence:
        _let_the_first_process_speak()
        typer.echo(sentence, err=True)
    sys.exit(code)


def _run(stop: Stop) -> tuple[int, str, str]:
    """The exit code of the command, what is still to be said of its end, and the traceback of an error."""
    debug = "--debug" in sys.argv
    try:
        app()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        return CODE if stop() and code else code, "", ""
    except KeyboardInterrupt:
        return CODE, "", ""
    except BaseException as error:
        # What was interrupted may have failed in a way of its own.
        if stop():
            return CODE, "", ""
        if debug and MEMBER not in os.environ:
            raise
        return *_said(error), traceback.format_exc()
    return 0, "", ""


def _said(error: BaseException) -> tuple[int, str]:
    from workbench.faults import diagnose
    from workbench.refusals import refusal

    if isinstance(error, UserError):
        return 2, f"wb: {error}"
    if told := refusal(error):
        return 2, f"wb: {told}"
    if type(error).__name__ == "OutOfMemoryError":
        advice = "cut its batch: `wb finetune --micro-batches 2`, else --set optimisation.micro_batches=2, or more"
        return 2, f"wb: a process is out of GPU memory; {advice}."
    if passing := diagnose(error):
        return 2, f"wb: {passing}; {passing.advice}; then the same command goes on."
    reason = " ".join(str(error).split()) or type(error).__name__
    return 1, f"wb: unexpected error: {reason} (run again with --debug for the traceback)"


def _let_the_first_process_speak() -> None:
    """Of several processes that torchrun has started most meet the same error; the first one says it, and its end takes
    the others down."""
    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(3)
