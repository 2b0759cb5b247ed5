"""What is waited for and what is not, by the real errors of the libraries, each provoked; and how a wait goes."""

import contextlib
import errno
import http.client
import os
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest
import requests
import sqlalchemy
import torch
import urllib3
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.tracking import MlflowClient
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from tests.services import Postgres, free_port, http_stub, mlflow_server, postgres, replies
from tests.soak import small_disk
from workbench.errors import Interrupted, UserError
from workbench.faults import DATABASE, DISK, GROWN, MLFLOW, MOUNT, SERVER, diagnose, outage
from workbench.outage import GaveUp, Patience
from workbench.stop import GIVE_UP
from workbench.training import state
from workbench.trial.storage import open_storage

FAULT = None  # the verdict on what is not waited for
NO_RUN = "0" * 32
NOBODY = "http://127.0.0.1:1"
UNKNOWN_HOST = "no-such-host.invalid"  # RFC 6761: resolves nowhere
BIG = torch.zeros(300_000)
Case = tuple[str, Callable[[Any], object], str | None]


def caught(action: Callable[[], object]) -> Exception:
    """What the action raises."""
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def check(error: BaseException, verdict: str | None) -> None:
    found = outage(error)
    as_expected = found is None if verdict is None else found is not None and found.startswith(verdict)
    assert as_expected, f"{found}: {error!r}"


def cases(*table: Case) -> Any:
    return pytest.mark.parametrize(
        ("provoke", "verdict"), [pytest.param(provoke, verdict, id=name) for name, provoke, verdict in table]
    )


@pytest.fixture(autouse=True)
def impatient_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As workbench.tracking.store has them, but for the times."""
    for name, value in {"MAX_RETRIES": "1", "TIMEOUT": "1", "BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in (GIVE_UP, "MLFLOW_TRACKING_URI", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


# The system


def write(path: Path | str, size: int = 1 << 20) -> None:
    with open(path, "wb") as file:
        file.write(bytes(size))


def torch_to_a_file(path: Path | str) -> None:
    with open(path, "wb") as file:
        torch.save(BIG, file)


def numbers() -> pl.DataFrame:
    return pl.DataFrame({"x": np.random.default_rng(0).random(200_000)})


def words(path: Path) -> None:
    Tokenizer(models.WordLevel({str(index) * 3: index for index in range(30_000)}, "0")).save(str(path))


def fill_a_database(path: Path, mode: str = "delete") -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE t (x)")
        for _ in range(1000):
            with database:
                database.execute("INSERT INTO t VALUES (?)", (os.urandom(4000),))


@cases(
    ("open", lambda disk: write(disk / "x"), DISK),
    # torch says no more than "unexpected pos 576 vs 534"; our checkpoints keep the OSError.
    ("torch.save to an open file", lambda disk: torch_to_a_file(disk / "x"), FAULT),
    ("torch.save to a path", lambda disk: torch.save(BIG, disk / "x"), FAULT),
    ("a checkpoint", lambda disk: state._write({"x": BIG}, disk / "x.pt"), DISK),
    ("polars parquet", lambda disk: numbers().write_parquet(disk / "x"), DISK),
    ("polars sink", lambda disk: numbers().lazy().sink_parquet(disk / "x"), DISK),
    ("polars csv", lambda disk: numbers().write_csv(disk / "x"), DISK),
    ("safetensors", lambda disk: save_file({"x": BIG}, disk / "x"), DISK),
    ("numpy", lambda disk: np.save(disk / "x.npy", BIG.numpy()), DISK),
    ("tokenizers", lambda disk: words(disk / "x"), DISK),
    ("sqlite", lambda disk: fill_a_database(disk / "x.db"), DISK),
    ("sqlite with a write-ahead log", lambda disk: fill_a_database(disk / "x.db", "wal"), DISK),
)
def test_a_disk_that_is_full(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk, "256k"):
        pytest.skip("filling up a disk needs the right to mount one")
    try:
        check(caught(lambda: provoke(disk)), verdict)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@cases(
    ("open", lambda _: write("/dev/full"), DISK),
    ("torch.save to an open file", lambda _: torch_to_a_file("/dev/full"), DISK),
    ("torch.save to a path", lambda _: torch.save(BIG, "/dev/full"), FAULT),
)
def test_a_device_that_is_full(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    check(caught(lambda: provoke(tmp_path)), verdict)


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests import test_outage as here
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for number, action in enumerate([
    here.write, lambda path: here.numbers().write_parquet(path), here.fill_a_database,
    lambda path: here.fill_a_database(path, "wal"),
]):
    print(here.outage(here.caught(lambda: action(Path({folder!r}) / str(number)))))
"""


