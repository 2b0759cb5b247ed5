"""The MLflow store of a workspace: SQLite with write-ahead logging, and artifacts next to it."""

import hashlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from workbench.errors import UserError, first_line, shown
from workbench.record import EXPERIMENT
from workbench.workspace import (
    Say,
    Workspace,
    database_file,
    database_uri,
    local_path,
    locked,
    read_only_uri,
    to_stderr,
)

QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
OWN = "workspace:mlflow.db"  # stands for the workspace's own database, wherever the workspace is
FROZEN_SECONDS = 15.0
SETUP = "another process is setting up the MLflow database"


def tracking_uri(workspace: Path) -> str:
    """Returns `MLFLOW_TRACKING_URI` where it is set, else the URI of the workspace's own database."""
    # We wait out outages ourselves, visibly, and not inside a library; we also print runs ourselves.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    Workspace(workspace).check()
    return os.environ.get("MLFLOW_TRACKING_URI") or Workspace(workspace).database_uri


def portable(uri: str, workspace: Path) -> str:
    """Returns a store's URI in a form that stays valid after the workspace has moved."""
    return OWN if Workspace(workspace).owns(uri) else uri


def resolved(uri: str, workspace: Path) -> str:
    """Returns the URI for a portable form: the inverse of `portable`."""
    return Workspace(workspace).database_uri if uri == OWN else uri


def sees(uri: str, workspace: Path, run_id: str | None) -> bool:
    """Returns whether this machine can reach the store of a study and, for a file, whether it holds the study's run."""
    file = database_file(resolved(uri, workspace))
    if file is None:
        return True
    if not file.exists() or not has_tables(file):
        return False
    with closing(sqlite3.connect(read_only_uri(file, False), uri=True, timeout=20)) as connection:
        return bool(connection.execute("SELECT 1 FROM runs WHERE run_uuid = ?", [run_id]).fetchall())


def ensure_store(workspace: Path, say: Say = to_stderr, new: bool = True) -> str:
    """Creates or migrates the database once, before any worker uses it. Returns its URI.

    In the database of a workspace that has moved, the location of the artifacts is updated. Raises UserError where the
    workspace cannot be written, or where it does not exist and must not be `new`.
    """
    uri, home = tracking_uri(workspace), Workspace(workspace)
    file = database_file(uri)
    if not new and file is not None and not has_tables(file):
        raise UserError(f"{file}: there are no runs yet; start with `wb sweep FILE` or name another --workspace.")
    home.make(home.artifacts)
    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with _alone(uri, file, say):
        if file is not None and not has_tables(file):
            _create(file)
        if not uri.startswith("http"):
            _migrate(uri)
        if file is not None and home.owns(uri):
            _readdress(file, home.artifacts_uri, say)
    return uri


@contextmanager
def _alone(uri: str, file: Path | None, say: Say) -> Iterator[None]:
    """Keeps other processes from creating or migrating the same database."""
    if file is not None:
        if not file.parent.is_dir():
            raise UserError(f"{shown(uri)}: there is no folder {file.parent}; create it first.")
        with locked(file.with_name(f"{file.name}.lock"), SETUP, say, 0.5):
            yield
    elif uri.startswith("postgresql"):
        with postgres_lock(uri, SETUP, say):
            yield
    else:
        yield


@contextmanager
def postgres_lock(address: str, why: str, say: Say = to_stderr, silence: float = FROZEN_SECONDS) -> Iterator[None]:
    """Holds a lock on a PostgreSQL database. It is released when its holder is gone or has been frozen for `silence`
    seconds: it belongs to a transaction that the server ends unless the holder sends statements regularly."""
    try:
        import psycopg
    except ImportError:  # another driver; the next connection reports what is missing
        yield
        return
    number = int.from_bytes(hashlib.sha256(b"workbench: first use").digest()[:8], "big", signed=True)
    plain = "postgresql://" + address.partition("://")[2]
    limit = round(silence * 1000)  # ms; also for a connection that was lost without notice
    with psycopg.connect(plain, tcp_user_timeout=limit, autocommit=True) as connection:
        reported = False
        connection.execute("BEGIN")
        connection.execute(f"SET LOCAL idle_in_transaction_session_timeout = {limit}")
        while not connection.execute("SELECT pg_try_advisory_xact_lock(%s)", [number]).fetchall()[0][0]:
            if not reported:
                say(f"waiting: {why} ({shown(plain)})")
                reported = True
            time.sleep(0.1)
        done = threading.Event()

        def keep_alive() -> None:
            with suppress(psycopg.Error):  # the lock is lost; the work under it continues without it
                while not done.wait(silence / 5):
                    connection.execute("SELECT 1")

        thread = threading.Thread(target=keep_alive, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(psycopg.Error):
                connection.execute("COMMIT")


def has_tables(file: Path) -> bool:
    """Returns whether a file is a complete MLflow database. Raises UserError where it is no database."""
    if not file.is_file() or not file.stat().st_size:
        return False
    try:
        with closing(sqlite3.connect(read_only_uri(file, False), uri=True, timeout=20)) as connection:
            return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchall())
    except sqlite3.DatabaseError as error:
        raise UserError(f"{file}: this is not a readable database ({first_line(error)}).") from error


def _create(file: Path) -> None:
    """Creates a new MLflow database atomically."""
    from mlflow.tracking import MlflowClient

    new, whole = (file.with_name(f"{file.name}.{end}") for end in ("making", "part"))
    for left in (new, whole):
        left.unlink(missing_ok=True)
    MlflowClient(database_uri(new)).search_experiments(max_results=1)
    with closing(sqlite3.connect(new)) as source, closing(sqlite3.connect(whole)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=WAL")
    os.replace(whole, file)
    new.unlink()


def _migrate(uri: str) -> None:
    """Lets MLflow open the database and create missing tables. Raises UserError where it is of another version."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        MlflowClient(uri).search_experiments(max_results=1)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        raise UserError(
            f"{shown(uri)}: it was created by another version of MLflow; back it up, then run `mlflow db upgrade"
            f" '{shown(uri)}'`."
        ) from error


def _readdress(file: Path, artifacts: str, say: Say) -> None:
    """Updates the location of artifacts in the database, after the workspace was moved, copied or mounted elsewhere."""
    with closing(sqlite3.connect(file, timeout=60)) as connection, connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", [EXPERIMENT]).fetchone()
        if row is None or row[0] == artifacts or not str(row[0]).startswith("file:"):
            return
        old = str(row[0])
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1,"
                " ?) = ?",
                [artifacts, len(old) + 1, old, len(old) + 1, old + "/"],
            )
    say(f"this workspace was at {_folder(old)}; its runs now refer to files in {_folder(artifacts)}")


def _folder(artifacts: str) -> str:
    path = local_path(artifacts)
    return str(path.parent if path else artifacts)
