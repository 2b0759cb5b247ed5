"""SQLite's errors, as they come through SQLAlchemy, Optuna and MLflow too."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from tests.faults.provoked import (
    FAULT,
    NO_RUN,
    cases,
    caught,
    check,
    log_batch,
    optuna_storage,
    sql,
    through_sqlalchemy,
)
from workbench.faults import DATABASE, DISK


def database(folder: Path) -> Path:
    path = folder / "x.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE t (x)")
    return path


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
