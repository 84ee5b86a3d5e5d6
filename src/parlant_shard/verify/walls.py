"""The checks of roles and rights: who passes over row-level security, and what PUBLIC may do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg.sql import SQL, Literal

from parlant_shard import canonical
from parlant_shard.catalog import Relkind
from parlant_shard.ddl import render
from parlant_shard.desired.wall import carried_on
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import Finding
from parlant_shard.verify.site import Row, Site

# What these roles of PostgreSQL may do passes over tables, or over their privileges.
_PREDEFINED = (
    "pg_execute_server_program",
    "pg_read_all_data",
    "pg_read_server_files",
    "pg_write_all_data",
    "pg_write_server_files",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Application:
    """The roles that are the application's on one server, and who may see all workspaces.

    `rows` are those of the query. `names` are the roles that a policy has to hold back: without
    the owners and analytics, who are members for another reason where they are.
    """

    rows: tuple[Row, ...] = ()
    names: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()


def rights(seen: Seen, server: str) -> Iterator[Finding]:
    site = seen.sites[server]
    application = _application(seen, site)
    yield from _grants(seen, site, application)
    if seen.topology.isolation.rls:
        yield from _bypassing(seen, site, application)
        yield from _revealing(seen, site, application)
        if server == seen.topology.coordinator:
            yield from _carried(seen, site)
        yield from _owners(seen, site)


def _application(seen: Seen, site: Site) -> _Application:
    isolation = seen.topology.isolation
    owners = tuple(r["name"] for r in site.named("owners", tables=_tables(seen, site.server)))
    rows = tuple(site.named("application", role=isolation.role or ""))
    apart = {*owners, isolation.analytics} - {isolation.role}
    names = tuple(r["name"] for r in rows if r["name"] not in apart)
    return _Application(rows=rows, names=names, owners=owners)


def _tenants_tables(seen: Seen, server: str) -> list[str]:
    """Tables, partitions, foreign tables and views that hold rows of tenants.

    Also the partitions that `maintain` has detached: their rows are there until they go.
    """
    live, wanted = seen.live[server], seen.wanted(server)
    tables = [
        name
        for name, table in live.tables.items()
        if (m := wanted.managed.get(("table", table.parent or name))) is not None and m.shard
    ]
    waiting = [r.name for r in live.retired if r.present and r.name in live.tables]
    return sorted({*tables, *waiting, *(n for n in live.views if n in wanted.views)})


def _grants(seen: Seen, site: Site, application: _Application) -> Iterator[Finding]:
    live, roles = seen.live[site.server], list(application.names)
    wanted = seen.wanted(site.server)
    shared = [n for n, t in wanted.tables.items() if t.row_security and n in live.tables]
    tenants = _tenants_tables(seen, site.server)
    for row in site.named("relation_grants", tables=sorted({*tenants, *shared}), roles=roles):
        table = live.tables.get(row["name"])
        root = (table.parent or table.name) if table else ""
        managed = wanted.managed.get(("table", root))
        if row["public"] and row["name"] not in tenants:
            continue  # a reference table that all share
        yield Finding(
            check="grants",
            server=site.server,
            shard=(managed.shard or None) if managed else None,
            table=row["name"],
            detail=f"PUBLIC has {row['privileges']}: every role may use it"
            if row["public"]
            else f'"{row["role"]}" has {row["privileges"]}: no policy narrows that',
            statement=_acl(seen.topology.namespace, row["name"]),
        )
    for row in site.named("internal_grants", roles=roles):
        yield Finding(
            check="grants",
            server=site.server,
            table=row["name"].removeprefix("schema "),
            detail=f"{row['role']} has {row['privileges']} on {row['name']}",
            statement="SELECT nspacl FROM pg_catalog.pg_namespace WHERE nspname = 'parlant_shard'"
            if row["name"].startswith("schema ")
            else _acl("parlant_shard", row["name"].removeprefix("parlant_shard.")),
        )
    for row in site.named("server_grants", roles=roles):
        yield Finding(
            check="grants",
            server=site.server,
            detail=f"{row['role']} may use the {row['name']}: it leads to all rows of that server",
            statement="SELECT srvname, srvacl FROM pg_catalog.pg_foreign_server"
            if row["name"].startswith("foreign server")
            else "SELECT srvname, usename FROM pg_catalog.pg_user_mappings",
        )
    for row in site.named("strangers", owners=list(application.owners)):
        yield Finding(
            check="grants",
            server=site.server,
            detail=f'the {row["kind"]} {row["name"]} belongs to "{row["owner"]}", who is not the '
            "owner of the schema parlant_shard",
            statement=_role(row["owner"]),
        )
    for row in site.named("schema_grants", roles=roles):
        yield Finding(
            check="grants",
            # A function left there is called by statements of others, with their setting.
            severity="error" if seen.topology.isolation.rls else "warning",
            server=site.server,
            detail=f"{row['role']} may create functions and other objects in the schema "
            f'"{row["schema"]}", where statements of all workspaces find them',
            statement=render(
                SQL("SELECT nspacl FROM pg_catalog.pg_namespace WHERE nspname = {}").format(
                    Literal(row["schema"])
                )
            ),
        )
    for row in site.named("default_grants", owners=list(application.owners)):
        yield Finding(
            check="grants",
            severity="warning",
            server=site.server,
            detail=f'tables that "{row["owner"]}" makes give PUBLIC {row["privileges"]}, by its '
            "default privileges: also the next partitions",
            statement="SELECT defaclrole::pg_catalog.regrole, defaclobjtype, defaclacl "
            "FROM pg_catalog.pg_default_acl",
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


def _bypassing(seen: Seen, site: Site, application: _Application) -> Iterator[Finding]:
    isolation = seen.topology.isolation
    role = isolation.role
    if role is None:
        return
    for row in application.rows:
        why = next((words for column, words in _ATTRIBUTES if row[column]), None)
        if why is None or (not _beyond(row) and row["name"] not in application.names):
            continue
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
    yield from _reaching(site, role, isolation.analytics, application)


_ATTRIBUTES = (
    ("superuser", "is a superuser"),
    ("bypasses", "has BYPASSRLS"),
    ("replicates", "has REPLICATION, which reads every row"),
    ("makes_roles", "has CREATEROLE, and can become any role"),
)


def _beyond(row: Row) -> bool:
    return bool(row["superuser"] or row["bypasses"])


def _reaching(
    site: Site, role: str, analytics: str | None, application: _Application
) -> Iterator[Finding]:
    """Memberships by which the application, or a login of it, sees more than one workspace.

    That of the application itself is an error. A login of it may be that of a person who is a
    member of both: a warning.
    """
    members = [r["name"] for r in application.rows if not r["becomes"] and not _beyond(r)]
    asked = [n for n in members if n in application.names]
    targets = [*_PREDEFINED, *([analytics] if analytics else []), *application.owners]
    found = site.named("reaching", roles=asked, targets=targets)
    own = {r["target"] for r in found if r["name"] == role}
    for row in found:
        mine = row["name"] == role
        if row["target"] in (application.owners if mine else own):
            continue  # said of what it owns; said of the application itself
        if mine and row["target"] not in targets:
            continue  # a superuser, or BYPASSRLS: said above
        who = f'role "{row["name"]}"' + ("" if mine else f', a member of "{role}",')
        yield Finding(
            check="bypassing-roles",
            severity="error" if mine else "warning",
            server=site.server,
            detail=f'{who} can become "{row["target"]}", which sees more than one workspace',
            statement=render(
                SQL(
                    "SELECT roleid::pg_catalog.regrole, member::pg_catalog.regrole "
                    "FROM pg_catalog.pg_auth_members WHERE {}::pg_catalog.regrole "
                    "IN (roleid, member)"
                ).format(Literal(canonical.quote(row["target"])))
            ),
        )


def _revealing(seen: Seen, site: Site, application: _Application) -> Iterator[Finding]:
    """Views and functions that show the application what their owner sees."""
    wanted, analytics = seen.wanted(site.server), seen.topology.isolation.analytics
    there = analytics in seen.live[site.server].roles  # where it is missing, `policies` says it
    passing = [*application.owners, *([analytics] if analytics and there else [])]
    sources = _tenants_tables(seen, site.server)
    roles = [
        r["name"] for r in application.rows if not _beyond(r) and r["name"] in application.names
    ]
    for row in site.named("revealing_views", tables=sources, roles=roles, passing=passing):
        if row["namespace"] == seen.topology.namespace and row["name"] in wanted.views:
            continue  # ours: `federated-views` says that it runs as its owner
        kind = "materialized view" if row["stored"] else "view"
        yield Finding(
            check="bypassing-roles",
            server=site.server,
            table=row["source"],
            detail=f'the {kind} "{row["namespace"]}"."{row["name"]}" shows "{row["reader"]}" rows '
            f'of "{row["source"]}" with the rights of "{row["owner"]}"',
            statement=_acl(row["namespace"], row["name"]),
        )
    for row in site.named("definer_functions", roles=roles, passing=passing):
        if row["signature"] in wanted.functions:
            continue
        yield Finding(
            check="bypassing-roles",
            severity="warning",
            server=site.server,
            detail=f'"{row["caller"]}" may call {row["signature"]}, which acts with the rights of '
            f'"{row["owner"]}" (SECURITY DEFINER) and is not of the topology',
            statement=render(
                SQL("SELECT pg_catalog.pg_get_functiondef({}::pg_catalog.oid)").format(
                    Literal(row["id"])
                )
            ),
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
