"""PostgreSQL's errors, each from a real server."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy

from tests.faults.provoked import FAULT, UNKNOWN_HOST, cases, caught, check, through_sqlalchemy
from tests.services import Postgres, postgres
from workbench.errors import UserError
from workbench.faults import DATABASE, diagnose
from workbench.trial.storage import open_storage


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
        for connection in (one, two):
            connection.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            connection.execute("SELECT * FROM t")
        one.execute("UPDATE t SET x = x + 10 WHERE x = 1")
        one.execute("COMMIT")
        try:
            two.execute("UPDATE t SET x = x + 20 WHERE x = 1")
        finally:
            with connected(server) as third:
                third.execute("UPDATE t SET x = 1 WHERE x = 11")


def deadlock(server: Postgres) -> None:
    with connected(server) as one, connected(server) as two:
        for connection, row in ((one, 1), (two, 2)):
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM t WHERE x = %s FOR UPDATE", (row,))

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
        diagnosis = diagnose(refused)
        assert diagnosis is not None
        assert f"PostgreSQL at 127.0.0.1:{server.port}" in diagnosis.advice
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
