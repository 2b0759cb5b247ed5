"""One sweep of six cells through every kind of worker and storage: the numbers are the same to the last bit."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import text

from tests.services import command, free_port, mlflow_server, postgres, until
from tests.soak import YAML, Value, values
from tests.test_end_to_end import inside
from workbench.config.schema import Experiment
from workbench.errors import UserError
from workbench.trial.cell import Ending
from workbench.trial.ledger import Ledger
from workbench.trial.storage import IDLE_SECONDS, open_storage

ROOT = Path(__file__).resolve().parent.parent.parent
CELLS = 6


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("yaml") / "six.yaml"
    path.write_text(YAML.format(steps=8, ratios=[0.0, 0.5, 1.0], seeds=2))
    return path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "WB_LEASE": "8"} | environment
    return subprocess.run(command(*arguments), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)


def results(database: str) -> Value:
    logged, counts = values(database)
    assert set(counts.values()) == {1}
    assert len({cell for cell, *_ in logged}) == CELLS
    return {at: value for at, value in logged.items() if not at[1].startswith(("seconds", "perf/"))}


@pytest.fixture(scope="module")
def local(yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Value:
    """The sweep by one worker, in this process, with the journal."""
    home = tmp_path_factory.mktemp("local")
    done = inside("sweep", str(yaml), "--workspace", str(home), "--launcher", "here")
    assert done.returncode == 0, done.stderr
    return results(f"sqlite:///{home / 'mlflow.db'}")


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `wb` beside the test; whatever happens to that, none is left behind."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str, env: dict[str, str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command(*arguments), cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for member in psutil.Process(process.pid).children(recursive=True):
                member.kill()
            process.kill()
        process.communicate()


def test_postgresql_an_mlflow_server_on_it_and_a_worker_that_joins(
    yaml: Path, local: Value, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    with (
        postgres(tmp_path / "postgres", "runs", "studies") as database,
        mlflow_server(tmp_path / "server", database.address("runs").replace("://", "+psycopg://")) as server,
    ):
        runs, studies = database.address("runs"), database.address("studies")
        home = tmp_path / "work"
        with pytest.raises(UserError, match="use a separate database for the studies"):
            open_storage(runs, home)
        storage = open_storage(studies, home)
        assert isinstance(storage, RDBStorage)
        with storage.engine.connect() as connection:
            (idle,) = connection.execute(text("SHOW idle_in_transaction_session_timeout")).one()
        assert idle == f"{IDLE_SECONDS}s"
        common = ["--workspace", str(home), "--storage", studies]
        env = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": server.uri}
        sweep = started("sweep", str(yaml), "--workers", "2", *common, env=env)
        ledger = Ledger(open_storage(studies, home), "six")
        until(lambda: bool(ledger.study.user_attrs), 180)  # it is there, but may not be set up yet
        joining = started("worker", "six", "--workers", "1", *common, env=env)
        # The sweep's own workers wait until the one that joins has done something, however late it has come.
        until(lambda: bool(ledger.endings()), 180)
        own = [worker for server in psutil.Process(sweep.pid).children() for worker in server.children()]
        for worker in own:
            worker.suspend()
        until(lambda: bool(_holders(ledger) - {worker.pid for worker in own}) or joining.poll() is not None, 180)
        for worker in own:
            worker.resume()
        joined, _ = joining.communicate(timeout=120)
        assert joining.returncode == 0
        assert "finished hard_ratio" in joined
        out, _ = sweep.communicate(timeout=120)
        assert sweep.returncode == 0
        assert out.count("finished hard_ratio") == CELLS
        assert results(server.backend) == local
        listed = run("runs", "--workspace", str(home), MLFLOW_TRACKING_URI=server.uri)
        assert f"{CELLS}/{CELLS}  six" in listed.stdout, listed.stderr
        assert len(_holders(ledger)) >= 2


@pytest.mark.long
def test_a_database_that_is_killed_is_waited_for(
    yaml: Path, local: Value, tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    with postgres(tmp_path / "postgres", "studies") as database:
        storage, home = database.address("studies"), tmp_path / "work"
        ledger = Ledger(open_storage(storage, home), "six")
        arguments = ["sweep", str(yaml), "--workers", "2", "--workspace", str(home), "--storage", storage]
        sweep = started(*arguments, env=os.environ | {"PYTHONPATH": str(ROOT), "WB_LEASE": "8"})
        until(lambda: bool(ledger.endings()), 180)
        database.stop(signal.SIGQUIT)
        time.sleep(8)
        database.start()
        out, _ = sweep.communicate(timeout=180)
        assert sweep.returncode == 0, out
        assert "waiting: a database cannot be reached" in out
        assert results(f"sqlite:///{home / 'mlflow.db'}") == local
        # Attempts that came second to a cell end as failed, too, but do not count.
        assert not [trial.user_attrs["reason"] for trial in ledger.study.trials if trial.user_attrs.get("counts")]


@pytest.mark.long
def test_ray_with_a_worker_killed_and_one_that_waits_for_a_place(yaml: Path, local: Value, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    assert ray is not None
    # One place for two workers.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        killed: list[int] = []
        ledger = Ledger(open_storage(None, tmp_path), "six")

        def kill_one() -> None:
            """The process of the actor that works, once two cells have ended."""
            until(lambda: len(ledger.endings()) >= 2, 200)
            for process in psutil.process_iter(["cmdline"]):
                if not killed and "ray::Worker.run" in " ".join(process.info["cmdline"] or []):
                    process.send_signal(signal.SIGKILL)
                    killed.append(process.pid)

        threading.Thread(target=kill_one, daemon=True).start()
        arguments = ["--workspace", str(tmp_path), "--launcher", "ray", "--workers", "2", "--gpus-per-worker", "0"]
        done = run("sweep", str(yaml), *arguments, RAY_ADDRESS=cluster.address)
        assert done.returncode == 0, done.stderr
        assert killed
        assert results(f"sqlite:///{tmp_path / 'mlflow.db'}") == local
    finally:
        cluster.shutdown()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("grpc", reason="gRPC is not installed")
    port = free_port()
    server = subprocess.Popen(command("storage", "--port", str(port), "--workspace", str(tmp_path)), cwd=ROOT)
    yield f"grpc://127.0.0.1:{port}"
    server.send_signal(signal.SIGTERM)
    server.wait(timeout=30)


def test_claims_through_the_grpc_proxy_are_exclusive(proxy: str, experiment: Experiment, tmp_path: Path) -> None:
    from workbench.sweep.grid import expand

    cells = expand(experiment)
    taken: list[str] = []

    def work() -> None:
        ledger = Ledger(open_storage(proxy, tmp_path / "elsewhere"), "s")
        while (ours := ledger.claim(cells, 1, 0, "me")) is not None:
            taken.append(ours.cell.key)
            ours.complete(Ending("run", "finished", 0.5, {}))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(cell.key for cell in cells)
    assert len(Ledger(open_storage(None, tmp_path), "s").endings()) == len(cells)


def _holders(ledger: Ledger) -> set[int]:
    """The processes that have ended a cell."""
    return {t.user_attrs["holder"]["pid"] for t in ledger.study.trials if "ending" in t.user_attrs}


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["local", "ray"])
def test_a_limit_in_hours_holds_for_every_worker_and_the_sweep_goes_on_without_it(
    yaml: Path, local: Value, tmp_path: Path, launcher: str
) -> None:
    if launcher == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    arguments = ["sweep", str(yaml), "--workspace", str(tmp_path), "--workers", "2", "--launcher", launcher]
    arguments += ["--gpus-per-worker", "0"] if launcher == "ray" else []
    first = run(*arguments, "--max-hours", "0")
    assert first.returncode == 0, first.stderr
    assert "3 of 6 trials are left: `--max-hours 0` leaves no time for another block of seeds." in first.stderr
    logged, _ = values(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len({cell for cell, *_ in logged}) == CELLS // 2
    assert (tmp_path / "reports" / "six" / "report.html").exists()
    again = run(*arguments)
    assert again.returncode == 0, again.stderr
    assert results(f"sqlite:///{tmp_path / 'mlflow.db'}") == local
