"""The MLflow store of a workspace: sqlite with write-ahead logging, artifacts beside it, absolute addresses."""

import logging
import os
import sqlite3
from pathlib import Path

from workbench.errors import UserError

QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def tracking_uri(workspace: Path) -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the workspace's own database."""
    # An outage is waited out by us, visibly, and not inside a library; runs are shown by us, too.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(workspace / 'mlflow.db').resolve()}"


def open_store(workspace: Path) -> str:
    """Creates or migrates the database once, before any worker touches it; gives its address.

    Raises UserError where the workspace cannot be written.
    """
    uri = tracking_uri(workspace)
    try:
        (workspace / "artifacts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workspace {workspace}: the folder cannot be made ({error}).") from error
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        new = not database.exists()
        for chatty in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        from mlflow.tracking import MlflowClient

        MlflowClient(uri).search_experiments(max_results=1)
        if new:
            with sqlite3.connect(database) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
    return uri
