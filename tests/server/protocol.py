"""The plan protocol: plan, hazards, apply, look, plan again. Every change of a cluster goes by it.

`World` has the databases of one cluster; a `Layout` is a topology that does not know them yet: its
servers say `dsn: "${core}"`, and each world puts its own databases in. So the same layout can be
applied to a world that has changed several times and to a fresh one, and both must be equal.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import clocks
from parlant_shard.apply import Outcome, apply
from parlant_shard.catalog import Catalog, Table, plain
from parlant_shard.errors import HazardNotAllowed
from parlant_shard.plan import NEEDS_ALLOW, Kind, Plan
from parlant_shard.planner import make_plan, plan_of, read_servers, read_state
from parlant_shard.topology import Topology, load_topology
from servers import Clusters, database_name

Connection = psycopg.Connection[tuple[Any, ...]]
NONE: frozenset[str] = frozenset()
DROPS = frozenset({"drops-object"})
DELETES = frozenset({"deletes-data"})

# The smallest schema with everything that matters: the key, one hop, and two hops by time.
SCHEMA = """
CREATE TABLE account (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  workspace_id text NOT NULL,
  name text
);
CREATE TABLE item (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  account_id uuid NOT NULL REFERENCES account (id) ON DELETE CASCADE,
  note varchar(20),
  size integer DEFAULT 0
);
CREATE INDEX item_note_idx ON item (note);
CREATE TABLE log (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  item_id uuid NOT NULL REFERENCES item (id) ON DELETE CASCADE,
  at timestamptz NOT NULL DEFAULT now(),
  body text
);
CREATE INDEX log_item_idx ON log (item_id, at);
"""
BY_MONTH = {"log": {"partition": {"by": "at", "every": "1 month", "premake": 1}}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A topology file and the DDL files beside it, with `${server}` for connection strings."""

    text: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def servers(self) -> tuple[str, ...]:
        """Return the names whose databases the file asks for."""
        return tuple(dict.fromkeys(re.findall(r"\$\{(\w+)\}", self.text)))


def layout(
    shards: Mapping[str, Any],
    *,
    ddl: str | None = SCHEMA,
    servers: Iterable[str] = (),
    coordinator: str = "core",
    **sections: Any,
) -> Layout:
    """Make a layout. A shard is a list of workspaces (on the coordinator), `(server, list)` or a
    section of the file.

    `ddl` is the schema; None where `schema` is among the other sections of the file.
    """
    placed = {}
    for name, shard in shards.items():
        match shard:
            case dict():
                placed[name] = {"server": coordinator, **shard}
            case (str(server), list(workspaces)):
                placed[name] = {"server": server, "workspaces": workspaces}
            case _:
                placed[name] = {"server": coordinator, "workspaces": list(shard)}
    names = dict.fromkeys([coordinator, *servers, *(s["server"] for s in placed.values())])
    document = {
        "version": 1,
        "name": "layout",
        "servers": {name: {"dsn": f"${{{name}}}"} for name in names},
        "coordinator": coordinator,
        "shards": placed,
        **({"schema": {"files": ["schema.sql"]}} if ddl is not None else {}),
        **sections,
    }
    # JSON is YAML, and needs no thought about quotes.
    return Layout(
        text=json.dumps(document, ensure_ascii=False, indent=1),
        files={"schema.sql": ddl} if ddl is not None else {},
    )


_fresh: dict[tuple[Any, ...], dict[str, Any]] = {}  # what a fresh world of a layout holds


