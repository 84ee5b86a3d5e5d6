"""What a run has finished, in a file, so that the next run goes on there.

A table is read in the order of its pages, so the position is a page number. A row that is written
after the first snapshot may get a place on a page that was read already. A resumed run therefore
reads the pages before the position once more, but only row versions that are younger than the
first snapshot; a table that was rewritten in between (another file node) begins again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from parlant_shard.errors import ShardError
from parlant_shard.topology import Topology
from parlant_shard.verify.report import Finding, Snapshot

FORMAT_VERSION = 1

# Seconds between two writes in the middle of a table. A finished table is written at once.
_PAUSE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a table was read: pages before `page`, by no snapshot older than `xmin`."""

    filenode: int
    page: int
    xmin: int


class Progress:
    """What is done, by unit (a text that names check, server and table). Safe for threads."""

    def __init__(self, file: Path | None, identity: Mapping[str, Any]) -> None:
        self._file, self._identity = file, dict(identity)
        self._lock = threading.Lock()
        self._written = 0.0
        self._done: dict[str, list[Finding]] = {}
        self._open: dict[str, tuple[Position, list[Finding]]] = {}
        self.snapshots: list[Snapshot] = []

    def done(self, unit: str) -> list[Finding] | None:
        """The findings of a finished unit; None where it is not finished."""
        return self._done.get(unit)

    def position(self, unit: str) -> tuple[Position, list[Finding]] | None:
        return self._open.get(unit)

    def finish(self, unit: str, findings: list[Finding]) -> None:
        with self._lock:
            self._open.pop(unit, None)
            self._done[unit] = findings
            self._write()

    def advance(self, unit: str, position: Position, findings: list[Finding]) -> None:
        with self._lock:
            self._open[unit] = (position, findings)
            if time.monotonic() - self._written >= _PAUSE:
                self._write()

    def begin(self, snapshots: list[Snapshot]) -> None:
        with self._lock:
            self.snapshots += snapshots
            self._write()

    def remove(self) -> None:
        """The run is complete: the next one begins anew."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _write(self) -> None:
        if self._file is None:
            return
        data = {
            "format_version": FORMAT_VERSION,
            **self._identity,
            "snapshots": [asdict(s) for s in self.snapshots],
            "done": {u: [asdict(f) for f in found] for u, found in self._done.items()},
            "open": {
                u: {**asdict(p), "findings": [asdict(f) for f in found]}
                for u, (p, found) in self._open.items()
            },
        }
        # In one step: a kill leaves the old file or the new one.
        beside = self._file.with_name(f"{self._file.name}.new")
        beside.touch(mode=0o600)  # it holds keys of rows
        with beside.open("w", encoding="utf-8") as stream:
            json.dump(data, stream)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(self._file)
        self._written = time.monotonic()


def load(file: Path | None, topology: Topology, workspace: str | None) -> Progress:
    """Read a state file, or begin a new one. Raises ShardError (PS700, PS701)."""
    identity = {"topology": topology.name, "sha256": topology.sha256, "workspace": workspace}
    progress = Progress(file, identity)
    if file is None or not file.exists():
        return progress
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {data['format_version']}")
        found = {name: data[name] for name in identity}
        progress.snapshots = [Snapshot(**s) for s in data["snapshots"]]
        progress._done = {u: list(map(_finding, items)) for u, items in data["done"].items()}
        for unit, item in data["open"].items():
            findings = list(map(_finding, item.pop("findings")))
            progress._open[unit] = (Position(**item), findings)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ShardError(
            f'"{file}" is no state file of `verify`: {type(error).__name__}',
            code="PS700",
            hint="name a file that does not exist yet, or one that an interrupted run left",
        ) from error
    if found != identity:
        differs = ", ".join(name for name in identity if found[name] != identity[name])
        raise ShardError(
            f'the state file "{file}" is of another run: {differs} differ',
            code="PS701",
            hint="finish that run with the same arguments, or delete the file to begin anew",
        )
    return progress


def _finding(data: dict[str, Any]) -> Finding:
    found = Finding(**data)
    return replace(found, sample=tuple(found.sample))
