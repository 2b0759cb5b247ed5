"""What clients of servers that speak HTTP meet, MLflow's among them."""

import http.client
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests
import urllib3
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from mlflow.tracking import MlflowClient

from tests.faults.provoked import FAULT, NO_RUN, NOBODY, UNKNOWN_HOST, caught, check, log_batch, sql, through_requests
from tests.services import http_stub, mlflow_server, replies
from workbench.faults import DATABASE, DISK, MLFLOW, SERVER, diagnose


def through_mlflow(address: str) -> None:
    MlflowClient(address).get_run(NO_RUN)


def write_through_mlflow(address: str) -> None:
    log_batch(MlflowClient(address))


def through_urllib3(address: str) -> None:
    with urllib3.PoolManager(retries=False, timeout=1) as pool:
        pool.request("GET", address)


def through_urllib(address: str) -> None:
    urllib.request.urlopen(address, timeout=1).read()


def upload(address: str) -> None:
    path = Path(__file__)
    there = f"{address.replace('http', 'mlflow-artifacts')}/1/2/artifacts"
    MlflowArtifactsRepository(there, tracking_uri=address).log_artifact(str(path))


def status(code: int, mlflow_code: str = "") -> Callable[[BaseHTTPRequestHandler], None]:
    if not mlflow_code:
        return replies(code, "<html>sorry</html>", "text/html")
    return replies(code, f'{{"error_code": "{mlflow_code}", "message": "m"}}')


