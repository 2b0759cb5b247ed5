"""How MLflow's page of runs opens: with the columns that people compare, and the newest sweep's trials shown."""

import json

from mlflow.tracking import MlflowClient

from workbench.metrics import METRICS
from workbench.record import TRAINING_VIEW

KEY = "workbench"
# MLflow keeps the state of a shared view in a tag of the experiment; the page's address names it (tried with 3.17).
TAG = f"mlflow.sharedViewState.{KEY}"
COLUMNS = [
    "tags.`arm`",
    "tags.`seed`",
    *(f"metrics.`test/{row.name}`" for row in METRICS if row.headline and row.outcome),
]


def share_view(client: MlflowClient, experiment_id: str) -> str:
    """Prepares the view of an experiment's runs and returns the part of the UI's address that opens it."""
    newest = client.search_runs([experiment_id], "tags.kind = 'sweep'", max_results=1)
    state = {"selectedColumns": COLUMNS, "runsExpanded": {run.info.run_id: True for run in newest}}
    client.set_experiment_tag(experiment_id, TAG, json.dumps(state))
    return f"#/experiments/{experiment_id}/runs?{TRAINING_VIEW}&viewStateShareKey={KEY}"
