"""Real servers for tests: PostgreSQL from Debian's packages, MLflow's own. Each on the loopback, in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def postgres_programs() -> Path | None:
    """The folder of initdb and postgres, which Debian keeps out of the PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return next((path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None)


@contextmanager
def postgres(home: Path, *databases: str) -> Iterator[list[str]]:
    """A fresh PostgreSQL server; the addresses of its databases. Skips where it is not installed."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    root = os.geteuid() == 0
    home.mkdir(parents=True)
    if root:  # it refuses to run as root
        shutil.chown(home, "postgres")
        for folder in (home, *home.parents):
            if folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
    user: dict[str, str] = {"user": "postgres"} if root else {}
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    data = home / "data"
    subprocess.run([programs / "initdb", "-D", data, "-U", "wb", "-A", "trust", "-N"], check=True, **quiet, **user)  # type: ignore[call-overload]
    options = ["-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", home, "-F"]
    server = subprocess.Popen([programs / "postgres", *options], **quiet, **user)  # type: ignore[call-overload]
    try:
        address = f"postgresql://wb@127.0.0.1:{port}"
        _until(lambda: _made(f"{address}/postgres", databases), 30)
        yield [f"{address}/{name}" for name in databases]
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=30)


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
        _until(self._healthy, 90)

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


def _made(address: str, databases: tuple[str, ...]) -> bool:
    import psycopg

    try:
        with psycopg.connect(address, autocommit=True) as connection:
            for name in databases:
                connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    except psycopg.OperationalError:
        return False
    return True


def _until(ready: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.1)
