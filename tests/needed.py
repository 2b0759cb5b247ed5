"""Hooks of pytest: a test that is skipped for want of something that must be there fails."""

import os
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_needed(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_needed(report)
    return report


def _fail_if_needed(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fails a test that is skipped because something is not installed that WB_TESTS_NEED names (a list with commas)."""
    if not report.skipped or not isinstance(report.longrepr, tuple):
        return
    reason = report.longrepr[2].removeprefix("Skipped: ")
    for name in filter(None, os.environ.get("WB_TESTS_NEED", "").split(",")):
        if reason.startswith(f"{name} is not installed"):
            report.outcome, report.longrepr = "failed", f"{reason}, and WB_TESTS_NEED names it"
