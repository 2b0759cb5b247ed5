"""Tells outages, which may pass, from faults: a full disk, a server or a database that cannot be reached.

The error codes of each library (errno, SQLSTATE, SQLite's, HTTP's and gRPC's) decide whether an error is an outage. The
error being handled when another was raised (`__context__`) never counts: a bug in an `except` block is a bug. Any error
that is not known to pass is a fault, and nothing waits for it.
"""

import errno
import os
import re
import socket
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from workbench.errors import Interrupted, UserError, first_line, shown

DISK = "no room left on the disk"
SERVER = "a server cannot be reached"
DATABASE = "a database cannot be reached or written"
MLFLOW = "the MLflow store cannot be reached or written"
MOUNT = "a network file system is away"
GROWN = "a file has reached the largest size allowed"


@dataclass(frozen=True)
class Outage:
    """An outage: `what` is wrong in words, details `about` it where known, and `advice` on what the user can do."""

    what: str
    about: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what} ({self.about})" if self.about else self.what


FAULT: Final = "fault"
# None: this error does not decide, so that its cause is examined.
Verdict = Outage | Literal["fault"] | None


def outage(error: BaseException) -> str | None:
    """Returns in words what is wrong where `error` is an outage that may pass; None where it is a fault."""
    diagnosis = diagnose(error)
    return None if diagnosis is None else diagnosis.what


def diagnose(error: BaseException) -> Outage | None:
    """Returns the outage that caused `error`; None where it is a fault."""
    verdict = _judge(error)
    return verdict if isinstance(verdict, Outage) else None


def _judge(error: BaseException, depth: int = 0) -> Verdict:
    """Returns the verdict of the outermost error in the chain of causes that has one.

    A wrapping error knows more than the one it wraps: `analysis.stores.server` reports a lost connection where MLflow
    reports a missing attachment, since the attachment was listed just before.
    """
    if isinstance(error, UserError | Interrupted):
        return FAULT  # already decided, whatever the cause; an outer wait must not continue
    verdict: Verdict = None
    for kind in type(error).__mro__:
        if rule := RULES.get(kind.__module__.partition(".")[0]):
            verdict = rule(error)
            break
    if verdict is None and error.__cause__ is not None and depth < 20:
        return _judge(error.__cause__, depth + 1)
    return verdict


# The system: errno

NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
AWAY = {
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT),
    *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET),
}
UNRESOLVED = {socket.EAI_AGAIN, socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_FAIL}
# How Rust writes an errno. Polars, tokenizers and safetensors raise it as an OSError or Exception without errno.
RUST = re.compile(r"\(os error (\d+)\)")
NUMPY = re.compile(r"\d+ requested and \d+ written")  # the whole message of np.save for a truncated write


