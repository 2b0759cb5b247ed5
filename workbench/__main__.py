"""`python -m workbench` is `wb`; torchrun starts it so: `torchrun --nproc-per-node 8 -m workbench train FILE`."""

import os

from workbench.stop import the_commands
from workbench.streams import open_closed


def run() -> None:
    """The console script. It can be stopped from the first moment, while the command line itself is being loaded."""
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
