"""A sharded cluster and unsharded databases with the same rows, and what a statement does on each.

The oracle of a statement of one workspace is the same statement on an unsharded database that
holds that workspace's rows alone, beside the reference tables.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from protocol import World, layout
from psycopg import sql
from tenants import PLACED, WORKSPACES, Row, owned_rows, reference_rows, rows

import clocks
from parlant_shard.planner import read_state
from parlant_shard.router import rewrite
from parlant_shard.router.route import Kind, Params, Route, RouteTarget
from parlant_shard.shardmap import MapColumn, MapLink, MapShard, MapTable, ShardMap
from pglast_judge import complaints
from router_cases import TABLES
from servers import Clusters

Connection = psycopg.Connection[Any]
NOBODY = "nobody"
HOST_TABLE = "CREATE TABLE billing_plan (id text PRIMARY KEY, name text, workspace_id text)"
"""A table that stays on the coordinator; the preset has none."""
_OURS = re.compile(r"([a-e])\1{7}-00[01][0-9a-f]-4000-8000-0000\d{8}")


class _KeptWorld(World):
    """A world that outlives the test that made it."""

    def dsn(self, server: str) -> str:
        if server not in self.dsns:
            self.dsns[server] = self.clusters.get(0).new_database("sharded", keep=True)
        return self.dsns[server]


class Sharded:
    """The cluster and its oracles; made once per session, every statement is rolled back."""

    def __init__(self, clusters: Clusters, directory: Path, **sections: Any) -> None:
        self.clusters = clusters
        self.world = _KeptWorld(directory, clusters)
        self._connections: dict[str, Connection] = {}
        self._originals: dict[tuple[str, tuple[str, ...], tuple[str, ...]], tuple[int, int]] = {}
        what = layout(PLACED, ddl=None, schema={"preset": "parlant"}, **sections)
        self.world.apply(what)
        self.world.execute(HOST_TABLE)
        self.map = _shard_map(self.world.load(what))
        self._fill()
        self.baseline = {
            table: self._checksums(self._server_of(shard), table)
            for shard in PLACED
            for table in (self.map.physical(t, shard) for t in TABLES.values())
        } | {t: self._checksums(self.map.coordinator, t) for t in owned_rows("ws_a")}

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()

    def _fill(self) -> None:
        with self.world.connect() as connection, connection.transaction():
            for table, found in reference_rows().items():
                _load(connection, table, found)
            for ws in WORKSPACES:
                shard = self.map.place(ws)
                assert shard is not None
                for table, found in rows(ws).items():
                    keyed = [{**row, "workspace_id": ws} for row in found]
                    _load(connection, self.map.physical(table, shard), keyed)
                for table, found in owned_rows(ws).items():
                    _load(connection, table, found)
        self.world.execute("ANALYZE")

    def _server_of(self, shard: str | None) -> str:
        return self.map.shards[shard].server if shard else self.map.coordinator

    def on_shards(self, server: str) -> Connection:
        """The connection to a server of the cluster."""
        return self._connection(server, lambda: self.world.dsn(server))

    def oracle(self, *workspaces: str, owned: Iterable[str] = ()) -> Connection:
        """An unsharded database with the rows of these workspaces; of all where none is named.

        NOBODY has none: the shared rows of the reference tables are all that is there. With `owned`
        reference tables have the rows of those workspaces, beside the shared ones.
        """
        chosen = tuple(sorted(workspaces)) or WORKSPACES
        theirs = tuple(sorted(owned)) or chosen
        name = " ".join(("oracle", *chosen, "with", *theirs))
        return self._connection(name, lambda: self._make_oracle(chosen, theirs))

    def _connection(self, name: str, dsn: Callable[[], str]) -> Connection:
        if name not in self._connections:
            options = "-c statement_timeout=10s -c lock_timeout=5s -c jit=off"
            connection = psycopg.connect(dsn(), options=options)
            connection.prepare_threshold = None
            self._connections[name] = connection
        return self._connections[name]

    def _make_oracle(self, workspaces: Iterable[str], owned: Iterable[str]) -> str:
        dsn = self.clusters.get(0).new_database("oracle", keep=True)
        with psycopg.connect(dsn) as connection:
            preset = files("parlant_shard").joinpath("presets", "parlant.sql")
            connection.execute(preset.read_text(encoding="utf-8"))  # type: ignore[arg-type]
            connection.execute(HOST_TABLE)
            for table, found in reference_rows().items():
                _load(connection, table, found)
            for ws in set(workspaces) - {NOBODY}:
                for table, found in rows(ws).items():
                    _load(connection, table, found)
            for ws in set(owned) - {NOBODY}:
                for table, found in owned_rows(ws).items():
                    _load(connection, table, found)
            connection.execute("ANALYZE")
        return dsn

    def _checksums(self, server: str, table: str) -> dict[str, int]:
        """An order-free checksum per workspace of a shard table."""
        query = sql.SQL(
            "SELECT coalesce(workspace_id, ''), sum(hashtextextended(t::text, 0)) "
            "FROM {} t GROUP BY 1"
        ).format(sql.Identifier("public", table))
        return {ws: int(total) for ws, total in self.on_shards(server).execute(query)}

    # --- routing ---------------------------------------------------------------------------------

    def route(
        self,
        text: str,
        params: Params = None,
        workspace: str | None = None,
        *,
        all_workspaces: bool = False,
    ) -> Route:
        """Route a statement; an id that must be looked up is looked up, as the client does.

        What is accepted has been judged by another parser.
        """
        route = rewrite(
            text,
            shard_map=self.map,
            workspace=workspace,
            params=params,
            all_workspaces=all_workspaces,
        )
        if route.kind is Kind.LOOKUP:
            assert route.lookup is not None
            look = route.lookup
            found = self._look_up(look.table, look.column, look.value) if look.possible else None
            route = rewrite(
                text, shard_map=self.map, workspace=found, params=params, absent=found is None
            )
        wrong = complaints(route, self.map)
        if workspace is not None and set(route.workspaces) - {workspace}:
            wrong.append(f"the caller is {workspace}, the route is of {route.workspaces}")
        assert not wrong, report(text, params, route, *wrong)
        return route

    def _look_up(self, table: str, column: str, value: Any) -> str | None:
        for shard, found in self.map.shards.items():
            query = sql.SQL("SELECT workspace_id FROM {} WHERE {} = %s").format(
                sql.Identifier("public", self.map.physical(table, shard)), sql.Identifier(column)
            )
            row = self.on_shards(found.server).execute(query, [value]).fetchone()
            if row is not None:
                return str(row[0])
        return None

    def named(self, text: str, params: Params) -> set[str]:
        """The workspaces that a statement names: by name, or by the id of a row."""
        said = f"{text} {params}"
        by_id = {f"ws_{m[1]}" for m in _OURS.finditer(said)}
        return by_id | {ws for ws in WORKSPACES if re.search(rf"(?i){ws}", said)}

    def spelled_out(self, target: RouteTarget) -> tuple[str, Params]:
        """What a shard gets, with the application's names: every table stands under its tenant."""
        text = target.sql
        for table in sorted(TABLES.values(), key=len, reverse=True) if target.shard else ():
            text = re.sub(rf"\b{self.map.physical(table, target.shard)}\b", table, text)
        return text, target.params

    # --- comparing -------------------------------------------------------------------------------

    def compare(
        self,
        text: str,
        params: Params = None,
        workspace: str | None = "ws_a",
        *,
        ordered: bool = False,
        rows_differ: bool = False,
        all_workspaces: bool = False,
        hand: str | None = None,
        everybody: bool = False,
    ) -> Comparison:
        """Run a statement on both sides and compare all that it did; roll both back.

        Raises AssertionError where they differ. A refusal is no difference, nor is an error of
        the same SQLSTATE on both sides. `rows_differ` is for what prints physical names (EXPLAIN).
        `hand` is the unsharded side's statement if it needs the router's condition written out.
        With `everybody` the unsharded database has all workspaces' rows: what says itself whose
        rows it means does the same there. So a name that the router takes for the tenant, and
        that restricts something else, shows.
        """
        route = self.route(text, params, workspace, all_workspaces=all_workspaces)
        if route.kind in {Kind.REFUSED, Kind.LOOKUP}:
            return Comparison(route=route)
        seen = route.workspaces
        if route.kind is Kind.ANY or not seen:
            seen = (workspace,) if workspace else route.workspaces
        if not seen and route.kind is not Kind.ALL and all(t.shard is None for t in route.targets):
            seen = (NOBODY,)
        there = WORKSPACES if everybody else tuple(seen)
        owned = tuple(seen) if everybody else ()
        oracle = self.run_unsharded(hand or text, params, there, owned=owned)
        sharded = self.run_sharded(route)
        done = Comparison(route=route, sharded=sharded, oracle=oracle)
        wrong = list(_differences(done, ordered=ordered, rows_differ=rows_differ))
        wrong += self._changes(sharded, oracle, seen, there, owned)
        wrong += self.leaks(route, sharded, text, params)
        assert not wrong, report(text, params, route, *wrong)
        return done

    def unlike(self, route: Route, other: Route) -> list[str]:
        """Say in what two routes of the same workspace's do not do the same."""
        here, there = self.run_sharded(route), self.run_sharded(other)
        done = Comparison(route=route, sharded=here, oracle=there)
        wrong = list(_differences(done, ordered=False, rows_differ=False))
        return wrong + list(self._changes(here, there, other.workspaces, other.workspaces))

    def run_unsharded(
        self, text: str, params: Params, seen: Iterable[str], *, owned: Iterable[str] = ()
    ) -> Effect:
        """Run a statement on the database with the rows of some workspaces."""
        connection = self.oracle(*seen, owned=owned)
        numbered = isinstance(params, list | tuple) and re.search(r"\$\d", text) is not None
        with _rolled_back(connection):
            effect = _execute(connection, text, params, numbered=numbered)
            if effect.sqlstate is None and _may_write(text):
                names = {t: t for t in TABLES.values()} | {t: t for t in reference_rows()}
                self._after(connection, names, seen, effect)
        return effect

    def run_sharded(self, route: Route) -> Effect:
        """Run all targets of a route, one after another, and put their results together."""
        effects = []
        for target in route.targets:
            connection = self.on_shards(target.server)
            names = {t: t for t in reference_rows()}
            for shard in PLACED:
                if self._server_of(shard) == target.server:
                    names |= {self.map.physical(t, shard): t for t in TABLES.values()}
            with _rolled_back(connection):
                effect = _execute(connection, target.sql, target.params, numbered=route.numbered)
                if effect.sqlstate is None and _may_write(target.sql):
                    own = {*reference_rows()}
                    if target.shard is not None and route.workspaces:
                        own |= {self.map.physical(t, target.shard) for t in TABLES.values()}
                    touched = self._after(connection, names, route.workspaces, effect, own)
                    effect.broken = self._broken(target.server, touched, route, own)
            effects.append(effect)
        first = effects[0]
        for more in effects[1:]:
            first.rows += more.rows
            first.rowcount += more.rowcount
            first.sqlstate = first.sqlstate or more.sqlstate
            first.message += more.message
            first.broken += more.broken
        return first

    def _after(
        self,
        connection: Connection,
        names: Mapping[str, str],
        seen: Iterable[str],
        effect: Effect,
        own: Container[str] | None = None,
    ) -> list[str]:
        """Note the digests of the tables that a transaction changed, or perhaps did; name them.

        `own` are the tables where the workspaces' rows belong.
        """
        found = connection.execute(
            "SELECT relname FROM pg_stat_xact_user_tables "
            "WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
        )
        touched = sorted(name for (name,) in found if name in names)
        for physical in touched:
            logical = names[physical]
            if own is not None and physical not in own:
                continue
            digest = self._digest(connection, physical, logical, seen)
            before = effect.state.get(logical, (0, 0))
            effect.state[logical] = (before[0] + digest[0], before[1] + digest[1])
        return touched

    def _digest(
        self, connection: Connection, physical: str, logical: str, seen: Iterable[str]
    ) -> tuple[int, int]:
        """Count and checksum of a table's rows as the application sees them.

        The present and ids that the server drew count as nothing: they differ from run to run.
        """
        parts = []
        for column in self.map.tables[logical].columns:
            part = sql.Identifier(column.name)
            if column.type.startswith("timestamp"):
                parts.append(sql.SQL("nullif({0} > now() - interval '2 days', false)").format(part))
                part = sql.SQL("CASE WHEN {0} <= now() - interval '2 days' THEN {0} END").format(
                    part
                )
            elif column.type == "uuid":
                part = sql.SQL("CASE WHEN {0}::text LIKE '%-4000-8000-0000%' THEN {0} END").format(
                    part
                )
            parts.append(part)
        query = sql.SQL(
            "SELECT count(*), coalesce(sum(hashtextextended(ROW({})::text, 0)), 0) FROM {}"
        ).format(sql.SQL(", ").join(parts), sql.Identifier("public", physical))
        if physical != logical:
            query += sql.SQL(" WHERE workspace_id = ANY ({})").format(sql.Literal(list(seen)))
        elif self.map.tables[logical].keyed is not None:
            query += sql.SQL(" WHERE workspace_id = ANY ({}) OR workspace_id IS NULL").format(
                sql.Literal(list(seen))
            )
        row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def _broken(
        self, server: str, touched: Iterable[str], route: Route, own: Container[str]
    ) -> list[str]:
        """Say which tables have other rows of other workspaces than before."""
        broken = []
        for table in touched:
            before = self.baseline.get(table, {})
            now = self._checksums(server, table) if before else {}
            broken += [
                f"{table}: rows of {ws} changed"
                for ws in sorted(now.keys() | before.keys())
                if now.get(ws) != before.get(ws)
                and (ws not in (route.workspaces or {""}) or table not in own)
            ]
        return broken

    def _changes(
        self,
        sharded: Effect,
        oracle: Effect,
        seen: Iterable[str],
        there: Iterable[str],
        owned: Iterable[str] = (),
    ) -> Iterable[str]:
        """Say which tables changed in another way; `there` are the oracle's workspaces."""
        if sharded.sqlstate or oracle.sqlstate:
            return
        for table in sorted(sharded.state.keys() | oracle.state.keys()):
            mine, other = (
                [n - o for n, o in zip(e.state.get(table, before), before, strict=True)]
                for e, before in (
                    (sharded, self._original(table, seen)),
                    (oracle, self._original(table, there, owned)),
                )
            )
            if mine != other:
                yield f"{table}: {mine[0]:+} rows, unsharded {other[0]:+}, or other values"

    def _original(
        self, table: str, seen: Iterable[str], owned: Iterable[str] = ()
    ) -> tuple[int, int]:
        key = (table, tuple(seen), tuple(owned))
        if key not in self._originals:
            connection = self.oracle(*seen, owned=owned)
            with _rolled_back(connection):
                self._originals[key] = self._digest(connection, table, table, seen)
        return self._originals[key]

    def leaks(self, route: Route, sharded: Effect, text: str, params: Params) -> list[str]:
        """Say what a statement changed or showed of workspaces that are none of its business."""
        wrong = list(sharded.broken)
        if route.kind is Kind.DIRECT and route.workspaces:
            said = f"{text} {params}"
            found = marks(f"{sharded.rows} {sharded.message}", but=route.workspaces)
            wrong += [f"shows {m}" for m in found if m not in said]
        return wrong


