"""What is there: shards with their sizes and workspaces, partitions, replication, the last run.

Copies of reference tables are compared with the coordinator, by position and by rows.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from parlant_shard import copies, db, journal, trail
from parlant_shard.apply import lock_is_free
from parlant_shard.catalog import Retired, Subscription
from parlant_shard.db import Connection
from parlant_shard.desired import publication_name, subscription_name
from parlant_shard.errors import CannotConnect, ShardError
from parlant_shard.horizon import cuts, gone, horizon_json, missing
from parlant_shard.introspect import bound, publications, slot_states, subscriptions, wal_end
from parlant_shard.plan import BrokenCopy
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Topology


def status(topology: Topology) -> dict[str, Any]:
    """Return `{servers, shards, tables, partitions, replication, run}` as JSON-ready data.

    A server that cannot be reached, or that refuses, has a `code`, an `error` and a `hint`, and its
    shards have no figures; the rest is reported all the same. Row counts are the server's
    estimates; sizes are bytes. Raises where every server refuses.
    """
    names = list(topology.servers)
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(names)))) as pool:
        looked = list(pool.map(lambda n: _server(topology, n), names))
    errors = [s for s in looked if isinstance(s, ShardError)]
    if len(errors) == len(names) and not any(isinstance(e, CannotConnect) for e in errors):
        raise errors[0]
    found = {
        n: {**_EMPTY, "code": s.code, "error": s.message, "hint": s.hint}
        if isinstance(s, ShardError)
        else s
        for n, s in zip(names, looked, strict=True)
    }
    shards = []
    for shard, options in topology.shards.items():
        server = found[options.server]
        mine = [t for t in server["tables"] if t["shard"] == shard]
        shards.append(
            {
                "shard": shard,
                "server": options.server,
                "workspaces": list(options.workspaces),
                "buckets": [list(b) for b in options.buckets],
                "tables": len(mine),
                "rows": sum(t["rows"] for t in mine) if "error" not in server else None,
                "bytes": sum(t["bytes"] for t in mine) if "error" not in server else None,
                "partitions": sum(t["partitions"] for t in mine),
                "placed": sum(p["shard"] == shard for p in server["placements"]),
            }
        )
    return {
        "topology": topology.name,
        "coordinator": topology.coordinator,
        "servers": [
            {"server": n, **{k: s[k] for k in ("version", "code", "error", "hint") if k in s}}
            for n, s in found.items()
        ],
        "shards": shards,
        "tables": [{"server": n, **t} for n, s in found.items() for t in s["tables"]],
        "partitions": [{"server": n, **p} for n, s in found.items() for p in s["partitions"]],
        "horizons": [h for s in found.values() for h in s["horizons"]],
        "replication": _replication(topology, found),
        "run": found[topology.coordinator].get("run"),
    }


_EMPTY: dict[str, Any] = {
    "tables": [],
    "partitions": [],
    "horizons": [],
    "placements": [],
    "replication": [],
    "subscription": None,
}


def _server(topology: Topology, name: str) -> dict[str, Any] | ShardError:
    try:
        with db.session(topology, name) as connection:
            version = connection.info.parameter_status("server_version")
            if not journal.exists(connection, name):
                return {**_EMPTY, "version": version}
            params = {"topology": topology.name, "namespace": topology.namespace}
            found: dict[str, Any] = {
                "tables": _rows(connection, "tables", params),
                "partitions": _rows(connection, "partitions", params),
                "placements": connection.execute(
                    "SELECT workspace_id AS workspace, shard, state FROM parlant_shard.placement "
                    "WHERE topology = %s",
                    [topology.name],
                ).fetchall(),
                "replication": [],
                "subscription": subscriptions(connection).get(subscription_name(topology, name)),
                "version": version,
            }
            found["horizons"] = _horizons(topology, name, connection, found["partitions"])
            if name == topology.coordinator:
                found["replication"] = _rows(connection, "replication", params)
                found["slots"] = slot_states(connection)
                found["wal_end"] = wal_end(connection)
                found["publications"] = publications(connection, topology.namespace)
                found["run"] = _last_run(connection, topology.name)
            return found
    except ShardError as error:
        return error


def _replication(topology: Topology, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One entry for each slot of ours, and for each copy whose slot is gone.

    `state` is ok, missing, lost, foreign, ahead, differs, copying, or unknown where a server did
    not say; `problem` is the error that belongs to it. `tables` has what the comparison found.
    """
    home = found[topology.coordinator]
    entries = {r["slot"]: {**_NO_COPY, **r} for r in home["replication"]}
    there = {
        server: s["subscription"] for server, s in found.items() if s["subscription"] is not None
    }
    for server in topology.servers:
        name = subscription_name(topology, server)
        if name in entries or server in there:
            gone = {"slot": name, "active": False, "behind": None, "wal_status": None}
            entry = entries.setdefault(name, {**_NO_COPY, **gone})
            entry |= {"server": server, "subscription": name if server in there else None}
    if "slots" not in home:
        return [entries[name] for name in sorted(entries)]
    with ThreadPoolExecutor(max_workers=max(1, min(8, len(there)))) as pool:
        looked = pool.map(lambda server: _copy(topology, server, there[server], home), there)
        for server, copy in zip(there, looked, strict=True):
            entries[there[server].name] |= copy
    return [entries[name] for name in sorted(entries)]


