"""The steps of a purge. Pure.

1. The directory, the map and the placement say `purging`: routers refuse the workspace.
2. Rows go from every shard, in batches: those that refer before those that are referred to.
3. So do its rows of reference and host tables on the coordinator; the workspace itself is the last.
4. Copies of reference tables follow by replication: waited for.
5. What was recorded of its rows goes last: the deletes before it were recorded too.
6. When nothing is found any more, all of them say `purged`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from parlant_shard.catalog import REFUSED, Catalog, ForeignKey, Table
from parlant_shard.ddl import names, render
from parlant_shard.plan import TIMEOUTS, Hazard, Kind, Lock, Step
from parlant_shard.privacy.holdings import Holding, Where
from parlant_shard.privacy.home import Home
from parlant_shard.privacy.order import blocking, children_first, groups
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import AUDIT_TABLE

# Settings of a batch's transaction, which its statement reads: how many rows, and which blocks.
BATCH, LOW, HIGH = "parlant_shard.batch", "parlant_shard.low", "parlant_shard.high"


NOTHING = SQL("")


class Stage(IntEnum):
    """The order of a purge."""

    CLOSE_MAP = 1
    CLOSE = 2
    ROWS = 3
    REFERENCE = 4
    COPIES = 5
    RECORDED = 6
    SETTLE = 7
    SETTLE_MAP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How many rows of the workspace a holding has."""

    holding: Holding
    rows: int


def closing(
    home: Home, topology: str, coordinator: str, live: Mapping[str, Catalog]
) -> tuple[Step, ...]:
    """Make routers refuse the workspace, before anything is deleted.

    What a run that was killed has closed is left out. The directory and the map change together.
    """
    steps = []
    if home.state != "purging":
        steps.append(_directory(home, topology, coordinator, "purging", Stage.CLOSE_MAP))
    if _placed(home, live) not in REFUSED:
        steps.append(_placement(home, topology, "purging", Stage.CLOSE))
    return tuple(steps)


def settling(
    home: Home, topology: str, coordinator: str, live: Mapping[str, Catalog]
) -> tuple[Step, ...]:
    """Record that nothing is left. The rows stay: late writers and the file must not revive it."""
    last = _directory(home, topology, coordinator, "purged", Stage.SETTLE_MAP)
    if _placed(home, live) == "purged":
        return (last,)
    return (_placement(home, topology, "purged", Stage.SETTLE, _samples(home, topology)), last)


def _placed(home: Home, live: Mapping[str, Catalog]) -> str | None:
    return next(
        (p.state for p in live[home.server].placements if p.workspace == home.workspace), None
    )


def deleting(workspace: str, found: Iterable[Found]) -> tuple[Step, ...]:
    """Return the steps that delete what was found, and those that wait for copies to follow."""
    found = [f for f in found if f.rows]
    steps: list[Step] = []
    for stage in (Stage.ROWS, Stage.REFERENCE, Stage.COPIES, Stage.RECORDED):
        mine = [f for f in found if _stage(f.holding) is stage]
        for server in sorted({f.holding.server for f in mine}):
            here = [f for f in mine if f.holding.server == server]
            if stage is Stage.COPIES:
                steps.append(_wait(workspace, server, [f.holding for f in here]))
            else:
                steps += _on_server(workspace, stage, here)
    return tuple(steps)


def _stage(holding: Holding) -> Stage:
    if holding.logical == AUDIT_TABLE:
        return Stage.RECORDED
    return {Where.COORDINATOR: Stage.REFERENCE, Where.COPY: Stage.COPIES}.get(
        holding.where, Stage.ROWS
    )


# --- rows -----------------------------------------------------------------------------------------