@contextmanager
def _rolled_back(connection: Connection) -> Iterator[None]:
    try:
        yield
    finally:
        connection.rollback()


def _may_write(text: str) -> bool:
    """Say whether a text could change rows; what cannot needs no look at the tables."""
    return re.search(r"(?i)\b(insert|update|delete|merge)\b", text) is not None


def marks(text: str, *, but: Iterable[str]) -> list[str]:
    """Return the secrets and ids in a text that belong to other workspaces than these."""
    found = []
    for ws in sorted(set(WORKSPACES) - set(but)):
        found += re.findall(rf"(?i)secret-{ws}[^'\"]*", text)
        found += [m.group() for m in _OURS.finditer(text) if m.group(1) == ws[-1]]
        found += re.findall(rf"(?:kb|wf|key)_{ws}_\d", text)
    return found


# Two databases are filled one after the other, and a statement may turn a time into a text: what
# defaults to the present is one moment in both.
_FILLED = clocks.now()


def _load(connection: Connection, table: str, found: list[Row]) -> None:
    present = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
        "AND table_name = %s AND column_default = 'now()'",
        [table],
    )
    moments = {name: _FILLED for (name,) in present}
    found = [{**moments, **row} for row in found]
    columns = list(found[0])
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    with connection.cursor().copy(statement) as copy:
        for row in found:
            copy.write_row([row[c] for c in columns])


