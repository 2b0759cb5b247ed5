"""What Optuna's storage meets behind gRPC."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.faults.provoked import FAULT, UNKNOWN_HOST, caught, check, optuna_storage, sql, through_sqlalchemy
from tests.services import free_port
from workbench.faults import DATABASE, SERVER


@pytest.fixture(scope="module")
def grpc() -> Any:
    return pytest.importorskip("grpc", reason="gRPC is not installed")


@contextlib.contextmanager
def grpc_server(storage: Any) -> Iterator[tuple[Any, Any]]:
    """A server of the storage, and a proxy for it."""
    from optuna.storages._grpc.server import make_server

    port = free_port()
    running = make_server(storage, "127.0.0.1", port)
    running.start()
    try:
        yield running, optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port)
    finally:
        running.stop(None)


class Failing:
    """A storage each of whose methods does this."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *_, **__: self.action()


def test_grpc_that_is_not_there(grpc: Any) -> None:
    away = optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=1)
    check(caught(away.get_all_studies), DATABASE)
    check(caught(lambda: away.wait_server_ready(timeout=0.2)), SERVER)
    check(caught(optuna.storages.GrpcStorageProxy(host=UNKNOWN_HOST, port=1).get_all_studies), DATABASE)


def test_grpc_that_is_stopped_in_the_middle(grpc: Any) -> None:
    with grpc_server(Failing(lambda: time.sleep(2))) as (running, proxy):
        threading.Timer(0.3, lambda: running.stop(None)).start()
        check(caught(proxy.get_all_studies), DATABASE)


def test_grpc_codes(grpc: Any, tmp_path: Path) -> None:
    from optuna.storages._grpc.auto_generated import api_pb2

    with grpc_server(optuna_storage(f"sqlite:///{tmp_path}/x.db")) as (_, proxy):
        check(caught(lambda: proxy.get_study_id_from_name("no")), FAULT)  # NOT_FOUND, as a KeyError
        request = api_pb2.GetStudyIdFromNameRequest(study_name="no")
        check(caught(lambda: proxy._stub.GetStudyIdFromName(request)), FAULT)
        check(caught(lambda: proxy._channel.unary_unary("/no/Such")(b"")), FAULT)  # UNIMPLEMENTED
        # UNKNOWN: of what went wrong there, Optuna's proxy hands on the words "exception during the commit" alone.
        sql(tmp_path / "x.db", "DROP TABLE study_user_attributes")
        study = proxy.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
        check(caught(lambda: proxy.set_study_user_attr(study, "x", 1)), FAULT)
    with grpc_server(Failing(lambda: time.sleep(1))) as (_, proxy):
        late = caught(lambda: proxy._stub.GetAllStudies(api_pb2.GetAllStudiesRequest(), timeout=0.1))
        check(late, DATABASE)  # DEADLINE_EXCEEDED
    with grpc_server(Failing(lambda: 1 / 0)) as (_, proxy):
        check(caught(proxy.get_all_studies), FAULT)
    with grpc_server(Failing(lambda: sqlalchemy_refused())) as (_, proxy):
        check(caught(proxy.get_all_studies), DATABASE)


def sqlalchemy_refused() -> None:
    through_sqlalchemy("postgresql+psycopg://wb@127.0.0.1:1/x", "SELECT 1")


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("INVALID_ARGUMENT", FAULT),
        ("PERMISSION_DENIED", FAULT),
        ("UNAUTHENTICATED", FAULT),
        ("INTERNAL", FAULT),
        ("UNAVAILABLE", DATABASE),
        ("RESOURCE_EXHAUSTED", DATABASE),
        ("ABORTED", DATABASE),
    ],
)
def test_grpc_codes_that_a_server_gives(grpc: Any, code: str, verdict: str | None) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def refuse(_: bytes, context: Any) -> None:
        context.abort(grpc.StatusCode[code], "so it is")

    server = grpc.server(ThreadPoolExecutor(1))
    refusing = {"b": grpc.unary_unary_rpc_method_handler(refuse)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a", refusing),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            check(caught(lambda: channel.unary_unary("/a/b")(b"")), verdict)
    finally:
        server.stop(None)


def test_a_message_that_is_too_large_stays_so(grpc: Any, tmp_path: Path) -> None:
    with grpc_server(optuna_storage(f"sqlite:///{tmp_path}/x.db")) as (_, proxy):
        study = proxy.create_new_study([optuna.study.StudyDirection.MINIMIZE], "s")
        check(caught(lambda: proxy.set_study_user_attr(study, "x", "x" * 5_000_000)), FAULT)
