"""The storage of studies: a journal file on one host, a PostgreSQL database, or Optuna's gRPC proxy for either."""

import fcntl
import os
import warnings
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from workbench.errors import UserError, first_line, shown
from workbench.faults import outage
from workbench.tracking.store import postgres_lock
from workbench.workspace import Workspace

IDLE_SECONDS = 15
KINDS = "postgresql://USER:PASSWORD@HOST/DATABASE, grpc://HOST:PORT, or none for a journal file in the workspace"


def open_storage(address: str | None, workspace: Path) -> BaseStorage:
    """Returns the storage at `address`, or the workspace's journal. Raises UserError where it cannot be used."""
    if address is None:
        path = Workspace(workspace).journal
        if not path.exists():
            Workspace(workspace).make(path.parent)
        return JournalStorage(JournalFileBackend(str(path), KernelLock(path)))
    kind, _, rest = address.partition("://")
    try:
        if kind in ("postgresql", "postgres", "postgresql+psycopg"):
            return _postgresql(f"postgresql+psycopg://{rest}")
        if kind == "grpc":
            from optuna.exceptions import ExperimentalWarning
            from optuna.storages import GrpcStorageProxy

            host, colon, port = rest.rstrip("/").rpartition(":")
            if not colon or not port.isdigit():
                raise UserError(f"--storage {address}: write it as grpc://HOST:PORT.")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                proxy = GrpcStorageProxy(host=host, port=int(port))
            proxy.wait_server_ready(timeout=30)
            return proxy
    except ImportError as error:
        raise UserError(
            f"--storage {shown(address)}: {error.name or 'its driver'} is missing: `pip install -e '.[cluster]'`."
        ) from error
    except UserError:
        raise
    except Exception as error:
        if "table schema" in str(error):
            raise UserError(
                f"--storage {shown(address)}: this database holds other tables, such as MLflow's; use a separate"
                " database for the studies."
            ) from error
        if outage(error) or isinstance(error, TimeoutError):
            raise UserError(f"--storage {shown(address)}: it cannot be reached ({first_line(error)[:200]}).") from error
        # Of psycopg and SQLAlchemy: a wrong password, role or database.
        if type(error).__name__ == "OperationalError":
            raise UserError(
                f"--storage {shown(address)}: it refuses the connection ({shown(first_line(error))[:200]}); check user,"
                " password and database."
            ) from error
        raise
    if kind.startswith("sqlite"):
        raise UserError("--storage: SQLite may assign one trial to two workers; omit --storage to use a journal file.")
    raise UserError(f"--storage {shown(address)}: unknown kind; give {KINDS}.")


def _postgresql(address: str) -> RDBStorage:
    # A worker that is frozen in the middle of a transaction must not hold its locks forever.
    patience = {"options": f"-c idle_in_transaction_session_timeout={IDLE_SECONDS}s"}
    engine = {"pool_pre_ping": True, "connect_args": patience}
    # The first process creates the tables.
    with postgres_lock(address, "another process is setting up the database of studies"):
        return RDBStorage(address, engine_kwargs=engine)


class KernelLock(BaseJournalFileLock):
    """A lock that the kernel releases however its holder dies (Optuna's own locks are then held for 30 s more).

    It also removes an incomplete last line, with which Optuna could not read the journal any more.
    """

    def __init__(self, journal: Path) -> None:
        self.journal, self.path, self.file = journal, journal.with_suffix(".lock"), -1

    def acquire(self) -> bool:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        self.file = file
        with open(self.journal, "rb+") as journal:
            end = journal.seek(0, os.SEEK_END)
            start = end
            while start and not _ends_line(journal.fileno(), start):
                start -= 1
            if start < end:
                journal.truncate(start)
        return True

    def release(self) -> None:
        os.close(self.file)


def _ends_line(file: int, end: int) -> bool:
    return os.pread(file, 1, end - 1) == b"\n"


def serve(address: str | None, workspace: Path, host: str, port: int) -> None:
    """Serves a storage to many workers until it is stopped."""
    try:
        from optuna.storages import run_grpc_proxy_server

        run_grpc_proxy_server(open_storage(address, workspace), host=host, port=port)
    except ImportError as error:
        raise UserError(f"{error.name or 'its driver'} is missing: `pip install -e '.[cluster]'`.") from error
