"""The checks of roles and rights: who passes over row-level security, and what PUBLIC may do."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Literal

from parlant_shard import canonical
from parlant_shard.catalog import Relkind
from parlant_shard.ddl import render
from parlant_shard.desired.wall import carried_on
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import Finding
from parlant_shard.verify.site import Site


def rights(seen: Seen) -> Iterator[Finding]:
    for server in sorted(seen.sites):
        site = seen.sites[server]
        yield from _grants(seen, site)
        if seen.topology.isolation.rls:
            if server == seen.topology.coordinator:
                yield from _carried(seen, site)
            yield from _creating(seen, site)
            yield from _bypassing(seen, site)
            yield from _owners(seen, site)


def _tenants_tables(seen: Seen, server: str) -> list[str]:
    """Tables, partitions, foreign tables and views that hold rows of tenants."""
    live, wanted = seen.live[server], seen.wanted(server)
    tables = [
        name
        for name, table in live.tables.items()
        if (m := wanted.managed.get(("table", table.parent or name))) is not None and m.shard
    ]
    return sorted([*tables, *(n for n in live.views if n in wanted.views)])


def _grants(seen: Seen, site: Site) -> Iterator[Finding]:
    live, role = seen.live[site.server], seen.topology.isolation.role or ""
    for row in site.named("relation_grants", tables=_tenants_tables(seen, site.server)):
        table = live.tables.get(row["name"])
        root = (table.parent or table.name) if table else ""
        managed = seen.wanted(site.server).managed.get(("table", root))
        yield Finding(
            check="grants",
            server=site.server,
            shard=managed.shard if managed else None,
            table=row["name"],
            detail=f"PUBLIC has {row['privileges']}: every role may use it",
            statement=_acl(seen.topology.namespace, row["name"]),
        )
    for row in site.named("internal_grants", role=role):
        yield Finding(
            check="grants",
            server=site.server,
            table=row["name"].removeprefix("schema "),
            detail=f"{row['role']} has {row['privileges']} on {row['name']}",
            statement="SELECT nspacl FROM pg_catalog.pg_namespace WHERE nspname = 'parlant_shard'"
            if row["name"].startswith("schema ")
            else _acl("parlant_shard", row["name"].removeprefix("parlant_shard.")),
        )
    for row in site.named("server_grants", role=role):
        yield Finding(
            check="grants",
            server=site.server,
            detail=f"{row['role']} may use the {row['name']}: it leads to all rows of that server",
            statement="SELECT srvname, srvacl FROM pg_catalog.pg_foreign_server",
        )


def _carried(seen: Seen, site: Site) -> Iterator[Finding]:
    """What the application may do to shared rows that takes rows of all workspaces along."""
    role, base = seen.topology.isolation.role or "", seen.base_of(site.server)
    for privilege in ("DELETE", "UPDATE"):
        tables = [
            name
            for name in seen.tenancy.of_kind("reference")
            if privilege in carried_on(name, base, seen.tenancy)
        ]
        for row in site.named("carried_grants", tables=tables, role=role, privilege=privilege):
            yield Finding(
                check="grants",
                server=site.server,
                table=row["name"],
                detail=f"{role} has {privilege}: foreign keys carry it on to rows of all "
                "workspaces, and no policy holds them back",
                statement=_acl(seen.topology.namespace, row["name"]),
            )


def _creating(seen: Seen, site: Site) -> Iterator[Finding]:
    """Where the application could leave a function that statements of others then call."""
    role = seen.topology.isolation.role or ""
    for row in site.named("creating", role=role):
        yield Finding(
            check="grants",
            server=site.server,
            detail=f'{role} may create functions and operators in schema "{row["name"]}": '
            "statements of other workspaces would call them, with their setting",
            statement=render(
                SQL("SELECT nspacl FROM pg_catalog.pg_namespace WHERE nspname = {}").format(
                    Literal(row["name"])
                )
            ),
        )


def _bypassing(seen: Seen, site: Site) -> Iterator[Finding]:
    role = seen.topology.isolation.role
    if role is None:
        return
    for row in site.named("bypassing", role=role):
        why = "is a superuser" if row["superuser"] else "has BYPASSRLS"
        who = f'role "{row["name"]}" {why}'
        if row["name"] != role:
            how = f'"{role}" can become it' if row["becomes"] else f'it is a member of "{role}"'
            who = f"{who}, and {how}"
        yield Finding(
            check="bypassing-roles",
            server=site.server,
            detail=f"{who}: row-level security does not hold for it",
            statement=_role(row["name"]),
        )
    for row in site.named("owning", role=role, tables=_tables(seen, site.server)):
        yield Finding(
            check="bypassing-roles",
            server=site.server,
            table=row["first"],
            detail=f'role "{row["name"]}", as which the application can act, owns '
            f"{row['tables']} tables: an owner may switch row-level security off",
            statement=_role(row["name"]),
        )


def _owners(seen: Seen, site: Site) -> Iterator[Finding]:
    for row in site.named("superuser_owners", tables=_tables(seen, site.server)):
        yield Finding(
            check="superuser-owner",
            severity="warning",
            server=site.server,
            table=row["first"],
            detail=f'{row["tables"]} tables are owned by the superuser "{row["name"]}": FORCE does '
            "not hold for it, and what runs with the owner's rights sees every row",
            statement=render(
                SQL(
                    "SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c "
                    "WHERE c.relowner = {}::pg_catalog.regrole AND c.relkind IN ('r', 'p')"
                ).format(Literal(canonical.quote(row["name"])))
            ),
        )


def _tables(seen: Seen, server: str) -> list[str]:
    live = seen.live[server]
    return [
        n
        for n in _tenants_tables(seen, server)
        if n in live.tables and live.tables[n].kind is not Relkind.FOREIGN
    ]


def _acl(namespace: str, name: str) -> str:
    relation = f"{canonical.quote(namespace)}.{canonical.quote(name)}"
    return render(
        SQL("SELECT relacl FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass({})").format(
            Literal(relation)
        )
    )


def _role(name: str) -> str:
    return render(
        SQL(
            "SELECT rolname, rolsuper, rolbypassrls FROM pg_catalog.pg_roles WHERE rolname = {}"
        ).format(Literal(name))
    )
