"""`just bench`: what this machine makes of the workbench, each figure with its median and range over the repeats.

One thread, and every ratio within one repeat. `--list` names the parts; a part is a module with `measure(repeats,
home)`, where `home` is an empty folder.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from tests.benchmarks.figures import Figure, about, told, write
from workbench.trial.quiet import quiet

PACKAGE = "tests.benchmarks"
PARTS = (
    *("training", "reference", "roofline", "data", "storage", "evaluation", "engine", "runs", "reports", "startup"),
    *("steps", "workers", "ledger", "memory", "sweeps", "grid", "neighbours"),
)
# Minutes each, with five repeats.
LONG = {"reference", "evaluation", "reports", "memory", "sweeps", "grid", "neighbours"}
Measure = Callable[[int, Path], list[Figure]]


def part(name: str) -> tuple[Measure, str]:
    """What measures a part, and what its module says of it in a line."""
    module = import_module(f"{PACKAGE}.{name}")
    measure: Measure = module.measure
    return measure, " ".join((module.__doc__ or "").split("\n\n")[0].split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help="these parts")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file, after each part")
    parser.add_argument("--list", action="store_true", help="name the parts and measure nothing")
    given = parser.parse_args()
    if given.list:
        for name in PARTS:
            print(f"{name:<12}{'long  ' if name in LONG else '      '}{part(name)[1]}")
        return
    quiet()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    machine = about(given.repeats)
    figures: dict[str, list[Figure]] = {}
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for name in given.only:
        began = time.perf_counter()
        try:
            measure, title = part(name)
            with tempfile.TemporaryDirectory() as home:
                figures[name] = measure(given.repeats, Path(home))
        except Exception:  # the other parts are worth their time
            traceback.print_exc()
            continue
        print(f"\n{name}: {title} ({time.perf_counter() - began:.0f} s)", *told(figures[name]), sep="\n  ", flush=True)
        if given.json:
            write(given.json, machine, figures)
    sys.exit(len(figures) < len(given.only))


if __name__ == "__main__":
    main()
