"""What a catalogue comparison does not see: switched off, replaced within, or beside the tables.

Foreign keys whose triggers are disabled look like all others; rules and heirs of a table change
what statements on it do; the functions and triggers of our own schema are in no plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from parlant_shard import trail
from parlant_shard.diff import OUR_POLICIES
from parlant_shard.sqlfiles import queries
from parlant_shard.verify.read import Seen
from parlant_shard.verify.report import Finding
from parlant_shard.verify.structure import finder_of

_FUNCTION = re.compile(
    r"CREATE FUNCTION parlant_shard\.(?P<name>\w+)\((?P<head>.*?)AS \$\$(?P<body>.*?)\$\$", re.S
)
_GUARDS = ("audit_append", "audit_refuse")
_CHECKS = {**dict.fromkeys(_GUARDS, "audit-trail"), "bucket": "shard-check"}


def hidden(seen: Seen, server: str) -> Iterator[Finding]:
    """Everything of a server that only its catalogue's details tell."""
    yield from _constraints(seen, server)
    yield from _beside(seen, server)
    yield from _detached(seen, server)
    yield from _functions(seen, server)
    yield from _slots(seen, server)


def _ours(seen: Seen, server: str, table: str) -> tuple[str, str | None] | None:
    """The root and shard of a table that is in the topology or made for it; None for others."""
    live, wanted = seen.live[server], seen.wanted(server)
    found = live.tables.get(table)
    root = (found.parent if found else None) or table
    managed = wanted.managed.get(("table", root)) or live.managed.get(("table", root))
    return None if managed is None else (root, managed.shard or None)


def _constraints(seen: Seen, server: str) -> Iterator[Finding]:
    site = seen.sites[server]
    for row in site.named("switched_off"):
        place = _ours(seen, server, row["table"])
        if place is None:
            continue
        # Of a key of a partitioned table every partition has one, and the parent's says it.
        check = "keys" if place[0] == row["table"] else "partitions"
        where = "" if row["on"] == row["table"] else f' on "{row["on"]}"'
        yield finder_of(seen, server, place[1], row["table"])(
            check,
            f'the foreign key "{row["name"]}" is switched off: its triggers{where} are disabled',
            "all triggers",
        )
    for row in site.named("leaf_triggers"):
        place = _ours(seen, server, row["table"])
        if place is not None:
            yield finder_of(seen, server, place[1], row["table"])(
                "partitions",
                f'the trigger "{row["name"]}" is not enabled as the parent\'s is',
                "triggers",
            )
    for row in site.named("unproved_not_nulls"):
        place = _ours(seen, server, row["table"])
        if place is not None:
            yield finder_of(seen, server, place[1], row["table"])(
                "not-valid",
                f'the constraint "{row["name"]}" is NOT VALID: older rows may violate it',
                "constraints",
                "warning",
            )


def _beside(seen: Seen, server: str) -> Iterator[Finding]:
    site = seen.sites[server]
    for name, shows, words in (
        ("rules", "rules", 'the rule "{}" changes what statements on it do'),
        ("heirs", "heirs", 'the table "{}" inherits from it: its rows appear here, unguarded'),
    ):
        for row in site.named(name):
            place = _ours(seen, server, row["table"])
            if place is not None:
                yield finder_of(seen, server, place[1], row["table"])(
                    "schema", words.format(row["name"]), shows, "warning"
                )


def _detached(seen: Seen, server: str) -> Iterator[Finding]:
    """Partitions that wait to be archived and dropped keep what guarded their rows."""
    live, wanted = seen.live[server], seen.wanted(server)
    for retired in live.retired:
        table, parent = live.tables.get(retired.name), wanted.tables.get(retired.parent)
        if not retired.present or table is None or parent is None or not parent.row_security:
            continue
        find = finder_of(seen, server, retired.shard, retired.name)
        if not table.row_security:
            detail = "row-level security of the detached partition is disabled"
            yield find("policies", detail, "policies")
        for policy in table.policies:
            if policy.permissive and policy.name not in OUR_POLICIES:
                detail = f'the policy "{policy.name}" of the detached partition is in no topology'
                yield find("policies", detail, "policies")


def _functions(seen: Seen, server: str) -> Iterator[Finding]:
    """What our schema brought with it, against the text that it was made of."""
    live = seen.live[server]
    if live.internal_version < seen.wanted(server).internal_version:
        return  # said among the differences: `apply` brings it
    made = {m["name"]: m for part in queries("internal").values() for m in _FUNCTION.finditer(part)}
    rows = seen.sites[server].named("own_functions", names=[*made])
    for name, wanted in sorted(made.items()):
        found, head = [r for r in rows if r["name"] == name], wanted["head"]
        # One beside it with other arguments may be the one that is called.
        if len(found) == 1 and (
            found[0]["body"].strip() == wanted["body"].strip()
            and found[0]["definer"] == ("SECURITY DEFINER" in head)
            and (found[0]["pinned"] or "search_path" not in head)
        ):
            continue
        what = "another" if found else "missing"
        yield finder_of(seen, server, None, None)(
            _CHECKS.get(name, "keys"), f"the function parlant_shard.{name} is {what}", "functions"
        )


def _slots(seen: Seen, server: str) -> Iterator[Finding]:
    for row in seen.sites[server].named("lost_slots"):
        yield finder_of(seen, server, None, None)(
            "replication",
            f'the replication slot "{row["name"]}" is lost: a copy gets no more changes',
            "slots",
        )


def audit_trail(seen: Seen) -> Iterator[Finding]:
    """The trail's guards, and its chain of hashes."""
    site = seen.coordinator
    if site is None or seen.live[site.server].internal_version < 3:
        return
    find = finder_of(seen, site.server, None, None)
    there = {r["name"] for r in site.named("own_triggers")}
    for name in _GUARDS:
        if name not in there:
            yield find(
                "audit-trail",
                f'the trigger "{name}" of the audit trail is missing, another, or not enabled '
                "always: its rows can be changed",
                "trail triggers",
            )
    for row in site.named("trail_meddlers"):
        yield find(
            "audit-trail",
            f'the {row["kind"]} "{row["name"]}" of the audit trail is not ours: it can keep rows '
            "out",
            f"trail {row['kind']}s",
        )
    with site.connection.transaction(force_rollback=True):
        chain = trail.check(site.connection)
    if not chain.ok:
        yield find(
            "audit-trail",
            f"the chain of the audit trail is broken at row {chain.broken_at}: rows were changed, "
            "inserted or taken out",
            "trail",
        )
