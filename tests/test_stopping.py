"""Asked to stop, every command ends within seconds wherever it is, leaves nobody behind, and the same command goes
on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from tests.stopping import EVALUATING, LONG, PHASES, ROOT, TWO_SWEEP, WARM, YAML, Phase, Started, has, says, start
from tests.test_end_to_end import final_metrics, inside
from workbench.cli import options
from workbench.stop import CODE, Stop, Stopped

WITHIN = 5.0  # seconds
NAMED = {phase.name: phase for phase in PHASES}
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    path = tmp_path / "stop.yaml"
    path.write_text(YAML)
    (tmp_path / "w").mkdir()
    return path


def begun(phase: Phase, yaml: Path) -> Started:
    return start(phase, yaml.parent / "w", yaml, yaml.parent / "log")


def ended_well(started: Started) -> None:
    assert started.process.returncode == CODE
    assert len(started.said()) == 1, started.errors
    assert started.said()[0].startswith("Stopped")


@pytest.mark.parametrize(
    ("name", "signals", "group"),
    [
        ("imports, first moment", [INT], True),
        pytest.param(*("sweep: warm start", [TERM], False), marks=pytest.mark.long),
        pytest.param(*("sweep: validation", [HUP], False), marks=pytest.mark.long),
        pytest.param(*("train: waiting for MLflow", [TERM], False), marks=pytest.mark.long),
        pytest.param(*("train: rendering scenes", [INT], True), marks=pytest.mark.long),
        pytest.param(*("train: evaluation", [TERM], False), marks=pytest.mark.long),
        pytest.param(*("sweep, two processes: training", [INT], True), marks=pytest.mark.long),
        pytest.param(*("train --nproc 2: training", [TERM], False), marks=pytest.mark.long),
        ("sweep: training", [INT, INT, INT], True),
    ],
)
def test_a_signal_ends_a_command_within_seconds(
    name: str, signals: list[signal.Signals], group: bool, yaml: Path
) -> None:
    started = begun(NAMED[name], yaml)
    assert started.stop(*signals, group=group) < WITHIN
    ended_well(started)


IN_WARM_START, IN_TRAINING = says("preparing: warm start"), has("cut/checkpoints/*/*.pt")
AT_THE_REPORT = says("finished hard_ratio=0.5")


@pytest.mark.long
@pytest.mark.parametrize(
    "moments",
    [[IN_TRAINING], [IN_WARM_START, IN_TRAINING, AT_THE_REPORT]],
    ids=["training", "everywhere"],
)
def test_a_stopped_sweep_goes_on_and_ends_with_the_same_bits(
    moments: list[Callable[[Path, str], bool]], yaml: Path
) -> None:
    home = yaml.parent

    def phase(workspace: str, come: Callable[[Path, str], bool], pause: float) -> Started:
        asked = Phase(
            "", f"sweep {{yaml}} --workspace {{w}}/{workspace} --workers 1", come, ("warm_start.steps=40",), pause
        )
        return start(asked, home / "w", yaml, home / "log")

    for come in moments:
        started = phase("cut", come, 0.0)
        assert started.stop(TERM) < WITHIN
        assert started.process.returncode in (CODE, 0)
    last = phase("cut", says("trials"), 0.0)
    assert last.process.wait(120) == 0, last.errors
    whole = ["sweep", str(yaml), "--workspace", str(home / "w" / "whole"), "--set", "warm_start.steps=40"]
    done = inside(*whole, "--launcher", "here")
    assert done.returncode == 0, done.stderr
    assert final_metrics(home / "w" / "cut") == final_metrics(home / "w" / "whole")


@pytest.mark.parametrize(
    ("arguments", "come", "sets"),
    [
        ("sweep {yaml} --workspace {w} --workers 2", has("checkpoints/*/*.pt"), LONG),
        pytest.param(
            *("sweep {yaml} --workspace {w} --workers 1", says("preparing: warm start"), WARM), marks=pytest.mark.long
        ),
        pytest.param(TWO_SWEEP, has("checkpoints/*/*.pt"), LONG, marks=pytest.mark.long),
        pytest.param(TWO_SWEEP, has("cache/warm-*.lock"), WARM, marks=pytest.mark.long),
        pytest.param(
            *("sweep {yaml} --workspace {w} --workers 1", has("checkpoints/*/*.parts"), EVALUATING),
            marks=pytest.mark.long,
        ),
        pytest.param(
            *("train {yaml} --workspace {w} --nproc 2", has("checkpoints/*/*.pt"), LONG), marks=pytest.mark.long
        ),
    ],
)
def test_a_sweep_that_is_killed_takes_its_workers_along(
    arguments: str, come: Callable[[Path, str], bool], sets: tuple[str, ...], yaml: Path
) -> None:
    started = begun(Phase("killed", arguments, come, sets, 1.0), yaml)
    assert len(started.family()) >= 3
    started.outlived()


@pytest.mark.long
def test_a_suspended_sweep_is_not_mistaken_for_a_dead_one(yaml: Path) -> None:
    started = begun(NAMED["sweep: training"], yaml)
    family = started.family()
    started.process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    assert all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in family)
    started.process.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    assert started.process.poll() is None
    assert started.stop(TERM) < WITHIN
    ended_well(started)


def run_stop(code: str) -> tuple[int, float]:
    """A process that listens, then runs `code` and is sent SIGTERM a second later; its exit code, and the seconds until
    then."""
    begin = "import time; from workbench.stop import *; stop = Stop({}); stop.listen(); print('ready', flush=True);\n"
    process = subprocess.Popen(
        [sys.executable, "-c", begin.format("within=1.5") + code],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.terminate()
    sent = time.monotonic()
    return process.wait(20), time.monotonic() - sent


def test_what_hears_nothing_is_ended_but_for_what_it_saves(tmp_path: Path) -> None:
    code, seconds = run_stop(
        "import ctypes; lock = ctypes.CDLL(None).pthread_mutex_lock; m = bytes(64); lock(m); lock(m)"
    )
    assert code == CODE
    assert seconds < 3
    saved = tmp_path / "saved"
    code, seconds = run_stop(f"with stop.saving(): time.sleep(3)\nopen({str(saved)!r}, 'w').close(); time.sleep(9)")
    assert code == CODE
    assert saved.exists()
    said = tmp_path / "said"
    run_stop(f"with stop.at_last(lambda: open({str(said)!r}, 'w').close()): time.sleep(9)")
    assert said.exists()


def test_work_that_has_nothing_to_save_is_cut() -> None:
    code, seconds = run_stop("try:\n with stop.cut(): time.sleep(9)\nexcept Stopped: os._exit(7)")
    assert code == 7
    assert seconds < 1
    stop = Stop()
    stop.ask()
    with pytest.raises(Stopped), stop.cut():
        pytest.fail("it was asked before")


def test_a_terminal_that_hangs_up_asks_to_stop() -> None:
    before = signal.signal(HUP, signal.SIG_DFL)
    try:
        code = "import signal; from workbench.stop import *; s = Stop(); s.listen(); signal.raise_signal(1); print(s())"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == "True\n", done.stderr
    finally:
        signal.signal(HUP, before)


def test_nohup_keeps_a_command_alive_when_the_terminal_hangs_up() -> None:
    before = signal.signal(HUP, signal.SIG_IGN)
    try:
        code = "import signal, time; from workbench.stop import *; Stop().listen(); signal.raise_signal(1); print(1)"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
        assert done.stdout == "1\n"
    finally:
        signal.signal(HUP, before)


def shell(line: str, workspace: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`line` by a shell, in which $WB stands for `wb`."""
    known = {"WB": f"{sys.executable} -m workbench", "W": str(workspace), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ | known | env
    )


