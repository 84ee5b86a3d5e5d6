"""Checks of what a database holds: what was left unfinished, locks, generations, tenants. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from parlant_shard import ddlfile
from parlant_shard.canonical import quote
from parlant_shard.doctor import generations
from parlant_shard.doctor.observe import Observed, Server, disagreement
from parlant_shard.doctor.on_server import REATTACH, dotted
from parlant_shard.doctor.report import Finding, Severity, error, finding, info, warning

# So many unpruned queries at once must fit into the lock table.
_UNPRUNED_AT_ONCE = 10


def _qualified(seen: Observed, name: str) -> str:
    return f"{quote(seen.topology.namespace)}.{quote(name)}"


def invalid_indexes(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        for row in server.all("indexes"):
            name, table = _qualified(seen, row["name"]), row["table"]
            leftover = any(mark in row["name"] for mark in ("_ccnew", "_ccold"))
            severity: Severity = "error"
            detail = f'the index of "{table}" is INVALID: no query uses it, every write pays for it'
            if row["building"]:
                severity = "info"
                detail = f'the index of "{table}" is not valid; one is being built at the moment'
                hint = "look again when SELECT * FROM pg_stat_progress_create_index is empty"
            elif leftover:
                severity = "warning"
                detail = f'a REINDEX CONCURRENTLY of "{table}" was interrupted and left this index'
                hint = f"DROP INDEX CONCURRENTLY {name}"
            elif row["partitioned"]:
                detail = f'the index of the partitioned table "{table}" is INVALID'
                if row["lacking"]:
                    detail += f"; these partitions lack a valid one: {_few(row['lacking'])}"
                    hint = (
                        "per partition: CREATE INDEX CONCURRENTLY on it, then ALTER INDEX "
                        f"{name} ATTACH PARTITION the new index"
                    )
                elif row["some_leaf"]:
                    hint = (
                        f"ALTER INDEX {name} ATTACH PARTITION {_qualified(seen, row['some_leaf'])}"
                    )
                    if server.facts.version_num < REATTACH.get(server.facts.major, 0):
                        hint = f"DROP INDEX {name}, and build it again: {_broken(server)}"
                else:
                    hint = f"DROP INDEX {name}, and create it again"
            elif row["parent"]:
                parent = _qualified(seen, row["parent"])
                hint = (
                    f"REINDEX INDEX CONCURRENTLY {name}; ALTER INDEX {parent} ATTACH PARTITION "
                    f"{name}"
                )
            elif row["constraint"]:
                detail += "; it belongs to a constraint, which is not enforced for all rows"
                hint = f"REINDEX INDEX CONCURRENTLY {name}"
            else:
                hint = f"DROP INDEX CONCURRENTLY {name}, and create it again"
            yield finding(
                severity,
                server=server.name,
                about=row["name"],
                detail=detail,
                hint=hint,
            )


def _broken(server: Server) -> str:
    return f"{dotted(server.facts.version_num)} does not validate it by attaching again"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def pending_detach(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        for row in server.all("detaching"):
            parent = _qualified(seen, row["parent"])
            partition = _qualified(seen, row["partition"])
            caution = (
                "; on PostgreSQL 18 it cannot be finished once a column of the parent was changed"
                if server.facts.major >= 18
                else ""
            )
            yield warning(
                server=server.name,
                about=row["partition"],
                detail=f'the detachment from "{row["parent"]}" was begun and not finished: no '
                f"other partition of it can be detached concurrently{caution}",
                hint=f"ALTER TABLE {parent} DETACH PARTITION {partition} FINALIZE",
            )


def not_validated(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        for row in server.all("constraints"):
            prunes = "; it does not prune either" if row["type"] == "c" else ""
            yield warning(
                server=server.name,
                about=f"{row['table']}.{row['name']}",
                detail=f"the constraint is NOT VALID: rows from before it were never "
                f"checked{prunes}",
                hint=f"ALTER TABLE {_qualified(seen, row['table'])} VALIDATE CONSTRAINT "
                f"{quote(row['name'])}",
            )


def locks(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        slots = server.number("max_locks_per_transaction")
        connections = server.number("max_connections")
        prepared = server.number("max_prepared_transactions")
        capacity = slots * (connections + prepared)
        logical = {str(r["name"]): r["logical"] for r in server.all("managed")}
        needs: dict[str, tuple[int, int]] = {}
        for row in server.all("partitioned"):
            name = str(logical.get(row["name"], row["name"]))
            relations, locks = needs.get(name, (0, 0))
            needs[name] = relations + row["relations"], locks + row["locks"]
        for name, (relations, locks) in sorted(needs.items()):
            if capacity and locks * _UNPRUNED_AT_ONCE > capacity:
                wanted = -(-locks * _UNPRUNED_AT_ONCE // (connections + prepared))
                yield warning(
                    server=server.name,
                    about=name,
                    detail=f"a query that prunes no partition takes {locks:,} locks ({relations:,} "
                    f"relations and their indexes); the lock table has {slots:,} * "
                    f"({connections:,} + {prepared:,}) = {capacity:,}: {capacity // locks} such "
                    "queries at once fill it",
                    hint=f"ALTER SYSTEM SET max_locks_per_transaction = {wanted}, then restart; or "
                    "longer intervals, a shorter retention, fewer indexes",
                )


def long_transactions(seen: Observed) -> Iterator[Finding]:
    waits = "CREATE INDEX CONCURRENTLY and DETACH CONCURRENTLY wait for it"
    for server in seen.servers.values():
        for row in server.all("transactions"):
            state = row["state"] or "unknown state"
            yield warning(
                server=server.name,
                about=f"pid {row['pid']}",
                detail=f"a transaction of {row['user']} ({row['application'] or 'no name'}, "
                f"{state}) is open for {_age(row['seconds'])}: {waits}",
                hint=f"let it end, or SELECT pg_terminate_backend({row['pid']})",
            )
        for row in server.all("prepared"):
            yield warning(
                server=server.name,
                about=row["gid"],
                detail=f"a prepared transaction of {row['owner']} waits for "
                f"{_age(row['seconds'])}: {waits}",
                hint="COMMIT PREPARED or ROLLBACK PREPARED it",
            )
        if server.one("login").get("sees_all") is False:
            yield info(
                server=server.name,
                about=server.facts.user,
                detail=f'role "{server.facts.user}" does not see how long the transactions of '
                "other roles are open",
                hint=f"GRANT pg_read_all_stats TO {quote(server.facts.user)}",
            )


def _age(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


# --- the data -------------------------------------------------------------------------------------


def _generations(server: Server) -> dict[str, dict[str, list[str]]]:
    """Per generation, the tables and the enum types of a server that look like it."""
    columns: dict[str, dict[str, str]] = defaultdict(dict)
    for row in server.all("parlant_columns"):
        columns[row["table"]][row["name"]] = row["type"]
    logical = {r["name"]: r["logical"] for r in server.all("managed")}
    looks: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"tables": [], "enums": []})
    for table, types in columns.items():
        generation = generations.of_table(logical.get(table, table), types)
        if generation is not None:
            looks[generation]["tables"].append(table)
    for row in server.all("enums"):
        generation = generations.of_enum(row["name"], row["labels"])
        if generation is not None:
            looks[generation]["enums"].append(row["name"])
    return looks


def _declared_generations(seen: Observed) -> dict[str, list[str]]:
    looks: dict[str, list[str]] = defaultdict(list)
    declared = ddlfile.declared_tables(seen.schema, seen.topology.namespace)
    for name, table in declared.items():
        generation = generations.of_table(name, table.columns)
        if generation is not None:
            looks[generation].append(name)
    return looks


def schema_generation(seen: Observed) -> Iterator[Finding]:
    declared = _declared_generations(seen)
    for server in seen.servers.values():
        looks = _generations(server)
        if len(looks) > 1 or "mixed" in looks:
            listed = "; ".join(
                f"{generation}: {', '.join(_shown(parts))}"
                for generation, parts in sorted(looks.items())
            )
            yield warning(
                server=server.name,
                about=seen.topology.namespace,
                detail=f"the parlant_* tables are of different schemas under the same names: "
                f"{listed}",
                hint="state the tables as they are with `schema: {from: "
                f"{server.name}}}; columns, enum labels and time types differ between them",
            )
        elif looks and declared and not looks.keys() & declared.keys():
            yield warning(
                server=server.name,
                about=seen.topology.namespace,
                detail=f"the live tables look like schema {_keys(looks)}, the topology's schema is "
                f"{_keys(declared)}",
                hint=f"use `schema: {{from: {server.name}}}` if the live tables are the right ones",
            )


def _shown(parts: Mapping[str, list[str]]) -> list[str]:
    tables = [_few(parts["tables"])] if parts["tables"] else []
    return tables + ([f"enum types {_few(parts['enums'])}"] if parts["enums"] else [])


def _keys(looks: Mapping[str, object]) -> str:
    return ", ".join(sorted(looks))


def generation_detail(seen: Observed) -> str:
    declared = _declared_generations(seen)
    parts = [f"topology {_keys(declared)}"] if declared else []
    for server in seen.servers.values():
        looks = _generations(server)
        if looks:
            parts.append(f"{server.name} {_keys(looks)}")
    return ", ".join(parts) or "no parlant_* table"


def disagreeing_tenants(seen: Observed) -> Iterator[Finding]:
    key = seen.topology.key
    for server in seen.servers.values():
        for link in server.all("tenant_links"):
            name = disagreement(link)
            if name in server.failures:
                yield warning(
                    server=server.name,
                    about=name,
                    detail=f"could not be counted: {server.failures[name]}",
                )
            rows = server.one(name).get("rows", 0)
            if rows:
                child, parent = link["child"], link["parent"]
                yield error(
                    server=server.name,
                    about=name,
                    detail=f'{rows:,} row{"" if rows == 1 else "s"} of "{child}" with another '
                    f'{key} than the row of "{parent}" they belong to: they would go to different '
                    "shards",
                    hint=f"join {_qualified(seen, child)} c with {_qualified(seen, parent)} p on "
                    f"c.{quote(link['child_column'])} = p.{quote(link['parent_column'])} where "
                    f"c.{quote(key)} IS DISTINCT FROM p.{quote(key)}, and correct these rows "
                    "before the first split",
                )
