"""How long each command takes to end after a signal, in each of its phases: `python tests/benchmarks/stopping.py [words of a phase ...]`."""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from tests.stopping import PHASES, YAML, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--signal", default="SIGTERM,SIGINT")
    given = parser.parse_args()
    print("| phase | signal | seconds | exit code |\n|---|---|---|---|")
    for phase in PHASES:
        if not all(word in phase.name for word in given.words):
            continue
        for name in given.signal.split(","):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
                workspace, yaml = Path(home) / "w", Path(home) / "stop.yaml"
                workspace.mkdir()
                yaml.write_text(YAML)
                try:
                    started = start(phase, workspace, yaml, Path(home) / "log")
                    group = name == "SIGINT"  # as a terminal does
                    seconds = started.stop(signal.Signals[name], group=group)
                except AssertionError as error:
                    print(f"| {phase.name} | {name} | - | {str(error)[-600:]} |", flush=True)
                    continue
                code, errors = started.process.returncode, started.errors
                print(f"| {phase.name} | {name} | {seconds:.1f} | {code} |", flush=True)
                if code != 130 or "Stopped" not in errors or len(errors.strip().splitlines()) != 1:
                    print(errors[-1500:], flush=True)


if __name__ == "__main__":
    main()
