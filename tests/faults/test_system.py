"""The errors of the system: full disks, files, pipes and sockets."""

import errno
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from tests.faults.provoked import BIG, FAULT, UNKNOWN_HOST, cases, caught, check, raised, reset
from tests.soak import small_disk
from workbench.errors import UserError
from workbench.faults import DISK, GROWN, MOUNT, SERVER
from workbench.outage import Patience
from workbench.training import state

UNSIZED: Any = 1  # of which the length is asked, a bug that a type checker would find


def write(path: Path | str, size: int = 1 << 20) -> None:
    with open(path, "wb") as file:
        file.write(bytes(size))


def torch_to_a_file(path: Path | str) -> None:
    with open(path, "wb") as file:
        torch.save(BIG, file)


def numbers() -> pl.DataFrame:
    return pl.DataFrame({"x": np.random.default_rng(0).random(200_000)})


def words(path: Path) -> None:
    Tokenizer(models.WordLevel({str(index) * 3: index for index in range(30_000)}, "0")).save(str(path))


def fill_a_database(path: Path, mode: str = "delete") -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode={mode}")
        database.execute("CREATE TABLE t (x)")
        for _ in range(1000):
            with database:
                database.execute("INSERT INTO t VALUES (?)", (os.urandom(4000),))


@cases(
    ("open", lambda disk: write(disk / "x"), DISK),
    # torch says no more than "unexpected pos 576 vs 534"; our checkpoints keep the OSError.
    ("torch.save to an open file", lambda disk: torch_to_a_file(disk / "x"), FAULT),
    ("torch.save to a path", lambda disk: torch.save(BIG, disk / "x"), FAULT),
    ("a checkpoint", lambda disk: state._write({"x": BIG}, disk / "x.pt"), DISK),
    ("polars parquet", lambda disk: numbers().write_parquet(disk / "x"), DISK),
    ("polars sink", lambda disk: numbers().lazy().sink_parquet(disk / "x"), DISK),
    ("polars csv", lambda disk: numbers().write_csv(disk / "x"), DISK),
    ("safetensors", lambda disk: save_file({"x": BIG}, disk / "x"), DISK),
    ("numpy", lambda disk: np.save(disk / "x.npy", BIG.numpy()), DISK),
    ("tokenizers", lambda disk: words(disk / "x"), DISK),
    ("sqlite", lambda disk: fill_a_database(disk / "x.db"), DISK),
    ("sqlite with a write-ahead log", lambda disk: fill_a_database(disk / "x.db", "wal"), DISK),
)
def test_a_disk_that_is_full(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not small_disk(disk, "256k"):
        pytest.skip("filling up a disk needs the right to mount one")
    try:
        check(caught(lambda: provoke(disk)), verdict)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@cases(
    ("open", lambda _: write("/dev/full"), DISK),
    ("torch.save to an open file", lambda _: torch_to_a_file("/dev/full"), DISK),
    ("torch.save to a path", lambda _: torch.save(BIG, "/dev/full"), FAULT),
)
def test_a_device_that_is_full(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    check(caught(lambda: provoke(tmp_path)), verdict)


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.faults import test_system as here
from tests.faults.provoked import caught
from workbench.faults import outage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for number, action in enumerate([
    here.write, lambda path: here.numbers().write_parquet(path), here.fill_a_database,
    lambda path: here.fill_a_database(path, "wal"),
]):
    print(outage(caught(lambda: action(Path({folder!r}) / str(number)))))
"""


def test_the_limit_on_the_size_of_files(tmp_path: Path) -> None:
    code = LIMITED.format(root=str(Path(__file__).resolve().parents[2]), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    verdicts = [line.partition(" (")[0] for line in done.stdout.splitlines()]
    assert verdicts == [GROWN, GROWN, DISK, DISK], done.stderr


def as_nobody(action: Callable[[], object]) -> None:
    """As a user who may not write everywhere."""
    if os.geteuid() != 0:
        action()
        return
    os.seteuid(65534)
    try:
        action()
    finally:
        os.seteuid(0)


def read_only(folder: Path) -> None:
    if not small_disk(folder, "256k"):
        pytest.skip("a disk that is read only needs the right to mount one")
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        write(folder / "x")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def into_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        os.write(writing, b"x")
    finally:
        os.close(writing)


def silence() -> None:
    """A server that takes a connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=0.1).recv(1)


def a_bug_while_an_outage_is_handled(bug: Callable[[], object]) -> None:
    try:
        raise ConnectionError("refused")
    except ConnectionError:
        bug()


@cases(
    ("EACCES", lambda _: as_nobody(lambda: write("/proc/version")), FAULT),
    ("EROFS", lambda tmp: read_only(tmp / "disk"), FAULT),
    ("ENOENT", lambda tmp: write(tmp / "no" / "x"), FAULT),
    ("EISDIR", lambda tmp: write(tmp), FAULT),
    ("polars, no such folder", lambda tmp: numbers().write_csv(tmp / "no" / "x"), FAULT),
    ("safetensors, no such folder", lambda tmp: save_file({"x": BIG}, tmp / "no" / "x"), FAULT),
    ("EPIPE of a pipe", lambda _: into_a_closed_pipe(), FAULT),
    ("ECONNREFUSED", lambda _: socket.create_connection(("127.0.0.1", 1)), SERVER),
    ("ECONNRESET", lambda _: reset(), SERVER),
    ("timed out", lambda _: silence(), SERVER),
    ("a name that does not resolve", lambda _: socket.getaddrinfo(UNKNOWN_HOST, 80), SERVER),
    ("a service that is unknown", lambda _: socket.getaddrinfo("127.0.0.1", "no-such-service"), FAULT),
    # These need a broken disk, or a network's.
    ("EIO", lambda _: raised(OSError(errno.EIO, "Input/output error")), FAULT),
    ("ESTALE", lambda _: raised(OSError(errno.ESTALE, "Stale file handle", "/nfs/x")), MOUNT),
    ("ETIMEDOUT of a file", lambda _: raised(OSError(errno.ETIMEDOUT, "timed out", "/nfs/x")), MOUNT),
    ("EDQUOT", lambda _: raised(OSError(errno.EDQUOT, "Disk quota exceeded", "x")), DISK),
    ("a lookup's bug", lambda _: a_bug_while_an_outage_is_handled(lambda: dict[str, int]()["x"]), FAULT),
    ("a division's bug", lambda _: a_bug_while_an_outage_is_handled(lambda: 1 / 0), FAULT),
    ("a type's bug", lambda _: a_bug_while_an_outage_is_handled(lambda: len(UNSIZED)), FAULT),
    ("words of a full disk in a bug", lambda _: raised(KeyError("No space left on device (os error 28)")), FAULT),
    ("words of an outage in a bug", lambda _: raised(ValueError("Connection refused: database is locked")), FAULT),
)
def test_the_system(provoke: Callable[[Path], object], verdict: str | None, tmp_path: Path) -> None:
    check(caught(lambda: provoke(tmp_path)), verdict)


def test_what_was_decided_is_not_decided_again() -> None:
    def user_error() -> None:
        raise UserError("no such server") from ConnectionError("refused")

    def stopped() -> None:
        Patience(lambda _: None, lambda: True)(reset)

    check(caught(user_error), FAULT)
    check(caught(stopped), FAULT)
    check(caught(lambda: Patience(lambda _: None)(stopped)), FAULT)
