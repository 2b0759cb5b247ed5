"""`wb` as a process, and real servers, for tests: PostgreSQL from Debian's packages, MLflow's own. Each on the
loopback, in a folder of its own."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def command(*arguments: str) -> list[str]:
    """`wb` with these arguments, by this Python."""
    return [sys.executable, "-c", "from workbench.cli import main; main()", *arguments]


def free_port() -> int:
    """A port that nobody listens on, from below those that the system gives to clients: a server that is stopped and
    started again would find one of these taken by whoever has tried to reach it meanwhile."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 50):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no port is free between 20000 and 32000")


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, which Debian keeps out of the PATH."""
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


class Postgres:
    """A PostgreSQL server whose data stay when it is stopped and started again."""

    def __init__(self, programs: Path, home: Path) -> None:
        self.programs, self.home, self.port = programs, home, free_port()
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        self.process: subprocess.Popen[bytes] | None = None
        self._let_in()
        self._run("initdb", "-D", home / "data", "-U", "wb", "-A", "trust", "-N").wait()

    def address(self, database: str) -> str:
        return f"postgresql://wb@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self._let_in()
        options = ("-D", self.home / "data", "-h", "127.0.0.1", "-p", str(self.port), "-k", self.home, "-F")

        def answers() -> bool:
            if self.process is None or self.process.poll() is not None:  # it gives up where something is in its way
                self.process = self._run("postgres", *options)
            return _made(self.address("postgres"), ())

        try:
            until(answers, 60)
        except AssertionError as error:
            raise AssertionError((self.home / "log").read_text(errors="replace")[-3000:]) from error

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=30)
            self.process = None

    def _let_in(self) -> None:
        """Its user may pass through the folders above. Every other pytest that begins takes that back from the
        uppermost."""
        for folder in (self.home, *self.home.parents) if self.user else ():
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)

    def _run(self, program: str, *arguments: object) -> "subprocess.Popen[bytes]":
        with open(self.home / "log", "ab") as log:
            line = [str(self.programs / program), *map(str, arguments)]
            return subprocess.Popen(line, stdout=log, stderr=log, user=self.user)


@contextmanager
def postgres(home: Path, *databases: str) -> Iterator[Postgres]:
    """A fresh PostgreSQL server with these databases. Skips where it is not installed."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    home.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(home, "postgres")
    server = Postgres(programs, home)
    server.start()
    try:
        assert _made(server.address("postgres"), databases)
        yield server
    finally:
        server.stop()


class Cutter:
    """Stands before a server of this machine; while it `cuts`, each answer breaks off after so many bytes."""

    def __init__(self, port: int) -> None:
        self.behind, self.cuts = port, False
        self.answers = 0  # that were cut
        self.server = socket.create_server(("127.0.0.1", free_port()))
        self.uri = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        self.server.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.behind), timeout=60) as server:
            threading.Thread(target=self._pump, args=(client, server), daemon=True).start()
            while part := server.recv(1 << 16):
                if self.cuts:
                    client.sendall(part[:80])
                    self.answers += 1
                    return
                client.sendall(part)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while part := client.recv(1 << 16):
                server.sendall(part)
            server.shutdown(socket.SHUT_WR)


class MlflowServer:
    """`mlflow server` on a port that stays the same when it is stopped and started again."""

    def __init__(self, home: Path, backend: str) -> None:
        self.home, self.backend, self.port = home, backend, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["--backend-store-uri", self.backend, "--artifacts-destination", str(self.home / "artifacts")]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                *arguments,
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
            ],
            cwd=self.home,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        until(self._healthy, 90)

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def mlflow_server(home: Path, backend: str | None = None) -> Iterator[MlflowServer]:
    home.mkdir(parents=True, exist_ok=True)
    server = MlflowServer(home, backend or f"sqlite:///{home / 'mlflow.db'}")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def http_stub(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server that answers every request so. It is gone at the end."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            answer(self)

        do_GET = do_POST = do_PUT = do_CONNECT = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that has hung up
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def replies(status: int, body: str = "{}", kind: str = "application/json") -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer for `http_stub`."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body.encode())

    return answer


def _made(address: str, databases: tuple[str, ...]) -> bool:
    import psycopg

    try:
        with psycopg.connect(address, autocommit=True) as connection:
            for name in databases:
                connection.execute(f"CREATE DATABASE {name}")
    except psycopg.OperationalError:
        return False
    return True


def until(ready: Callable[[], object], seconds: float) -> None:
    """Waits for something to come true."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
