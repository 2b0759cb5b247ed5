"""How much the libraries may say beside what we say; for processes at their start."""

import logging
import os

from workbench.tracking.store import QUIET

# timm remarks on every tensor of a classifier that a feature extractor has no use for; what lacks is checked by us.
ERRORS_ALONE = ("timm.models._builder",)
# MLflow puts levels back when it is imported; filters it leaves alone.
ERRORS_THROUGH = ("mlflow.system_metrics.system_metrics_monitor", "mlflow.system_metrics.metrics.gpu_monitor")


def quiet(studies: int = logging.ERROR) -> None:
    """Lets libraries speak of errors alone; Optuna from the level `studies` on. To be called once by each process."""
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
