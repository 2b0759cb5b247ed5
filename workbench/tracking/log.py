"""The metrics of one run on their way to MLflow: written down locally first, sent by a thread, none lost and none
twice."""

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
    """Logs to a run that exists. `log` returns at once; `close` waits until everything has arrived.

    Each entry is a line of `file` before it is sent, with its time. What a process that died had not sent is sent by
    the next one; since MLflow tells metrics apart by (key, step, time, value), sending a line twice changes nothing.
    `again`: the run has been logged to before, so that what it holds is asked for first.
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
        self.found = read_lines(file)  # what an earlier attempt has written down, whether it was sent or not
        for entry in self.found:
            entry = dict(entry)
            entry["metrics"] = {n: v for n, v in entry["metrics"].items() if (n, entry["step"]) not in self.known}
            self._take(entry)
        self.sending.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """A value that is not finite is left out, since no reader could average it; what the run has already, too."""
        new = {n: float(v) for n, v in metrics.items() if math.isfinite(v) and (n, step) not in self.known}
        if not new:
            return
        entry = {"step": step, "time": int(time.time() * 1000), "metrics": new}
        self.patience(lambda: append_line(self.file, entry))
        self._take(entry)

    def close(self) -> None:
        """Waits until the store has everything, then forgets the file. Raises Interrupted, with all kept, when
        stopped."""
        self.closing.set()
        self.sending.join()
        if self.failed is not None:
            raise self.failed
        self.file.unlink(missing_ok=True)

    def drop(self) -> None:
        """Sends nothing more: another worker logs to the run now, and will log the same."""
        with suppress(queue.Empty):
            while True:
                self.left.get_nowait()
        self.leave()

    def leave(self) -> None:
        """Ends sending without waiting for a store that is away; the file keeps what has not arrived."""
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