def _of_system(error: BaseException) -> Verdict:
    """Judges Python's own exceptions."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and type(error) in (OSError, RuntimeError, Exception):
        number = errno.ENOSPC if NUMPY.fullmatch(str(error)) else _rust_errno(error)
    if number is not None:
        return _of_errno(number, error)
    # Python's errors and ours that have no number: "timed out", "GRPC connection timeout".
    if isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError):
        return _server("", str(error))
    return None


def _of_errno(number: int, error: BaseException) -> Verdict:
    """Judges an errno. EACCES, EROFS, ENOENT and all codes not listed are faults.

    EIO is a fault: on a disk it means a hardware defect, which does not pass. A bare EPIPE is a fault: the reader of
    standard output has gone. A server that hangs up raises an error of requests or urllib3 instead.
    """
    path = getattr(error, "filename", None)
    if number in NO_ROOM:
        place = f"of {path}" if path else "of the workspace, or of TMPDIR"
        return Outage(f"{DISK} ({path or os.strerror(number)})", "", f"free space on the disk {place}")
    if number == errno.EFBIG:  # `ulimit -f`: it can be raised for a running process, so that nothing is lost
        advice = f"raise the limit on the size of files: prlimit --fsize=unlimited --pid {os.getpid()}"
        return Outage(f"{GROWN} ({path or os.strerror(number)})", "", advice)
    # The action opens its files again, which replaces a handle from before a file server's restart (ESTALE).
    if number == errno.ESTALE or (path and number in {*AWAY, errno.ENOTCONN}):
        advice = "see that the file server answers and that its folder is mounted"
        return Outage(MOUNT, str(path or os.strerror(number)), advice)
    return _server("", str(error)) if number in AWAY else FAULT


def _rust_errno(error: BaseException) -> int | None:
    match = RUST.search(str(error))
    return int(match[1]) if match else None


def _of_rust(error: BaseException) -> Verdict:
    """Judges errors of Polars and safetensors."""
    number = _rust_errno(error)
    return FAULT if number is None else _of_errno(number, error)


def _of_socket(error: BaseException) -> Verdict:
    """Judges a gaierror. A name that does not resolve is an outage, since a wrong name looks the same as an
    unreachable name server."""
    return _server("", str(error)) if getattr(error, "errno", None) in UNRESOLVED else FAULT


def _of_ssl(error: BaseException) -> Verdict:
    """Judges TLS errors. A rejected certificate or a server without TLS is a fault; a closed connection may come
    back."""
    import ssl

    return _server("", str(error)) if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) else FAULT


# Servers that speak HTTP

# 500 is included: MLflow's client reports only the number, and a server whose disk is full answers 500.
PASSING_STATUS = {408, 429, 500, 502, 503, 504, 507, *range(520, 525)}
REFUSING_PROXY = "Tunnel connection failed: 4"
# MLflow quotes an error of requests in its message; these are the patterns there, those of a fault first.
BROKEN_FOR_GOOD = re.compile(rf"SSLError\(|BadStatusLine\(|{REFUSING_PROXY}")
HUNG_UP = re.compile(r"(SSLEOF|SSLZeroReturn)Error\(")  # stands within an SSLError(...)
BROKEN = re.compile(
    r"(NewConnection|NameResolution|ConnectTimeout|ReadTimeout|Proxy|Connection(Reset|Aborted)|BrokenPipe|Timeout)"
    r"Error\(|(RemoteDisconnected|IncompleteRead|InvalidChunkLength)\(|Response ended prematurely|[Rr]ead timed out"
)


def _server(address: str, detail: str = "") -> Outage:
    """Returns the outage of a server. `detail`: what is known in addition to the address, or instead of it."""
    place = _place(address)
    about = f"{place}: {detail}" if place and detail else place or _short(detail)
    where = f" at {place}" if place else ""
    return Outage(SERVER, about, f"start the server{where} or see its log, or check MLFLOW_TRACKING_URI")


def _place(address: str) -> str:
    """Returns scheme, host and port of a server's address, without its password; empty for any other address."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme in ("http", "https") else ""


def _short(text: str) -> str:
    line = shown(" ".join(text.split()))
    return line if len(line) <= 160 else f"{line[:157]}..."


def _of_status(status: object, address: str = "") -> Verdict:
    return _server(address, f"it answers {status}") if status in PASSING_STATUS else FAULT


def _of_urllib(error: BaseException) -> Verdict:
    """Judges errors of Python's own HTTP client."""
    if hasattr(error, "code"):
        return _of_status(error.code, str(getattr(error, "filename", "")))
    reason = getattr(error, "reason", None)
    return _judge(reason) if isinstance(reason, BaseException) else FAULT


def _of_http(error: BaseException) -> Verdict:
    """Judges incomplete or missing HTTP responses. A response that is not HTTP at all is a fault."""
    from http.client import IncompleteRead, RemoteDisconnected

    return _server("", str(error)) if isinstance(error, RemoteDisconnected | IncompleteRead) else FAULT


def _of_urllib3(error: BaseException) -> Verdict:
    from urllib3 import exceptions as known

    if isinstance(error, known.ResponseError):  # it has the number only in its message
        match = re.fullmatch(r"too many (\d+) error responses", str(error))
        return _of_status(int(match[1])) if match else FAULT
    wrapped = _wrapped(error)
    if isinstance(error, known.ProxyError) and REFUSING_PROXY in str(wrapped):
        return FAULT
    if isinstance(error, known.MaxRetryError | known.SSLError):
        return FAULT if wrapped is None else _judge(wrapped)
    passing = (
        *(known.TimeoutError, known.NewConnectionError, known.ProxyError),
        *(known.ProtocolError, known.IncompleteRead, known.InvalidChunkLength),
    )
    if not isinstance(error, passing) or (_fault(wrapped) and not isinstance(wrapped, BrokenPipeError)):
        return FAULT
    return _server("", str(error))


def _of_requests(error: BaseException) -> Verdict:
    from requests import exceptions as known

    address = str(getattr(getattr(error, "request", None), "url", None) or "")
    if isinstance(error, known.HTTPError):
        return _of_status(getattr(error.response, "status_code", None), address)
    verdict = _judge(wrapped) if (wrapped := _wrapped(error)) is not None else None
    if verdict is None:
        passing = isinstance(error, known.Timeout | known.ConnectionError | known.ChunkedEncodingError)
        verdict = FAULT if isinstance(error, known.SSLError) or not passing else _server("", str(error))
    if verdict == FAULT or not address:
        return verdict
    return _server(address, verdict.about if verdict.about.startswith("it answers") else "")


