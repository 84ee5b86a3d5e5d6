"""Every folder of examples/ runs, by its run.sh or run.py, in a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import parlant_shard
from parlant_shard import local

_EXAMPLES = Path(__file__).parent.parent / "examples"
_FOLDERS = sorted(folder for folder in _EXAMPLES.iterdir() if folder.is_dir())


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Give a copy of an example, and remove the servers that it started below its directory."""
    copy = tmp_path / "example"
    shutil.copytree(
        request.param,
        copy,
        ignore=shutil.ignore_patterns(".parlant-shard", "plan.*", "__pycache__"),
    )
    yield copy
    for server in _servers(copy):
        local.remove(server)


def _servers(folder: Path) -> list[Path]:
    return [password.parent for password in folder.rglob("password")]


def test_every_folder_can_be_run() -> None:
    assert _FOLDERS
    for folder in _FOLDERS:
        assert (folder / "README.md").exists(), f"{folder.name} has no README.md"
        assert (folder / "run.sh").exists() or (folder / "run.py").exists(), folder.name


@pytest.mark.parametrize("folder", _FOLDERS, indirect=True, ids=lambda folder: folder.name)
def test_example(folder: Path) -> None:
    script = folder / "run.sh"
    command = ["sh", str(script)] if script.exists() else [sys.executable, str(folder / "run.py")]
    finished = subprocess.run(
        command,
        cwd="/",  # an example finds its files by itself
        env={
            **os.environ,
            "PYTHONPATH": str(Path(parlant_shard.__file__).parents[1]),  # also where not installed
            "PARLANT_SHARD": f"{sys.executable} -m parlant_shard",
            "PYTHON": sys.executable,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    running = [s for s in map(local.status, _servers(folder)) if s is not None and s.running]
    assert not running, f"the example left servers running: {running}"
