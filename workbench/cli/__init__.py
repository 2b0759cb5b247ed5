"""The `wb` command: one thin function a command; heavy imports stay inside."""

import importlib
import os
import signal
import sys
import time

import typer

from workbench.cli.options import app
from workbench.errors import UserError

# Importing a module adds its commands, in the order of `wb --help`.
for commands in ("train", "study", "runs", "measure", "data"):
    importlib.import_module(f"workbench.cli.{commands}")


@app.callback()
def before_every_command() -> None:
    from workbench.trial.quiet import quiet

    quiet()


def _let_the_first_process_speak() -> None:
    """Of several processes most meet the same error; the first one says it, and its end takes the others down."""
    if int(os.environ.get("RANK", "0")) > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(3)


def main() -> None:
    """The console script: errors end in one sentence, 2 for the user's mistake and 1 for ours."""
    debug = "--debug" in sys.argv
    os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        app()
    except UserError as error:
        if debug:
            raise
        _let_the_first_process_speak()
        typer.echo(f"wb: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        typer.echo("wb: stopped.", err=True)
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        from workbench.outage import outage

        if passing := outage(error):
            typer.echo(f"wb: {passing}; mend that, and the same command goes on.", err=True)
            sys.exit(2)
        reason = " ".join(str(error).split()) or type(error).__name__
        typer.echo(f"wb: unexpected error: {reason} (run again with --debug for the traceback)", err=True)
        sys.exit(1)
