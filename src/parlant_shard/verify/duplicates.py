"""The check of primary keys: none is on two shards of any server, none twice on one.

Snapshots of two servers are never of one moment: what two servers have is looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard.ddl import render, text
from parlant_shard.errors import ShardError
from parlant_shard.verify.across import Result, on_each
from parlant_shard.verify.digests import (
    Digests,
    comparable,
    digest,
    gather,
    one_of,
    quick_digest,
)
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import SAMPLES, Finding
from parlant_shard.verify.rows import AND, Place, by_index, of_workspace, sample_of
from parlant_shard.verify.site import Fresh, Heap, Site, fresh

# Keys that are looked up one by one; of more than that the digests are counted.
_LOCATED = 1000
_MANY = 100_000

Found = tuple[Place, str | None, dict[str, str]]


def duplicate_keys(seen: Seen, logical: str) -> Result:
    """Primary keys of a sharded table that are there twice, whatever their workspaces.

    On two shards, or on one: a table that is cut by time is unique within a partition only.
    """
    places = [p for p in seen.places if p.logical == logical and p.primary_key]
    result = Result()
    heaps = {p: h for p in places if (h := _heap_of(seen, p)) is not None}
    places = [p for p in places if p in heaps]
    if not places:
        return result
    quick = len({tuple(seen.sites[p.server].rows(comparable)[0].values()) for p in places}) == 1
    key_of = quick_digest if quick else digest
    with Digests(sum(h.rows for h in heaps.values())) as digests:

        def read(server: str) -> None:
            site = seen.sites[server]
            for number, place in enumerate(places):
                if place.server != server:
                    continue
                table = Identifier(seen.topology.namespace, place.table)
                also = of_workspace(seen.tenancy.key, seen.workspace, seen.table(place))

                def batch(
                    where: Composable,
                    place: Place = place,
                    number: int = number,
                    table: Identifier = table,
                    also: list[Composable] = also,
                ) -> None:
                    key = key_of(place.primary_key)
                    for row in site.rows(gather(table, digests.parts, key, [where, *also])):
                        digests.add(row["part"], number, row["digests"])

                with _unless_retired(site, place):
                    whole = by_index(seen.tenancy.key, seen.workspace, seen.table(place))
                    site.sweep(heaps[place], batch, whole=whole)

        on_each(seen, {p.server for p in places}, read)
        candidates = list(digests.repeated())
    if candidates:
        result.findings += _located(seen, logical, places, candidates, key_of)
    for server in {p.server for p in places}:
        tables = [p.table for p in places if p.server == server]
        seen.sites[server].require_as_it_was(tables)
    return result


def _heap_of(seen: Seen, place: Place) -> Heap | None:
    """The pages of a place; None for a partition that was dropped since the snapshot."""
    try:
        return seen.sites[place.server].heap(place.table)
    except ShardError:
        if place.table == place.root:
            raise
        return None


def _unless_retired(site: Site, place: Place) -> AbstractContextManager[None]:
    """Pass over a partition that was dropped since the snapshot."""
    return nullcontext() if place.table == place.root else site.unless_dropped(place.table)


def _located(
    seen: Seen,
    logical: str,
    places: list[Place],
    candidates: list[bytes],
    key_of: Callable[[Iterable[str]], Composable],
) -> list[Finding]:
    """Look the keys behind equal digests up. What two servers have must still be on both now."""
    owners: dict[str, list[Found]] = {}
    looked = 0
    # Where the first are none (any more), others may be.
    while looked < len(candidates) and not owners:
        some = candidates[looked : looked + (_MANY if looked else _LOCATED)]
        looked += len(some)
        owners = _owners(seen, places, some, key_of, nullcontext)
        if any(len({p.server for p, _, _ in items}) > 1 for items in owners.values()):
            now = _owners(seen, places, some, key_of, fresh)
            owners = {
                identity: items
                for identity, items in owners.items()
                if len({p.server for p, _, _ in items}) == 1 or len(now.get(identity, ())) > 1
            }
    groups: dict[tuple[str, ...], list[list[Found]]] = {}
    for items in owners.values():
        groups.setdefault(tuple(sorted({p.shard for p, _, _ in items})), []).append(items)
    findings = []
    most = max(groups, key=lambda g: len(groups[g]), default=())
    for shards, keys in sorted(groups.items()):
        workspaces = {w for items in keys for _, w, _ in items}
        last = next(p for p, _, _ in sorted(keys[0], key=lambda i: i[0].shard, reverse=True))
        count = len(keys) + (len(candidates) - looked if shards == most else 0)
        findings.append(
            Finding(
                check="duplicate-key",
                server=last.server,
                shard=last.shard,
                table=last.root,
                workspace=workspaces.pop() if len(workspaces) == 1 else None,
                rows=count,
                detail=f'primary keys of "{logical}" are on the shards {", ".join(shards)}'
                if len(shards) > 1
                else f'primary keys of "{logical}" are more than once on the shard {shards[0]}',
                sample=tuple(items[0][2] for items in keys[:SAMPLES]),
                statement=_by_key(seen, last, [items[0][2] for items in keys[:_LOCATED]]),
            )
        )
    return findings


def _owners(
    seen: Seen,
    places: list[Place],
    some: list[bytes],
    key_of: Callable[[Iterable[str]], Composable],
    session: Callable[[Site], AbstractContextManager[Site | Fresh]],
) -> dict[str, list[Found]]:
    """The keys that are there more than once, each with where it is."""
    owners: dict[str, list[Found]] = {}
    for place in places:
        site, heap = seen.sites[place.server], _heap_of(seen, place)
        if heap is None:
            continue
        found: list[dict[str, Any]] = []
        with session(site) as reader, _unless_retired(site, place):

            def batch(
                where: Composable,
                place: Place = place,
                reader: Site | Fresh = reader,
                found: list[dict[str, Any]] = found,
            ) -> None:
                query = SQL(
                    "SELECT r.{key}::pg_catalog.text AS workspace, {sample} AS sample "
                    "FROM {table} AS r WHERE {where}"
                ).format(
                    key=Identifier(seen.tenancy.key),
                    sample=sample_of(place.primary_key),
                    table=Identifier(seen.topology.namespace, place.table),
                    where=AND.join([where, one_of(key_of(place.primary_key), some)]),
                )
                found += reader.rows(query)

            site.sweep(heap, batch)
        for row in found:
            if None in row["sample"].values():
                continue  # no key: `missing-key` says it
            identity = repr(sorted(row["sample"].items()))
            owners.setdefault(identity, []).append((place, row["workspace"], row["sample"]))
    return {identity: items for identity, items in owners.items() if len(items) > 1}


def _by_key(seen: Seen, place: Place, samples: list[dict[str, str]]) -> str:
    columns = list(samples[0])
    # Whatever the settings of the session that it is pasted into, a value is read as it was meant.
    types = {c.name: text(c.type) for c in seen.table(place).columns}
    values = [
        SQL("({})").format(SQL(", ").join(Literal(s[c]) + SQL("::") + types[c] for c in columns))
        for s in samples
    ]
    return render(
        SQL("SELECT {}, {} FROM {} WHERE ({}) IN ({})").format(
            Identifier(seen.tenancy.key),
            SQL(", ").join(map(Identifier, columns)),
            Identifier(seen.topology.namespace, place.root),
            SQL(", ").join(map(Identifier, columns)),
            SQL(", ").join(values),
        )
    )
