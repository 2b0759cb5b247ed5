"""Errors that are provoked in the libraries that raise them, and the verdict on each."""

import socket
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
import requests
import sqlalchemy
import torch
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from workbench.faults import outage
from workbench.stop import GIVE_UP

FAULT = None  # the verdict on what is not waited for
NO_RUN = "0" * 32
NOBODY = "http://127.0.0.1:1"
UNKNOWN_HOST = "no-such-host.invalid"  # RFC 6761: resolves nowhere
BIG = torch.zeros(300_000)
Case = tuple[str, Callable[[Any], object], str | None]


def soon_give_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries as workbench.tracking.store has them, but for the times; no address or limit of the user's own."""
    for name, value in {"MAX_RETRIES": "1", "TIMEOUT": "1", "BACKOFF_FACTOR": "0", "BACKOFF_JITTER": "0"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for name in (GIVE_UP, "MLFLOW_TRACKING_URI", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def caught(action: Callable[[], object]) -> Exception:
    """What the action raises."""
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def check(error: BaseException, verdict: str | None) -> None:
    waited_for = outage(error)
    as_expected = waited_for is None if verdict is None else waited_for is not None and waited_for.startswith(verdict)
    assert as_expected, f"{waited_for}: {error!r}"


def cases(*table: Case) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("provoke", "verdict"), [pytest.param(provoke, verdict, id=name) for name, provoke, verdict in table]
    )


def reset() -> None:
    """A server that resets the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()
        client.recv(1)


def raised(error: Exception) -> None:
    raise error


def sql(path: Path | str, statement: str, **options: Any) -> None:
    with closing(sqlite3.connect(path, **options)) as connection:
        connection.execute(statement)
        connection.commit()


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


def log_batch(client: MlflowClient, run_id: str = NO_RUN) -> None:
    client.log_batch(run_id, metrics=[Metric("x", 1.0, 0, 0)])


def through_requests(address: str) -> None:
    requests.get(address, timeout=1).raise_for_status()
