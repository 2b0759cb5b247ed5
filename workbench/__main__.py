"""Runs `wb` as `python -m workbench`, which torchrun needs: `torchrun --nproc-per-node 8 -m workbench train FILE`."""

import os

from workbench.stop import the_commands
from workbench.streams import open_closed


def run() -> None:
    """Runs the console script. It can be stopped from the start, even while the command line itself is loading."""
    open_closed()
    stop = the_commands(os.environ)
    stop.listen()
    try:
        from workbench.cli import main
    except KeyboardInterrupt:
        stop.end()
    main(stop)


if __name__ == "__main__":
    run()