class World:
    """The databases of one cluster of servers, made when a layout first names them."""

    def __init__(self, directory: Path, clusters: Clusters, *, over: int = 1) -> None:
        self.directory, self.clusters, self.over = directory, clusters, over
        # Replication slots are of a whole server: the name tells worlds apart.
        self.name = f"w{secrets.token_hex(4)}"
        self.dsns: dict[str, str] = {}

    # --- talking to it ---------------------------------------------------------------------------

    def dsn(self, server: str) -> str:
        """Return the conninfo of a server's database; the servers are spread over the clusters."""
        if server not in self.dsns:
            cluster = self.clusters.get(len(self.dsns) % self.over)
            self.dsns[server] = cluster.new_database("p")
        return self.dsns[server]

    @contextmanager
    def connect(self, server: str = "core") -> Iterator[Connection]:
        with psycopg.connect(self.dsn(server), autocommit=True) as connection:
            yield connection

    def execute(self, *statements: str, server: str = "core") -> None:
        """Execute statements on a server, each by itself."""
        with self.connect(server) as connection:
            for statement in statements:
                connection.execute(statement)

    def rows(self, query: str, *, server: str = "core") -> list[tuple[Any, ...]]:
        with self.connect(server) as connection:
            return connection.execute(query).fetchall()

    def value(self, query: str, *, server: str = "core") -> Any:
        return self.rows(query, server=server)[0][0]

    # --- the stages ------------------------------------------------------------------------------

    def interrupt_detach(self, table: str, partition: str) -> None:
        """Leave a detach between its two transactions, as a cancel while it waits does."""
        with self.connect() as reader, self.connect() as detaching:
            reader.execute("BEGIN")
            reader.execute(f"SELECT count(*) FROM {table}")
            detaching.execute("SET statement_timeout = '300ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                detaching.execute(f"ALTER TABLE {table} DETACH PARTITION {partition} CONCURRENTLY")

    def load(self, what: Layout | str) -> Topology:
        """Write the files of a layout and read the topology as a user would."""
        what = Layout(text=what) if isinstance(what, str) else what
        environ = {name: self.dsn(name) for name in what.servers}
        for name, content in what.files.items():
            (self.directory / name).write_text(content, encoding="utf-8")
        file = self.directory / f"{self.name}.yaml"
        text = re.sub(r'("?name"?: )"?layout"?', rf"\g<1>{self.name}", what.text, count=1)
        file.write_text(text, encoding="utf-8")
        return load_topology(file, environ=environ)

    def plan(self, what: Layout | str) -> Plan:
        """Plan, and check what holds of every plan."""
        topology = self.load(what)
        plan = make_plan(topology)
        check_plan(plan, secrets=[conninfo_to_dict(d).get("password") for d in self.dsns.values()])
        return plan

    def apply(self, what: Layout | str, *, allow: frozenset[str] = NONE) -> Outcome:
        """Apply without looking at the result."""
        return apply(self.load(what), allow=allow)

    def catalogs(self, what: Layout | str) -> dict[str, Any]:
        """Return what all servers hold, without what differs from world to world."""
        topology = self.load(what)
        live, _ = read_servers(topology)
        return self._normal(live)

    def converge(self, what: Layout | str, *, allow: frozenset[str] = NONE) -> Outcome:
        """Plan, be refused without `allow`, apply, find what was desired, plan nothing more.

        `allow` must name exactly the hazards that need it.
        """
        plan = self.plan(what)
        needed = NEEDS_ALLOW.intersection(plan.hazards)
        assert needed == allow, [(s.title, s.hazards) for s in plan.steps if s.hazards]
        topology = self.load(what)
        if needed:
            with pytest.raises(HazardNotAllowed) as refused:
                apply(topology)
            assert refused.value.code == "PS503"
            assert make_plan(topology).fingerprint == plan.fingerprint
        outcome = apply(topology, allow=allow)
        assert outcome.plan == plan
        self.settled(what)
        return outcome

    def settled(self, what: Layout | str) -> None:
        """Require that the servers hold what is desired, and that there is nothing to plan."""
        state = read_state(self.load(what))
        assert [s.title for s in plan_of(state).steps] == []
        live, desired = self._normal(state.live), self._normal(state.desired.catalogs)
        for server, wanted in desired.items():
            found = differences(live[server], wanted)
            assert not found, "\n".join([f"server {server}: found, wanted", *found])

    def evolve(
        self,
        steps: Sequence[Layout],
        *,
        allow: frozenset[str] = NONE,
        between: Callable[[World], None] = lambda _world: None,
    ) -> Outcome:
        """Apply the layouts in turn, the last by the protocol; it must equal a fresh world.

        `between` runs after the first. `allow` is for the last.
        """
        for number, step in enumerate(steps[:-1]):
            self.apply(step)
            if number == 0:
                between(self)
        outcome = self.converge(steps[-1], allow=allow)
        self.equals_fresh(steps[-1])
        return outcome

    def equals_fresh(self, what: Layout) -> None:
        """Require that the servers equal those of a fresh world of the same layout."""
        # Many tests end where another ended: such a world is made once, and again on another day
        # (partitions follow the clock), and for servers that are spread in another way.
        key = (what.text, *what.files.items(), self.over, *self.dsns, clocks.now().date())
        if key not in _fresh:
            fresh = World(self.directory, self.clusters, over=self.over)
            # A server goes to the same cluster there, whatever the order of its first mention.
            for server in self.dsns:
                fresh.dsn(server)
            fresh.apply(what)
            _fresh[key] = fresh.catalogs(what)
        self._equals(what, _fresh[key])

    def equals(self, fresh: World, what: Layout) -> None:
        """Apply a layout to a fresh world, and require that the servers of both are equal."""
        fresh.apply(what)
        self._equals(what, fresh.catalogs(what))

    def _equals(self, what: Layout, theirs: dict[str, Any]) -> None:
        mine = self.catalogs(what)
        for server, wanted in theirs.items():
            found = differences(mine[server], wanted)
            assert not found, "\n".join([f"server {server}: found, fresh", *found])

    def _normal(self, catalogs: Mapping[str, Catalog]) -> dict[str, Any]:
        text = json.dumps({name: shape(c) for name, c in catalogs.items()}, sort_keys=True)
        for server, dsn in self.dsns.items():
            text = text.replace(database_name(dsn), f"database of {server}")
        normal: dict[str, Any] = json.loads(text.replace(self.name, "name"))
        return normal


def check_plan(plan: Plan, *, secrets: Iterable[str | None] = ()) -> None:
    """Require what holds of every plan: it travels as JSON, and each step says what it does."""
    text = json.dumps(plan.to_json())
    assert Plan.from_json(json.loads(text)) == plan
    for secret in filter(None, secrets):
        assert secret not in text
    assert len({s.id for s in plan.steps}) == len(plan.steps)
    assert [s.phase for s in plan.steps] == sorted(s.phase for s in plan.steps)
    for step in plan.steps:
        assert step.title
        assert step.sql
        assert step.statement_timeout_ms > 0
        assert step.transactional == (step.kind in {Kind.METADATA, Kind.VALIDATE})
        concurrently = any(re.match(r"\w+ (UNIQUE )?INDEX CONCURRENTLY", s) for s in step.sql)
        if concurrently:
            # In a transaction it is refused, and a lock timeout leaves an INVALID index behind.
            assert not step.transactional
            assert step.lock_timeout_ms == 0
            assert len(step.sql) == 1
        if step.transactional:
            assert 0 < step.lock_timeout_ms <= 1_000
        if any("VALIDATE CONSTRAINT" in s for s in step.sql):
            # With NOT VALID in one transaction, the strong lock would last for the whole scan.
            assert len(step.sql) == 1


# --- comparison -----------------------------------------------------------------------------------


def shape(catalog: Catalog) -> dict[str, Any]:
    """Return a catalogue as JSON data in which only what matters can differ.

    Left out are the order of a table's columns, the names of a partition's own indexes and keys,
    and whether a partition's constraint came from its parent.
    """
    found: dict[str, Any] = plain(catalog)
    for name, table in catalog.tables.items():
        found["tables"][name] = _table(table)
    return found


def _table(table: Table) -> dict[str, Any]:
    leaf = table.parent is not None
    data: dict[str, Any] = plain(table)
    for part in ("columns", "keys", "checks", "foreign_keys", "indexes", "triggers", "policies"):
        items = [{k: v for k, v in item.items() if k != "inherited"} for item in data.get(part, ())]
        if leaf and part in {"keys", "indexes"}:
            for item in items:
                del item["name"]
                item.pop("columns", None)
                item.pop("window", None)
            data[part] = sorted(items, key=lambda i: json.dumps(i, sort_keys=True))
        else:
            data[part] = {item.pop("name"): item for item in items}
    if leaf:
        # Row security, policies and triggers of a partition are asked of the parent.
        for part in ("triggers", "policies", "row_security", "force_row_security", "comment"):
            data.pop(part, None)
        for column in data["columns"].values():
            # Identity is the parent's, a comment is not carried down.
            column.pop("identity", None)
            column.pop("comment", None)
        if data.get("replica_identity", "").startswith("i:"):
            data["replica_identity"] = "index"
    for index in data["indexes"].values() if not leaf else data["indexes"]:
        index.pop("window", None)
    return data


def differences(catalog: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Return where two shapes differ, as `path: found, wanted`."""
    registered = catalog.get("managed", {})
    # A reference or host table that was there before us is its owner's business.
    known = {
        key: value
        for key, value in wanted.get("managed", {}).items()
        if key in registered or "shard" in value or value["kind"] == "view"
    }
    wanted = {**wanted, "managed": known}
    return list(_differences("", _common(catalog, wanted), _common(wanted, wanted)))


def _differences(path: str, found: Any, wanted: Any) -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            yield from _differences(f"{path}/{key}", found.get(key), wanted.get(key))
    elif found != wanted:
        yield f"{path}: {found!r}, {wanted!r}"


def _common(catalog: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return a catalogue without what nobody takes away and nobody registered.

    Extensions, functions, enum labels and grants that a schema names no more stay, and so do tables
    that were there before us.
    """
    found = dict(catalog)
    extensions = set(catalog.get("extensions", ())) & set(wanted.get("extensions", ()))
    found["extensions"] = sorted(extensions)
    for kind in ("functions", "enums"):
        known = wanted.get(kind, {})
        found[kind] = {k: v for k, v in catalog.get(kind, {}).items() if k in known}
    found["enums"] = {
        name: [label for label in enum["labels"] if label in wanted["enums"][name]["labels"]]
        for name, enum in found["enums"].items()
    }
    ours = {m["name"] for m in catalog.get("managed", {}).values()}
    found["tables"] = {
        name: {k: v for k, v in table.items() if k != "grants"}
        for name, table in catalog.get("tables", {}).items()
        if name in ours or table.get("parent") in ours
    }
    found["views"] = {n: v for n, v in catalog.get("views", {}).items() if n in ours}
    for kind in (
        "managed",
        "foreign_servers",
        "user_mappings",
        "slots",
        "publications",
        "subscriptions",
    ):
        found[kind] = catalog.get(kind) or {}
    for incidental in ("other_relations", "internal_version"):
        found.pop(incidental, None)
    return found
