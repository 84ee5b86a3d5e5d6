"""`monitor`: the figures per shard and summed over shards, as data, text and metrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from parlant_shard.observe.figures import Observed, ServerFigures, Statement, merged, ratio
from parlant_shard.observe.fold import ShardIndex, ShardTable, all_tables, shard_indexes
from parlant_shard.prometheus import Metric
from parlant_shard.render import size, table

# Characters of a statement that the data and the text show.
_DATA, _LINE = 1_000, 78
LIMIT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitored:
    """The figures of one look. `declared` holds the names of indexes, by logical table."""

    observed: Observed
    declared: dict[str, tuple[str, ...]]

    def indexes(self) -> list[ShardIndex]:
        found = self.observed.servers.values()
        return [i for s in found for i in shard_indexes(s, self.declared)]

    def to_json(self) -> dict[str, Any]:
        """Return JSON-ready data. Times are UTC, sizes bytes, ratios from 0 to 1 or null."""
        observed = self.observed
        tables, indexes = all_tables(observed), self.indexes()
        return {
            "topology": observed.topology.name,
            "servers": [_server(s) for s in observed.servers.values()]
            + [
                {"server": n, "error": e.message, "hint": e.hint}
                for n, e in observed.failed.items()
            ],
            "shards": _shards(observed, tables),
            "tables": [
                {"server": t.server, "shard": t.shard, "table": t.logical, **_table([t])}
                for t in tables
            ],
            "table_totals": [
                {"table": name, **_places(group), **_table(group), "rows": _rows(group)}
                for name, group in _by(tables, lambda t: t.logical)
            ],
            "indexes": [
                {
                    "server": i.server,
                    "shard": i.table.shard,
                    "table": i.table.logical,
                    "index": i.name,
                    **_index([i]),
                }
                for i in indexes
            ],
            "index_totals": [
                {
                    "table": table_,
                    "index": name,
                    **_places([i.table for i in group]),
                    **_index(group),
                }
                for (table_, name), group in _by(indexes, lambda i: (i.table.logical, i.name))
            ],
            "statements": self.statements(),
            "notices": list(observed.notices),
        }

    def statements(self) -> list[dict[str, Any]]:
        """Normalised statements summed over servers, those that took longest first."""
        found: dict[str, tuple[Statement, list[str]]] = {}
        for server in self.observed.servers.values():
            for one in server.statements or ():
                if one.text in found:
                    known, servers = found[one.text]
                    found[one.text] = (merged(known, one), [*servers, server.name])
                else:
                    found[one.text] = (one, [server.name])
        rows = sorted(found.values(), key=lambda f: (-f[0].total_ms, f[0].text))
        return [
            {
                "statement": _cut(s.text, _DATA),
                "servers": servers,
                "calls": s.calls,
                "rows": s.rows,
                "total_ms": round(s.total_ms, 3),
                "mean_ms": round(s.total_ms / s.calls, 3) if s.calls else None,
                "hit_ratio": ratio(s.hit, s.read),
                "blocks_read": s.read,
                "read_ms": round(s.read_ms, 3),
            }
            for s, servers in rows
        ]


def _by(items: Iterable[Any], key: Any) -> list[tuple[Any, list[Any]]]:
    groups: dict[Any, list[Any]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return sorted(groups.items())


def _server(found: ServerFigures) -> dict[str, Any]:
    d = found.database
    observed = found.observed
    return {
        "server": found.name,
        "version": found.version,
        "started_at": _utc(found.started_at),
        "statistics_since": _utc(found.since),
        "observed_seconds": None if observed is None else round(observed.total_seconds()),
        "statements_since": _utc(found.statements_since),
        "replicas": [
            {"replica": r.number, "statistics_since": _utc(r.since), "error": r.error}
            for r in found.replicas
        ],
        "database": {
            "bytes": d.bytes,
            "hit_ratio": ratio(d.hit, d.read),
            "blocks_hit": d.hit,
            "blocks_read": d.read,
            "temp_bytes": d.temp_bytes,
            "deadlocks": d.deadlocks,
            "commits": d.commits,
            "rollbacks": d.rollbacks,
        },
    }


def _shards(observed: Observed, tables: list[ShardTable]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for shard, options in observed.topology.shards.items():
        mine = [t for t in tables if t.shard == shard and t.server == options.server]
        if options.server in observed.failed:
            rows.append({"shard": shard, "server": options.server, "tables": None})
        else:
            rows.append(
                {
                    "shard": shard,
                    "server": options.server,
                    "tables": len(mine),
                    **_table(mine),
                }
            )
    return rows


def _table(group: list[ShardTable]) -> dict[str, Any]:
    def total(*names: str) -> int:
        return sum(t.sum(*names) for t in group)

    rows, dead = total("rows"), total("dead_rows")
    members = [m for t in group for m in t.members]
    return {
        "partitions": sum(t.partitions for t in group),
        "bytes": sum(t.bytes for t in group),
        "heap_bytes": total("heap_bytes"),
        "index_bytes": total("index_bytes"),
        "toast_bytes": total("toast_bytes"),
        "rows": rows,
        "dead_rows": dead,
        "dead_ratio": round(dead / (rows + dead), 4) if rows + dead else None,
        "seq_scans": total("seq_scans"),
        "index_scans": total("idx_scans"),
        "inserted": total("inserted"),
        "updated": total("updated"),
        "deleted": total("deleted"),
        "hit_ratio": ratio(total("heap_hit"), total("heap_read")),
        "index_hit_ratio": ratio(total("index_hit"), total("index_read")),
        # The oldest of all: what was forgotten shows. Null where one was never done.
        "last_vacuum": _oldest([m.last_vacuum for m in members if not m.partitioned]),
        "last_analyze": _oldest([m.last_analyze for m in members]),
    }


def _places(group: list[ShardTable]) -> dict[str, Any]:
    return {
        "shards": sorted({t.shard for t in group if t.shard}),
        "servers": list(dict.fromkeys(t.server for t in group)),
    }


def _rows(group: list[ShardTable]) -> int:
    """Rows over shards. Copies of a reference table hold the same ones: those of the fullest."""
    copies = [t.sum("rows") for t in group if not t.shard]
    return sum(t.sum("rows") for t in group if t.shard) + max(copies, default=0)


def _index(group: list[ShardIndex]) -> dict[str, Any]:
    parts = [p for i in group for p in i.parts]
    scans = [p.last_scan for p in parts if p.last_scan is not None]
    return {
        "bytes": sum(p.bytes for p in parts),
        "scans": sum(p.scans for p in parts),
        "tuples_read": sum(p.tuples_read for p in parts),
        "tuples_fetched": sum(p.tuples_fetched for p in parts),
        "last_scan": _utc(max(scans, default=None)),
        "hit_ratio": ratio(sum(p.hit for p in parts), sum(p.read for p in parts)),
        "unique": group[0].root.unique,
        "constraint": group[0].root.constraint is not None,
        "valid": all(i.root.valid and all(p.valid for p in i.parts) for i in group),
    }


def _oldest(moments: list[datetime | None]) -> str | None:
    known = [m for m in moments if m is not None]
    return _utc(min(known)) if known and len(known) == len(moments) else None


def _utc(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.isoformat(timespec='seconds')}Z"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


# --- text -----------------------------------------------------------------------------------------


def monitor_text(found: dict[str, Any], limit: int = LIMIT) -> str:
    """The data as tables: servers, shards, largest tables and indexes, slowest statements."""
    parts = [f"notice: {n}" for n in found["notices"]]
    servers = [s for s in found["servers"] if "error" not in s]
    parts.append(
        table(
            ["server", "version", "size", "buffer hits", "statistics since"],
            [
                [
                    s["server"],
                    s["version"],
                    size(s["database"]["bytes"]),
                    _percent(s["database"]["hit_ratio"]),
                    s["statistics_since"] or "?",
                ]
                for s in servers
            ],
        )
    )
    head = ["size", "indexes", "rows (est.)", "dead", "seq scans", "index scans", "hits", "ix hits"]
    parts.append(
        table(
            ["shard", "server", *head],
            [
                [s["shard"], s["server"], *(["?"] * 8 if s["tables"] is None else _figures(s))]
                for s in found["shards"]
            ],
        )
    )
    tables = sorted(found["table_totals"], key=lambda t: (-t["bytes"], t["table"]))
    parts.append(
        table(
            ["table", "shards", *head, "last vacuum", "last analyze"],
            [
                [
                    t["table"],
                    len(t["shards"]) or ", ".join(t["servers"]),
                    *_figures(t),
                    (t["last_vacuum"] or "never")[:10],
                    (t["last_analyze"] or "never")[:10],
                ]
                for t in tables[:limit]
            ],
        )
    )
    indexes = sorted(found["index_totals"], key=lambda i: (-i["bytes"], i["table"], i["index"]))
    parts.append(
        table(
            ["index", "table", "size", "scans", "rows read", "hits", "last scan", ""],
            [
                [
                    i["index"],
                    i["table"],
                    size(i["bytes"]),
                    i["scans"],
                    i["tuples_read"],
                    _percent(i["hit_ratio"]),
                    (i["last_scan"] or "")[:10],
                    "" if i["valid"] else "INVALID",
                ]
                for i in indexes[:limit]
            ],
        )
    )
    if found["statements"]:
        parts.append(
            table(
                ["calls", "total ms", "mean ms", "rows", "hits", "statement"],
                [
                    [
                        s["calls"],
                        round(s["total_ms"]),
                        s["mean_ms"],
                        s["rows"],
                        _percent(s["hit_ratio"]),
                        _cut(s["statement"], _LINE),
                    ]
                    for s in found["statements"][:limit]
                ],
            )
        )
    return "\n\n".join(parts)


def _figures(row: dict[str, Any]) -> list[object]:
    return [
        size(row["bytes"]),
        size(row["index_bytes"]),
        row["rows"],
        row["dead_rows"],
        row["seq_scans"],
        row["index_scans"],
        _percent(row["hit_ratio"]),
        _percent(row["index_hit_ratio"]),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share * 100:.1f} %"


# --- metrics --------------------------------------------------------------------------------------


def table_metrics(topology: str, tables: Iterable[ShardTable], command: str) -> list[Metric]:
    """The compact part, which `maintain` writes too: sizes, rows and buffers of every table.

    The label `command` keeps the series of both apart: a collector refuses one that comes twice.
    """
    bytes_ = Metric(name="table_bytes", help="Size of a table with its partitions, by part.")
    rows = Metric(name="table_rows", help="Live rows, estimated by the server.")
    dead = Metric(name="table_dead_rows", help="Rows that VACUUM has yet to remove, estimated.")
    scans = Metric(
        name="table_scans_total", help="Scans of a table, whole or by an index.", type="counter"
    )
    blocks = Metric(
        name="table_blocks_total",
        help="Blocks asked for, by part and by whether they were in shared buffers.",
        type="counter",
    )
    for t in tables:
        labels = {
            "topology": topology,
            "server": t.server,
            "shard": t.shard,
            "table": t.logical,
            "command": command,
        }
        for part in ("heap", "index", "toast"):
            bytes_.put({**labels, "part": part}, t.sum(f"{part}_bytes"))
        rows.put(labels, t.sum("rows"))
        dead.put(labels, t.sum("dead_rows"))
        for kind, name in (("sequential", "seq_scans"), ("index", "idx_scans")):
            scans.put({**labels, "kind": kind}, t.sum(name))
        for part in ("heap", "index"):
            for source in ("hit", "read"):
                blocks.put({**labels, "part": part, "from": source}, t.sum(f"{part}_{source}"))
    return [bytes_, rows, dead, scans, blocks]


def metrics(found: Monitored, wall_clock: float) -> list[Metric]:
    """Everything that `monitor --metrics-file` writes."""
    observed = found.observed
    whole = {"topology": observed.topology.name}
    up = Metric(name="monitor_server_up", help="Whether the figures of a server could be read.")
    moment = Metric(name="monitor_timestamp_seconds", help="When monitor ran.")
    since = Metric(
        name="statistics_observed_seconds", help="Time since a server's counters were reset."
    )
    database = Metric(name="database_bytes", help="Size of the database.")
    blocks = Metric(
        name="database_blocks_total",
        help="Blocks asked for in the database, by whether they were in shared buffers.",
        type="counter",
    )
    for name in observed.topology.servers:
        labels = {**whole, "server": name}
        server = observed.servers.get(name)
        up.put(labels, server is not None)
        if server is None:
            continue
        if server.observed is not None:
            since.put(labels, round(server.observed.total_seconds()))
        database.put(labels, server.database.bytes)
        blocks.put({**labels, "from": "hit"}, server.database.hit)
        blocks.put({**labels, "from": "read"}, server.database.read)
    moment.put(whole, wall_clock)
    return [
        up,
        moment,
        since,
        database,
        blocks,
        *table_metrics(observed.topology.name, all_tables(observed), "monitor"),
        *_index_metrics(found, whole),
    ]


def _index_metrics(found: Monitored, whole: dict[str, str]) -> list[Metric]:
    bytes_ = Metric(name="index_bytes", help="Size of an index, with those of the partitions.")
    scans = Metric(name="index_scans_total", help="Scans of an index.", type="counter")
    invalid = Metric(name="index_invalid", help="Whether an index or a part of it is INVALID.")
    groups = _by(
        found.indexes(), lambda i: (i.server, i.table.shard, i.table.logical, i.name)
    )  # two indexes of one name (by hand, on partitions) are one series
    for (server, shard, table_, name), group in groups:
        labels = {**whole, "server": server, "shard": shard, "table": table_, "index": name}
        row = _index(group)
        bytes_.put(labels, row["bytes"])
        scans.put(labels, row["scans"])
        invalid.put(labels, not row["valid"])
    return [bytes_, scans, invalid]