def _shard_map(topology: Any) -> ShardMap:
    """Make the map from the schema's catalogue and the topology, and one host table."""
    state = read_state(topology)
    base = next(iter(state.base.values()))
    sharded = set(state.tenancy.sharded)
    tables = {
        name: MapTable(
            kind=state.tenancy.kinds[name],
            columns=tuple(MapColumn(name=c.name, type=c.type) for c in table.columns),
            key_added=name in sharded and table.column(topology.key) is None,
            primary_key=table.primary_key.columns if table.primary_key else (),
            constraints=tuple(k.name for k in table.keys),
            links=tuple(
                MapLink(column=f.columns[0], table=f.ref_table, ref_column=f.ref_columns[0])
                for f in table.foreign_keys
                if name in sharded and f.ref_table in sharded and len(f.columns) == 1
            ),
            keyed="nullable"
            if name not in sharded and table.column(topology.key) is not None
            else None,
        )
        for name, table in base.tables.items()
    }
    tables["billing_plan"] = MapTable(
        kind="host",
        columns=tuple(MapColumn(name=c, type="text") for c in ("id", "name", "workspace_id")),
        primary_key=("id",),
    )
    return ShardMap(
        topology="sharded",
        namespace=topology.namespace,
        key=topology.key,
        key_type=state.tenancy.key_type,
        coordinator=topology.coordinator,
        shards={
            name: MapShard(server=s.server, workspaces=tuple(s.workspaces))
            for name, s in topology.shards.items()
        },
        tables=tables,
        types=tuple(sorted(base.enums)),
        functions=tuple(sorted(re.sub(r"\(.*", "", f) for f in base.functions)),
    )


