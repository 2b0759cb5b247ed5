"""An MLflow database as a store: a query a question."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from sqlalchemy import Boolean, Connection, CursorResult, TextClause, bindparam, create_engine, text
from sqlalchemy.exc import OperationalError

from analysis.stores.store import PARENT, Members, Run, Value, record_in
from workbench.errors import UserError, first_line, shown
from workbench.record import FILE, SweepRecord

RUNS = (
    "SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time, t.key, t.value "
    "FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid"
)
RUN = text(f"{RUNS} WHERE r.run_uuid = :id")
ACTIVE = text(f"{RUNS} WHERE r.lifecycle_stage = 'active'")
CHILDREN = text(
    f"{RUNS} WHERE r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = :key AND value = :id) "
    "ORDER BY r.start_time, r.run_uuid"
)
NAMED = text("SELECT name, artifact_uri, experiment_id FROM runs WHERE run_uuid = :id")


def _of_runs(query: str) -> TextClause:
    """A query with the parameter `ids`."""
    return text(query).bindparams(bindparam("ids", expanding=True))


VALUES = _of_runs(
    "SELECT run_uuid, key, step, value FROM metrics "
    "WHERE run_uuid IN :ids AND is_nan = :nan AND key NOT LIKE 'system/%' ORDER BY timestamp"
).bindparams(bindparam("nan", False, Boolean))
PARAMS = _of_runs("SELECT run_uuid, key, value FROM params WHERE run_uuid IN :ids")
LAST = _of_runs("SELECT run_uuid, value FROM latest_metrics WHERE key = :key AND run_uuid IN :ids")
FOLDERS = _of_runs("SELECT run_uuid, artifact_uri FROM runs WHERE run_uuid IN :ids")


class SqlStore:
    """A database, read where it lies; artifacts are read where their address is a local path."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def members(self, run_id: str) -> Members:
        with _connected(self.uri) as connection:
            found = connection.execute(NAMED, {"id": run_id}).fetchone()
            if found is None:
                raise UserError(f"--run-id {run_id}: no such run in {shown(self.uri)}; `wb runs` lists them.")
            children = _collected(connection.execute(CHILDREN, {"key": PARENT, "id": run_id}))
            runs = children or _collected(connection.execute(RUN, {"id": run_id}))
        name, folder, experiment_id = found
        return Members(name or run_id, str(experiment_id), record_in(_file(folder, FILE)), bool(children), runs)

    def values(self, run_ids: Sequence[str]) -> list[Value]:
        with _connected(self.uri) as connection:
            return _plain(connection.execute(VALUES, {"ids": run_ids}))

    def params(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {run_id: {} for run_id in run_ids}
        with _connected(self.uri) as connection:
            for run_id, key, value in connection.execute(PARAMS, {"ids": run_ids}):
                found[run_id][key] = value
        return found

    def last(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        with _connected(self.uri) as connection:
            return dict(_plain(connection.execute(LAST, {"key": metric, "ids": run_ids})))

    def all_runs(self) -> list[tuple[Run, SweepRecord | None]]:
        try:
            with _connected(self.uri) as connection:
                runs = _collected(connection.execute(ACTIVE))
        except UserError:  # nothing has run yet
            return []
        written = self.artifacts([run.run_id for run in runs if run.tags.get("kind") == "sweep"], FILE)
        return [(run, record_in(written.get(run.run_id))) for run in runs]

    def artifacts(self, run_ids: Sequence[str], name: str) -> dict[str, bytes]:
        with _connected(self.uri) as connection:
            folders = _plain(connection.execute(FOLDERS, {"ids": run_ids}))
        read = ((run_id, _file(folder, name)) for run_id, folder in folders)
        return {run_id: content for run_id, content in read if content is not None}


def _collected(rows: Iterable[Any]) -> list[Run]:
    """The runs of rows of `RUNS`, one a tag."""
    runs: dict[str, Run] = {}
    for run_id, name, status, started, ended, key, value in rows:
        runs.setdefault(run_id, Run(run_id, name or run_id, status, started, ended, {})).tags[key] = value
    return list(runs.values())


def _plain(result: CursorResult[Any]) -> list[Any]:
    """The rows of a result as plain tuples; SQLAlchemy's rows cost as much again."""
    return list(result.cursor.fetchall()) if result.cursor is not None else []


def _file(artifact_uri: str, name: str) -> bytes | None:
    """What an artifact holds; None where there is none, or its address is no local path."""
    address = urlparse(artifact_uri)
    if address.scheme not in ("", "file") or not address.path:
        return None
    path = Path(unquote(address.path)) / name
    return path.read_bytes() if path.exists() else None


@contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    """A connection to an MLflow database for reading. Raises UserError where there is none."""
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            raise UserError(
                f"{database}: there are no runs yet; start with `wb sweep FILE` or name another --workspace."
            )
        engine = create_engine(f"sqlite:///file:{database}?mode=ro&uri=true")
    else:
        engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise UserError(f"{shown(uri)}: the store cannot be read ({first_line(error)[:200]}).") from error
    finally:
        engine.dispose()