def _wrapped(error: BaseException) -> BaseException | None:
    """Returns the error that requests or urllib3 wrapped without `from`: one of the arguments, or `reason`."""
    candidates = (getattr(error, "reason", None), *error.args)
    return next((value for value in candidates if isinstance(value, BaseException)), None)


def _fault(error: BaseException | None) -> bool:
    return error is not None and _judge(error) == FAULT


# MLflow

# MLflow reports INTERNAL_ERROR for every bug; where it is not a bug, the text says more.
PASSING_CODES = {
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
}


def _of_mlflow(error: BaseException) -> Verdict:
    """Judges MLflow's errors. It wraps database errors with `from` or quotes them; it only quotes those of requests.

    A database's own code comes before MLflow's, which reports TEMPORARILY_UNAVAILABLE for "no such table".
    """
    if error.__cause__ is not None and (verdict := _judge(error.__cause__)) is not None:
        return verdict
    text = str(error)
    if match := re.search(r"API request to (\S+) failed with exception (.*)", text, re.DOTALL):
        return _of_quoted(match[1], match[2])
    if match := re.match(r"API request to endpoint \S+ failed with error code (\d+)", text):
        return _of_status(int(match[1]), os.environ.get("MLFLOW_TRACKING_URI", ""))
    if (verdict := _of_driver_text(text)) is not None:
        return verdict
    if getattr(error, "error_code", None) in PASSING_CODES:
        return Outage(MLFLOW, _short(text), "see the log of the MLflow server, or check MLFLOW_TRACKING_URI")
    return FAULT


def _of_quoted(address: str, text: str) -> Verdict:
    """Judges `text`, the quoted message of an error of requests."""
    text = text.partition("(Caused by ")[2] or text  # without the address, which may contain anything
    if match := re.search(r"too many (\d+) error responses", text):
        return _of_status(int(match[1]), address)
    passing = HUNG_UP.search(text) or (BROKEN.search(text) and not BROKEN_FOR_GOOD.search(text))
    return _server(address) if passing else FAULT


# Databases

# Rolled back in favour of another transaction (40001, 40P01), or completion unknown (40003); no space, memory or
# connections left (53000-53300, but not 53400, a configured limit); a lock is held (55P03); cancelled (57014: our
# statements are short, so the server is overloaded or somebody cancelled them); shut down, crashed, starting, idle
# (57P01-3, 57P05, but not 57P04: the database was dropped); a transaction ended because its worker was frozen (25P03).
PASSING_SQL = {
    *("40001", "40003", "40P01", "53000", "53100", "53200", "53300", "55P03"),
    *("57014", "57P01", "57P02", "57P03", "57P05", "25P03"),
}
# Connection errors have no SQLSTATE. libpq puts two spaces before the server's message, which may be in any language;
# its own messages are English.
SERVER_SAID = re.compile(r":  (.*)", re.DOTALL)
SAID_TO_PASS = re.compile(
    r"too many (connections|clients)|connection slots|database system is|terminating connection"  # starting up, ...
)
UNCONNECTED = re.compile(
    r"refused|reset|closed|lost|unreachable|No route|time[d ]*out|resolve|translate host name|EOF|terminated|"
    r"Is the server running|(receive|send) data",
    re.IGNORECASE,
)
# A full disk is reported as FULL; an exhausted quota or `ulimit -f` as an IOERR on write; other IOERRs are EIO.
SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL}
SQLITE_ROOM = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC),
    *(sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE),
}
FREE_LOCK = "end the process that holds the lock of the database"
DRIVER = re.compile(r"\((sqlite3|psycopg2?)\.(?:errors\.)?(\w+)\) ([^\[]*)")  # how SQLAlchemy's messages start


def _of_sqlite(error: BaseException) -> Verdict:
    """Judges SQLite's errors. CANTOPEN, READONLY, NOTADB, CORRUPT and SQLITE_ERROR (no such table, a wrong statement)
    are faults.

    LOCKED is a fault, too: the connection itself causes it, unless it uses a shared cache.
    """
    code = getattr(error, "sqlite_errorcode", 0)
    if code in SQLITE_ROOM:
        return _no_room_for_sqlite(str(error))
    if code & 0xFF in SQLITE_BUSY or code == sqlite3.SQLITE_LOCKED_SHAREDCACHE:
        return _database(str(error), FREE_LOCK)
    return FAULT


