"""Messages for permanent refusals of a tracking server: a wrong user, a wrong address, a login page."""

import os
import re

from workbench.errors import shown

LOG_IN = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
STATUS = re.compile(r"API request to endpoint \S+ failed with error code (\d+)")
NO_DATA = "response body was not in a valid JSON format"
CODES = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "ENDPOINT_NOT_FOUND": 404}  # MLflow's own
SENTENCES = {
    401: f"it requires a login (401); {LOG_IN}",
    403: f"it denies access to this user (403); request the permission, or log in as another user: {LOG_IN}",
    404: "no MLflow server is there (404); check the address, including the path at its end",
    200: (
        f"it answers with a web page, such as a login page, and not as an MLflow server; check the address, or {LOG_IN}"
    ),
}


def refusal(error: BaseException) -> str | None:
    """Returns a sentence where `error` is such a refusal, with the address and the variable it comes from; else
    None."""
    status = _status(error)
    if status not in SENTENCES:
        return None
    where = os.environ.get("MLFLOW_TRACKING_URI", "")
    return f"MLFLOW_TRACKING_URI={shown(where)}: {SENTENCES[status]}."


def _status(error: BaseException) -> int | None:
    module = type(error).__module__.partition(".")[0]
    if module == "requests":  # for artifacts; a missing artifact is a 404, too
        status = getattr(getattr(error, "response", None), "status_code", None)
        return status if status in (401, 403) else None
    if module != "mlflow":
        return None
    text = str(error)
    if match := STATUS.match(text):
        return int(match[1])
    return 200 if NO_DATA in text else CODES.get(str(getattr(error, "error_code", "")))
