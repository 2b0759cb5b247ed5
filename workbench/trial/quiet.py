"""Limits the log messages of libraries; for the start of each process."""

import logging
import os

from workbench.tracking.store import QUIET

# timm warns about every classifier tensor that a feature extractor does not use; we check missing tensors ourselves.
ERRORS_ALONE = ("timm.models._builder",)
# MLflow resets levels when it is imported, but keeps filters.
ERRORS_THROUGH = ("mlflow.system_metrics.system_metrics_monitor", "mlflow.system_metrics.metrics.gpu_monitor")


def quiet(studies: int = logging.ERROR) -> None:
    """Lets libraries log only errors; Optuna from the level `studies` on. Call it once in each process."""
    import optuna

    transformers = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name, value in {**QUIET, **transformers}.items():
        os.environ.setdefault(name, value)
    for name in ERRORS_ALONE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ERRORS_THROUGH:
        logging.getLogger(name).addFilter(_is_error)
    optuna.logging.set_verbosity(studies)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
