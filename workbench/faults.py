"""Which errors are outages, that may pass: a full disk, a server or a database that cannot be reached.

What is an outage is decided by the codes that each library gives (errno, SQLSTATE, SQLite's, HTTP's and gRPC's), and
never by what was being handled when an error was raised (`__context__`): a bug in an `except` block is a bug. Whatever
is not known to pass is a fault, which nobody waits for.
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
    """What is out of order in words, more `about` it where more is known, and what the user can do."""

    what: str
    about: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what} ({self.about})" if self.about else self.what


FAULT: Final = "fault"
# None: this error says nothing either way, so that its cause is asked.
Verdict = Outage | Literal["fault"] | None


def outage(error: BaseException) -> str | None:
    """What is out of order, in words, where `error` is an outage that may pass; None where it is a fault."""
    found = diagnose(error)
    return None if found is None else found.what


def diagnose(error: BaseException) -> Outage | None:
    """The outage that `error` comes from; None where it is a fault."""
    verdict = _judge(error)
    return verdict if isinstance(verdict, Outage) else None


def _judge(error: BaseException, depth: int = 0) -> Verdict:
    """The verdict of the outermost error of the chain of causes that has one.

    What wraps an error knows more than what it wraps: `analysis.stores.server` calls it a lost connection where MLflow
    says that an attachment is missing, since it was listed just before.
    """
    if isinstance(error, UserError | Interrupted):
        return FAULT  # decided already, whatever has led to it; a wait around another one must not go on
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
# Rust writes an errno so; Polars, tokenizers and safetensors raise it as an OSError or an Exception that has no errno.
RUST = re.compile(r"\(os error (\d+)\)")
NUMPY = re.compile(r"\d+ requested and \d+ written")  # all that np.save says of a write that was cut short


def _of_system(error: BaseException) -> Verdict:
    """Python's own exceptions."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and type(error) in (OSError, RuntimeError, Exception):
        number = errno.ENOSPC if NUMPY.fullmatch(str(error)) else _rust_errno(error)
    if number is not None:
        return _of_errno(number, error)
    # Python's and ours without a number: "timed out", "GRPC connection timeout".
    if isinstance(error, ConnectionError | TimeoutError) and not isinstance(error, BrokenPipeError):
        return _server("", str(error))
    return None


def _of_errno(number: int, error: BaseException) -> Verdict:
    """EACCES, EROFS, ENOENT and all the others are faults.

    EIO is one: on a disk it means a defect, which does not pass. EPIPE is one where it comes bare: then the reader of
    standard output has gone; a server that hangs up comes as an error of requests or urllib3.
    """
    path = getattr(error, "filename", None)
    if number in NO_ROOM:
        place = f"of {path}" if path else "of the workspace, or of TMPDIR"
        return Outage(f"{DISK} ({path or os.strerror(number)})", "", f"free space on the disk {place}")
    if number == errno.EFBIG:  # `ulimit -f`: can be raised for a process that runs, so that nothing is lost
        advice = f"raise the limit on the size of files: prlimit --fsize=unlimited --pid {os.getpid()}"
        return Outage(f"{GROWN} ({path or os.strerror(number)})", "", advice)
    # The action opens its files anew, so that a handle from before a file server's restart (ESTALE) is replaced.
    if number == errno.ESTALE or (path and number in {*AWAY, errno.ENOTCONN}):
        advice = "see that the file server answers and that its folder is mounted"
        return Outage(MOUNT, str(path or os.strerror(number)), advice)
    return _server("", str(error)) if number in AWAY else FAULT


def _rust_errno(error: BaseException) -> int | None:
    found = RUST.search(str(error))
    return int(found[1]) if found else None


def _of_rust(error: BaseException) -> Verdict:
    """Polars and safetensors."""
    number = _rust_errno(error)
    return FAULT if number is None else _of_errno(number, error)


