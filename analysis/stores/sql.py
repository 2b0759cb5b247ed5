"""An MLflow database as a store: one query per question."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Boolean, Connection, CursorResult, Engine, TextClause, bindparam, create_engine, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from analysis.stores.store import PARENT, Members, Run, Value, record_in
from workbench.errors import UserError, first_line, shown
from workbench.record import EXPERIMENT, FILE, SweepRecord
from workbench.workspace import Workspace, database_file, deleted_experiment, deleted_run, local_path, read_only_uri

Answer = TypeVar("Answer")
TRIES = 3  # attempts to read without locks

RUNS = (
    "SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time, t.key, t.value "
    "FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid"
)
RUN = text(f"{RUNS} WHERE r.run_uuid = :id")
ACTIVE = text(f"{RUNS} WHERE r.lifecycle_stage = 'active'")
CHILDREN = text(
    f"{RUNS} WHERE r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = :key AND value = :id) "
    "AND r.lifecycle_stage = 'active' "
    "ORDER BY r.start_time, r.run_uuid"
)
NAMED = text(
    "SELECT r.name, r.artifact_uri, r.experiment_id, r.lifecycle_stage, e.name, e.lifecycle_stage "
    "FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id WHERE r.run_uuid = :id"
)
DELETED = text("SELECT experiment_id FROM experiments WHERE name = :name AND lifecycle_stage = 'deleted'")


def _of_runs(query: str) -> TextClause:
    """Returns a query with the parameter `ids`."""
    return text(query).bindparams(bindparam("ids", expanding=True))


VALUES = _of_runs(
    "SELECT run_uuid, key, step, value FROM metrics "
    "WHERE run_uuid IN :ids AND is_nan = :nan AND key NOT LIKE 'system/%' ORDER BY timestamp"
).bindparams(bindparam("nan", False, Boolean))
PARAMS = _of_runs("SELECT run_uuid, key, value FROM params WHERE run_uuid IN :ids")
LAST = _of_runs("SELECT run_uuid, value FROM latest_metrics WHERE key = :key AND run_uuid IN :ids")
FOLDERS = _of_runs("SELECT run_uuid, artifact_uri FROM runs WHERE run_uuid IN :ids")


class SqlStore:
    """A database, read in place without modifying anything. Artifacts are read where their URI is a local path."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.file = database_file(uri)

    def members(self, run_id: str) -> Members:
        def ask(connection: Connection) -> tuple[Any, list[Run]]:
            row = connection.execute(NAMED, {"id": run_id}).fetchone()
            children = _collected(connection.execute(CHILDREN, {"key": PARENT, "id": run_id}))
            return row, children

        row, children = self._ask(ask)
        if row is None:
            raise UserError(f"--run-id {run_id}: no such run in {shown(self.uri)}; `wb runs` lists them.")
        name, folder, experiment_id, stage, home, home_stage = row
        if home_stage == "deleted":
            raise UserError(deleted_experiment(self.uri, home, str(experiment_id)))
        if stage == "deleted":
            raise UserError(deleted_run(self.uri, run_id))
        runs = children or self._ask(lambda connection: _collected(connection.execute(RUN, {"id": run_id})))
        record = record_in(self._file(run_id, folder, FILE))
        return Members(name or run_id, str(experiment_id), record, bool(children), runs)

    def values(self, run_ids: Sequence[str]) -> list[Value]:
        return self._ask(lambda connection: _plain(connection.execute(VALUES, {"ids": run_ids})))

    def params(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        params: dict[str, dict[str, str]] = {run_id: {} for run_id in run_ids}
        for run_id, key, value in self._ask(lambda connection: _plain(connection.execute(PARAMS, {"ids": run_ids}))):
            params[run_id][key] = value
        return params

    def last(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        parameters = {"key": metric, "ids": run_ids}
        return dict(self._ask(lambda connection: _plain(connection.execute(LAST, parameters))))

    def all_runs(self) -> list[tuple[Run, SweepRecord | None]]:
        if self.file is not None and not self._there():  # nothing has run yet
            return []
        runs, deleted = self._ask(
            lambda connection: (
                _collected(connection.execute(ACTIVE)),
                connection.execute(DELETED, {"name": EXPERIMENT}).fetchone(),
            )
        )
        if deleted is not None:
            raise UserError(deleted_experiment(self.uri, EXPERIMENT, str(deleted[0])))
        written = self.artifacts([run.run_id for run in runs if run.tags.get("kind") == "sweep"], FILE)
        return [(run, record_in(written.get(run.run_id))) for run in runs]

    def artifacts(self, run_ids: Sequence[str], name: str) -> dict[str, bytes]:
        folders = self._ask(lambda connection: _plain(connection.execute(FOLDERS, {"ids": run_ids})))
        read = ((run_id, self._file(run_id, folder, name)) for run_id, folder in folders)
        return {run_id: content for run_id, content in read if content is not None}

    def _ask(self, question: Callable[[Connection], Answer]) -> Answer:
        """Returns the answer to a question. Raises UserError where there is no database, or it cannot be read."""
        if self.file is None:
            return _answered(create_engine(self.uri), self.uri, question)
        if not self._there():
            raise UserError(
                f"{self.file}: there are no runs yet; start with `wb sweep FILE` or name another --workspace."
            )
        try:
            return _read(self.file, self.uri, question)
        except OSError as error:
            raise UserError(f"{self.file}: the database cannot be read ({error.strerror or error}).") from error

    def _there(self) -> bool:
        """Returns whether there is a database file. Raises UserError where that cannot be determined, or where its
        folder is not a folder."""
        assert self.file is not None
        folder = self.file.parent
        try:
            if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
                raise UserError(f"--workspace {folder}: this is not a folder; name another one.")
            return self.file.exists()
        except OSError as error:
            raise UserError(f"{self.file}: the database cannot be read ({error.strerror or error}).") from error

    def _file(self, run_id: str, recorded: str, name: str) -> bytes | None:
        """Returns the content of an artifact; None where there is none, or its URI is not a local path.

        If the run has a folder next to the database, that one is used, wherever the workspace was when the URI was
        recorded.
        """
        folder = local_path(recorded)
        if self.file is not None and (here := Workspace(self.file.parent).artifacts_of(run_id)).is_dir():
            folder = here
        try:
            return (folder / name).read_bytes() if folder is not None and (folder / name).exists() else None
        except OSError as error:
            raise UserError(f"run {run_id}: its {name} cannot be read ({error.strerror or error}).") from error


def _read(file: Path, uri: str, question: Callable[[Connection], Answer]) -> Answer:
    """Reads an SQLite file without writing next to it, unless other processes that have it open do so."""
    for _ in range(TRIES):
        before = _state(file)
        if before is None:
            break
        try:
            answer = _queried(file, uri, question, untouched=True)
        except UserError:
            if before == _state(file):
                raise
            continue  # another process has started to write
        if before == _state(file):
            return answer
    try:
        return _queried(file, uri, question, untouched=False)
    except _Unreadable:  # its last writer left a log in a folder that is not writable
        return _queried_copy(file, uri, question)


def _state(file: Path) -> tuple[int, int] | None:
    """Returns a value that changes when the database is written to; None where SQLite has to lock it to read it.

    Without locks, only a database with write-ahead logging and an empty log can be read. The log is not empty while
    another process has the database open, or has left it so.
    """
    log = file.with_name(f"{file.name}-wal")
    with open(file, "rb") as opened:
        ahead = opened.read(20)[18:19] == b"\2"
    if not ahead or (log.exists() and log.stat().st_size):
        return None
    now = file.stat()
    return now.st_mtime_ns, now.st_size


class _Unreadable(Exception):
    """SQLite would have to write next to the file, and cannot."""


def _queried(file: Path, uri: str, question: Callable[[Connection], Answer], untouched: bool) -> Answer:
    address = read_only_uri(file, untouched)
    engine = create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True, timeout=20), poolclass=NullPool
    )
    try:
        return _answered(engine, uri, question)
    except UserError as error:
        cause = str(error.__cause__)
        if not untouched and ("unable to open" in cause or "readonly" in cause):
            raise _Unreadable from error
        raise