def test_the_limit_on_the_size_of_files(tmp_path: Path) -> None:
    code = LIMITED.format(root=str(Path(__file__).resolve().parent.parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = [line.partition(" (")[0] for line in done.stdout.splitlines()]
    assert found == [GROWN, GROWN, DISK, DISK], done.stderr


def as_nobody(action: Callable[[], object]) -> None:
    """As a user who may not write everywhere."""
    if os.geteuid() != 0:
        action()
        return
    os.seteuid(65534)
    try:
        action()
    finally:
        os.seteuid(0)


def read_only(folder: Path) -> None:
    if not small_disk(folder, "256k"):
        pytest.skip("a disk that is read only needs the right to mount one")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        write(folder / "x")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def into_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        os.write(writing, b"x")
    finally:
        os.close(writing)


def silence() -> None:
    """A server that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=0.1).recv(1)


def reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()
        client.recv(1)


def raised(error: Exception) -> None:
    raise error


def a_bug_while_an_outage_is_handled(bug: Callable[[], object]) -> None:
    try:
        raise ConnectionError("refused")
    except ConnectionError:
        bug()


@cases(
    ("EACCES", lambda _: as_nobody(lambda: write("/proc/version")), FAULT),
    ("EROFS", lambda tmp: read_only(tmp / "disk"), FAULT),
    ("ENOENT", lambda tmp: write(tmp / "no" / "x"), FAULT),
    ("EISDIR", lambda tmp: write(tmp), FAULT),
    ("polars, no such folder", lambda tmp: numbers().write_csv(tmp / "no" / "x"), FAULT),
    ("safetensors, no such folder", lambda tmp: save_file({"x": BIG}, tmp / "no" / "x"), FAULT),
    ("EPIPE of a pipe", lambda _: into_a_closed_pipe(), FAULT),
    ("ECONNREFUSED", lambda _: socket.create_connection(("127.0.0.1", 1)), SERVER),
    ("ECONNRESET", lambda _: reset(), SERVER),
    ("timed out", lambda _: silence(), SERVER),
    ("a name that does not resolve", lambda _: socket.getaddrinfo(UNKNOWN_HOST, 80), SERVER),
    ("a service that is unknown", lambda _: socket.getaddrinfo("127.0.0.1", "no-such-service"), FAULT),
    # These need a broken disk, or a network's.
    ("EIO", lambda _: raised(OSError(errno.EIO, "Input/output error")), FAULT),
    ("ESTALE", lambda _: raised(OSError(errno.ESTALE, "Stale file handle", "/nfs/x")), MOUNT),
    ("ETIMEDOUT of a file", lambda _: raised(OSError(errno.ETIMEDOUT, "timed out", "/nfs/x")), MOUNT),
    ("EDQUOT", lambda _: raised(OSError(errno.EDQUOT, "Disk quota exceeded", "x")), DISK),
    ("a lookup's bug", lambda _: a_bug_while_an_outage_is_handled(lambda: {}["x"]), FAULT),
    ("a division's bug", lambda _: a_bug_while_an_outage_is_handled(lambda: 1 / 0), FAULT),
    ("a type's bug", lambda _: a_bug_while_an_outage_is_handled(lambda: len(1)), FAULT),
    ("words of a full disk in a bug", lambda _: raised(KeyError("No space left on device (os error 28)")), FAULT),
    ("words of an outage in a bug", lambda _: raised(ValueError("Connection refused: database is locked")), FAULT),
)
def test_the_system(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    check(caught(lambda: provoke(tmp_path)), verdict)


def test_what_was_decided_is_not_decided_again() -> None:
    def user_error() -> None:
        raise UserError("no such server") from ConnectionError("refused")

    def stopped() -> None:
        Patience(lambda _: None, lambda: True)(reset)

    check(caught(user_error), FAULT)
    check(caught(stopped), FAULT)
    check(caught(lambda: Patience(lambda _: None)(stopped)), FAULT)


# SQLite


def database(folder: Path) -> Path:
    path = folder / "x.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    return path


def sql(path: Path | str, statement: str, **options: Any) -> None:
    with closing(sqlite3.connect(path, **options)) as connection:
        connection.execute(statement)
        connection.commit()


def while_locked(path: Path, action: Callable[[], object]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        action()


def no_more_pages(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA max_page_count = 3")
        for _ in range(10):
            connection.execute("INSERT INTO t VALUES (?)", (bytes(4000),))


def no_database(path: Path) -> Path:
    path.write_bytes(b"no database" * 500)
    return path


def own_lock() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("CREATE TABLE t (x); INSERT INTO t VALUES (1), (2);")
        reading = connection.execute("SELECT * FROM t")
        next(reading)
        connection.execute("DROP TABLE t")


def shared_cache() -> None:
    def connection() -> sqlite3.Connection:
        return sqlite3.connect("file:shared?mode=memory&cache=shared", uri=True, isolation_level=None)

    with closing(connection()) as one, closing(connection()) as two:
        one.execute("CREATE TABLE t (x)")
        one.execute("BEGIN")
        one.execute("INSERT INTO t VALUES (1)")
        two.execute("SELECT * FROM t")


def through_sqlalchemy(address: str, statement: str, **options: Any) -> None:
    engine = sqlalchemy.create_engine(address, **options)
    try:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text(statement))
    finally:
        engine.dispose()


def optuna_storage(address: str) -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.storages.RDBStorage(address, engine_kwargs={"connect_args": {"timeout": 0}})


def through_optuna(folder: Path, harm: str) -> None:
    path = folder / "optuna.db"
    storage = optuna_storage(f"sqlite:///{path}")
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    if harm == "lock":
        while_locked(path, lambda: storage.set_study_user_attr(study, "x", 1))
    sql(path, harm)
    storage.set_study_user_attr(study, "x", 1)


@pytest.fixture(scope="module")
def ready_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of an MLflow store, made once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments(max_results=1)
    return path


@cases(
    ("no such table", lambda tmp: sql(database(tmp), "SELECT * FROM u"), FAULT),
    ("no such column", lambda tmp: sql(database(tmp), "SELECT y FROM t"), FAULT),
    ("syntax error", lambda tmp: sql(database(tmp), "SELEC"), FAULT),
    (
        "locked",
        lambda tmp: while_locked(database(tmp), lambda: sql(tmp / "x.db", "INSERT INTO t VALUES (1)", timeout=0)),
        DATABASE,
    ),
    ("locked by itself", lambda _: own_lock(), FAULT),
    ("locked through a shared cache", lambda _: shared_cache(), DATABASE),
    (
        "read only",
        lambda tmp: sql(f"file:{database(tmp)}?mode=ro", "INSERT INTO t VALUES (1)", uri=True),
        FAULT,
    ),
    ("max_page_count", lambda tmp: no_more_pages(database(tmp)), DISK),
    ("no such folder", lambda tmp: sql(tmp / "no" / "x.db", "SELECT 1"), FAULT),
    ("no database", lambda tmp: sql(no_database(tmp / "x"), "SELECT * FROM t"), FAULT),
    ("closed", lambda _: closed_connection(), FAULT),
    (
        "sqlalchemy: no such table",
        lambda tmp: through_sqlalchemy(f"sqlite:///{database(tmp)}", "SELECT * FROM u"),
        FAULT,
    ),
    ("sqlalchemy: syntax error", lambda tmp: through_sqlalchemy(f"sqlite:///{database(tmp)}", "SELEC"), FAULT),
    (
        "sqlalchemy: no such folder",
        lambda tmp: through_sqlalchemy(f"sqlite:///{tmp}/no/x.db", "SELECT 1"),
        FAULT,
    ),
    (
        "sqlalchemy: locked",
        lambda tmp: while_locked(
            database(tmp),
            lambda: through_sqlalchemy(
                f"sqlite:///{tmp}/x.db", "INSERT INTO t VALUES (1)", connect_args={"timeout": 0}
            ),
        ),
        DATABASE,
    ),
    ("optuna: no such folder", lambda tmp: optuna_storage(f"sqlite:///{tmp}/no/x.db"), FAULT),
    ("optuna: no such table", lambda tmp: through_optuna(tmp, "DROP TABLE study_user_attributes"), FAULT),
    ("optuna: locked", lambda tmp: through_optuna(tmp, "lock"), DATABASE),
    (
        "optuna: no such study",
        lambda tmp: optuna_storage(f"sqlite:///{tmp}/x.db").get_study_id_from_name("no"),
        FAULT,
    ),
)
def test_sqlite(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    check(caught(lambda: provoke(tmp_path)), verdict)


def closed_connection() -> None:
    connection = sqlite3.connect(":memory:")
    connection.close()
    connection.execute("SELECT 1")


def log_batch(client: MlflowClient, run_id: str = NO_RUN) -> None:
    client.log_batch(run_id, metrics=[Metric("x", 1.0, 0, 0)])


def impatient(client: MlflowClient, limit: str = "") -> MlflowClient:
    """The local store's client, whose database does not wait for a lock, and has no more room than `limit`."""
    engine = client._tracking_client.store.engine

    @sqlalchemy.event.listens_for(engine, "before_cursor_execute", retval=True)
    def before(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if limit:
            cursor.execute(f"PRAGMA max_page_count = {limit}")
        return statement.replace("busy_timeout = 20000", "busy_timeout = 0"), parameters

    return client


def fill_mlflow(client: MlflowClient, run_id: str) -> None:
    for step in range(100):
        client.log_batch(run_id, metrics=[Metric(f"{step}x{index}" * 20, 1.0, 0, step) for index in range(900)])


@pytest.mark.parametrize(
    ("harm", "verdict"),
    [
        ("no such run", FAULT),
        ("a bad filter", FAULT),
        ("no such table", FAULT),
        ("no such table, written to", FAULT),
        ("locked", DATABASE),
        ("full", DISK),
    ],
)
def test_sqlite_within_mlflow(harm: str, verdict: str | None, ready_mlflow: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(ready_mlflow.read_bytes())
    client = MlflowClient(f"sqlite:///{path}")
    run_id = client.create_run("0").info.run_id
    if harm.startswith("no such table"):
        sql(path, "DROP TABLE latest_metrics")
    actions: dict[str, Callable[[], object]] = {
        "no such run": lambda: client.get_run(NO_RUN),
        "a bad filter": lambda: client.search_runs(["0"], "no filter"),
        "no such table": lambda: client.get_run(run_id),
        "no such table, written to": lambda: log_batch(client, run_id),
        "locked": lambda: while_locked(path, lambda: log_batch(impatient(client), run_id)),
        "full": lambda: fill_mlflow(impatient(client, "200"), run_id),
    }
    check(caught(actions[harm]), verdict)


# PostgreSQL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    with postgres(tmp_path_factory.mktemp("outage") / "postgres", "study", "crowded") as running:
        rules = running.home / "data" / "pg_hba.conf"
        rules.write_text("host all wb,limited,nobody 127.0.0.1/32 trust\nhost all secret 127.0.0.1/32 scram-sha-256\n")
        with connected(running) as connection:
            connection.execute("CREATE ROLE secret LOGIN PASSWORD 'right'")
            connection.execute("CREATE ROLE limited LOGIN")
            connection.execute("CREATE ROLE barred LOGIN")
            connection.execute("ALTER DATABASE crowded CONNECTION LIMIT 0")
            connection.execute("CREATE TABLE t (x int primary key); INSERT INTO t VALUES (1), (2)")
            connection.execute("SELECT pg_reload_conf()")
        time.sleep(0.5)
        yield running


def connected(server: Postgres, as_user: str = "wb", to: str = "study", options: str = "", more: str = "") -> Any:
    import psycopg

    address = server.address(to).replace("wb@", f"{as_user}@") + more
    return psycopg.connect(address, autocommit=True, options=options)


def psycopg_does(statement: str, options: str = "") -> Callable[[Postgres], None]:
    def action(server: Postgres) -> None:
        with connected(server, options=options) as connection:
            connection.execute(statement)

    return action


def serialisation_failure(server: Postgres) -> None:
    with connected(server) as one, connected(server) as two:
        for each in (one, two):
            each.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            each.execute("SELECT * FROM t")
        one.execute("UPDATE t SET x = x + 10 WHERE x = 1")
        one.execute("COMMIT")
        try:
            two.execute("UPDATE t SET x = x + 20 WHERE x = 1")
        finally:
            with connected(server) as third:
                third.execute("UPDATE t SET x = 1 WHERE x = 11")


def deadlock(server: Postgres) -> None:
    with connected(server) as one, connected(server) as two:
        for each, row in ((one, 1), (two, 2)):
            each.execute("BEGIN")
            each.execute("SELECT * FROM t WHERE x = %s FOR UPDATE", (row,))

        def first() -> None:
            with suppress(Exception):
                one.execute("SELECT * FROM t WHERE x = 2 FOR UPDATE")
                one.execute("ROLLBACK")

        thread = threading.Thread(target=first)
        thread.start()
        try:
            two.execute("SET deadlock_timeout = '100ms'")
            two.execute("SELECT * FROM t WHERE x = 1 FOR UPDATE")
        finally:
            two.execute("ROLLBACK")
            thread.join()


def lock_held(server: Postgres) -> None:
    with connected(server) as one:
        one.execute("BEGIN; LOCK TABLE t")
        psycopg_does("SELECT * FROM t", "-c lock_timeout=50ms")(server)


def too_many(server: Postgres) -> None:
    with contextlib.ExitStack() as stack:
        while True:
            stack.enter_context(connected(server, "limited"))


def idle_too_long(server: Postgres) -> None:
    with connected(server, options="-c idle_in_transaction_session_timeout=100ms") as connection:
        connection.execute("BEGIN")
        time.sleep(0.4)
        connection.execute("SELECT 1")


def terminated(server: Postgres) -> None:
    with connected(server) as connection, connected(server) as other:
        (number,) = connection.execute("SELECT pg_backend_pid()").fetchone()
        other.execute("SELECT pg_terminate_backend(%s)", (number,))
        time.sleep(0.1)
        connection.execute("SELECT 1")


def ended_connection(server: Postgres) -> None:
    connection = connected(server)
    connection.close()
    connection.execute("SELECT 1")


def sqlalchemy_does(statement: str, to: str = "study", as_user: str = "wb") -> Callable[[Postgres], None]:
    def action(server: Postgres) -> None:
        address = server.address(to).replace("wb@", f"{as_user}@").replace("://", "+psycopg://")
        through_sqlalchemy(address, statement)

    return action


@cases(
    ("undefined table", psycopg_does("SELECT * FROM u"), FAULT),
    ("undefined column", psycopg_does("SELECT y FROM t"), FAULT),
    ("syntax error", psycopg_does("SELEC"), FAULT),
    ("unique violation", psycopg_does("INSERT INTO t VALUES (1)"), FAULT),
    (
        "a limit that is set",
        psycopg_does(
            "SELECT count(*) FROM (SELECT generate_series(1, 900000) x ORDER BY 1) s",
            "-c temp_file_limit=1MB -c work_mem=64kB",
        ),
        FAULT,
    ),
    ("cancelled", psycopg_does("SELECT pg_sleep(5)", "-c statement_timeout=50ms"), DATABASE),
    ("lock held", lock_held, DATABASE),
    ("serialisation failure", serialisation_failure, DATABASE),
    ("deadlock", deadlock, DATABASE),
    ("too many connections", too_many, DATABASE),
    ("too many to this database", lambda server: connected(server, "limited", "crowded"), DATABASE),
    ("idle in a transaction", idle_too_long, DATABASE),
    ("terminated", terminated, DATABASE),
    ("connection closed", ended_connection, DATABASE),
    ("wrong password", lambda server: connected(server, "secret:wrong"), FAULT),
    ("no password", lambda server: connected(server, "secret"), FAULT),
    ("barred by pg_hba.conf", lambda server: connected(server, "barred"), FAULT),
    ("unknown role", lambda server: connected(server, "nobody"), FAULT),
    ("unknown database", lambda server: connected(server, to="no"), FAULT),
    ("unknown database called so", lambda server: connected(server, to="recovery"), FAULT),
    ("no TLS there", lambda server: connected(server, more="?sslmode=require"), FAULT),
    ("unknown option", lambda server: connected(server, more="?no=1"), FAULT),
    ("sqlalchemy: undefined table", sqlalchemy_does("SELECT * FROM u"), FAULT),
    ("sqlalchemy: syntax error", sqlalchemy_does("SELEC"), FAULT),
    ("sqlalchemy: wrong password", sqlalchemy_does("SELECT 1", as_user="secret:wrong"), FAULT),
    ("sqlalchemy: unknown database", sqlalchemy_does("SELECT 1", to="no"), FAULT),
    ("sqlalchemy: too many", sqlalchemy_does("SELECT 1", "crowded", "limited"), DATABASE),
)
def test_postgresql(provoke: Callable[[Postgres], object], verdict: str | None, server: Postgres) -> None:
    check(caught(lambda: provoke(server)), verdict)


def test_optuna_goes_on_with_a_connection_that_was_lost(server: Postgres) -> None:
    storage = optuna.storages.RDBStorage(server.address("study").replace("://", "+psycopg://"))
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "lost")

    @sqlalchemy.event.listens_for(storage.engine, "before_cursor_execute")
    def before(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM trials" in statement:
            number = connection.connection.driver_connection.info.backend_pid
            psycopg_does(f"SELECT pg_terminate_backend({number}), pg_sleep(0.2)")(server)

    lost = caught(lambda: storage.get_all_trials(study))
    assert isinstance(lost.__cause__, sqlalchemy.exc.PendingRollbackError)
    check(lost, DATABASE)


@pytest.mark.parametrize(("user", "database"), [("secret:wrong", "study"), ("unknown", "study"), ("wb", "nowhere")])
def test_a_storage_that_refuses_is_named_without_its_password(
    user: str, database: str, server: Postgres, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"refuses the connection .*; check user, password and database") as caught:
        open_storage(server.address(database).replace("wb@", f"{user}@"), tmp_path)
    assert "wrong" not in str(caught.value)


def test_postgresql_is_stopped_in_the_middle(server: Postgres) -> None:
    storage = optuna.storages.RDBStorage(server.address("study").replace("://", "+psycopg://"))
    study = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
    engine = sqlalchemy.create_engine(server.address("study").replace("://", "+psycopg://"))
    open_one, idle = engine.connect(), connected(server)
    sleeping = connected(server)
    killed: list[Exception] = []
    thread = threading.Thread(
        target=lambda: killed.append(caught(lambda: sleeping.execute("SELECT pg_sleep(60)"))), daemon=True
    )
    thread.start()
    time.sleep(0.3)
    server.stop(signal.SIGQUIT)
    try:
        thread.join(timeout=10)
        check(killed[0], DATABASE)
        check(caught(lambda: idle.execute("SELECT 1")), DATABASE)
        check(caught(lambda: open_one.execute(sqlalchemy.text("SELECT 1"))), DATABASE)
        check(caught(lambda: storage.get_all_trials(study)), DATABASE)
        refused = caught(lambda: connected(server))
        check(refused, DATABASE)
        found = diagnose(refused)
        assert found is not None
        assert f"PostgreSQL at 127.0.0.1:{server.port}" in found.advice
        check(caught(lambda: sqlalchemy_does("SELECT 1")(server)), DATABASE)
    finally:
        server.start()
    assert storage.get_all_trials(study) == []
    with connected(server) as connection:
        connection.execute("DROP TABLE study_user_attributes")
    check(caught(lambda: storage.set_study_user_attr(study, "x", 1)), FAULT)


@pytest.mark.parametrize(
    ("address", "verdict"),
    [
        (f"postgresql://wb@{UNKNOWN_HOST}/study", DATABASE),
        ("postgresql://wb@127.0.0.1:1/study", DATABASE),
        ("postgresql://wb@127.0.0.1:99999/study", FAULT),
        ("postgresql://wb@/study?host=/no/such/folder", DATABASE),
    ],
)
def test_postgresql_that_is_not_there(address: str, verdict: str | None) -> None:
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    check(caught(lambda: psycopg.connect(address)), verdict)


# Servers that speak HTTP


def through_mlflow(address: str) -> None:
    MlflowClient(address).get_run(NO_RUN)


def write_through_mlflow(address: str) -> None:
    log_batch(MlflowClient(address))


def through_requests(address: str) -> None:
    requests.get(address, timeout=1).raise_for_status()


def through_urllib3(address: str) -> None:
    with urllib3.PoolManager(retries=False, timeout=1) as pool:
        pool.request("GET", address)


def through_urllib(address: str) -> None:
    urllib.request.urlopen(address, timeout=1).read()


def upload(address: str) -> None:
    path = Path(__file__)
    there = f"{address.replace('http', 'mlflow-artifacts')}/1/2/artifacts"
    MlflowArtifactsRepository(there, tracking_uri=address).log_artifact(str(path))


def status(code: int, mlflow_code: str = "") -> Callable[[BaseHTTPRequestHandler], None]:
    if not mlflow_code:
        return replies(code, "<html>sorry</html>", "text/html")
    return replies(code, f'{{"error_code": "{mlflow_code}", "message": "m"}}')


def breaks_off(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1286")
    request.end_headers()
    request.wfile.write(b"{")


def breaks_off_a_chunk(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"50\r\nabc")
    request.close_connection = True


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def hangs(_: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


def speaks_ssh(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")


def redirects_for_ever(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "/x")
    request.send_header("Content-Length", "0")
    request.end_headers()


ALL = (through_mlflow, through_requests, through_urllib)
ANSWERS: list[tuple[Callable[[BaseHTTPRequestHandler], None], str, tuple[Callable[[str], None], ...], str | None]] = [
    (breaks_off, "breaks off", (through_mlflow, through_requests, through_urllib, through_urllib3), SERVER),
    (breaks_off_a_chunk, "breaks off a chunk", ALL, SERVER),
    (hangs_up, "hangs up", (*ALL, through_urllib3, write_through_mlflow), SERVER),
    (hangs, "hangs", (*ALL, through_urllib3), SERVER),
    (speaks_ssh, "is no HTTP", (*ALL, through_urllib3), FAULT),
    (redirects_for_ever, "redirects for ever", ALL, FAULT),
    (status(500), "500", (*ALL, write_through_mlflow, upload), SERVER),
    (status(502), "502", ALL, SERVER),
    (status(503), "503", (*ALL, upload), SERVER),
    (status(504), "504", ALL, SERVER),
    (status(429), "429", ALL, SERVER),
    (status(507), "507", ALL, SERVER),
    (status(400), "400", ALL, FAULT),
    (status(401), "401", (*ALL, write_through_mlflow, upload), FAULT),
    (status(403), "403", (*ALL, upload), FAULT),
    (status(404), "404", (*ALL, upload), FAULT),
    (status(501), "501", ALL, FAULT),
    (status(500, "INTERNAL_ERROR"), "500 of MLflow", (through_mlflow,), SERVER),
    (status(503, "TEMPORARILY_UNAVAILABLE"), "503 of MLflow", (through_mlflow,), SERVER),
    (status(429, "REQUEST_LIMIT_EXCEEDED"), "429 of MLflow", (through_mlflow,), SERVER),
    (status(404, "RESOURCE_DOES_NOT_EXIST"), "404 of MLflow", (through_mlflow,), FAULT),
    (status(403, "PERMISSION_DENIED"), "403 of MLflow", (through_mlflow,), FAULT),
    (status(401, "UNAUTHENTICATED"), "401 of MLflow", (through_mlflow,), FAULT),
    (status(400, "INVALID_PARAMETER_VALUE"), "400 of MLflow", (through_mlflow,), FAULT),
    (status(409, "ABORTED"), "409 of MLflow", (through_mlflow,), MLFLOW),
    (replies(200, "<html>login</html>", "text/html"), "a login page", (through_mlflow, write_through_mlflow), FAULT),
]


@pytest.mark.parametrize(
    ("answer", "ask", "verdict"),
    [
        pytest.param(answer, ask, verdict, id=f"{name} {ask.__name__}")
        for answer, name, clients, verdict in ANSWERS
        for ask in clients
    ],
)
def test_answers_of_a_server(
    answer: Callable[[BaseHTTPRequestHandler], None], ask: Callable[[str], None], verdict: str | None
) -> None:
    with http_stub(answer) as address:
        error = caught(lambda: ask(address))
    check(error, verdict)
    found = diagnose(error)
    if ask is through_mlflow and found is not None and "API request to http" in str(error):
        assert found.about.startswith(address)
        assert address in found.advice


@pytest.mark.parametrize(
    ("address", "ask", "verdict"),
    [
        *[pytest.param(NOBODY, ask, SERVER, id=f"refused {ask.__name__}") for ask in (*ALL, through_urllib3, upload)],
        *[
            pytest.param(f"http://{UNKNOWN_HOST}:5000", ask, SERVER, id=f"no such host {ask.__name__}")
            for ask in (*ALL, through_urllib3)
        ],
        *[pytest.param("htp://x", ask, FAULT, id=f"unknown scheme {ask.__name__}") for ask in (*ALL, through_urllib3)],
        *[pytest.param("http://:99999999", ask, FAULT, id=f"no address {ask.__name__}") for ask in ALL[:2]],
    ],
)
def test_servers_that_are_not_there(address: str, ask: Callable[[str], None], verdict: str | None) -> None:
    check(caught(lambda: ask(address)), verdict)


@pytest.mark.parametrize("ask", [*ALL, through_urllib3])
def test_a_server_that_speaks_no_tls(ask: Callable[[str], None]) -> None:
    with http_stub(status(200)) as address:
        check(caught(lambda: ask(address.replace("http", "https"))), FAULT)


def test_a_proxy_that_refuses() -> None:
    with http_stub(status(407)) as proxy:
        check(caught(lambda: requests.get("https://x.invalid", proxies={"https": proxy}, timeout=1)), FAULT)
    check(caught(lambda: requests.get("https://x.invalid", proxies={"https": NOBODY}, timeout=1)), SERVER)


@pytest.fixture
def with_tls(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Servers with a certificate that nobody has signed, and one that hangs up instead of showing its own."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=localhost", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", str(key), "-out", str(certificate), *name]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as unsigned, socket.create_server(("127.0.0.1", 0)) as gone:

        def show(hello: bool) -> None:
            with suppress(OSError):
                while True:
                    client, _ = (unsigned if hello else gone).accept()
                    with suppress(OSError), client:
                        if hello:
                            context.wrap_socket(client, server_side=True)
                        else:
                            client.recv(10_000)

        for hello in (True, False):
            threading.Thread(target=show, args=(hello,), daemon=True).start()
        address = "https://127.0.0.1:{}".format
        yield address(unsigned.getsockname()[1]), address(gone.getsockname()[1])


@pytest.mark.parametrize("ask", [*ALL, through_urllib3])
def test_certificates(ask: Callable[[str], None], with_tls: tuple[str, str]) -> None:
    unsigned, gone = with_tls
    check(caught(lambda: ask(unsigned)), FAULT)
    check(caught(lambda: ask(gone)), SERVER)


def test_http_client() -> None:
    def ask(address: str) -> None:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=1)
        connection.request("GET", "/")
        connection.getresponse().read()

    for answer, verdict in ((hangs_up, SERVER), (breaks_off, SERVER), (speaks_ssh, FAULT)):
        with http_stub(answer) as address:
            check(caught(partial(ask, address)), verdict)


def test_the_real_mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with mlflow_server(tmp_path) as server:
        client = MlflowClient(server.uri)
        run_id = client.create_run("0").info.run_id
        check(caught(lambda: client.get_run(NO_RUN)), FAULT)
        check(caught(lambda: log_batch(client)), FAULT)
        check(caught(lambda: client.search_runs(["0"], "no filter")), FAULT)
        check(caught(lambda: client.download_artifacts(run_id, "no.json", str(tmp_path))), FAULT)
        # Here a fault cannot be told from an outage: the server answers 503, and MLflow's client hides the rest.
        sql(tmp_path / "mlflow.db", "DROP TABLE latest_metrics")
        check(caught(lambda: client.get_run(run_id)), SERVER)
        server.stop()
        check(caught(lambda: client.get_run(run_id)), SERVER)


def test_what_mlflow_says_of_its_database_in_words() -> None:
    pytest.importorskip("psycopg.errors", reason="psycopg is not installed")
    for words, verdict in (
        ("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]", DISK),
        ("(sqlite3.OperationalError) database is locked\n[SQL: INSERT]", DATABASE),
        ("(sqlite3.OperationalError) no such table: runs\n[SQL: INSERT]", FAULT),
        ("(psycopg.errors.DeadlockDetected) deadlock detected\n[SQL: INSERT]", DATABASE),
        ("(psycopg.errors.UndefinedTable) no\n[SQL: INSERT]", FAULT),
        ("(psycopg.OperationalError) connection failed: x: Connection refused\n(Background on", DATABASE),
        ('(psycopg.OperationalError) connection failed: x: FATAL:  database "x" does not exist', FAULT),
        ("TypeError: 'NoneType' object is not subscriptable", FAULT),
    ):
        check(MlflowException(words), verdict)
        check(ValueError(words), FAULT)


# gRPC


@pytest.fixture(scope="module")
def grpc() -> Any:
    return pytest.importorskip("grpc", reason="gRPC is not installed")


@contextlib.contextmanager
def grpc_server(storage: Any) -> Iterator[tuple[Any, Any]]:
    """A server of the storage, and a proxy for it."""
    from optuna.storages._grpc.server import make_server

    port = free_port()
    running = make_server(storage, "127.0.0.1", port)
    running.start()
    try:
        yield running, optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port)
    finally:
        running.stop(None)


class Failing:
    """A storage each of whose methods does this."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *_, **__: self.action()


def test_grpc_that_is_not_there(grpc: Any) -> None:
    away = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=1)
    check(caught(away.get_all_studies), DATABASE)
    check(caught(lambda: away.wait_server_ready(timeout=0.2)), SERVER)
    check(caught(optuna.storages.GrpcStorageProxy(host=UNKNOWN_HOST, port=1).get_all_studies), DATABASE)


def test_grpc_that_is_stopped_in_the_middle(grpc: Any) -> None:
    with grpc_server(Failing(lambda: time.sleep(2))) as (running, proxy):
        threading.Timer(0.3, lambda: running.stop(None)).start()
        check(caught(proxy.get_all_studies), DATABASE)


def test_grpc_codes(grpc: Any, tmp_path: Path) -> None:
    from optuna.storages._grpc.auto_generated import api_pb2

    with grpc_server(optuna_storage(f"sqlite:///{tmp_path}/x.db")) as (_, proxy):
        check(caught(lambda: proxy.get_study_id_from_name("no")), FAULT)  # NOT_FOUND, as a KeyError
        request = api_pb2.GetStudyIdFromNameRequest(study_name="no")
        check(caught(lambda: proxy._stub.GetStudyIdFromName(request)), FAULT)
        check(caught(lambda: proxy._channel.unary_unary("/no/Such")(b"")), FAULT)  # UNIMPLEMENTED
        # UNKNOWN: of what went wrong there, Optuna's proxy hands on the words "exception during the commit" alone.
        sql(tmp_path / "x.db", "DROP TABLE study_user_attributes")
        study = proxy.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
        check(caught(lambda: proxy.set_study_user_attr(study, "x", 1)), FAULT)
    with grpc_server(Failing(lambda: time.sleep(1))) as (_, proxy):
        late = caught(lambda: proxy._stub.GetAllStudies(api_pb2.GetAllStudiesRequest(), timeout=0.1))
        check(late, DATABASE)  # DEADLINE_EXCEEDED
    with grpc_server(Failing(lambda: 1 / 0)) as (_, proxy):
        check(caught(proxy.get_all_studies), FAULT)
    with grpc_server(Failing(lambda: sqlalchemy_refused())) as (_, proxy):
        check(caught(proxy.get_all_studies), DATABASE)


def sqlalchemy_refused() -> None:
    through_sqlalchemy("postgresql+psycopg://wb@127.0.0.1:1/x", "SELECT 1")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("INVALID_ARGUMENT", FAULT),
        ("PERMISSION_DENIED", FAULT),
        ("UNAUTHENTICATED", FAULT),
        ("INTERNAL", FAULT),
        ("UNAVAILABLE", DATABASE),
        ("RESOURCE_EXHAUSTED", DATABASE),
        ("ABORTED", DATABASE),
    ],
)
def test_grpc_codes_that_a_server_gives(grpc: Any, code: str, verdict: str | None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def refuse(_: bytes, context: Any) -> None:
        context.abort(grpc.StatusCode[code], "so it is")

    class Handler(grpc.GenericRpcHandler):
        def service(self, _: object) -> Any:
            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check(caught(lambda: channel.unary_unary("/a/b")(b"")), verdict)
    finally:
        server.stop(None)


def test_a_message_that_is_too_large_stays_so(grpc: Any, tmp_path: Path) -> None:
    with grpc_server(optuna_storage(f"sqlite:///{tmp_path}/x.db")) as (_, proxy):
        study = proxy.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
        check(caught(lambda: proxy.set_study_user_attr(study, "x", "x" * 5_000_000)), FAULT)


# Waiting


class Clock:
    """Time that passes when somebody sleeps. The action fails with `errors`, the last one for ever; None: it works."""

    def __init__(self, *errors: Exception | None) -> None:
        self.now, self.errors, self.tried, self.told = 0.0, list(errors), list[float](), list[tuple[float, str]]()

    def sleep(self, seconds: float) -> None:
        assert 0 < seconds <= 0.1, "a stop must be seen within 0.1 s"
        self.now += seconds

    def say(self, sentence: str) -> None:
        self.told.append((round(self.now), sentence))

    def action(self) -> str:
        self.tried.append(self.now)
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            raise error
        return "done"

    def patience(self, **options: Any) -> Patience:
        given: dict[str, Any] = {"stopped": lambda: self.now > 3600, "chance": lambda: 0.5} | options
        return Patience(self.say, clock=lambda: self.now, sleep=self.sleep, **given)

    def pauses(self) -> list[float]:
        return [round(after - before, 1) for before, after in zip(self.tried, self.tried[1:], strict=False)]


def refused() -> Exception:
    return caught(lambda: through_requests(NOBODY))


def test_pauses_grow_to_half_a_minute() -> None:
    time = Clock(*[refused()] * 8, None)
    assert time.patience()(time.action) == "done"
    assert time.pauses() == [1, 2, 4, 8, 16, 30, 30, 30]


def test_pauses_differ_between_workers_and_touch_no_seed() -> None:
    def pauses() -> list[float]:
        time = Clock(refused(), None)
        Patience(time.say, clock=lambda: time.now, sleep=time.sleep)(time.action)
        return time.pauses()

    def seeded() -> tuple[list[int], list[int]]:
        return np.random.get_state(legacy=False)["state"]["key"].tolist(), torch.get_rng_state().tolist()

    before = seeded()
    first = [pause for _ in range(20) for pause in pauses()]
    assert all(0.7 <= pause <= 1.3 for pause in first)
    assert len(set(first)) > 1
    assert seeded() == before


def test_a_wait_is_told_of_every_minute_and_what_can_be_done_once() -> None:
    time = Clock(refused())
    with pytest.raises(Interrupted):
        time.patience(stopped=lambda: time.now > 605)(time.action)
    assert time.told == [
        (0, f"waiting: {SERVER} ({NOBODY}); continuing as soon as possible"),
        *[(60 * n, f"still waiting after {n} min: {SERVER} ({NOBODY})") for n in range(1, 6)],
        (300, f"what can be done: start the server at {NOBODY} or see its log, or check MLFLOW_TRACKING_URI"),
        *[(60 * n, f"still waiting after {n} min: {SERVER} ({NOBODY})") for n in range(6, 11)],
    ]


def test_the_sentences_follow_what_is_out_of_order() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x.pt")
    time = Clock(*[refused()] * 16, full)
    with pytest.raises(Interrupted):
        time.patience(stopped=lambda: time.now > 500)(time.action)
    assert f"still waiting after 8 min: {DISK} (/data/x.pt)" in [sentence for _, sentence in time.told]
    advice = [sentence.partition(": ")[2] for _, sentence in time.told if sentence.startswith("what can be done")]
    assert advice[0].startswith("start the server")
    assert advice[1:] == ["free space on the disk of /data/x.pt"]


def test_a_wait_that_ends_says_so_and_an_action_that_works_says_nothing() -> None:
    time = Clock(refused(), None)
    time.patience()(time.action)
    time.patience()(time.action)
    assert [sentence.partition(":")[0] for _, sentence in time.told] == ["waiting", "continuing"]


def test_a_fault_ends_a_wait() -> None:
    time = Clock(refused(), KeyError("x"))
    with pytest.raises(KeyError):
        time.patience()(time.action)


def test_giving_up_is_the_users_to_mend_and_is_not_waited_out_again() -> None:
    time = Clock(refused())
    inner = time.patience(give_up_after=100.0)
    with pytest.raises(GaveUp) as end:
        Patience(lambda sentence: pytest.fail(sentence))(lambda: inner(time.action))
    assert isinstance(end.value, UserError)
    assert str(end.value) == (
        f"gave up after waiting 2 min: {SERVER} ({NOBODY}); start the server at {NOBODY} or see its log, "
        "or check MLFLOW_TRACKING_URI; then run the same command again."
    )
    assert time.pauses()[-1] < 30
    assert 100 <= time.tried[-1] < 100.2  # one last attempt


def test_giving_up_at_once() -> None:
    time = Clock(refused())
    with pytest.raises(GaveUp):
        time.patience(give_up_after=0.0)(time.action)
    assert (len(time.tried), time.told) == (1, [])


def test_every_wait_has_the_same_end_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Patience(print).give_up_after is None
    monkeypatch.setenv(GIVE_UP, "1.5")
    assert Patience(print).give_up_after == 90
    monkeypatch.setenv(GIVE_UP, "0")
    with pytest.raises(GaveUp):
        Patience(print)(lambda: raised(ConnectionError("refused")))
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv(GIVE_UP, wrong)
        with pytest.raises(UserError, match=GIVE_UP):
            Patience(print)


@pytest.mark.parametrize("command", ["sweep", "train", "worker"])
def test_the_option_holds_for_workers_in_other_processes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from workbench.cli.options import app

    monkeypatch.setenv(GIVE_UP, "")  # so that it is put back at the end
    end = CliRunner().invoke(app, [command, "no-such-study", "--give-up-after", "2.5"])
    assert isinstance(end.exception, UserError)
    assert Patience(print).give_up_after == 150
    assert CliRunner().invoke(app, [command, "no-such-study", "--give-up-after", "-1"]).exit_code == 2


def test_a_stop_ends_a_wait_within_a_tenth_of_a_second() -> None:
    asked: list[float] = []
    stop = threading.Timer(0.3, lambda: asked.append(time.monotonic()))
    stop.start()
    with pytest.raises(Interrupted):
        Patience(lambda _: None, lambda: bool(asked), pause=30.0)(lambda: raised(ConnectionError("refused")))
    assert time.monotonic() - asked[0] < 0.1