def _of_socket(error: BaseException) -> Verdict:
    """gaierror: a name that does not resolve, since nobody can tell a wrong name from a name server that is away."""
    return _server("", str(error)) if getattr(error, "errno", None) in UNRESOLVED else FAULT


def _of_ssl(error: BaseException) -> Verdict:
    """A certificate that is not accepted, or a server that speaks no TLS, stays so; one that hangs up may come back."""
    import ssl

    return _server("", str(error)) if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError) else FAULT


# Servers that speak HTTP

# 500 is one: MLflow's client gives no more than the number, and a server whose disk is full answers so.
PASSING_STATUS = {408, 429, 500, 502, 503, 504, 507, *range(520, 525)}
REFUSING_PROXY = "Tunnel connection failed: 4"
# MLflow puts an error of requests into its text; these are the signs there, those of a fault first.
BROKEN_FOR_GOOD = re.compile(rf"SSLError\(|BadStatusLine\(|{REFUSING_PROXY}")
HUNG_UP = re.compile(r"(SSLEOF|SSLZeroReturn)Error\(")  # stands within an SSLError(...)
BROKEN = re.compile(
    r"(NewConnection|NameResolution|ConnectTimeout|ReadTimeout|Proxy|Connection(Reset|Aborted)|BrokenPipe|Timeout)"
    r"Error\(|(RemoteDisconnected|IncompleteRead|InvalidChunkLength)\(|Response ended prematurely|[Rr]ead timed out"
)


def _server(address: str, told: str = "") -> Outage:
    """`told`: what is known besides, or instead of the address."""
    place = _place(address)
    about = f"{place}: {told}" if place and told else place or _short(told)
    where = f" at {place}" if place else ""
    return Outage(SERVER, about, f"start the server{where} or see its log, or check MLFLOW_TRACKING_URI")


def _place(address: str) -> str:
    """Scheme, host and port of an address, without its password; empty where it is none of a server."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme in ("http", "https") else ""


def _short(text: str) -> str:
    line = shown(" ".join(text.split()))
    return line if len(line) <= 160 else f"{line[:157]}..."


def _of_status(status: object, address: str = "") -> Verdict:
    return _server(address, f"it answers {status}") if status in PASSING_STATUS else FAULT


def _of_urllib(error: BaseException) -> Verdict:
    """Python's own client."""
    if hasattr(error, "code"):
        return _of_status(error.code, str(getattr(error, "filename", "")))
    reason = getattr(error, "reason", None)
    return _judge(reason) if isinstance(reason, BaseException) else FAULT


def _of_http(error: BaseException) -> Verdict:
    """An answer that breaks off, or none; what is no answer in HTTP at all is a fault."""
    from http.client import IncompleteRead, RemoteDisconnected

    return _server("", str(error)) if isinstance(error, RemoteDisconnected | IncompleteRead) else FAULT


def _of_urllib3(error: BaseException) -> Verdict:
    from urllib3 import exceptions as known

    if isinstance(error, known.ResponseError):  # says the number in words alone
        found = re.fullmatch(r"too many (\d+) error responses", str(error))
        return _of_status(int(found[1])) if found else FAULT
    held = _held(error)
    if isinstance(error, known.ProxyError) and REFUSING_PROXY in str(held):
        return FAULT
    if isinstance(error, known.MaxRetryError | known.SSLError):
        return FAULT if held is None else _judge(held)
    passing = (
        *(known.TimeoutError, known.NewConnectionError, known.ProxyError),
        *(known.ProtocolError, known.IncompleteRead, known.InvalidChunkLength),
    )
    if not isinstance(error, passing) or (_fault(held) and not isinstance(held, BrokenPipeError)):
        return FAULT
    return _server("", str(error))


