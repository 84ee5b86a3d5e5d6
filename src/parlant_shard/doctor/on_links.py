"""Checks of what runs between servers: replication, foreign tables, connections. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import postgast

from parlant_shard.canonical import quote
from parlant_shard.capacity import (
    LIMITS,
    Capacity,
    capacity,
    publisher_lacks,
    subscriber_lacks,
)
from parlant_shard.desired import subscription_name
from parlant_shard.doctor.observe import Observed, Server, is_local
from parlant_shard.doctor.report import Finding, Severity, error, finding, info, warning


def reference_tables(seen: Observed) -> Iterator[Finding]:
    source = seen.coordinator
    if source is not None:
        if seen.subscribers:
            yield from _publisher(seen, source)
        yield from _slots(seen, source)
        yield from _without_slot(seen, source)
    for server in seen.servers.values():
        yield from _subscriptions(server)
        if server.name in seen.subscribers:
            yield from _subscriber_limits(server)


def _publisher(seen: Observed, source: Server) -> Iterator[Finding]:
    def wrong(severity: Severity, setting: str, detail: str, hint: str) -> Finding:
        return finding(
            severity,
            server=source.name,
            about=setting,
            detail=detail,
            hint=hint,
        )

    level = source.setting("wal_level")
    if level != "logical":
        yield wrong(
            "error",
            "wal_level",
            f"wal_level is {level}: reference tables on other servers need logical",
            "ALTER SYSTEM SET wal_level = logical, then restart the coordinator",
        )
    names = {subscription_name(seen.topology, s) for s in seen.subscribers}
    new = len(names - {s["name"] for s in source.all("slots")})
    if new:
        for lack in publisher_lacks(_capacity(source), slots=new, senders=new):
            yield wrong("error", lack.setting, lack.detail, lack.statement)
    if source.setting("max_slot_wal_keep_size") == "-1":
        yield wrong(
            "warning",
            "max_slot_wal_keep_size",
            "max_slot_wal_keep_size is -1: a server that stays away makes the coordinator keep WAL "
            "until its disk is full",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf()",
        )


def _slots(seen: Observed, source: Server) -> Iterator[Finding]:
    topology = seen.topology
    ours = {subscription_name(topology, s): s for s in topology.servers}
    for slot in source.all("slots"):
        subscriber = ours.get(slot["name"])
        if subscriber is None:
            continue
        named = quote(slot["name"])
        if slot["wal_status"] == "lost":
            yield error(
                server=source.name,
                about=slot["name"],
                detail=f'the replication slot of server "{subscriber}" is lost: its WAL was '
                "removed, and its reference tables no longer follow",
                hint=f'on server "{subscriber}": ALTER SUBSCRIPTION {named} DISABLE; ALTER '
                f"SUBSCRIPTION {named} SET (slot_name = NONE); DROP SUBSCRIPTION {named}; empty "
                f'the copies as docs/reference-tables.md says; on server "{source.name}": SELECT '
                f"pg_drop_replication_slot('{slot['name']}'); then run `parlant-shard apply "
                f"{topology.file}`: it makes the slot and copies all rows",
            )
        elif slot["wal_status"] == "unreserved":
            yield warning(
                server=source.name,
                about=slot["name"],
                detail=f'server "{subscriber}" is so far behind that its WAL may be removed at the '
                "next checkpoint",
                hint="look at the subscriber's log, or raise max_slot_wal_keep_size",
            )
        elif not slot["active"]:
            yield warning(
                server=source.name,
                about=slot["name"],
                detail=f'server "{subscriber}" is not connected to its replication slot',
                hint=f'look at the log of server "{subscriber}", and whether peer_dsn of '
                f'"{source.name}" leads here',
            )


def _without_slot(seen: Observed, source: Server) -> Iterator[Finding]:
    """Subscriptions whose slot is gone: a new one would hide what the copy missed."""
    slots = {slot["name"] for slot in source.all("slots") if slot["here"]}
    for server in seen.servers.values():
        name = subscription_name(seen.topology, server.name)
        if name in slots or all(row["name"] != name for row in server.all("subscriptions")):
            continue
        yield error(
            server=source.name,
            about=name,
            detail=f'server "{server.name}" has a subscription, but its replication slot is gone: '
            "its copies of the reference tables get no more changes, and those that they missed "
            "never reach them",
            hint=f"run `parlant-shard plan {seen.topology.file}`: the hint of its error PS260 has "
            "the statements",
        )


def _subscriptions(server: Server) -> Iterator[Finding]:
    for row in server.all("subscriptions"):

        def wrong(severity: Severity, detail: str, hint: str, name: str = row["name"]) -> Finding:
            return finding(
                severity,
                server=server.name,
                about=name,
                detail=detail,
                hint=hint,
            )

        failed = f"{row['apply_errors']} failures to apply, {row['sync_errors']} to copy"
        if not row["enabled"]:
            yield wrong(
                "error",
                "the subscription is disabled: reference tables do not follow",
                f"ALTER SUBSCRIPTION {quote(row['name'])} ENABLE",
            )
        elif not row["running"]:
            yield wrong(
                "warning",
                "the subscription has no worker at the moment",
                "look at the server's log, and at max_logical_replication_workers",
            )
        if row["unsynced"]:
            yield wrong(
                "warning",
                f"not copied yet: {', '.join(row['unsynced'])}",
                "wait, or look at the server's log: a copy that fails is tried again and again",
            )
        if row["apply_errors"] or row["sync_errors"]:
            yield wrong(
                "warning",
                f"the subscription has failed: {failed}",
                "the server's log says why; once it is repaired: "
                "SELECT pg_stat_reset_subscription_stats(NULL)",
            )


def _subscriber_limits(server: Server) -> Iterator[Finding]:
    """What a subscription takes that is yet to be made, or to copy."""
    made = server.all("subscriptions")
    if made and not any(row["unsynced"] and not row["copying"] for row in made):
        return
    starting = sum(not row["running"] for row in made) if made else 1
    for lack in subscriber_lacks(_capacity(server), starting=starting, major=server.facts.major):
        yield error(
            server=server.name,
            about=lack.setting,
            detail=lack.detail,
            hint=lack.statement,
        )


def _capacity(server: Server) -> Capacity:
    limits = {r["name"]: int(r["reset_val"]) for r in server.all("settings") if r["name"] in LIMITS}
    return capacity(server.one("replication_load"), limits)


# --- connections ----------------------------------------------------------------------------------


def extensions(seen: Observed) -> Iterator[Finding]:
    coordinator = seen.coordinator
    needed: dict[str, set[str]] = {s.name: set() for s in seen.servers.values()}
    if coordinator is not None and seen.remote:
        needed[coordinator.name].add("postgres_fdw")
    for statement in seen.schema:
        if statement.kind == "create_extension_stmt":
            name = postgast.parse(statement.text).stmts[0].stmt.create_extension_stmt.extname
            for names in needed.values():
                names.add(name)
    for server in seen.servers.values():
        for name in sorted(needed[server.name] - server.facts.extensions_available):
            yield error(
                server=server.name,
                about=name,
                detail=f"the extension {name} is not available on the server"
                + (": no view over the shards of other servers" if name == "postgres_fdw" else ""),
                hint="install the server's package of contrib modules or of the extension",
            )
        installed = {r["name"] for r in server.all("extensions")}
        if "pg_stat_statements" not in installed:
            preloaded = "pg_stat_statements" in (server.setting("shared_preload_libraries") or "")
            first = (
                ""
                if preloaded
                else "add pg_stat_statements to shared_preload_libraries and restart; then "
            )
            yield info(
                server=server.name,
                about="pg_stat_statements",
                detail="pg_stat_statements is not installed: `monitor` and `advise` will not see "
                "statements",
                hint=f"{first}CREATE EXTENSION pg_stat_statements",
            )


def peer(seen: Observed) -> Iterator[Finding]:
    coordinator = seen.coordinator
    if coordinator is None:
        return
    ways = [(coordinator, seen.servers.get(n), "postgres_fdw") for n in seen.remote]
    ways += [
        (subscriber, coordinator, "its subscription")
        for n in seen.subscribers
        if (subscriber := seen.servers.get(n)) is not None
    ]
    for one, other, what in ways:
        if other is None:
            continue
        options = dict(other.peer.options)
        host = options.get("hostaddr") or options.get("host", "")
        if is_local(host) and not one.link.local:
            yield warning(
                server=other.name,
                about="peer_dsn",
                detail=f'server "{one.name}" ({one.link.host}) would look for "{other.name}" on '
                f"itself: its peers' address is {host or 'a Unix socket'}",
                hint="give the address by which the other servers reach it as peer_dsn",
            )
        if one.facts.superuser:
            continue  # only others must prove themselves with a password
        needs = f'role "{one.facts.user}" of server "{one.name}" is no superuser, so {what} needs'
        if other.peer.password is None:
            yield error(
                server=other.name,
                about="peer_dsn",
                detail=f"{needs} a password, and there is none",
                hint="put a password into peer_dsn (or dsn)",
            )
        elif other.link.trusted:
            yield error(
                server=other.name,
                about="pg_hba.conf",
                detail=f"{needs} the server to ask for the password, and it let us in without",
                hint="write scram-sha-256 instead of trust or peer into pg_hba.conf, then "
                "SELECT pg_reload_conf()",
            )


def cleartext(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        if not server.link.local and not server.link.encrypted:
            yield warning(
                server=server.name,
                about=server.link.host,
                detail="the connection leaves this machine without encryption",
                hint="switch ssl on at the server and add sslmode=verify-full (or require) to dsn",
            )


def trust(seen: Observed) -> Iterator[Finding]:
    for server in seen.servers.values():
        if not server.link.local and server.link.trusted:
            yield warning(
                server=server.name,
                about=server.link.host,
                detail=f'the server let role "{server.facts.user}" in from another machine without '
                "asking for a password",
                hint="write scram-sha-256 instead of trust into pg_hba.conf, give the role a "
                "password, then SELECT pg_reload_conf()",
            )


def secrets(seen: Observed) -> Iterator[Finding]:
    concerned = {*seen.subscribers}
    if seen.remote:
        concerned.add(seen.topology.coordinator)
    for server in seen.servers.values():
        if server.name not in concerned:
            continue
        user = quote(server.facts.user)
        statement = (
            "CREATE USER MAPPING"
            if server.name == seen.topology.coordinator
            else "CREATE SUBSCRIPTION"
        )
        for setting, reveals, off in (
            ("log_statement", {"ddl", "mod", "all"}, "'none'"),
            ("log_min_duration_statement", {"0"}, "-1"),
        ):
            value = server.setting(setting)
            if value in reveals:
                yield warning(
                    server=server.name,
                    about=setting,
                    detail=f"{setting} is {value}: {statement} gets into the server's log with its "
                    "password",
                    hint=f"ALTER ROLE {user} SET {setting} = {off} (as a superuser), and guard the "
                    "log",
                )
        installed = {r["name"] for r in server.all("extensions")}
        tracked = server.setting("pg_stat_statements.track_utility")
        if "pg_stat_statements" in installed and tracked == "on":
            yield info(
                server=server.name,
                about="pg_stat_statements.track_utility",
                detail=f"pg_stat_statements keeps the text of {statement} with its password; roles "
                "with pg_read_all_stats can read it",
                hint=f"ALTER ROLE {user} SET pg_stat_statements.track_utility = off (as a "
                "superuser)",
            )
