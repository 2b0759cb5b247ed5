"""How MLflow's page of runs opens: with the columns that people compare, and trials nested under their sweep."""

import json

from mlflow.tracking import MlflowClient

from workbench.metrics import METRICS
from workbench.record import TRAINING_VIEW

KEY = "workbench"
# MLflow keeps the state of a shared view in a tag of the experiment; the page's URL names it (tried with 3.17).
TAG = f"mlflow.sharedViewState.{KEY}"
MEASURED = [f"metrics.`test/{row.name}`" for row in METRICS if row.headline and row.outcome]
COLUMNS = ["tags.`arm`", "tags.`seed`", *MEASURED]


def share_view(client: MlflowClient, experiment_id: str) -> str:
    """Prepares the view of an experiment's runs and returns the fragment of the UI's URL that opens it."""
    client.set_experiment_tag(experiment_id, TAG, json.dumps({"selectedColumns": COLUMNS}))
    return f"#/experiments/{experiment_id}/runs?{TRAINING_VIEW}&viewStateShareKey={KEY}"
