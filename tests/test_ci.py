"""What `.ci/run` says of tests that fail, on a repository of three tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci" / "run"
TESTS = """
import pathlib

def test_steady():
    pass

def test_flaky():
    before = pathlib.Path("before")
    seen = before.exists()
    before.touch()
    assert seen

def test_broken():
    assert {works}
"""
MAKEFILE = """
check:
\ttrue

test:
\t.venv/bin/python -m pytest -q
"""


@pytest.fixture(autouse=True)
def _servers() -> None:
    """Keep the servers of the other tests out: nothing here needs one."""


def run(directory: Path, *, works: bool) -> subprocess.CompletedProcess[str]:
    (directory / ".ci").mkdir()
    shutil.copy(CI, directory / ".ci" / "run")
    components = directory / ".ci" / "components"
    components.write_text("#!/bin/sh\necho components\n")
    components.chmod(0o755)
    python = directory / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # A link would find its packages beside itself.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (directory / "Makefile").write_text(MAKEFILE)
    (directory / "pytest.ini").write_text("[pytest]\n")
    (directory / "test_it.py").write_text(TESTS.format(works=works))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "MAKE"))}
    return subprocess.run(
        [directory / ".ci" / "run"],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_what_passes_on_the_second_try_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, works=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("components\n")
    assert done.stdout.endswith("passed only on the second try:\ntest_it.py::test_flaky\n")


def test_what_fails_twice_fails_the_run(tmp_path: Path) -> None:
    done = run(tmp_path, works=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith("passed only on the second try:\ntest_it.py::test_flaky\n")
    assert "FAILED test_it.py::test_broken" in done.stdout


def test_what_passes_at_once_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "before").touch()
    done = run(tmp_path, works=True)
    assert done.returncode == 0
    assert "second try" not in done.stdout