def _queried_copy(file: Path, uri: str, question: Callable[[Connection], Answer]) -> Answer:
    with tempfile.TemporaryDirectory(prefix="wb-") as folder:
        copy = Path(folder) / file.name
        for end in ("", "-wal", "-journal"):
            if Path(f"{file}{end}").exists():
                shutil.copyfile(f"{file}{end}", f"{copy}{end}")
        return _queried(copy, uri, question, untouched=False)


def _answered(engine: Engine, uri: str, question: Callable[[Connection], Answer]) -> Answer:
    try:
        with engine.connect() as connection:
            return question(connection)
    except DatabaseError as error:
        raise UserError(f"{shown(uri)}: the store cannot be read ({first_line(error)[:200]}).") from error
    finally:
        engine.dispose()


def _collected(rows: Iterable[Any]) -> list[Run]:
    """Collects runs from rows of `RUNS`, one row per tag."""
    runs: dict[str, Run] = {}
    for run_id, name, status, started, ended, key, value in rows:
        runs.setdefault(run_id, Run(run_id, name or run_id, status, started, ended, {})).tags[key] = value
    return list(runs.values())


def _plain(result: CursorResult[Any]) -> list[Any]:
    """Returns the rows of a result as plain tuples; SQLAlchemy's rows would double the time."""
    return list(result.cursor.fetchall()) if result.cursor is not None else []
