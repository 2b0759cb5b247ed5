"""A server that refuses for good is told of in one sentence, with its address and the variable that this comes from."""

from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests
from mlflow.tracking import MlflowClient

from tests.services import http_stub, replies
from tests.test_end_to_end import inside
from workbench.errors import UserError
from workbench.outage import Patience
from workbench.refusals import refusal

PAGE = "<html>log in</html>"
LOG_IN = "MLFLOW_TRACKING_USERNAME"
ANSWERS = {
    "401": (replies(401, PAGE, "text/html"), "it requires a login (401)", LOG_IN),
    "401 of MLflow": (replies(401, '{"error_code": "UNAUTHENTICATED"}'), "it requires a login (401)", LOG_IN),
    "403": (replies(403, PAGE, "text/html"), "it denies access to this user (403)", LOG_IN),
    "403 of MLflow": (replies(403, '{"error_code": "PERMISSION_DENIED"}'), "it denies access to this user", LOG_IN),
    "404": (replies(404, PAGE, "text/html"), "no MLflow server is there (404)", "check the address"),
    "a login page": (replies(200, PAGE, "text/html"), "it answers with a web page", LOG_IN),
}


def redirects(request: BaseHTTPRequestHandler) -> None:
    if request.path != "/login":
        request.send_response(302)
        request.send_header("Location", "/login")
        request.send_header("Content-Length", "0")
        return request.end_headers()
    replies(200, PAGE, "text/html")(request)


@pytest.mark.parametrize("name", [*ANSWERS, "a way to a login page"])
def test_a_refusal_is_one_sentence_for_reading_and_for_what_waits_out_outages(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, said, advice = ANSWERS.get(name, (redirects, *ANSWERS["a login page"][1:]))
    with http_stub(answer) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("//", "//me:secret@"))
        told: list[str] = []
        with pytest.raises(UserError) as refused:
            Patience(told.append)(lambda: MlflowClient(address).get_run("0" * 32))
        done = inside("runs", "--workspace", str(tmp_path))
    assert told == []
    assert done.returncode == 2
    assert done.stderr == f"wb: {refused.value}\n"
    assert str(refused.value).startswith(f"MLFLOW_TRACKING_URI={address.replace('//', '//me:***@')}: {said}")
    assert advice in done.stderr


def test_a_server_that_cannot_be_reached_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    done = inside("runs", "--workspace", str(tmp_path))
    assert done.returncode == 2
    assert "a server cannot be reached (http://127.0.0.1:1)" in done.stderr
    assert "check MLFLOW_TRACKING_URI" in done.stderr


@pytest.mark.parametrize(("status", "is_refused"), [(401, True), (403, True), (404, False), (500, False)])
def test_a_file_that_is_missing_on_a_server_is_no_refusal(status: int, is_refused: bool) -> None:
    with http_stub(replies(status, PAGE, "text/html")) as address, pytest.raises(requests.HTTPError) as error:
        requests.get(address, timeout=5).raise_for_status()
    assert (refusal(error.value) is not None) == is_refused