def _of_requests(error: BaseException) -> Verdict:
    from requests import exceptions as known

    address = str(getattr(getattr(error, "request", None), "url", None) or "")
    if isinstance(error, known.HTTPError):
        return _of_status(getattr(error.response, "status_code", None), address)
    verdict = _judge(held) if (held := _held(error)) is not None else None
    if verdict is None:
        passing = isinstance(error, known.Timeout | known.ConnectionError | known.ChunkedEncodingError)
        verdict = FAULT if isinstance(error, known.SSLError) or not passing else _server("", str(error))
    if verdict == FAULT or not address:
        return verdict
    return _server(address, verdict.about if verdict.about.startswith("it answers") else "")


def _held(error: BaseException) -> BaseException | None:
    """What requests and urllib3 wrap without `from`: it stands among their arguments, or is called the reason."""
    held = (getattr(error, "reason", None), *error.args)
    return next((each for each in held if isinstance(each, BaseException)), None)


def _fault(error: BaseException | None) -> bool:
    return error is not None and _judge(error) == FAULT


# MLflow

# INTERNAL_ERROR is what MLflow says of every bug; where it is not, the text says more.
PASSING_CODES = {
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "ABORTED",
}


def _of_mlflow(error: BaseException) -> Verdict:
    """It wraps errors of databases with `from`, or puts them into its text; those of requests into its text alone.

    A database's own code comes before MLflow's, which calls "no such table" TEMPORARILY_UNAVAILABLE.
    """
    if error.__cause__ is not None and (verdict := _judge(error.__cause__)) is not None:
        return verdict
    text = str(error)
    if found := re.search(r"API request to (\S+) failed with exception (.*)", text, re.DOTALL):
        return _of_told(found[1], found[2])
    if found := re.match(r"API request to endpoint \S+ failed with error code (\d+)", text):
        return _of_status(int(found[1]), os.environ.get("MLFLOW_TRACKING_URI", ""))
    if (verdict := _of_driver_text(text)) is not None:
        return verdict
    if getattr(error, "error_code", None) in PASSING_CODES:
        return Outage(MLFLOW, _short(text), "see the log of the MLflow server, or check MLFLOW_TRACKING_URI")
    return FAULT


def _of_told(address: str, told: str) -> Verdict:
    """`told`: the text of an error of requests."""
    told = told.partition("(Caused by ")[2] or told  # not the address, in which anything may stand
    if found := re.search(r"too many (\d+) error responses", told):
        return _of_status(int(found[1]), address)
    passing = HUNG_UP.search(told) or (BROKEN.search(told) and not BROKEN_FOR_GOOD.search(told))
    return _server(address) if passing else FAULT


# Databases

# Rolled back for another's sake (40001, 40P01), or not known to be done (40003); no room, memory or connection is left
# there (53000-53300, but not 53400, a limit that was set); a lock is held (55P03); cancelled (57014: our statements are
# short, so that the server is overloaded or somebody did it); shut down, crashed, starting, idle (57P01-3, 57P05, but
# not 57P04: the database was dropped); a transaction ended because its worker was frozen (25P03).
PASSING_SQL = {
    *("40001", "40003", "40P01", "53000", "53100", "53200", "53300", "55P03"),
    *("57014", "57P01", "57P02", "57P03", "57P05", "25P03"),
}
# Errors of connecting have no SQLSTATE. libpq puts two blanks before what a server has said, in whatever language; its
# own words are English.
SERVER_SAID = re.compile(r":  (.*)", re.DOTALL)
SAID_TO_PASS = re.compile(
    r"too many (connections|clients)|connection slots|database system is|terminating connection"  # starting up, ...
)
UNCONNECTED = re.compile(
    r"refused|reset|closed|lost|unreachable|No route|time[d ]*out|resolve|translate host name|EOF|terminated|"
    r"Is the server running|(receive|send) data",
    re.IGNORECASE,
)
# A full disk comes as FULL, a quota or `ulimit -f` that is reached as an IOERR of writing; other IOERRs are EIO.
SQLITE_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_PROTOCOL}
SQLITE_ROOM = {
    *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC),
    *(sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_TRUNCATE),
}
FREE_LOCK = "end the process that holds the lock of the database"
DRIVER = re.compile(r"\((sqlite3|psycopg2?)\.(?:errors\.)?(\w+)\) ([^\[]*)")  # how SQLAlchemy begins its text