def _on_server(workspace: str, stage: Stage, found: list[Found]) -> Iterator[Step]:
    rows = {f.holding.table.name: f.rows for f in found}
    holdings = children_first(f.holding for f in found)
    for holding in holdings:
        if holding.where is Where.DETACHED:
            yield _delete(workspace, stage, holding, rows[holding.table.name])
    attached = [h for h in holdings if h.where is not Where.DETACHED]
    tables = {h.parent.name: h.parent for h in attached}
    for group in groups(tables):
        mine = [h for h in attached if h.parent.name in group]
        hard = [(t, fk) for t, fk in blocking(group, tables) if not _clearable(t, fk)]
        if hard:
            yield _at_once(workspace, stage, mine)
            continue
        for table, fk in blocking(group, tables):
            for holding in mine:
                if holding.parent is table:
                    yield _clear(workspace, stage, holding, fk)
        for holding in mine:
            yield _delete(workspace, stage, holding, rows[holding.table.name])


def _clearable(table: Table, fk: ForeignKey) -> tuple[str, ...]:
    """The columns of a reference that can be NULL; none where the whole must be NULL or nothing."""
    found = tuple(c for c in fk.columns if (column := table.column(c)) and not column.not_null)
    return found if fk.match == "s" or len(found) == len(fk.columns) else ()


def _delete(workspace: str, stage: Stage, holding: Holding, rows: int) -> Step:
    what = "detached partition " if holding.where is Where.DETACHED else ""
    return _step(
        stage,
        holding,
        f'delete {rows} rows of workspace "{workspace}" from {what}"{holding.table.name}"',
        *_batched(SQL("DELETE FROM ONLY {}").format(holding.name), holding, workspace),
    )


def _clear(workspace: str, stage: Stage, holding: Holding, fk: ForeignKey) -> Step:
    columns = _clearable(holding.parent, fk)
    update = SQL("UPDATE ONLY {} SET {}").format(
        holding.name, SQL(", ").join(SQL("{} = NULL").format(Identifier(c)) for c in columns)
    )
    still = SQL(" AND NOT ({} IS NULL)").format(
        SQL(" IS NULL AND ").join(Identifier(c) for c in columns)
    )
    return _step(
        stage,
        holding,
        f'clear {names(columns).as_string(None)} of workspace "{workspace}" in '
        f'"{holding.table.name}", whose rows refer to each other',
        *_batched(update, holding, workspace, still),
    )


def _batched(
    change: Composable, holding: Holding, workspace: str, more: Composable = NOTHING
) -> tuple[Composed, ...]:
    """One batch: some rows that an index finds, else the rows of some blocks.

    Without an index each batch would look at the whole table again. The second statement says
    how many blocks there are.
    """
    mine = holding.condition(workspace) + more
    if holding.is_indexed:
        where = SQL(
            "ctid = ANY (ARRAY(SELECT ctid FROM ONLY {} WHERE {} "
            "LIMIT pg_catalog.current_setting({})::bigint)) AND {}"
        ).format(holding.name, mine, Literal(BATCH), mine)
        return (_counted(change, where),)
    where = SQL(
        "ctid >= pg_catalog.current_setting({})::tid "
        "AND ctid < pg_catalog.current_setting({})::tid AND {}"
    ).format(Literal(LOW), Literal(HIGH), mine)
    blocks = SQL(
        "SELECT pg_catalog.pg_relation_size({}::regclass) "
        "/ pg_catalog.current_setting('block_size')::bigint AS blocks"
    ).format(Literal(render(holding.name)))
    return (_counted(change, where), blocks)


def _counted(change: Composable, where: Composable) -> Composed:
    return SQL(
        "WITH gone AS ({} WHERE {} RETURNING 1) SELECT count(*) AS changed FROM gone"
    ).format(change, where)


def _at_once(workspace: str, stage: Stage, found: list[Holding]) -> Step:
    """Rows that refer to each other and cannot be cleared: one statement sees them all go."""
    parents = {h.parent.name: h for h in found}
    deletes = [
        SQL("{} AS (DELETE FROM {} WHERE {} RETURNING 1)").format(
            Identifier(f"gone_{number}"),
            Identifier(h.namespace, h.parent.name),
            h.condition(workspace),
        )
        for number, h in enumerate(parents.values())
    ]
    return _step(
        stage,
        found[0],
        f'delete all rows of workspace "{workspace}" from '
        f"{', '.join(sorted(parents))} in one statement: they refer to each other",
        SQL("WITH {} SELECT").format(SQL(", ").join(deletes)),
        kind=Kind.VALIDATE,
    )


