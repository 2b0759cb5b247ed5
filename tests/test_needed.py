"""Tests that are skipped for want of a program fail where that program is said to be there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BODY = """
import pytest

def test_in_its_body():
    pytest.skip("Chromium is not installed (Debian: apt install chromium)")

@pytest.mark.skipif(True, reason="Chromium is not installed")
def test_by_its_mark():
    pass

def test_of_another_reason():
    pytest.skip("needs a CUDA device")
"""
WHOLE_FILE = 'import pytest\npytest.importorskip("nothing_of_this_name", reason="Chromium is not installed")\n'


@pytest.mark.parametrize(
    ("needed", "outcome"), [("", "1 passed, 4 skipped"), ("Ray,Chromium", "1 passed, 1 failed, 1 skipped, 2 errors")]
)
def test_what_is_needed_and_not_installed_is_a_failure(tmp_path: Path, needed: str, outcome: str) -> None:
    (tmp_path / "conftest.py").write_bytes((Path(__file__).parent / "needed.py").read_bytes())
    (tmp_path / "test_tests.py").write_text(BODY + "\ndef test_that_passes():\n    pass\n")
    (tmp_path / "test_a_file.py").write_text(WHOLE_FILE)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"WB_TESTS_NEED": needed},
        cwd=tmp_path,
    )
    counts = run.stdout.strip().splitlines()[-1]
    assert {part.strip() for part in counts.rpartition(" in ")[0].split(",")} == set(outcome.split(", ")), run.stdout
