"""How long each command takes to end after a signal, in each of its phases: `python tests/benchmarks/stopping.py [words
of a phase ...]`; with the word `of-a-run` for the commands that need a finished one; with `--signal SIGKILL`, how long
what it has started outlives it."""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from PIL import Image

from tests.stopping import OF_A_RUN, PHASES, YAML, Phase, start
from workbench.tracking.runs import Tracker
from workbench.tracking.store import tracking_uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--signal", default="SIGTERM,SIGINT")
    given = parser.parse_args()
    print("| phase | signal | seconds | exit code |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        finished = _finished(Path(home)) if "of-a-run" in given.words else {}
        for phase in OF_A_RUN if finished else []:
            for name in given.signal.split(","):
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
                    shutil.copytree(finished["w"], Path(place) / "w")
                    _measure(phase, name, Path(place), run=finished["run"], images=finished["pictures"])
    if finished:
        return
    for phase in PHASES:
        if not all(word in phase.name for word in given.words):
            continue
        for name in given.signal.split(","):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
                (Path(home) / "w").mkdir()
                _measure(phase, name, Path(home))


def _finished(home: Path) -> dict[str, str]:
    """A workspace with a finished training, its run, and a folder of images."""
    workspace, yaml, images = home / "w", home / "stop.yaml", home / "pictures"
    yaml.write_text(YAML)
    images.mkdir()
    for index in range(3000):
        Image.new("RGB", (300, 200), (index % 256, 100, 50)).save(images / f"{index}.jpg")
        (images / f"{index}.txt").write_text(f"A picture of thing number {index % 60} in the box.\n")
    done = subprocess.run(
        [sys.executable, "-m", "workbench", "sweep", str(yaml), "--workspace", str(workspace), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    run = Tracker(tracking_uri(workspace), workspace).trials_of(json.loads(done.stdout)["run_id"])[0]
    return {"w": str(workspace), "run": run, "pictures": str(images)}


def _measure(phase: Phase, name: str, home: Path, **named: str) -> None:
    yaml = home / "stop.yaml"
    yaml.write_text(YAML)
    try:
        started = start(phase, home / "w", yaml, home / "log", **named)
        if name == "SIGKILL":
            print(f"| {phase.name} | {name} | {started.outlived():.1f} | |", flush=True)
            return
        seconds = started.stop(signal.Signals[name], group=name == "SIGINT")  # Ctrl-C is for all of a terminal
    except AssertionError as error:
        print(f"| {phase.name} | {name} | - | {str(error)[-600:]} |", flush=True)
        return
    code, said = started.process.returncode, started.said()
    print(f"| {phase.name} | {name} | {seconds:.1f} | {code} |", flush=True)
    if code != 130 or len(said) != 1 or not said[0].startswith("Stopped"):
        print(started.errors[-1500:], flush=True)


if __name__ == "__main__":
    main()
