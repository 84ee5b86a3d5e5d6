"""Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Labels = Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Metric:
    """One metric, with its samples. A counter's name ends in `_total`."""

    name: str
    help: str
    type: Literal["gauge", "counter"] = "gauge"
    samples: list[tuple[Labels, float]] = field(default_factory=list)

    def put(self, labels: Labels, value: float) -> None:
        self.samples.append((labels, value))


def exposition(metrics: Iterable[Metric]) -> str:
    """The metrics that have samples, each with its help and type."""
    lines = []
    for metric in metrics:
        if not metric.samples:
            continue
        full = f"parlant_shard_{metric.name}"
        lines += [f"# HELP {full} {_escaped(metric.help)}", f"# TYPE {full} {metric.type}"]
        lines += [f"{full}{_labels(labels)} {_number(value)}" for labels, value in metric.samples]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Labels) -> str:
    def quoted(value: str) -> str:
        return _escaped(value).replace('"', '\\"')

    return "{" + ",".join(f'{k}="{quoted(v)}"' for k, v in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def write(file: Path, text: str) -> None:
    """Replace the file in one step: a collector never reads half of it. Raises OSError."""
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    except OSError as error:
        error.filename = str(file)  # the other name says nothing to anybody
        raise
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # the collector is another user
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
