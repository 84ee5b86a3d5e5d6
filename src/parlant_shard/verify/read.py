"""Everything that the checks know: the servers that answered, what they hold and what they should.

Unlike a plan, an audit goes on where a server does not answer. What the catalogue of the others
should be is computed all the same, with stand-ins for what the missing server would have said.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import psycopg
from psycopg.conninfo import conninfo_to_dict

from parlant_shard import db, planner
from parlant_shard.catalog import Catalog, Facts, Table
from parlant_shard.desired import (
    INTERNAL_VERSION,
    Desired,
    Peer,
    desired,
    publication_name,
    shard_map,
)
from parlant_shard.errors import CannotConnect, SchemaError, ShardError, TopologyError
from parlant_shard.shardmap import ShardMap
from parlant_shard.tenancy import Tenancy, tenancy
from parlant_shard.topology import Topology
from parlant_shard.verify.rows import Place, places
from parlant_shard.verify.site import Site


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was read. `blind` names servers whose rows our role does not all see, with the error."""

    topology: Topology
    workspace: str | None
    sites: Mapping[str, Site]
    unreachable: Mapping[str, ShardError]
    blind: Mapping[str, ShardError]
    facts: Mapping[str, Facts]
    live: Mapping[str, Catalog]
    base: Mapping[int, Catalog]
    tenancy: Tenancy
    desired: Desired
    peers: Mapping[str, Peer]

    def wanted(self, server: str) -> Catalog:
        return self.desired.catalogs[server]

    def base_of(self, server: str) -> Catalog:
        return self.base[self.facts[server].major]

    def base_table(self, logical: str) -> Table:
        return next(iter(self.base.values())).tables[logical]

    def table(self, place: Place) -> Table:
        return self.live[place.server].tables[place.table]

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every table that holds rows of a shard, on the servers whose rows can be read."""
        return tuple(
            place
            for server in self.readable
            for place in places(
                self.topology, self.tenancy, server, self.live[server], self.base_of(server)
            )
        )

    def purged(self, server: str) -> frozenset[str]:
        """Workspaces whose rows should be gone, by the directory and the server's placement rows.

        Both are asked where both are there: snapshots of two servers are never of one moment.
        """
        here = {p.workspace: p.state for p in self.live[server].placements}
        if self.topology.coordinator in self.sites:
            rows = self.live[self.topology.coordinator].directory
            states = {p.workspace: p.state for p in rows}
        else:
            states = here
        return frozenset(
            w for w, state in states.items() if state == here.get(w, state) == "purged"
        )

    @property
    def readable(self) -> tuple[str, ...]:
        """The servers whose rows can be read."""
        return tuple(n for n in sorted(self.sites) if n not in self.blind)

    @property
    def coordinator(self) -> Site | None:
        return self.sites.get(self.topology.coordinator)

    def give_up(self) -> None:
        """Begin no statement any more, and cancel those that run."""
        for site in self.sites.values():
            site.give_up()

    def map(self) -> ShardMap:
        """The shard map that the topology asks for."""
        base = self.base_of(self.topology.coordinator)
        return shard_map(self.topology, self.tenancy, base, self.desired.catalogs)


def read(topology: Topology, workspace: str | None, stop: threading.Event) -> Seen:
    """Open a snapshot on every server and read the catalogues. The caller closes `sites`.

    Raises CannotConnect when no server can be reached, TopologyError and SchemaError for what a
    plan would refuse too.
    """
    names = list(topology.servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        opened = dict(zip(names, pool.map(lambda n: _open(topology, n, stop), names), strict=True))
    sites = {n: s for n, s in opened.items() if isinstance(s, Site)}
    errors = {n: e for n, e in opened.items() if isinstance(e, ShardError)}
    try:
        refused = next((e for e in errors.values() if isinstance(e, TopologyError)), None)
        if refused is not None:
            raise refused
        if not sites:
            raise next(
                (e for e in errors.values() if isinstance(e, CannotConnect)), errors[names[0]]
            )
        return _seen(topology, workspace, sites, errors)
    except BaseException:
        for site in sites.values():
            site.close()
        raise


def _open(topology: Topology, server: str, stop: threading.Event) -> Site | ShardError:
    try:
        return Site(topology, server, stop)
    except ShardError as error:
        return error


def _seen(
    topology: Topology,
    workspace: str | None,
    sites: Mapping[str, Site],
    errors: Mapping[str, ShardError],
) -> Seen:
    there = {n: s.facts for n, s in sites.items()}
    catalogs = {n: s.catalog for n, s in sites.items()}
    _require_applied(topology, catalogs)
    origin = topology.schema_source.from_
    if origin is not None and origin in errors:
        raise errors[origin]
    found = {n: there.get(n) or _stand_in(topology, n, there) for n in topology.servers}
    live = {n: catalogs.get(n, Catalog()) for n in topology.servers}
    found = _as_applied(topology, found, live)
    named = {topology.isolation.role, topology.isolation.analytics}
    live = {n: replace(c, roles=found[n].roles & named) for n, c in live.items()}
    majors = sorted({f.major for f in found.values()})
    base = {major: planner.base_catalog(topology, live, found, major) for major in majors}
    kinds = tenancy(base[majors[0]], topology)
    peers = {n: planner.peer(topology, n, found[n]) for n in topology.servers}
    seen = Seen(
        topology=topology,
        workspace=workspace,
        sites=sites,
        unreachable=errors,
        blind={},
        facts=found,
        live=live,
        base=base,
        tenancy=kinds,
        desired=desired(base, topology, kinds, found, live, peers),
        peers=peers,
    )
    blind = {}
    for server, site in sites.items():
        tables = {t for p in seen.places if p.server == server for t in (p.table, p.root)}
        tables |= {t for t in kinds.of_kind("reference") if t in live[server].tables}
        try:
            site.require_all_rows(sorted(tables))
        except ShardError as error:
            blind[server] = error
        except psycopg.Error as error:
            blind[server] = db.wrap(error, server=server, doing="reading its catalogue")
    return replace(seen, blind=blind)


def _require_applied(topology: Topology, catalogs: Mapping[str, Catalog]) -> None:
    coordinator = catalogs.get(topology.coordinator)
    if coordinator is None:
        return
    if not coordinator.internal_version:
        raise ShardError(
            f'topology "{topology.name}" has not been applied yet',
            code="PS520",
            hint=f"run `parlant-shard apply {topology.file}` first",
        )
    if coordinator.internal_version > INTERNAL_VERSION:
        raise SchemaError(
            f'server "{topology.coordinator}" has version {coordinator.internal_version} of the '
            f"schema parlant_shard; this release knows version {INTERNAL_VERSION}",
            code="PS220",
            hint="upgrade parlant-shard on this machine",
        )


def _as_applied(
    topology: Topology, found: Mapping[str, Facts], live: Mapping[str, Catalog]
) -> dict[str, Facts]:
    """Facts in which a right that was used is there: our role may be another than `apply` had."""
    name = publication_name(topology)
    subscribed = {
        n for n, c in live.items() if any(s.publication == name for s in c.subscriptions.values())
    }
    used = {n: {"subscribe"} for n in subscribed}
    if subscribed:
        used.setdefault(topology.coordinator, set()).add("replication")
    return {n: replace(f, can=f.can | used.get(n, set())) for n, f in found.items()}


def _stand_in(topology: Topology, server: str, there: Mapping[str, Facts]) -> Facts:
    """What a server that does not answer would probably say of itself: as another one does."""
    other = there.get(topology.coordinator) or next(iter(there.values()))
    given = {k: str(v) for k, v in conninfo_to_dict(db.conninfo(topology, server)).items()}
    return replace(
        other,
        server=server,
        host=given.get("host", other.host),
        port=given.get("port", "5432"),
        database=given.get("dbname", other.database),
        user=given.get("user", other.user),
        password=given.get("password"),
        settings={**other.settings, "wal_level": "logical"},
        # No scratch database is to be made there.
        can=other.can - {"create-database"} | {"replication", "subscribe"},
        identity="",
    )