def _of_sqlite(error: BaseException) -> Verdict:
    """CANTOPEN, READONLY, NOTADB, CORRUPT and SQLITE_ERROR (no such table, a wrong statement) are faults.

    LOCKED is one, too: it is the doing of the connection itself, unless a shared cache is in between.
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
    """psycopg and psycopg2, which decide by SQLSTATE wherever there is one."""
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if code is not None:
        return _of_sqlstate(code, str(error))
    connecting = {"OperationalError", "InterfaceError"} & {kind.__name__ for kind in type(error).__mro__}
    return _of_connecting(str(error)) if connecting else FAULT


def _of_sqlstate(code: str, text: str) -> Verdict:
    # 08: connection exceptions, of which 08P01 is that the other side speaks another protocol.
    passing = code in PASSING_SQL or (code.startswith("08") and code != "08P01")
    return _database(text) if passing else FAULT


def _of_connecting(told: str) -> Verdict:
    text = re.sub(r'"[^"]*"', '""', told)  # in names anything may stand
    said = SERVER_SAID.search(text)
    passing = SAID_TO_PASS.search(said[1]) if said else UNCONNECTED.search(text)
    return _database(told) if passing else FAULT


def _of_sqlalchemy(error: BaseException) -> Verdict:
    """Its driver decides; of a driver that is not known here, SQLAlchemy at least tells that the connection is gone."""
    # "Can't reconnect until invalid transaction is rolled back": the connection was lost within this transaction, and
    # its user went on, as Optuna does where it tries a second way to ask for all trials. The next attempt has a new
    # one.
    if getattr(error, "code", None) == "8s2b":
        return _database("the connection was lost")
    orig = getattr(error, "orig", None)
    if isinstance(orig, BaseException) and (verdict := _judge(orig)) is not None:
        return verdict
    gone = getattr(error, "connection_invalidated", False)
    return _database(first_line(orig)) if gone and isinstance(orig, Exception) else None


def _of_driver_text(text: str) -> Verdict:
    """What SQLAlchemy has told MLflow, or a server behind gRPC; None where it is not about a database."""
    found = DRIVER.search(text)
    if found is None:
        return None
    driver, kind, said = found[1], found[2], found[3].strip()
    if driver == "sqlite3":
        if said.startswith("database or disk is full"):
            return _no_room_for_sqlite("database or disk is full")
        return _database("database is locked", FREE_LOCK) if said.startswith("database is locked") else FAULT
    if code := getattr(getattr(sys.modules.get(f"{driver}.errors"), kind, None), "sqlstate", None):
        return _of_sqlstate(code, said)
    return _of_connecting(said) if kind in ("OperationalError", "InterfaceError") else FAULT


def _database(about: str, advice: str = "") -> Outage:
    found = re.search(r'server at "([^"]+)"[^,]*, port (\d+)', about)
    place = f" at {found[1]}:{found[2]}" if found else ""
    see = f"see that PostgreSQL{place} runs and takes connections, or check --storage"
    return Outage(DATABASE, _short(about), advice or see)


# gRPC

# We cancel nothing ourselves, so that CANCELLED is the server's doing.
PASSING_GRPC = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"}


def _of_grpc(error: BaseException) -> Verdict:
    if not callable(code := getattr(error, "code", None)):
        return None
    status, details = getattr(code(), "name", ""), str(getattr(error, "details", str)() or "")
    if status == "UNKNOWN":  # an exception of the server, of which there is but the text
        return _of_driver_text(details) or FAULT
    # A message larger than either side takes is called RESOURCE_EXHAUSTED, too.
    if status not in PASSING_GRPC or "message larger than max" in details:
        return FAULT
    found = re.search(r"ipv[46]:([^\s:]+:\d+)", details)
    place = f" at {found[1]}" if found else ""
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