def _wait(workspace: str, server: str, found: list[Holding]) -> Step:
    some = SQL(" OR ").join(
        SQL("EXISTS (SELECT FROM {} WHERE {})").format(h.name, h.condition(workspace))
        for h in found
    )
    tables = ", ".join(f'"{h.table.name}"' for h in found)
    return _make(
        Stage.COPIES,
        server,
        "",
        f'wait until the rows of workspace "{workspace}" are gone from the copies of {tables}',
        (SQL("SELECT NOT ({}) AS done").format(some),),
        kind=Kind.WAIT,
        lock=Lock.ACCESS_SHARE,
    )


# --- placement ------------------------------------------------------------------------------------


def _directory(home: Home, topology: str, coordinator: str, state: str, stage: Stage) -> Step:
    publish = SQL(queries("privacy")["publish"].replace("%(topology)s", "{topology}"))
    return _make(
        stage,
        coordinator,
        "",
        f'make the directory say that workspace "{home.workspace}" is {state}, and tell routers',
        (
            _state("directory", home, topology, state),
            publish.format(topology=Literal(topology)),
            SQL("SELECT pg_catalog.pg_notify('parlant_shard', {})").format(Literal(topology)),
        ),
        # Without rows too, what nobody reaches any more must be allowed.
        hazards=(Hazard.DELETES_DATA,),
    )


def _placement(home: Home, topology: str, state: str, stage: Stage, *more: Composable) -> Step:
    return _make(
        stage,
        home.server,
        home.shard,
        f'make the placement say that workspace "{home.workspace}" is {state}',
        (_state("placement", home, topology, state), *more),
    )


def _samples(home: Home, topology: str) -> Composed:
    """What forecasts keep: how many rows it had."""
    return SQL("DELETE FROM parlant_shard.sample WHERE topology = {} AND workspace_id = {}").format(
        Literal(topology), Literal(home.workspace)
    )


def _state(table: str, home: Home, topology: str, state: str) -> Composed:
    return SQL(
        "INSERT INTO {} AS old (topology, workspace_id, shard, state) VALUES ({}, {}, {}, {}) "
        "ON CONFLICT (topology, workspace_id) DO UPDATE SET state = EXCLUDED.state, "
        "epoch = old.epoch + 1, updated_at = pg_catalog.now() WHERE old.state <> EXCLUDED.state"
    ).format(
        Identifier("parlant_shard", table),
        *map(Literal, (topology, home.workspace, home.shard, state)),
    )


# --- steps ----------------------------------------------------------------------------------------


def _step(
    stage: Stage, holding: Holding, title: str, *sql: Composed, kind: Kind = Kind.BATCHES
) -> Step:
    return _make(
        stage,
        holding.server,
        holding.shard,
        title,
        sql,
        kind=kind,
        hazards=(Hazard.DELETES_DATA,),
    )


def _make(
    stage: Stage,
    server: str,
    shard: str,
    title: str,
    sql: Iterable[Composable],
    *,
    kind: Kind = Kind.METADATA,
    lock: Lock = Lock.ROW_EXCLUSIVE,
    hazards: tuple[Hazard, ...] = (),
) -> Step:
    statements = tuple(render(s) for s in sql)
    digest = hashlib.sha256("\0".join((server, *statements)).encode()).hexdigest()[:12]
    lock_timeout, statement_timeout = TIMEOUTS[kind]
    return Step(
        id=digest,
        phase=int(stage),
        server=server,
        shard=shard or None,
        title=title,
        sql=statements,
        transactional=kind in {Kind.METADATA, Kind.VALIDATE},
        lock=lock.value,
        hazards=tuple(h.value for h in hazards),
        lock_timeout_ms=lock_timeout,
        statement_timeout_ms=statement_timeout,
        kind=kind,
    )


def totals(found: Iterable[Found]) -> Mapping[str, int]:
    """Rows per logical table, without the copies of reference tables."""
    rows: dict[str, int] = {}
    for f in found:
        if f.rows and f.holding.where is not Where.COPY:
            rows[f.holding.logical] = rows.get(f.holding.logical, 0) + f.rows
    return rows
