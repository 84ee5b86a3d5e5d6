"""The checks that span servers: reference tables, parents elsewhere, federated views.

Snapshots of two servers are never of one moment. What differs between them is looked at again, by
statements that see what is committed then, and only what still differs is a finding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

import psycopg
from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard.catalog import ForeignKey
from parlant_shard.ddl import render, text
from parlant_shard.desired import view_name
from parlant_shard.names import suffixed
from parlant_shard.verify.digests import (
    Digests,
    digest,
    gather,
    one_of,
)
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import SAMPLES, Finding
from parlant_shard.verify.rows import AND, Place, of_workspace, sample_of, shown
from parlant_shard.verify.site import Fresh, Readers, Site, fresh

T = TypeVar("T")

# Looks at what differs, and seconds between them: a copy is a moment behind, a view reads later.
_LOOKS = 3
_PAUSE = 1.0

# Beyond that many differences a copy is not behind, it is another table.
_MANY = 100_000

# Keys that are looked up one by one; of more than that the digests are counted.
_LOCATED = 1000


@dataclass(slots=True)
class Result:
    """What a check of one table found, and remarks for the line of the check."""

    findings: list[Finding] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


# --- reference tables -----------------------------------------------------------------------------


def reference_rows(seen: Seen, logical: str) -> Result:
    """Compare the rows of a reference table with every copy, by the columns that are replicated."""
    home = seen.topology.coordinator
    original = seen.live[home].tables.get(logical)
    copies = [
        n
        for n in seen.readable
        if n != home and logical in seen.live[n].tables and logical in seen.wanted(n).tables
    ]
    result = Result()
    if original is None or not copies:
        return result
    columns = tuple(
        sorted(
            c.name
            for c in original.columns
            if not c.generated and all(seen.live[n].tables[logical].column(c.name) for n in copies)
        )
    )
    key = original.primary_key.columns if original.primary_key else columns
    servers = [home, *copies]
    lasting: dict[str, tuple[set[bytes], set[bytes]]] = {}
    with ExitStack() as stack:
        readers: dict[str, Site | Fresh] = {n: seen.sites[n] for n in servers}
        for look in range(_LOOKS):
            if look:
                time.sleep(_PAUSE * look)
                if look == 1:
                    readers = {n: stack.enter_context(fresh(seen.sites[n])) for n in servers}
            for server, found in _compare(seen, logical, servers, key, columns, readers).items():
                missing, extra = lasting.get(server, found)
                lasting[server] = (missing & found[0], extra & found[1])
            if not look:
                for server in servers:
                    seen.sites[server].require_as_it_was([logical])
            lasting = {s: f for s, f in lasting.items() if any(f)}
            servers = [home, *lasting]
            if not lasting or any(len(m) + len(e) > _MANY for m, e in lasting.values()):
                break
        for server, (missing, extra) in lasting.items():
            result.findings.append(
                _differs(seen, logical, server, key, columns, missing, extra, readers)
            )
    return result


def _compare(
    seen: Seen,
    logical: str,
    servers: list[str],
    key: tuple[str, ...],
    columns: tuple[str, ...],
    readers: dict[str, Site | Fresh],
) -> dict[str, tuple[set[bytes], set[bytes]]]:
    heaps = {n: seen.sites[n].heap(logical) for n in servers}
    with Digests(sum(h.rows for h in heaps.values())) as digests:

        def read(server: str) -> None:
            table = Identifier(seen.topology.namespace, logical)

            def batch(where: Composable) -> None:
                query = gather(table, digests.parts, digest(key), [where], digest(columns))
                for row in readers[server].rows(query):
                    digests.add(row["part"], servers.index(server), row["digests"])

            seen.sites[server].sweep(heaps[server], batch)

        on_each(seen, servers, read)
        return {n: digests.differing(0, i) for i, n in enumerate(servers) if i}


def _differs(
    seen: Seen,
    logical: str,
    server: str,
    key: tuple[str, ...],
    columns: tuple[str, ...],
    missing: set[bytes],
    extra: set[bytes],
    readers: dict[str, Site | Fresh],
) -> Finding:
    here, there = {m[:8] for m in missing}, {e[:8] for e in extra}
    parts = (
        (len(here - there), "are missing"),
        (len(there - here), "are too many"),
        (len(here & there), "have other contents"),
    )
    words = ", ".join(f"{count} {what}" for count, what in parts if count)
    samples: list[dict[str, str]] = []
    for name, wanted in ((seen.topology.coordinator, here), (server, there - here)):
        some = sorted(wanted)[: SAMPLES - len(samples)]
        if not some:
            continue

        def batch(where: Composable, name: str = name, some: list[bytes] = some) -> None:
            query = SQL("SELECT {} AS sample FROM {} AS r WHERE {}").format(
                sample_of(key),
                Identifier(seen.topology.namespace, logical),
                AND.join([where, one_of(digest(key), some)]),
            )
            samples.extend(r["sample"] for r in readers[name].rows(query))

        seen.sites[name].sweep(seen.sites[name].heap(logical), batch)
    names = SQL(", ").join(map(Identifier, key))
    some = sorted(here | there)
    where = SQL(" WHERE {}").format(one_of(digest(key), some)) if len(some) <= _LOCATED else SQL("")
    return Finding(
        check="reference-rows",
        server=server,
        table=logical,
        rows=len(here | there),
        detail=f'rows of the copy differ from those on "{seen.topology.coordinator}": {words}; '
        "the statement shows on both servers what to compare",
        sample=tuple(samples[:SAMPLES]),
        statement=render(
            SQL(
                "SELECT {}, pg_catalog.md5(ROW({})::pg_catalog.text) FROM {} AS r{} ORDER BY {}"
            ).format(
                names,
                SQL(", ").join(map(Identifier, columns)),
                Identifier(seen.topology.namespace, logical),
                where,
                names,
            )
        ),
    )


# --- parents on another server --------------------------------------------------------------------


def remote_parents(seen: Seen, place: Place, fk: ForeignKey) -> list[Finding]:
    """Rows whose parent would be on the coordinator, where no foreign key reaches.

    The distinct references are read here and asked for there, and once more on both sides.
    """
    site, home = seen.sites[place.server], seen.sites[seen.topology.coordinator]
    parent = seen.live[seen.topology.coordinator].tables.get(fk.ref_table)
    if parent is None:
        return []  # said by the checks of definitions
    pairs = list(zip(fk.columns, fk.ref_columns, strict=True))
    types = {b: c.type for _, b in pairs if (c := parent.column(b))}
    if len(types) < len({b for _, b in pairs}):
        return []
    table = Identifier(seen.topology.namespace, place.table)
    reference = SQL("pg_catalog.jsonb_build_array({})").format(
        SQL(", ").join(SQL("r.{}::pg_catalog.text").format(Identifier(a)) for a, _ in pairs)
    )
    there = [SQL("r.{} IS NOT NULL").format(Identifier(a)) for a, _ in pairs]
    also = of_workspace(seen.tenancy.key, seen.workspace, seen.table(place))

    def absent(where: Fresh, references: list[list[str]]) -> list[list[str]]:
        found: list[list[str]] = []
        for start in range(0, len(references), 10_000):
            some = SQL("VALUES {}").format(
                SQL(", ").join(
                    SQL("({})").format(SQL(", ").join(map(Literal, r)))
                    for r in references[start : start + 10_000]
                )
            )
            names = [f"c{i}" for i in range(len(pairs))]
            same = AND.join(
                SQL("p.{} = v.{}::{}").format(Identifier(b), Identifier(n), text(types[b]))
                for (_, b), n in zip(pairs, names, strict=True)
            )
            query = SQL(
                "SELECT pg_catalog.jsonb_build_array({c}) AS reference FROM ({some}) AS v ({c}) "
                "WHERE NOT EXISTS (SELECT FROM {parent} AS p WHERE {same})"
            ).format(
                c=SQL(", ").join(map(Identifier, names)),
                some=some,
                parent=Identifier(seen.topology.namespace, fk.ref_table),
                same=same,
            )
            found += [r["reference"] for r in where.rows(query)]
        return found

    with fresh(home) as coordinator, fresh(site) as now:
        candidates: dict[tuple[str, ...], None] = {}
        reader: Site | Fresh = site

        def batch(where: Composable) -> None:
            query = SQL(
                "SELECT DISTINCT {reference} AS reference FROM {table} AS r WHERE {where}"
            ).format(reference=reference, table=table, where=AND.join([where, *there, *also]))
            found = [r["reference"] for r in reader.rows(query)]
            candidates.update((tuple(x), None) for x in absent(coordinator, found))

        site.sweep(site.heap(place.table), batch)
        if site.rewritten([place.table]):
            reader = now  # the snapshot shows an empty table
            site.sweep(site.heap(place.table), batch)
        # Parents may have come meanwhile, those of the rows that were read first above all.
        lacking = absent(coordinator, [list(x) for x in candidates])
        if not lacking:
            return []
        missing = lacking[:_LOCATED]
        wrong = SQL("{} IN ({})").format(
            reference,
            SQL(", ").join(
                SQL("pg_catalog.jsonb_build_array({})").format(
                    SQL(", ").join(SQL("{}::pg_catalog.text").format(Literal(x)) for x in r)
                )
                for r in missing
            ),
        )
        key = Identifier(seen.tenancy.key)
        rows = now.rows(
            SQL(
                "SELECT workspace, count(*) AS rows, "
                "pg_catalog.array_agg(sample) FILTER (WHERE n <= {samples}) AS sample FROM ("
                "SELECT r.{key}::pg_catalog.text AS workspace, {sample} AS sample, row_number() "
                "OVER (PARTITION BY r.{key}) AS n FROM {table} AS r WHERE {where}) AS found "
                "GROUP BY 1 ORDER BY 1"
            ).format(
                samples=Literal(SAMPLES),
                key=key,
                sample=sample_of(place.primary_key),
                table=table,
                where=AND.join([wrong, *also]),
            )
        )
    name = f'"{fk.ref_table}" ({", ".join(a for a, _ in pairs)})'
    some = f" (of the first {_LOCATED} references)" if len(lacking) > _LOCATED else ""
    return [
        Finding(
            check="parents",
            server=place.server,
            shard=place.shard,
            table=place.table,
            workspace=row["workspace"],
            rows=row["rows"],
            detail=f'rows whose parent in {name} does not exist on "{seen.topology.coordinator}"'
            f"{some}",
            sample=tuple(row["sample"]),
            statement=shown(table, place, seen.tenancy.key, row["workspace"], [wrong]),
        )
        for row in rows
    ]


# --- federated views ------------------------------------------------------------------------------


def federated_rows(seen: Seen, logical: str, readers: Readers) -> Result:
    """Count by workspace through the federated view, and on the shards before and after that.

    A workspace whose count on the shards is the same before and after is compared; one that
    changes all the while is not. Where a view is what it should be, its branches are counted one
    by one: PostgreSQL then counts on the remote server instead of fetching every row, and a bare
    branch over a table of the coordinator needs no counting: it is that table.
    """
    home = seen.topology.coordinator
    name = view_name(logical)
    view = seen.live[home].views.get(name)
    result = Result()
    if view is None:
        return result
    plain = view.text is None and seen.workspace is None
    relations = view.sources if plain else (name,)
    shards = {
        suffixed(logical, s): o.server
        for s, o in seen.topology.shards.items()
        if suffixed(logical, s) in seen.live[o.server].tables
    }
    if plain:
        same = {t for t, server in shards.items() if server == home and relations.count(t) == 1}
        relations = tuple(t for t in relations if t not in same)
        shards = {t: s for t, s in shards.items() if t not in same}

    def through(tables: Iterable[str], server: str) -> dict[str | None, int]:
        found: dict[str | None, int] = {}
        for table in tables:
            for row in readers.of(server).rows(_counts(seen, logical, table)):
                found[row["workspace"]] = found.get(row["workspace"], 0) + row["rows"]
        return found

    def on_shards() -> dict[str | None, int]:
        total: dict[str | None, int] = {}
        for found in on_each(
            seen,
            set(shards.values()),
            lambda server: through([t for t, s in shards.items() if s == server], server),
        ):
            for workspace, rows in found.items():
                total[workspace] = total.get(workspace, 0) + rows
        return total

    differing: dict[str | None, tuple[int, int]] = {}
    moving: list[str | None] = []
    beyond: set[str | None] = set()
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        before, viewed = on_shards(), through(relations, home)
        differing, moving = {}, []
        if before == viewed:
            break
        after = on_shards()
        outside: dict[str | None, tuple[int, int]] = {}
        for workspace in {*before, *viewed, *after}:
            first, shown, last = (c.get(workspace, 0) for c in (before, viewed, after))
            if first == last != shown:
                differing[workspace] = (shown, last)
            elif first != last:
                moving.append(workspace)
                if abs(2 * shown - first - last) > 3 * abs(last - first):
                    outside[workspace] = (shown, last)
        # More off than it moves, each time: that is not the writing.
        beyond = outside.keys() & beyond if look else {*outside}
        if look == _LOOKS - 1:
            differing |= {w: outside[w] for w in beyond}
            moving = [w for w in moving if w not in beyond]
        if not differing and not moving:
            break
    if moving:
        result.remarks.append(f"{len(moving)} workspaces of {name} changed all the while")
    for workspace, (through_view, there) in sorted(differing.items(), key=lambda i: str(i[0])):
        result.findings.append(
            Finding(
                check="federated-rows",
                server=home,
                table=name,
                workspace=workspace,
                rows=abs(through_view - there),
                detail=f"the view returns {through_view} rows, the shards have {there}",
                statement=_count(seen, logical, name, workspace),
            )
        )
    return result


def _counts(seen: Seen, logical: str, table: str) -> Composable:
    where = of_workspace(seen.tenancy.key, seen.workspace, seen.base_table(logical))
    return SQL(
        "SELECT r.{key}::pg_catalog.text AS workspace, count(*) AS rows FROM {table} AS r{where} "
        "GROUP BY r.{key}"
    ).format(
        key=Identifier(seen.tenancy.key),
        table=Identifier(seen.topology.namespace, table),
        where=SQL(" WHERE ") + AND.join(where) if where else SQL(""),
    )


def _count(seen: Seen, logical: str, table: str, workspace: str | None) -> str:
    """The statement that counts the rows of one workspace through a view as the check does.

    Behind OFFSET 0 the condition on the workspace leaves no branch of the view out.
    """
    return render(
        SQL(
            "SELECT * FROM ({} OFFSET 0) AS counted WHERE workspace IS NOT DISTINCT FROM {}"
        ).format(
            _counts(seen, logical, table),
            SQL("NULL") if workspace is None else Literal(workspace),
        )
    )


def link_hint(role: str, error: psycopg.Error) -> str | None:
    """What to do where the coordinator cannot read from another server as `role`."""
    if error.sqlstate == "42704":
        return (
            f'the federated views run as the caller: give "{role}" a user mapping for that foreign '
            "server on the coordinator (CREATE USER MAPPING, docs/roles.md), or verify as a role "
            "that has one"
        )
    if (error.sqlstate or "").startswith(("08", "28", "2F")):
        return (
            "the coordinator cannot log in there: start that server; correct user and password of "
            f'the user mapping of "{role}" (ALTER USER MAPPING); or correct peer_dsn in the '
            "topology and `parlant-shard apply`. `parlant-shard doctor` tries the link"
        )
    return None


def on_each(seen: Seen, servers: Iterable[str], work: Callable[[str], T]) -> list[T]:
    """Run work for several servers at once; the first failure is raised when all are done.

    An interrupt is not kept waiting for them.
    """
    names = sorted(servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        futures = [pool.submit(work, n) for n in names]
        try:
            return [f.result() for f in futures]
        except Exception:
            raise
        except BaseException:
            seen.give_up()
            raise
