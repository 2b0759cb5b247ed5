"""The folders of a workspace as one value, the URIs of what they contain, and the locks for their first use."""

import errno
import fcntl
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from workbench.errors import UserError, first_line, shown

QUIET_WAIT = 5.0  # seconds of waiting for other processes before a message
LOOK = 0.05  # seconds between two attempts to take a lock

Say = Callable[[str], None]


def to_stderr(sentence: str) -> None:
    """Prints a message to standard error: the default where no other receiver is set."""
    print(sentence, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Workspace:
    """A folder of runs, caches, checkpoints and reports. Its URIs are valid for any characters in its name."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root.resolve() / "mlflow.db"

    @property
    def database_uri(self) -> str:
        """Returns the URI of the database for SQLAlchemy and MLflow. Raises UserError where they could not read it."""
        return database_uri(self.database)

    @property
    def artifacts(self) -> Path:
        return self.root.resolve() / "artifacts"

    @property
    def artifacts_uri(self) -> str:
        return self.artifacts.as_uri()

    def artifacts_of(self, run_id: str) -> Path:
        """Returns the folder of a run's artifacts, for runs of the workspace's own database."""
        return self.artifacts / run_id / "artifacts"

    @property
    def studies(self) -> Path:
        return self.root / "studies"

    @property
    def journal(self) -> Path:
        return self.studies / "journal.log"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def evaluations(self) -> Path:
        return self.root / "evaluations"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def there(self) -> Path:
        """Returns the folder, or its nearest existing parent: it is on the disk that the workspace uses or will use."""
        folder = self.root.absolute()
        return next(path for path in (folder, *folder.parents) if path.exists())

    def make(self, folder: Path) -> None:
        """Creates a folder of the workspace. Raises UserError where it cannot be created, or its name cannot be part of
        a URI."""
        self.check()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workspace {self.root}: the folder cannot be created ({error.strerror or error}); name another one."
            ) from error

    def check(self) -> None:
        """Raises UserError where the folder's name cannot be part of a URI, or the folder is a broken link."""
        check_name(self.root)
        if self.root.is_symlink() and not self.root.exists():
            raise UserError(
                f"--workspace {self.root}: this link leads to {self.root.resolve()}, which does not exist; mount or"
                " create that first."
            )

    def owns(self, uri: str) -> bool:
        """Returns whether a store's URI is that of the workspace's own database."""
        file = database_file(uri)
        return file is not None and file.resolve() == self.database

    @contextmanager
    def first_use(self, say: Say = to_stderr) -> Iterator[None]:
        """Keeps other processes out while the database, a study or a sweep's run is created."""
        self.make(self.root)
        with locked(self.root / "setup.lock", "another process is setting up this workspace", say, 0.5):
            yield


def check_name(folder: Path) -> None:
    """Raises UserError where a folder's name is not valid text, which databases and URIs need."""
    try:
        str(folder.absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"--workspace {os.fsencode(folder).decode('utf-8', 'replace')}: its name is not valid UTF-8, and MLflow"
            " could not find it again; rename it or name another one."
        ) from error


def database_uri(file: Path) -> str:
    """Returns the URI of an SQLite file for SQLAlchemy and MLflow. Raises UserError where they could not read it."""
    from sqlalchemy.engine import URL, make_url

    check_name(file.parent)
    path = str(file.absolute())
    plain = f"sqlite:///{path}"
    if quote(path, safe=" +/") == path:
        return plain
    # With the driver named, MLflow keeps the URI as it is; else it would create a folder named by its quoted form.
    uri = URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)
    if make_url(uri).database == path:  # since SQLAlchemy 2.1; earlier versions did not decode the name
        return uri
    raise UserError(
        f"--workspace {file.parent}: this SQLAlchemy cannot read an address with such a name; "
        "pip install 'sqlalchemy>=2.1', or name another folder."
    )


def database_file(uri: str) -> Path | None:
    """Returns the file of an SQLite database's URI; None for another kind of store."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(uri)
    except ArgumentError as error:
        raise UserError(f"MLFLOW_TRACKING_URI: not a URI of a database ({first_line(error)}).") from error
    if not address.database or address.database == ":memory:" or "uri" in address.query:
        return None
    return Path(address.database)


def deleted_experiment(uri: str, name: str, experiment_id: str) -> str:
    """Returns the message for a store whose experiment was deleted, with what to do."""
    return (
        f"{shown(uri)}: the experiment `{name}` was deleted in MLflow; restore it with "
        f"`MLFLOW_TRACKING_URI={shlex.quote(shown(uri))} mlflow experiments restore --experiment-id {experiment_id}`."
    )


def deleted_run(uri: str, run_id: str) -> str:
    """Returns the message for a run that was deleted, with what to do."""
    return (
        f"--run-id {run_id}: this run was deleted in MLflow; restore it with "
        f"`MLFLOW_TRACKING_URI={shlex.quote(shown(uri))} mlflow runs restore --run-id {run_id}`."
    )


def read_only_uri(file: Path, untouched: bool) -> str:
    """Returns the URI by which SQLite itself opens a file read-only. `untouched`: without creating any file next to
    it."""
    return f"file:{quote(str(file.absolute()))}?mode=ro" + ("&immutable=1" if untouched else "")


def local_path(address: str) -> Path | None:
    """Returns the path of an artifact's URI; None where it is not in this machine's file system."""
    parsed = urlparse(address)
    if parsed.scheme == "" and address.startswith("/"):
        return Path(address)
    if parsed.scheme != "file" or not parsed.path:
        return None
    return Path(unquote(parsed.path))


@contextmanager
def locked(file: Path, why: str, say: Say = to_stderr, quiet: float = QUIET_WAIT) -> Iterator[None]:
    """Holds the lock `file`, which the kernel releases however its holder dies.

    Where another process holds it for longer than `quiet` seconds, `why` is printed once. Raises UserError where the
    file cannot be created.
    """
    try:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(
            f"{file.parent}: cannot be written ({error.strerror}); make it writable, or name another folder."
        ) from error
    try:
        began, reported = time.monotonic(), False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOOK)
            if not reported and time.monotonic() - began > quiet:
                say(f"waiting: {why} ({file.parent})")
                reported = True
        if reported:
            say("continuing")
        yield
    finally:
        os.close(lock)
