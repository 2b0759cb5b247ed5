"""The folders of a workspace as one value, the addresses of what lies in them, and the locks of whoever uses them
first."""

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

QUIET_WAIT = 5.0  # seconds that others may be waited for without a word
LOOK = 0.05  # seconds between two looks at a lock

Say = Callable[[str], None]


def to_stderr(sentence: str) -> None:
    """Where what is said goes if nobody else hears it."""
    print(sentence, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Workspace:
    """A folder of runs, caches, checkpoints and reports; whatever its name holds, its addresses lead into it."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root.resolve() / "mlflow.db"

    @property
    def database_uri(self) -> str:
        """As SQLAlchemy and MLflow read it. Raises UserError where they could not."""
        return database_uri(self.database)

    @property
    def artifacts(self) -> Path:
        return self.root.resolve() / "artifacts"

    @property
    def artifacts_uri(self) -> str:
        return self.artifacts.as_uri()

    def artifacts_of(self, run_id: str) -> Path:
        """Where MLflow puts what is attached to a run of the workspace's own database."""
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
        """The folder, or the nearest above it that is there: that of the disk on which it lies or will lie."""
        folder = self.root.absolute()
        return next(each for each in (folder, *folder.parents) if each.exists())

    def make(self, folder: Path) -> None:
        """Makes a folder of the workspace. Raises UserError where it cannot be made, or its name cannot be an
        address."""
        self.check()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--workspace {self.root}: the folder cannot be made ({error.strerror or error}); name another one."
            ) from error

    def check(self) -> None:
        """Raises UserError where the folder's name cannot be an address, or the folder is a link that leads nowhere."""
        check_name(self.root)
        if self.root.is_symlink() and not self.root.exists():
            raise UserError(
                f"--workspace {self.root}: this link leads to {self.root.resolve()}, which is not there; mount or make"
                " that first."
            )

    def owns(self, uri: str) -> bool:
        """Whether a store's address is that of the workspace's own database."""
        file = database_file(uri)
        return file is not None and file.resolve() == self.database

    @contextmanager
    def first_use(self, say: Say = to_stderr) -> Iterator[None]:
        """Holds off other processes while the database, a study or a sweep's run is made."""
        self.make(self.root)
        with locked(self.root / "setup.lock", "another process is setting up this workspace", say, 0.5):
            yield


def check_name(folder: Path) -> None:
    """Raises UserError where a folder's name cannot be written as text, which databases and addresses need."""
    try:
        str(folder.absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"--workspace {os.fsencode(folder).decode('utf-8', 'replace')}: its name is not valid UTF-8, and MLflow"
            " could not find it again; rename it or name another one."
        ) from error


def database_uri(file: Path) -> str:
    """The address of an SQLite file, as SQLAlchemy and MLflow read it. Raises UserError where they could not."""
    from sqlalchemy.engine import URL, make_url

    check_name(file.parent)
    path = str(file.absolute())
    plain = f"sqlite:///{path}"
    if quote(path, safe=" +/") == path:
        return plain
    # With the driver named, MLflow leaves the address alone; else it would make a folder of its quoted form.
    made = URL.create("sqlite+pysqlite", database=path).render_as_string(hide_password=False)
    if make_url(made).database == path:  # SQLAlchemy from 2.1 on; before, it kept a name as it was
        return made
    raise UserError(
        f"--workspace {file.parent}: this SQLAlchemy cannot read an address with such a name; "
        "pip install 'sqlalchemy>=2.1', or name another folder."
    )


def database_file(uri: str) -> Path | None:
    """The file of an SQLite database's address; None where it is another kind of store."""
    if not uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        address = make_url(uri)
    except ArgumentError as error:
        raise UserError(f"MLFLOW_TRACKING_URI: no address of a database ({first_line(error)}).") from error
    if not address.database or address.database == ":memory:" or "uri" in address.query:
        return None
    return Path(address.database)


def deleted_experiment(uri: str, name: str, experiment_id: str) -> str:
    """What is wrong with a store whose experiment was deleted, and what to do."""
    return (
        f"{shown(uri)}: the experiment `{name}` was deleted in MLflow; bring it back with "
        f"`MLFLOW_TRACKING_URI={shlex.quote(shown(uri))} mlflow experiments restore --experiment-id {experiment_id}`."
    )


def deleted_run(uri: str, run_id: str) -> str:
    """The same of a run."""
    return (
        f"--run-id {run_id}: this run was deleted in MLflow; bring it back with "
        f"`MLFLOW_TRACKING_URI={shlex.quote(shown(uri))} mlflow runs restore --run-id {run_id}`."
    )


def read_only_uri(file: Path, untouched: bool) -> str:
    """The address by which SQLite itself opens a file for reading; `untouched`: without any file of its own beside
    it."""
    return f"file:{quote(str(file.absolute()))}?mode=ro" + ("&immutable=1" if untouched else "")


def local_path(address: str) -> Path | None:
    """The folder or file of an artifact's address; None where it lies elsewhere than in this machine's files."""
    parsed = urlparse(address)
    if parsed.scheme == "" and address.startswith("/"):
        return Path(address)
    if parsed.scheme != "file" or not parsed.path:
        return None
    return Path(unquote(parsed.path))


@contextmanager
def locked(file: Path, why: str, say: Say = to_stderr, quiet: float = QUIET_WAIT) -> Iterator[None]:
    """Holds the lock `file`, which the kernel releases when its holder dies, however it dies.

    Where it is held by another process for longer than `quiet` seconds, `why` is said once. Raises UserError where it
    cannot be made.
    """
    try:
        held = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(
            f"{file.parent}: cannot be written ({error.strerror}); make it writable, or name another folder."
        ) from error
    try:
        began, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(LOOK)
            if not said and time.monotonic() - began > quiet:
                say(f"waiting: {why} ({file.parent})")
                said = True
        if said:
            say("going on")
        yield
    finally:
        os.close(held)
