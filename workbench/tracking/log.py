"""Sends the metrics of one run to MLflow: a local file first, then a sending thread. None is lost or logged twice."""

import math
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Metric

from workbench.files import append_line, read_lines
from workbench.outage import Patience
from workbench.tracking.runs import Tracker

EVERY = 2.0  # seconds between two batches
MOST = 1000  # metrics that MLflow takes in one batch
Entry = dict[str, Any]


class RunLog:
    """Logs to an existing run. `log` returns at once; `close` waits until everything has arrived.

    Each entry is written to `file` as a line, with its time, before it is sent. The next process sends what a process
    that died had not sent. MLflow identifies metrics by (key, step, time, value), so sending a line twice changes
    nothing. `again`: the run has been logged to before, so its existing metrics are read first.
    """

    def __init__(
        self,
        tracker: Tracker,
        run_id: str,
        file: Path,
        again: bool,
        patience: Patience,
    ) -> None:
        self.tracker, self.run_id, self.file, self.patience = tracker, run_id, file, patience
        self.known = patience(lambda: tracker.logged(run_id)) if again else set()
        self.closing = threading.Event()
        self.failed: Exception | None = None
        self.sending = threading.Thread(target=self._send, daemon=True, name="mlflow")
        self.left: queue.Queue[Entry] = queue.Queue()
        file.parent.mkdir(parents=True, exist_ok=True)
        self.entries = read_lines(file)  # entries of an earlier attempt, sent or not
        for entry in self.entries:
            entry = dict(entry)
            entry["metrics"] = {n: v for n, v in entry["metrics"].items() if (n, entry["step"]) not in self.known}
            self._take(entry)
        self.sending.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs metrics at a step. Values that are not finite are skipped, since no reader could average them, and so
        are values that the run already has."""
        new = {n: float(v) for n, v in metrics.items() if math.isfinite(v) and (n, step) not in self.known}
        if not new:
            return
        entry = {"step": step, "time": int(time.time() * 1000), "metrics": new}
        self.patience(lambda: append_line(self.file, entry))
        self._take(entry)

    def close(self) -> None:
        """Waits until the store has everything, then removes the file. Raises Interrupted when stopped; the file is
        then kept."""
        self.closing.set()
        self.sending.join()
        if self.failed is not None:
            raise self.failed
        self.file.unlink(missing_ok=True)

    def drop(self) -> None:
        """Stops sending and discards the queue: another worker logs to the run now, and will log the same."""
        with suppress(queue.Empty):
            while True:
                self.left.get_nowait()
        self.leave()

    def leave(self) -> None:
        """Stops sending without waiting for an unreachable store. The file keeps what has not arrived."""
        self.closing.set()
        self.sending.join(timeout=5)

    def _take(self, entry: Entry) -> None:
        self.known |= {(name, entry["step"]) for name in entry["metrics"]}
        self.left.put(entry)

    def _send(self) -> None:
        try:
            while True:
                last = self.closing.wait(EVERY)
                batch: list[Metric] = []
                with suppress(queue.Empty):
                    while True:
                        entry = self.left.get_nowait()
                        batch += [Metric(n, v, entry["time"], entry["step"]) for n, v in entry["metrics"].items()]
                for start in range(0, len(batch), MOST):
                    part = batch[start : start + MOST]
                    self.patience(lambda part=part: self._batch(part))  # type: ignore[misc]
                if last and self.left.empty():
                    return
        except Exception as error:
            self.failed = error

    def _batch(self, metrics: list[Metric]) -> None:
        self.tracker.client.log_batch(self.run_id, metrics=metrics)
