"""Processes of a trial in one of which something goes wrong; started by test_faults.py, which says what in
WB_TEST_FAULT, as `RANK kind`."""

import errno
import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.errors import Interrupted, UserError
from workbench.training import loop, pretrain, state
from workbench.trial import torchrun
from workbench.trial.lease import LeaseLost

FAULT, WHEN = "WB_TEST_FAULT", "WB_TEST_FAULT_AT"


def broken(kind: str) -> None:
    """Raises, or dies of, what the kind says, and tells when."""
    Path(os.environ[WHEN]).write_text(str(time.monotonic()))
    match kind:
        case "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        case "image":
            raise ValueError("pictures/07.png cannot be decoded")
        case "user":
            raise UserError("`data.mix`: the corpus `some` is gone.")
        case "interrupted":
            raise Interrupted("the MLflow store cannot be reached")
        case "lost":
            raise LeaseLost("a cell")
        case "bug":
            raise ZeroDivisionError("division by zero")
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hangs":
            time.sleep(600)


def member(given: torchrun.Task) -> None:
    """A process of a trial, as `torchrun.member`."""
    rank, kind = os.environ[FAULT].split()
    if rank == os.environ["RANK"]:
        prepare(kind, given)
    torchrun.member(given)


def prepare(kind: str, given: torchrun.Task) -> None:
    patch = pytest.MonkeyPatch()
    if kind == "disk":

        def write(everything: Any, path: Any) -> None:
            broken("")
            raise PermissionError(errno.EACCES, "Permission denied", str(path))

        patch.setattr(state, "_write", write)
        return
    if kind == "preparing":
        patch.setattr("workbench.training.prepare.prepare", lambda *_: broken("image"))
        return
    real, steps = loop.backward, itertools.count(1)

    def backward(*given_: Any) -> Any:
        step = next(steps)
        # Memory suffices for smaller micro-batches.
        if step == 3 and not (kind == "memory" and given.micro_batches):
            broken(kind)
        return real(*given_)

    patch.setattr(pretrain, "backward", backward)