def breaks_off(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1286")
    request.end_headers()
    request.wfile.write(b"{")


def breaks_off_a_chunk(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Transfer-Encoding", "chunked")
    request.end_headers()
    request.wfile.write(b"50\r\nabc")
    request.close_connection = True


def hangs_up(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def hangs(_: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


def speaks_ssh(request: BaseHTTPRequestHandler) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")


def redirects_for_ever(request: BaseHTTPRequestHandler) -> None:
    request.send_response(302)
    request.send_header("Location", "/x")
    request.send_header("Content-Length", "0")
    request.end_headers()


ALL = (through_mlflow, through_requests, through_urllib)
ANSWERS: list[tuple[Callable[[BaseHTTPRequestHandler], None], str, tuple[Callable[[str], None], ...], str | None]] = [
    (breaks_off, "breaks off", (through_mlflow, through_requests, through_urllib, through_urllib3), SERVER),
    (breaks_off_a_chunk, "breaks off a chunk", ALL, SERVER),
    (hangs_up, "hangs up", (*ALL, through_urllib3, write_through_mlflow), SERVER),
    (hangs, "hangs", (*ALL, through_urllib3), SERVER),
    (speaks_ssh, "is no HTTP", (*ALL, through_urllib3), FAULT),
    (redirects_for_ever, "redirects for ever", ALL, FAULT),
    (status(500), "500", (*ALL, write_through_mlflow, upload), SERVER),
    (status(502), "502", ALL, SERVER),
    (status(503), "503", (*ALL, upload), SERVER),
    (status(504), "504", ALL, SERVER),
    (status(429), "429", ALL, SERVER),
    (status(507), "507", ALL, SERVER),
    (status(400), "400", ALL, FAULT),
    (status(401), "401", (*ALL, write_through_mlflow, upload), FAULT),
    (status(403), "403", (*ALL, upload), FAULT),
    (status(404), "404", (*ALL, upload), FAULT),
    (status(501), "501", ALL, FAULT),
    (status(500, "INTERNAL_ERROR"), "500 of MLflow", (through_mlflow,), SERVER),
    (status(503, "TEMPORARILY_UNAVAILABLE"), "503 of MLflow", (through_mlflow,), SERVER),
    (status(429, "REQUEST_LIMIT_EXCEEDED"), "429 of MLflow", (through_mlflow,), SERVER),
    (status(404, "RESOURCE_DOES_NOT_EXIST"), "404 of MLflow", (through_mlflow,), FAULT),
    (status(403, "PERMISSION_DENIED"), "403 of MLflow", (through_mlflow,), FAULT),
    (status(401, "UNAUTHENTICATED"), "401 of MLflow", (through_mlflow,), FAULT),
    (status(400, "INVALID_PARAMETER_VALUE"), "400 of MLflow", (through_mlflow,), FAULT),
    (status(409, "ABORTED"), "409 of MLflow", (through_mlflow,), MLFLOW),
    (replies(200, "<html>login</html>", "text/html"), "a login page", (through_mlflow, write_through_mlflow), FAULT),
]


@pytest.mark.parametrize(
    ("answer", "ask", "verdict"),
    [
        pytest.param(answer, ask, verdict, id=f"{name} {ask.__name__}")
        for answer, name, clients, verdict in ANSWERS
        for ask in clients
    ],
)
def test_answers_of_a_server(
    answer: Callable[[BaseHTTPRequestHandler], None], ask: Callable[[str], None], verdict: str | None
) -> None:
    with http_stub(answer) as address:
        error = caught(lambda: ask(address))
    check(error, verdict)
    diagnosis = diagnose(error)
    if ask is through_mlflow and diagnosis is not None and "API request to http" in str(error):
        assert diagnosis.about.startswith(address)
        assert address in diagnosis.advice


@pytest.mark.parametrize(
    ("address", "ask", "verdict"),
    [
        *[pytest.param(NOBODY, ask, SERVER, id=f"refused {ask.__name__}") for ask in (*ALL, through_urllib3, upload)],
        *[
            pytest.param(f"http://{UNKNOWN_HOST}:5000", ask, SERVER, id=f"no such host {ask.__name__}")
            for ask in (*ALL, through_urllib3)
        ],
        *[pytest.param("htp://x", ask, FAULT, id=f"unknown scheme {ask.__name__}") for ask in (*ALL, through_urllib3)],
        *[pytest.param("http://:99999999", ask, FAULT, id=f"no address {ask.__name__}") for ask in ALL[:2]],
    ],
)
def test_servers_that_are_not_there(address: str, ask: Callable[[str], None], verdict: str | None) -> None:
    check(caught(lambda: ask(address)), verdict)


@pytest.mark.parametrize("ask", [*ALL, through_urllib3])
def test_a_server_that_speaks_no_tls(ask: Callable[[str], None]) -> None:
    with http_stub(status(200)) as address:
        check(caught(lambda: ask(address.replace("http", "https"))), FAULT)


def test_a_proxy_that_refuses() -> None:
    with http_stub(status(407)) as proxy:
        check(caught(lambda: requests.get("https://x.invalid", proxies={"https": proxy}, timeout=1)), FAULT)
    check(caught(lambda: requests.get("https://x.invalid", proxies={"https": NOBODY}, timeout=1)), SERVER)


@pytest.fixture
def with_tls(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Servers with a certificate that nobody has signed, and one that hangs up instead of showing its own."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    name = ["-subj", "/CN=localhost", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-keyout", str(key), "-out", str(certificate), *name]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as unsigned, socket.create_server(("127.0.0.1", 0)) as gone:

        def show(hello: bool) -> None:
            with suppress(OSError):
                while True:
                    client, _ = (unsigned if hello else gone).accept()
                    with suppress(OSError), client:
                        if hello:
                            context.wrap_socket(client, server_side=True)
                        else:
                            client.recv(10_000)

        for hello in (True, False):
            threading.Thread(target=show, args=(hello,), daemon=True).start()
        address = "https://127.0.0.1:{}".format
        yield address(unsigned.getsockname()[1]), address(gone.getsockname()[1])


@pytest.mark.parametrize("ask", [*ALL, through_urllib3])
def test_certificates(ask: Callable[[str], None], with_tls: tuple[str, str]) -> None:
    unsigned, gone = with_tls
    check(caught(lambda: ask(unsigned)), FAULT)
    check(caught(lambda: ask(gone)), SERVER)


def test_http_client() -> None:
    def ask(address: str) -> None:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=1)
        connection.request("GET", "/")
        connection.getresponse().read()

    for answer, verdict in ((hangs_up, SERVER), (breaks_off, SERVER), (speaks_ssh, FAULT)):
        with http_stub(answer) as address:
            check(caught(partial(ask, address)), verdict)


def test_the_real_mlflow_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with mlflow_server(tmp_path) as server:
        client = MlflowClient(server.uri)
        run_id = client.create_run("0").info.run_id
        check(caught(lambda: client.get_run(NO_RUN)), FAULT)
        check(caught(lambda: log_batch(client)), FAULT)
        check(caught(lambda: client.search_runs(["0"], "no filter")), FAULT)
        check(caught(lambda: client.download_artifacts(run_id, "no.json", str(tmp_path))), FAULT)
        # Here a fault cannot be told from an outage: the server answers 503, and MLflow's client hides the rest.
        sql(tmp_path / "mlflow.db", "DROP TABLE latest_metrics")
        check(caught(lambda: client.get_run(run_id)), SERVER)
        server.stop()
        check(caught(lambda: client.get_run(run_id)), SERVER)


def test_what_mlflow_says_of_its_database_in_words() -> None:
    pytest.importorskip("psycopg.errors", reason="psycopg is not installed")
    for words, verdict in (
        ("(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT]", DISK),
        ("(sqlite3.OperationalError) database is locked\n[SQL: INSERT]", DATABASE),
        ("(sqlite3.OperationalError) no such table: runs\n[SQL: INSERT]", FAULT),
        ("(psycopg.errors.DeadlockDetected) deadlock detected\n[SQL: INSERT]", DATABASE),
        ("(psycopg.errors.UndefinedTable) no\n[SQL: INSERT]", FAULT),
        ("(psycopg.OperationalError) connection failed: x: Connection refused\n(Background on", DATABASE),
        ('(psycopg.OperationalError) connection failed: x: FATAL:  database "x" does not exist', FAULT),
        ("TypeError: 'NoneType' object is not subscriptable", FAULT),
    ):
        check(MlflowException(words), verdict)
        check(ValueError(words), FAULT)