# --- what a statement did -------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Effect:
    """What a statement returned and changed on one side."""

    columns: list[str] | None = None
    rows: list[Any] = field(default_factory=list)
    rowcount: int = -1
    status: str | None = None
    sqlstate: str | None = None
    message: str = ""
    state: dict[str, tuple[int, int]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both sides of a statement; no sides where it was refused."""

    route: Route
    sharded: Effect | None = None
    oracle: Effect | None = None

    @property
    def accepted(self) -> bool:
        return self.sharded is not None

    @property
    def refusal(self) -> str:
        return f"refused: {self.route.code} {self.route.reason} ({self.route.hint})"


def _execute(connection: Connection, text: str, params: Params, *, numbered: bool) -> Effect:
    cursor = (psycopg.RawCursor if numbered else psycopg.Cursor)(connection)
    try:
        cursor.execute(text, params)  # type: ignore[arg-type]
        effect = Effect(rowcount=cursor.rowcount, status=cursor.statusmessage)
        if cursor.description is not None:
            effect.columns = [c.name for c in cursor.description]
            effect.rows = cursor.fetchall()
        return effect
    except psycopg.Error as error:
        more = [error.diag.message_detail, error.diag.message_hint, error.diag.context]
        message = " ".join(filter(None, [str(error), *more]))
        return Effect(sqlstate=error.sqlstate or type(error).__name__, message=message)


def normal(value: Any) -> Any:
    """Replace what differs from run to run: the present, and ids that the server drew."""
    match value:
        case datetime():
            now = clocks.now()
            near = abs(value.replace(tzinfo=None) - now) < timedelta(days=2)
            return "now" if near else value
        case date():
            return "today" if abs((value - clocks.now().date()).days) <= 1 else value
        case uuid.UUID():
            return value if _OURS.fullmatch(str(value)) else "new id"
        case tuple() | list():
            return tuple(normal(v) for v in value)
        case dict():
            return json.dumps(value, sort_keys=True, default=str)
        case float():
            return round(value, 9)
    return value


def _differences(done: Comparison, *, ordered: bool, rows_differ: bool) -> Iterable[str]:
    sharded, oracle = done.sharded, done.oracle
    assert sharded is not None
    assert oracle is not None
    if _names_added_key(oracle) and sharded.sqlstate is None:
        return
    if sharded.sqlstate != oracle.sqlstate:
        yield f"error {sharded.sqlstate} {sharded.message}"
        yield f"unsharded {oracle.sqlstate} {oracle.message}"
        return
    if sharded.sqlstate is not None:
        return
    if sharded.columns != oracle.columns:
        yield f"columns {sharded.columns}; unsharded {oracle.columns}"
    if rows_differ:
        return
    mine, theirs = ([repr(normal(r)) for r in e.rows] for e in (sharded, oracle))
    if not ordered:
        mine, theirs = sorted(mine), sorted(theirs)
    if mine != theirs:
        yield f"{len(mine)} rows, unsharded {len(theirs)}"
        both = Counter(mine) & Counter(theirs)
        yield f"only sharded: {list((Counter(mine) - both).elements())[:3]}"
        yield f"only unsharded: {list((Counter(theirs) - both).elements())[:3]}"
    if sharded.rowcount != oracle.rowcount:
        yield f"rowcount {sharded.rowcount}; unsharded {oracle.rowcount}"
    if len(done.route.targets) == 1 and sharded.status != oracle.status:
        yield f"status {sharded.status}; unsharded {oracle.status}"


def _names_added_key(oracle: Effect) -> bool:
    """Say whether a statement fails because it names a key that tables have on the shards only.

    There it may: that is how an application begins to use the key.
    """
    return oracle.sqlstate == "42703" and "workspace_id" in oracle.message.split("LINE")[0]


def report(text: str, params: Params, route: Route, *wrong: str) -> str:
    """What to read when a test fails."""
    sent = [f"  {t.server}/{t.shard}: {t.sql}\n    {t.params!r}" for t in route.targets]
    return "\n".join([f"{text}\n  {params!r}", f"{route.kind}", *sent, *map(str, wrong)])
