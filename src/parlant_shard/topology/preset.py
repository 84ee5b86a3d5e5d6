"""Presets: a schema that comes with the package, and what a topology of it needs to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import ConfigDict, StrictStr, TypeAdapter
from ruamel.yaml import YAML

from parlant_shard.topology.model import (
    IndexOptions,
    Name,
    Section,
    Span,
    TableOptions,
    Topology,
)

_DIRECTORY = Path(__file__).parent.parent / "presets"


class PresetIndex(Section):
    """One index that was proposed for the schema, and what became of it.

    created: as it was proposed. corrected: what was meant, in SQL that runs. windowed: of recent
    rows, so that it becomes an entry of `indexes`. covered: `covered_by` already does its work.
    """

    model_config = ConfigDict(extra="ignore")

    name: Name
    section: StrictStr | None = None
    verdict: Literal["created", "corrected", "windowed", "covered"]
    sql: StrictStr | None = None
    covered_by: StrictStr | None = None
    window: Span | None = None
    on: Name | None = None
    by: Name | None = None
    columns: tuple[StrictStr, ...] = ()
    where: StrictStr | None = None
    notice: StrictStr | None = None

    @property
    def options(self) -> IndexOptions:
        """The entry of `indexes` that a windowed index becomes."""
        values = {
            "on": self.on,
            "columns": self.columns,
            "where": self.where,
            "window": self.window,
            "by": self.by,
        }
        return IndexOptions.model_validate({k: v for k, v in values.items() if v is not None})


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A preset: its DDL file with the text, and defaults for `tables` and `indexes`."""

    name: str
    file: Path
    text: str
    tables: Mapping[str, TableOptions]
    indexes: tuple[PresetIndex, ...]


def presets() -> tuple[str, ...]:
    """Return the names of all presets."""
    return tuple(sorted(file.stem for file in _DIRECTORY.glob("*.sql")))


@lru_cache
def preset(name: str) -> Preset:
    """Return a preset; raise KeyError where there is none of this name."""
    if name not in presets():
        raise KeyError(name)
    file = _DIRECTORY / f"{name}.sql"
    described = file.with_suffix(".yaml")
    data: dict[str, Any] = {}
    if described.exists():
        data = YAML(typ="safe", pure=True).load(described.read_text(encoding="utf-8")) or {}
    return Preset(
        name=name,
        file=file,
        text=file.read_text(encoding="utf-8"),
        tables=MappingProxyType(
            TypeAdapter(dict[Name, TableOptions]).validate_python(data.get("tables") or {})
        ),
        indexes=TypeAdapter(tuple[PresetIndex, ...]).validate_python(data.get("indexes") or ()),
    )


def with_preset(topology: Topology, found: Preset) -> Topology:
    """Return the topology with the preset's tables and windowed indexes as defaults.

    What the file says about a table is laid over the preset, field by field; an index that the
    file names is the file's, except that the column of its window need not be repeated.
    """
    tables = dict(found.tables)
    for name, options in topology.tables.items():
        said = {field: getattr(options, field) for field in options.model_fields_set}
        default = found.tables.get(name, TableOptions())
        if options.kind in {"reference", "host"}:  # these have neither path nor partition
            default = TableOptions()
        tables[name] = default.model_copy(update=said)
    indexes = {index.name: index.options for index in found.indexes if index.verdict == "windowed"}
    for name, index in topology.indexes.items():
        known = indexes.get(name)
        if known and known.on == index.on and index.window is not None and index.by is None:
            indexes[name] = index.model_copy(update={"by": known.by})
        else:
            indexes[name] = index
    return topology.model_copy(update={"tables": tables, "indexes": indexes})
