"""The start of every builder: a step before it has an id, and what all builders share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Index, Managed, Relkind
from parlant_shard.ddl import Ddl, fdw_options, render
from parlant_shard.desired import Peer
from parlant_shard.plan.model import Hazard, Kind, Lock, Phase, Probe


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What building needs beside the changes."""

    topology: str
    namespace: str
    coordinator: str
    key: str
    key_type: str
    peers: Mapping[str, Peer]
    majors: Mapping[str, int]
    analytics: str | None = None  # the role that reads all workspaces


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A step before it has an id and timeouts."""

    phase: Phase
    server: str
    title: str
    sql: tuple[str, ...]
    shard: str = ""
    kind: Kind = Kind.METADATA
    lock: Lock | None = None
    hazards: tuple[Hazard, ...] = ()
    probe: Probe | None = None
    secret: str | None = None
    statement_timeout: int | None = None  # milliseconds, where its kind's does not do
    lock_timeout: int | None = None  # likewise
    undo: tuple[str, ...] = ()

    @property
    def transactional(self) -> bool:
        return self.kind in {Kind.METADATA, Kind.VALIDATE}


class Builder:
    """What the builders of all nouns share."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.ddl = Ddl(target.namespace)

    def _on(
        self,
        change: c.OnTable,
        title: str,
        *sql: Composable,
        phase: Phase | None = None,
        kind: Kind = Kind.METADATA,
        lock: Lock | None = Lock.ACCESS_EXCLUSIVE,
        hazards: tuple[Hazard, ...] = (),
        probe: Probe | None = None,
        statement_timeout: int | None = None,
    ) -> Draft:
        return Draft(
            phase=phase or self._phase(change),
            server=change.server,
            shard=change.shard,
            title=title,
            sql=tuple(render(s) for s in sql),
            kind=kind,
            lock=lock,
            hazards=hazards,
            probe=probe,
            statement_timeout=statement_timeout,
        )

    def _phase(self, change: c.OnTable) -> Phase:
        if change.table.kind is Relkind.FOREIGN:
            return Phase.FOREIGN
        if not change.shard:
            copy = change.server != self.target.coordinator
            return Phase.REFERENCE_COPIES if copy else Phase.REFERENCE
        return Phase.SHARDS

    def _drop_phase(self, change: c.OnTable) -> Phase:
        if change.table.kind is Relkind.FOREIGN:
            return Phase.DROP_FOREIGN
        return Phase.DROP_SHARDS if change.shard else Phase.DROP_REST

    def _register(self, managed: Managed) -> Composable:
        return SQL(
            "INSERT INTO parlant_shard.object (topology, kind, name, logical, shard) "
            "VALUES ({}, {}, {}, {}, {}) ON CONFLICT (kind, name) DO UPDATE "
            "SET topology = EXCLUDED.topology, logical = EXCLUDED.logical, shard = EXCLUDED.shard"
        ).format(
            *map(
                Literal,
                (self.target.topology, managed.kind, managed.name, managed.logical, managed.shard),
            )
        )

    def _unregister(self, kind: str, name: str) -> Composable:
        return SQL("DELETE FROM parlant_shard.object WHERE kind = {} AND name = {}").format(
            Literal(kind), Literal(name)
        )

    def _index_probe(self, name: str, clear: Composable) -> Probe:
        return Probe(
            query=render(
                SQL(
                    "SELECT coalesce((SELECT CASE WHEN i.indisvalid AND i.indisready THEN 'done' "
                    "ELSE 'half' END FROM pg_catalog.pg_index i "
                    "WHERE i.indexrelid = pg_catalog.to_regclass({})), 'absent') AS state"
                ).format(Literal(self._qualified(name)))
            ),
            clear=(render(clear),),
        )

    def _qualified(self, name: str) -> str:
        return f"{canonical.quote(self.target.namespace)}.{canonical.quote(name)}"

    def _drop_index(self, name: str, *, concurrently: bool = True) -> Composable:
        return SQL("DROP INDEX {}{}").format(
            SQL("CONCURRENTLY " if concurrently else ""), self.ddl.name(name)
        )

    def _validate(self, table: str, name: str) -> Composable:
        return self.ddl.alter(table, SQL("VALIDATE CONSTRAINT {}").format(Identifier(name)))

    def _dropped_index(self, change: c.OnTable, index: Index, why: c.Why) -> Draft:
        partitioned = change.table.kind is Relkind.PARTITIONED
        hazards = (Hazard.DROPS_OBJECT,) if why is c.Why.REMOVED else ()
        if partitioned:
            return self._on(
                change,
                f'drop {why.value} index "{index.name}" of "{change.table.name}" and its '
                "partitions",
                self._drop_index(index.name, concurrently=False),
                hazards=hazards,
            )
        state = "INVALID " if not index.valid else ""
        return self._on(
            change,
            f'drop {why.value} {state}index "{index.name}" of "{change.table.name}" concurrently',
            self._drop_index(index.name),
            kind=Kind.CONCURRENT,
            lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            hazards=hazards,
            # Not worth a long wait for readers: what is left INVALID the next run drops.
            statement_timeout=60_000 if why is c.Why.OUTSIDE else None,
            probe=Probe(
                query=render(
                    SQL(
                        "SELECT CASE WHEN pg_catalog.to_regclass({}) IS NULL THEN 'done' "
                        "ELSE 'absent' END AS state"
                    ).format(Literal(self._qualified(index.name)))
                )
            ),
        )


def named(items: Iterable[Any], name: str) -> Any:
    return next((i for i in items if i.name == name), None)


def changed_options(old: Iterable[tuple[str, str]], new: Iterable[tuple[str, str]]) -> Composable:
    before, after = dict(old), dict(new)
    parts: list[Composable] = []
    for name, value in after.items():
        if name not in before:
            parts.append(SQL("ADD ") + fdw_options([(name, value)]))
        elif before[name] != value:
            parts.append(SQL("SET ") + fdw_options([(name, value)]))
    parts += [SQL("DROP {}").format(Identifier(name)) for name in before if name not in after]
    return SQL(", ").join(parts)