def _no_room_for_sqlite(about: str) -> Outage:
    return Outage(
        f"{DISK} ({about})", "", "free space on the disk of the database, which is the workspace's by default"
    )


def _of_psycopg(error: BaseException) -> Verdict:
    """Judges errors of psycopg and psycopg2: by SQLSTATE wherever there is one."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if code is not None:
        return _of_sqlstate(code, str(error))
    connecting = {"OperationalError", "InterfaceError"} & {kind.__name__ for kind in type(error).__mro__}
    return _of_connecting(str(error)) if connecting else FAULT


def _of_sqlstate(code: str, text: str) -> Verdict:
    # 08: connection exceptions, except 08P01, where the other side speaks another protocol.
    passing = code in PASSING_SQL or (code.startswith("08") and code != "08P01")
    return _database(text) if passing else FAULT


def _of_connecting(message: str) -> Verdict:
    text = re.sub(r'"[^"]*"', '""', message)  # names may contain anything
    answer = SERVER_SAID.search(text)
    passing = SAID_TO_PASS.search(answer[1]) if answer else UNCONNECTED.search(text)
    return _database(message) if passing else FAULT


def _of_sqlalchemy(error: BaseException) -> Verdict:
    """Judges SQLAlchemy's errors by those of the driver. For an unknown driver SQLAlchemy still reports a lost
    connection."""
    # "Can't reconnect until invalid transaction is rolled back": the connection was lost within this transaction, and
    # the caller continued, as Optuna does where it tries a second way to read all trials. The next attempt has a new
    # transaction.
    if getattr(error, "code", None) == "8s2b":
        return _database("the connection was lost")
    orig = getattr(error, "orig", None)
    if isinstance(orig, BaseException) and (verdict := _judge(orig)) is not None:
        return verdict
    gone = getattr(error, "connection_invalidated", False)
    return _database(first_line(orig)) if gone and isinstance(orig, Exception) else None


def _of_driver_text(text: str) -> Verdict:
    """Judges a message of SQLAlchemy quoted by MLflow or by a gRPC server; None where it is not about a database."""
    match = DRIVER.search(text)
    if match is None:
        return None
    driver, kind, message = match[1], match[2], match[3].strip()
    if driver == "sqlite3":
        if message.startswith("database or disk is full"):
            return _no_room_for_sqlite("database or disk is full")
        return _database("database is locked", FREE_LOCK) if message.startswith("database is locked") else FAULT
    if code := getattr(getattr(sys.modules.get(f"{driver}.errors"), kind, None), "sqlstate", None):
        return _of_sqlstate(code, message)
    return _of_connecting(message) if kind in ("OperationalError", "InterfaceError") else FAULT


def _database(about: str, advice: str = "") -> Outage:
    match = re.search(r'server at "([^"]+)"[^,]*, port (\d+)', about)
    place = f" at {match[1]}:{match[2]}" if match else ""
    see = f"see that PostgreSQL{place} runs and takes connections, or check --storage"
    return Outage(DATABASE, _short(about), advice or see)


# gRPC

# We cancel nothing ourselves, so CANCELLED comes from the server.
PASSING_GRPC = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}


def _of_grpc(error: BaseException) -> Verdict:
    if not callable(code := getattr(error, "code", None)):
        return None
    status, details = getattr(code(), "name", ""), str(getattr(error, "details", str)() or "")
    if status == "UNKNOWN":  # an exception of the server, of which only the message is known
        return _of_driver_text(details) or FAULT
    # A message larger than either side accepts is reported as RESOURCE_EXHAUSTED, too.
    if status not in PASSING_GRPC or "message larger than max" in details:
        return FAULT
    match = re.search(r"ipv[46]:([^\s:]+:\d+)", details)
    place = f" at {match[1]}" if match else ""
    return Outage(DATABASE, _short(details or status), f"start `wb storage`{place}, or check --storage")


RULES: dict[str, Callable[[Any], Verdict]] = {
    "builtins": _of_system,
    "socket": _of_socket,
    "ssl": _of_ssl,
    "http": _of_http,
    "urllib": _of_urllib,
    "urllib3": _of_urllib3,
    "requests": _of_requests,
    "mlflow": _of_mlflow,
    "sqlite3": _of_sqlite,
    "psycopg": _of_psycopg,
    "psycopg2": _of_psycopg,
    "sqlalchemy": _of_sqlalchemy,
    "grpc": _of_grpc,
    "polars": _of_rust,
    "safetensors": _of_rust,
}
