"""Metrics on their way to MLflow: nothing lost, nothing twice."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from analysis.runs import read_runs
from analysis.stores.server import artifact
from workbench.errors import Interrupted
from workbench.faults import outage
from workbench.outage import Patience
from workbench.record import FILE
from workbench.tracking import log
from workbench.tracking.log import RunLog
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setattr(log, "EVERY", 0.05)
    return Tracker(ensure_store(tmp_path), tmp_path)


def start(tracker: Tracker) -> str:
    return tracker.start("r", {"study": "s", "config_hash": "c"}, {}, {"a": 1})[0]


def history(tracker: Tracker, run_id: str) -> list[tuple[str, int, float]]:
    names = tracker.client.get_run(run_id).data.metrics
    return sorted((m.key, m.step, m.value) for name in names for m in tracker.client.get_metric_history(run_id, name))


def test_a_server_that_dies_in_the_middle_of_an_answer_is_an_outage_not_a_missing_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Dying(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1286")
            self.end_headers()
            self.wfile.write(b"{")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Dying)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(MlflowException) as broken:
            read_runs(f"http://127.0.0.1:{server.server_port}", "0" * 32)
    finally:
        server.shutdown()
        server.server_close()
    assert outage(broken.value) == "a server cannot be reached"


def test_an_attachment_that_is_listed_and_not_given_is_an_outage(tracker: Tracker) -> None:
    run_id = start(tracker)
    assert artifact(tracker.client, run_id, FILE) is None
    tracker.attach(run_id, {"question": "?"}, FILE)
    assert json.loads(artifact(tracker.client, run_id, FILE) or b"") == {"question": "?"}

    class Dying:
        list_artifacts = tracker.client.list_artifacts

        def download_artifacts(self, *_: object) -> str:
            raise MlflowException("please ensure that the path is correct", error_code=RESOURCE_DOES_NOT_EXIST)

    with pytest.raises(ConnectionError) as broken:
        artifact(Dying(), run_id, FILE)
    assert outage(broken.value) == "a server cannot be reached"


def test_everything_arrives_once_and_the_file_goes(tracker: Tracker, tmp_path: Path) -> None:
    run_id, file = start(tracker), tmp_path / "spool" / "r.jsonl"
    sent = RunLog(tracker, run_id, file, False, Patience(print))
    for step in range(3):
        sent.log({"x": step / 2, "y": float("nan")}, step)
    sent.log({"x": 1.0, "z": 4.0}, 2)  # x is there already
    sent.close()
    assert history(tracker, run_id) == [("x", 0, 0.0), ("x", 1, 0.5), ("x", 2, 1.0), ("z", 2, 4.0)]
    assert not file.exists()


def test_a_resumed_trial_sends_what_its_predecessor_had_not_and_repeats_nothing(
    tracker: Tracker, tmp_path: Path
) -> None:
    run_id, file = start(tracker), tmp_path / "r.jsonl"
    first = RunLog(tracker, run_id, file, False, Patience(print))
    first.log({"x": 1.0}, 1)
    first.close()
    file.write_text(
        json.dumps({"step": 1, "time": 5, "metrics": {"x": 1.0}})
        + "\n"
        + json.dumps({"step": 2, "time": 6, "metrics": {"x": 2.0}})
        + '\n{"step": 3, "ti'  # its writer died here
    )
    again = RunLog(tracker, run_id, file, True, Patience(print))
    again.log({"x": 2.0}, 2)
    again.log({"x": 3.0}, 3)
    again.close()
    assert history(tracker, run_id) == [("x", 1, 1.0), ("x", 2, 2.0), ("x", 3, 3.0)]


def test_an_outage_is_waited_out_and_a_lost_answer_doubles_nothing(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, told, calls = start(tracker), list[str](), list[int]()
    real = tracker.client.log_batch

    def flaky(*arguments: Any, **named: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise MlflowException("API request failed") from ConnectionError("refused")
        real(*arguments, **named)
        if len(calls) == 2:
            raise MlflowException("the answer was lost") from ConnectionError("reset")

    monkeypatch.setattr(tracker.client, "log_batch", flaky)
    sent = RunLog(tracker, run_id, tmp_path / "r.jsonl", False, Patience(told.append))
    sent.log({"x": 1.0}, 1)
    sent.close()
    assert len(calls) == 3
    assert history(tracker, run_id) == [("x", 1, 1.0)]
    assert [message.partition(":")[0] for message in told] == ["waiting", "continuing"]


def test_a_stop_during_an_outage_keeps_what_was_not_sent(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, file = start(tracker), tmp_path / "r.jsonl"

    def away(*_: Any, **__: Any) -> None:
        raise MlflowException("API request failed") from ConnectionError("refused")

    monkeypatch.setattr(tracker.client, "log_batch", away)
    asked: list[bool] = []
    sent = RunLog(tracker, run_id, file, False, Patience(print, lambda: bool(asked)))
    sent.log({"x": 1.0}, 1)
    asked.append(True)
    with pytest.raises(Interrupted):
        sent.close()
    monkeypatch.undo()
    again = RunLog(tracker, run_id, file, True, Patience(print))
    again.close()
    assert history(tracker, run_id) == [("x", 1, 1.0)]


def test_a_fault_is_not_waited_out(tracker: Tracker, tmp_path: Path) -> None:
    sent = RunLog(tracker, "no such run", tmp_path / "r.jsonl", False, Patience(print))
    sent.log({"x": 1.0}, 1)
    with pytest.raises(MlflowException):
        sent.close()
    assert (tmp_path / "r.jsonl").exists()


def test_a_run_begun_by_a_worker_that_died_is_found_and_completed(tracker: Tracker) -> None:
    run_id, again = tracker.start("r", {"study": "s", "config_hash": "c"}, {"cell": "old"}, {"a": 1})
    assert not again
    tracker.finish(run_id, "KILLED")
    same, again = tracker.start("r2", {"study": "s", "config_hash": "c"}, {"cell": "new"}, {"a": 2})
    run = tracker.client.get_run(run_id)
    assert (same, again, run.info.status, run.info.run_name) == (run_id, True, "RUNNING", "r2")
    assert (run.data.params, run.data.tags["cell"]) == ({"a": "1"}, "new")