def test_standard_output_may_be_closed_full_or_of_few_characters(yaml: Path) -> None:
    workspace = yaml.parent / "w"
    train = f"$WB train {yaml} --workspace $W"
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "COLUMNS": "40"}
    done = shell(f"{train} | head -n 1; exit ${{PIPESTATUS[0]}}", workspace, CUDA_VISIBLE_DEVICES="7", **ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "preparing: data\n"
    closed = shell(f"{train} >&-", workspace, CUDA_VISIBLE_DEVICES="")
    assert (closed.returncode, closed.stderr) == (0, "")
    full = shell("$WB runs --json --workspace $W > /dev/full", workspace)
    assert full.returncode == 1
    assert full.stderr == "wb: standard output could not be written (No space left on device).\n"
    listed = shell("$WB runs --workspace $W", workspace, **ascii_only)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "\x1b" not in listed.stdout


def test_a_device_that_is_not_there_is_named_where_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for named, gpus, said in (("7", True, "names no device"), ("7", False, ""), ("", True, ""), ("-1", True, "")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        monkeypatch.setattr(options, "GPUS", tmp_path if gpus else tmp_path / "none")
        options.say_of_hidden_devices()
        errors = capsys.readouterr().err
        assert said in errors
        assert bool(said) == bool(errors)
