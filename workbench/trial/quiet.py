"""Limits the log messages of libraries; for the start of each process."""

import logging
import os

from workbench.tracking.store import QUIET

VERBOSE = "WB_VERBOSE"  # in the environment, so that every process of a command knows it
# timm warns about every classifier tensor that a feature extractor does not use; we check missing tensors ourselves.
ERRORS_ALONE = ("timm.models._builder",)
# MLflow resets levels when it is imported, but keeps filters.
ERRORS_THROUGH = ("mlflow.system_metrics.system_metrics_monitor", "mlflow.system_metrics.metrics.gpu_monitor")


def quiet(studies: int = logging.ERROR) -> None:
    """Lets libraries log only errors; Optuna from the level `studies` on. Call it once in each process.

    After `-v` they log what they do, at the level INFO.
    """
    import optuna

    verbosity = "info" if VERBOSE in os.environ else "error"
    transformers = {"TRANSFORMERS_VERBOSITY": verbosity, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name, value in {**QUIET, **transformers}.items():
        os.environ.setdefault(name, value)
    if VERBOSE in os.environ:
        logging.basicConfig(level=logging.INFO)
        optuna.logging.set_verbosity(logging.INFO)
        return
    for name in ERRORS_ALONE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ERRORS_THROUGH:
        logging.getLogger(name).addFilter(_is_error)
    optuna.logging.set_verbosity(studies)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