_NO_COPY: dict[str, Any] = {
    "server": None,
    "subscription": None,
    "confirmed": None,
    "current": None,
    "state": "unknown",
    "problem": None,
    "tables": [],
}


def _copy(
    topology: Topology, server: str, subscription: Subscription, home: dict[str, Any]
) -> dict[str, Any]:
    """Judge one copy: by the signs, and by its rows."""
    try:
        signs = copies.broken(topology, home["slots"], home["wal_end"], {server: subscription})
        problem = signs.get(server)
        publication = home["publications"].get(publication_name(topology))
        compared: tuple[copies.Compared, ...] = ()
        # Without a slot nothing would confirm the position at which rows are compared.
        if problem is None and publication is not None and subscription.synced:
            compared = copies.compare(topology, server, subscription, publication)
            problem = copies.differing(topology, server, subscription, compared)
    except ShardError as error:
        return {"state": "unknown", "problem": _problem(error)}
    without = {"behind": None} if problem is not None and problem.state != "differs" else {}
    return {
        "state": problem.state if problem else "ok" if subscription.synced else "copying",
        "problem": None if problem is None else _problem(problem),
        "tables": [
            {
                "table": c.table,
                "rows": c.rows,
                "copy_rows": c.copy_rows,
                "equal": c.equal,
                "why": c.why,
            }
            for c in compared
        ],
        **without,
    }


def _problem(error: ShardError | BrokenCopy) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}


def _horizons(
    topology: Topology, server: str, connection: Connection, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The days until inserts find no partition, by the database's clock."""
    row = connection.execute(
        "SELECT pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()) AS now"
    ).fetchone()
    assert row is not None
    epochs = topology.epochs
    attached = [
        {**r, "bound": bound(r["bound"], epochs.get(r["parent"]))}
        for r in rows
        if r["bound"] is not None and not r["detach_pending"]
    ]
    ends = list(cuts(topology, server, attached, row["now"], {}))
    retired: list[Retired] = []
    if any(cut.horizon.low for cut in ends):
        query = queries("introspect")["retired"]
        retired = [
            Retired(**r) for r in connection.execute(query, {"topology": topology.name}).fetchall()
        ]
    absent = {cut.table: missing(cut, retired) for cut in ends}
    reasons = {table: None if r is None else gone(r) for table, r in absent.items()}
    return [
        {
            "server": server,
            "shard": cut.shard,
            "table": cut.logical,
            "partitions": cut.partitions,
            **horizon_json(cut.horizon),
            "reason": reasons[cut.table],
        }
        for cut in ends
    ]


def _rows(connection: Connection, name: str, params: dict[str, str]) -> list[dict[str, Any]]:
    return [dict(r) for r in connection.execute(queries("status")[name], params).fetchall()]


def _last_run(connection: Connection, topology: str) -> dict[str, Any] | None:
    run = journal.last(connection, topology)
    if run is None:
        return None
    found = run_json(run)
    if run.state == "running" and lock_is_free(connection, topology):
        found["state"] = "interrupted"  # its process is gone; the next run says so in the journal
    return found


def run_json(run: journal.Run) -> dict[str, Any]:
    def moment(value: datetime | None) -> str | None:
        return None if value is None else value.isoformat()

    return {
        "run_id": str(run.run_id),
        "command": run.command,
        "state": run.state,
        "steps": run.steps,
        "started_at": moment(run.started_at),
        "finished_at": moment(run.finished_at),
        "actor": run.actor,
        "detail": run.detail,
    }


def history(topology: Topology) -> dict[str, Any]:
    """Return `{runs, audit, trail}`: runs and audit rows, newest first, and the chain's state."""
    with db.session(topology, topology.coordinator) as connection:
        if not journal.exists(connection, topology.coordinator):
            return {"runs": [], "audit": [], "trail": trail_json(trail.Chain())}
        return {
            "runs": [run_json(r) for r in journal.history(connection, topology.name)],
            "audit": [trail.row_json(r) for r in trail.history(connection, topology.name)],
            "trail": trail_json(trail.check(connection)),
        }


def trail_json(chain: trail.Chain) -> dict[str, Any]:
    return {
        "ok": chain.ok,
        "rows": chain.rows,
        "head": chain.head,
        "broken_at": chain.broken_at,
    }


def workspaces(topology: Topology) -> list[dict[str, Any]]:
    """The directory: every workspace with its shard, server and state."""
    with db.session(topology, topology.coordinator) as connection:
        if not journal.exists(connection, topology.coordinator):
            raise ShardError(
                f'topology "{topology.name}" has not been applied yet',
                code="PS520",
                hint=f"run `parlant-shard apply {topology.file}` first",
            )
        rows = connection.execute(
            "SELECT d.workspace_id AS workspace, d.shard, s.server, d.state, d.epoch "
            "FROM parlant_shard.directory d "
            "LEFT JOIN parlant_shard.shard s USING (topology, shard) "
            "WHERE d.topology = %s ORDER BY 1",
            [topology.name],
        ).fetchall()
    return [dict(r) for r in rows]
