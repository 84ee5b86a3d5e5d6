"""What needs more than one place of the topology file, or the schema, to be seen as wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

import postgast
from psycopg.conninfo import conninfo_to_dict

from parlant_shard import control
from parlant_shard.ddlfile import DeclaredTable
from parlant_shard.names import check_collisions, suffixed
from parlant_shard.topology.codes import Code
from parlant_shard.topology.document import Path, Problem
from parlant_shard.topology.interval import Interval
from parlant_shard.topology.model import (
    BUCKET_COUNT,
    SIGNING_KEY_BYTES,
    IndexOptions,
    Isolation,
    Partition,
    Rule,
    Server,
    Topology,
    bucket_text,
)


def closest(word: str, known: Iterable[str]) -> str | None:
    """Return `did you mean "…"?`, or None where nothing is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'did you mean "{found[0]}"?' if found else None


def one_of(word: str, known: Iterable[str], what: str) -> str:
    """Return a hint: the closest of the known words, else all of them."""
    words = list(known)
    listed = f"{what}: {', '.join(words)}" if words else f"there are no {what}"
    return closest(word, words) or listed


def check_file(topology: Topology) -> Iterator[Problem]:
    """Yield what is wrong with the file by itself."""
    yield from _servers(topology)
    yield from _shards(topology)
    yield from _workspaces(topology)
    yield from _buckets(topology)
    yield from _source(topology)
    for name, options in topology.tables.items():
        if options.partition is not None and options.partition.retention is not None:
            every, kept = options.partition.every, options.partition.retention
            if kept.bounds[1] < every.bounds[0]:
                yield Problem(
                    code=Code.RETENTION,
                    message=f'retention "{kept}" is shorter than one partition of "{every}"',
                    hint="keep at least one whole interval, or cut finer",
                    path=("tables", name, "partition", "retention"),
                )
    whole = topology.audit.retention
    if whole is not None and whole.bounds[1] < Interval(1, "month").bounds[0]:
        yield Problem(
            code=Code.RETENTION,
            message=f'retention "{whole}" is shorter than one partition of "1 month"',
            hint="recorded changes are cut by month: keep at least one",
            path=("audit", "retention"),
        )
    for name, index in topology.indexes.items():
        yield from _predicate(name, index)
    for number, rule in enumerate(topology.routing):
        yield from _rule(("routing", str(number)), rule)
    yield from _isolation(topology.isolation)


def _isolation(isolation: Isolation) -> Iterator[Problem]:
    if isolation.signed and not isolation.rls:
        yield Problem(
            code=Code.SIGNED,
            message="isolation.signed needs isolation.rls",
            hint="the policies check the signed token; write: isolation: {rls: true, signed: true}",
            path=("isolation", "signed"),
        )
    if isolation.rls and isolation.role is None:
        yield Problem(
            code=Code.RLS_ROLE,
            message="isolation.rls needs isolation.role",
            hint="the policies hold for the application's role alone; write: "
            "isolation: {rls: true, role: parlant_app}",
            path=("isolation", "rls"),
        )
    if isolation.analytics is not None and isolation.analytics == isolation.role:
        yield Problem(
            code=Code.CONTRADICTION,
            message="isolation.analytics and isolation.role are the same role",
            hint="the one reads all workspaces, the other never does; name two",
            path=("isolation", "analytics"),
        )
    for name in ("key", "previous_key"):
        key = getattr(isolation, name)
        if key is not None and len(key.encode()) < SIGNING_KEY_BYTES:
            yield Problem(
                code=Code.SIGNING_KEY,
                message=f"isolation.{name} is shorter than {SIGNING_KEY_BYTES} bytes",
                hint="make one: openssl rand -hex 32",
                path=("isolation", name),
            )
    if isolation.key is not None and isolation.key == isolation.previous_key:
        yield Problem(
            code=Code.SIGNING_KEY,
            message="isolation.key and isolation.previous_key are the same",
            hint="leave previous_key out, or give a new key",
            path=("isolation", "previous_key"),
        )


def _servers(topology: Topology) -> Iterator[Problem]:
    servers = topology.servers
    if not servers:
        yield Problem(
            code=Code.NOTHING,
            message="no server is listed",
            hint='list at least one, e.g. core: {dsn: "${CORE_DSN}"}',
            path=("servers",),
        )
        return
    for name, server in servers.items():
        yield from _address(name, server)
    known: dict[object, str] = {}
    for name, server in servers.items():
        for identity in _identities(server):
            first = known.setdefault(identity, name)
            if first != name:
                yield Problem(
                    code=Code.SAME_SERVER,
                    message=f'servers "{first}" and "{name}" are the same database',
                    hint="one database is one server; put both shards on it",
                    path=("servers", name),
                )
                break
    if topology.coordinator not in servers:
        yield Problem(
            code=Code.COORDINATOR,
            message=f'coordinator "{topology.coordinator}" is not one of the servers',
            hint=one_of(topology.coordinator, servers, "servers"),
            path=("coordinator",),
        )


def _address(name: str, server: Server) -> Iterator[Problem]:
    path = ("servers", name)
    for number, replica in enumerate(server.replicas):
        if replica.dsn is None:
            yield Problem(
                code=Code.NO_ADDRESS,
                message=f'a replica of server "{name}" has no dsn',
                hint="give dsn or dsn_file",
                path=(*path, "replicas", str(number)),
            )
    if server.embedded is None and server.dsn is None:
        yield Problem(
            code=Code.NO_ADDRESS,
            message=f'server "{name}" has neither dsn nor embedded',
            hint="give dsn or dsn_file, or embedded for a local server that the tool runs",
            path=path,
        )
    given = [
        field for field in ("dsn", "admin_dsn", "peer_dsn", "replicas") if getattr(server, field)
    ]
    if server.embedded is not None and given:
        yield Problem(
            code=Code.TWO_ADDRESSES,
            message=f'server "{name}" has embedded and {given[0]}',
            hint="an embedded server makes its own connection strings; keep one of the two",
            path=(*path, "embedded"),
        )


def _identities(server: Server) -> Iterator[object]:
    """Yield what two servers must not share: the directory, or where the DSN leads."""
    if server.embedded is not None:
        yield server.embedded
    if server.dsn is None:
        return
    info = {key: str(value) for key, value in conninfo_to_dict(server.dsn).items()}
    user = info.get("user", "")
    yield (
        info.get("host", info.get("hostaddr", "")),
        info.get("port", "5432"),
        info.get("dbname", user),
        info.get("service", ""),
    )


def _shards(topology: Topology) -> Iterator[Problem]:
    if not topology.shards:
        yield Problem(
            code=Code.NOTHING,
            message="no shard is listed",
            hint="list at least one, e.g. shard_1: {server: core, workspaces: [ws1]}",
            path=("shards",),
        )
    for name, shard in topology.shards.items():
        if shard.server not in topology.servers:
            yield Problem(
                code=Code.SHARD_SERVER,
                message=f'shard "{name}" is on server "{shard.server}", which is not listed',
                hint=one_of(shard.server, topology.servers, "servers"),
                path=("shards", name, "server"),
            )
        if not shard.model_fields_set & {"workspaces", "buckets"}:
            yield Problem(
                code=Code.MISSING_KEY,
                message=f'shard "{name}" has neither workspaces nor buckets',
                hint='write "workspaces: []" if it is to be empty for now',
                path=("shards", name),
            )


def _workspaces(topology: Topology) -> Iterator[Problem]:
    home: dict[str, str] = {}
    for name, shard in topology.shards.items():
        for number, workspace in enumerate(shard.workspaces):
            first = home.setdefault(workspace, name)
            path = ("shards", name, "workspaces", str(number))
            if first != name:
                yield Problem(
                    code=Code.WORKSPACE_ON_TWO,
                    message=f'workspace "{workspace}" is on shard "{first}" and on shard "{name}"',
                    hint="a workspace lives on one shard: take it out of one of the two",
                    path=path,
                )
            elif workspace in shard.workspaces[:number]:
                yield Problem(
                    code=Code.WORKSPACE_TWICE,
                    message=f'workspace "{workspace}" is listed twice on shard "{name}"',
                    hint="remove one of the two",
                    path=path,
                )


def _buckets(topology: Topology) -> Iterator[Problem]:
    claimed = sorted(
        (bounds, name) for name, shard in topology.shards.items() for bounds in shard.buckets
    )
    if not claimed:
        return
    missing: list[tuple[int, int]] = []
    upto, owner, held = -1, "", (0, 0)
    for bounds, name in claimed:
        low, high = bounds
        if low <= upto:
            both = (low, min(high, upto))
            yield Problem(
                code=Code.BUCKETS_OVERLAP,
                message=f"{_buckets_text([both], 'is', 'are')} in {bucket_text(held)} "
                f'of shard "{owner}" and in {bucket_text(bounds)} of shard "{name}"',
                hint="each bucket belongs to one shard",
                path=("shards", name, "buckets"),
            )
        if low > upto + 1:
            missing.append((upto + 1, low - 1))
        if high > upto:
            upto, owner, held = high, name, bounds
    if upto < BUCKET_COUNT - 1:
        missing.append((upto + 1, BUCKET_COUNT - 1))
    if missing:
        yield Problem(
            code=Code.BUCKETS_MISSING,
            message=f"{_buckets_text(missing, 'belongs', 'belong')} to no shard",
            hint=f"all of 0-{BUCKET_COUNT - 1} are covered, or none are used",
            path=("shards",),
        )


def _buckets_text(ranges: list[tuple[int, int]], one: str, many: str) -> str:
    text = ", ".join(map(bucket_text, ranges))
    return f"bucket {text} {one}" if text.isdigit() else f"buckets {text} {many}"


def _source(topology: Topology) -> Iterator[Problem]:
    source = topology.schema_source
    given = [
        key
        for key, value in (
            ("preset", source.preset),
            ("files", source.files),
            ("from", source.from_),
        )
        if value is not None
    ]
    if len(given) != 1:
        yield Problem(
            code=Code.SCHEMA_SOURCE,
            message="schema names none of preset, files and from"
            if not given
            else f"schema names {' and '.join(given)}",
            hint="name exactly one, e.g. schema: {preset: parlant}",
            path=("schema",),
        )
    elif source.files is not None and not source.files:
        yield Problem(
            code=Code.SCHEMA_SOURCE,
            message="schema.files is empty",
            hint="list the DDL files in their order, e.g. files: [schema/*.sql]",
            path=("schema", "files"),
        )
    if source.from_ is not None and source.from_ not in topology.servers:
        yield Problem(
            code=Code.SCHEMA_SERVER,
            message=f'schema.from names server "{source.from_}", which is not listed',
            hint=one_of(source.from_, topology.servers, "servers"),
            path=("schema", "from"),
        )


def _table(topology: Topology, name: str) -> Iterator[Problem]:
    options = topology.tables[name]
    if options.kind not in {"reference", "host"}:
        return
    for field in ("partition", "path"):
        if getattr(options, field) is not None:
            yield Problem(
                code=Code.CONTRADICTION,
                message=f'table "{name}" is a {options.kind} table and has {field}',
                hint="only sharded tables have it; remove one of the two",
                path=("tables", name, field),
            )


def _predicate(name: str, index: IndexOptions) -> Iterator[Problem]:
    path = ("indexes", name)
    if not index.columns:
        yield Problem(
            code=Code.NOTHING,
            message=f'index "{name}" has no columns',
            hint="list at least one",
            path=(*path, "columns"),
        )
    if index.where is not None and not _is_expression(index.where):
        yield Problem(
            code=Code.PREDICATE,
            message=f'the condition of index "{name}" is not an SQL expression',
            hint="write what follows WHERE, e.g. deleted_at IS NULL",
            path=(*path, "where"),
        )


def _is_expression(text: str) -> bool:
    """Say whether a text is one expression, by PostgreSQL's parser, and nothing beside it."""
    if "\0" in text:
        return False
    try:
        # the newline ends a comment at the end of the text, the brackets close what it opens
        statements = postgast.parse(f"SELECT 1 WHERE (\n{text}\n)").stmts
    except postgast.PgQueryError:
        return False
    if len(statements) != 1 or statements[0].stmt.WhichOneof("node") != "select_stmt":
        return False
    select = statements[0].stmt.select_stmt
    filled = {descriptor.name for descriptor, _ in select.ListFields()}
    return filled <= {"target_list", "where_clause", "limit_option", "op"}


def _rule(path: Path, rule: Rule) -> Iterator[Problem]:
    def contradiction(message: str, hint: str, *inner: str) -> Problem:
        return Problem(code=Code.CONTRADICTION, message=message, hint=hint, path=(*path, *inner))

    if rule.read == "cache" and rule.ttl is None:
        yield contradiction("read: cache needs ttl", "say how old an answer may be: ttl: 30 s")
    if rule.read != "cache" and rule.ttl is not None:
        yield contradiction("ttl is for read: cache", "remove one of the two", "ttl")
    if rule.read != "replica" and rule.max_lag is not None:
        yield contradiction("max_lag is for read: replica", "remove one of the two", "max_lag")


# --- against the schema --------------------------------------------------------------------------


def check_merged(topology: Topology) -> Iterator[Problem]:
    """Yield contradictions in what tables and indexes are, a preset laid under the file."""
    for name in topology.tables:
        yield from _table(topology, name)
    for name, index in topology.indexes.items():
        path = ("indexes", name)
        options = topology.tables.get(index.on)
        cut_by = options.partition.by if options and options.partition else None
        if index.by is not None and index.window is None:
            yield Problem(
                code=Code.CONTRADICTION,
                message=f'index "{name}" has by and no window',
                hint="`by` is the column of the window; add one or remove it",
                path=(*path, "by"),
            )
        if index.window is None:
            continue
        if index.by is None and cut_by is None:
            yield Problem(
                code=Code.CONTRADICTION,
                message=f'index "{name}" has a window, and "{index.on}" is not partitioned by time',
                hint="name the column of the window: by: created_at",
                path=(*path, "window"),
            )
    yield from _same_indexes(topology)


def _same_indexes(topology: Topology) -> Iterator[Problem]:
    """Yield entries that are one index to PostgreSQL, on the partitions, and differ in `window`.

    It attaches the partition's index of one to the partitioned index of the other.
    """
    seen: dict[tuple[object, ...], list[str]] = {}
    for name, index in topology.indexes.items():
        options = topology.tables.get(index.on)
        if options is None or options.partition is None:
            continue
        if index.window is not None and index.by not in {None, options.partition.by}:
            continue  # its condition has a date
        columns = tuple(
            (c.name, c.descending, c.nulls or ("first" if c.descending else "last"))
            for c in index.index_columns
        )
        where = None if index.where is None else " ".join(index.where.split())
        same = (index.on, columns, where, index.using, index.unique, index.include)
        seen.setdefault(same, []).append(name)
    for names in seen.values():
        # What a preset adds gives way by itself to an index that the table has anyway.
        stated = [n for n in names if topology.states(f"indexes.{n}")]
        windowed = [n for n in stated if topology.indexes[n].window is not None]
        others = [n for n in names if n in stated or topology.indexes[n].window is not None]
        if not windowed or len(others) < 2:
            continue
        name = windowed[-1]
        other = next(n for n in others if n != name)
        yield Problem(
            code=Code.CONTRADICTION,
            message=f'index "{name}" has a window, and on the partitions of '
            f'"{topology.indexes[name].on}" it is the same index as "{other}"',
            hint=f'keep one of the two: "{other}" has the rows of the window too'
            if topology.indexes[other].window is None
            else f'keep one of the two: give "{other}" the longer window',
            path=("indexes", name, "window"),
        )


def check_schema(topology: Topology, declared: Mapping[str, DeclaredTable]) -> Iterator[Problem]:
    """Yield what the file says about tables and columns that the schema does not have."""
    for name, options in topology.tables.items():
        path = ("tables", name)
        if name not in declared:
            yield _no_table(path, name, declared)
            continue
        if options.partition is not None:
            yield from _control_column(declared[name], options.partition, (*path, "partition"))
        for number, column in enumerate(options.audit.columns if options.audit else ()):
            yield from _column(declared[name], column, (*path, "audit", "columns", str(number)))
        if options.path is not None:
            yield from _column(declared[name], options.path, (*path, "path"))
            keys = declared[name].foreign_keys
            if options.path in declared[name].columns and not any(
                options.path in key.columns for key in keys
            ):
                yield Problem(
                    code=Code.NO_FOREIGN_KEY,
                    message=f'column "{options.path}" of "{name}" has no foreign key',
                    hint=one_of(
                        options.path,
                        sorted({column for key in keys for column in key.columns}),
                        "columns with one",
                    ),
                    path=(*path, "path"),
                )
    for name, index in topology.indexes.items():
        yield from _index(topology, name, index, declared)
    for number, rule in enumerate(topology.routing):
        for place, table in enumerate(rule.tables):
            if table not in declared:
                yield _no_table(("routing", str(number), "tables", str(place)), table, declared)


def _no_table(path: Path, name: str, declared: Mapping[str, DeclaredTable]) -> Problem:
    return Problem(
        code=Code.UNKNOWN_TABLE,
        message=f'the schema has no table "{name}"',
        hint=one_of(name, sorted(declared), "tables"),
        path=path,
    )


def _column(table: DeclaredTable, column: str, path: Path, also: str = "") -> Iterator[Problem]:
    if column not in table.columns and column != also:
        yield Problem(
            code=Code.UNKNOWN_COLUMN,
            message=f'table "{table.name}" has no column "{column}"',
            hint=one_of(column, table.columns, "columns"),
            path=path,
        )


def _control_column(table: DeclaredTable, partition: Partition, path: Path) -> Iterator[Problem]:
    yield from _column(table, partition.by, (*path, "by"))
    type_ = table.columns.get(partition.by)
    if type_ is None:
        return
    found = control.fault(type_, partition.epoch, whole_days=partition.whole_days)
    if found is None:
        return
    key, reason, hint = found
    if control.kind(type_) is None:
        hint = _fitting(table, "use a date, timestamp, timestamptz, bigint or uuid column")
    yield Problem(
        code=Code.CONTRADICTION if control.kind(type_) else Code.PARTITION_TYPE,
        message=f'the partition column "{partition.by}" of "{table.name}" is {reason}',
        hint=hint,
        path=(*path, key),
    )


def _fitting(table: DeclaredTable, otherwise: str) -> str:
    found = [name for name, type_ in table.columns.items() if control.kind(type_) in control.TIMES]
    return f"columns that fit: {', '.join(found)}" if found else otherwise


def _time_column(table: DeclaredTable, column: str, path: Path) -> Iterator[Problem]:
    yield from _column(table, column, path)
    type_ = table.columns.get(column)
    if type_ is not None and control.kind(type_) not in control.TIMES:
        yield Problem(
            code=Code.PARTITION_TYPE,
            message=f'the window column "{column}" of "{table.name}" is of type {type_}, '
            "not a date or a timestamp",
            hint=_fitting(table, "the table has no column that fits"),
            path=path,
        )


def _index(
    topology: Topology,
    name: str,
    index: IndexOptions,
    declared: Mapping[str, DeclaredTable],
) -> Iterator[Problem]:
    path = ("indexes", name)
    table = declared.get(index.on)
    if table is None:
        yield _no_table((*path, "on"), index.on, declared)
        return
    # a sharded table has the key, also where the schema does not declare it
    key = topology.key if index.on in sharded_tables(topology, declared) else ""
    for number, column in enumerate(index.index_columns):
        yield from _column(table, column.name, (*path, "columns", str(number)), key)
    for number, included in enumerate(index.include):
        yield from _column(table, included, (*path, "include", str(number)), key)
    options = topology.tables.get(index.on)
    cut_by = options.partition.by if options and options.partition else None
    if index.by is not None and index.by != cut_by:
        yield from _time_column(table, index.by, (*path, "by"))


def sharded_tables(topology: Topology, declared: Mapping[str, DeclaredTable]) -> frozenset[str]:
    """Return the tables that have the key or reach it over foreign keys, as far as is declared."""
    excluded = {
        name for name, options in topology.tables.items() if options.kind in {"reference", "host"}
    }
    found = {
        name
        for name, table in declared.items()
        if name not in excluded
        and (
            topology.key in table.columns
            or (name in topology.tables and topology.tables[name].kind == "sharded")
        )
    }
    while True:
        more = {
            name
            for name, table in declared.items()
            if name not in found | excluded
            and any(key.ref_table in found for key in table.foreign_keys)
        }
        if not more:
            return frozenset(found)
        found |= more


def check_names(topology: Topology, declared: Mapping[str, DeclaredTable]) -> Iterator[Problem]:
    """Yield physical names that two things would have: tables, views and indexes share them."""
    names: dict[str, str] = {}
    paths: dict[str, Path] = {}

    def add(owner: str, physical: str, path: Path) -> None:
        names[owner] = physical
        paths[owner] = path

    sharded = sharded_tables(topology, declared)
    tables = sorted(set(declared) | set(topology.tables))
    for table in tables:
        add(f'table "{table}"', table, ("tables", table))
    if not declared:  # the schema is read from a live database: what the file names is all we have
        sharded = frozenset(
            name for name, o in topology.tables.items() if o.kind in {None, "sharded"}
        )
    for table in sorted(sharded):
        add(f'view "{table}_global"', suffixed(table, "global"), ("tables", table))
    for shard in topology.shards:
        for table in sorted(sharded):
            place = f'on shard "{shard}"'
            add(f'table "{table}" {place}', suffixed(table, shard), ("shards", shard))
            known = declared.get(table)
            if known is None:
                continue
            for index in _index_names(known):
                add(f'index "{index}" {place}', suffixed(index, shard), ("shards", shard))
        for index, options in topology.indexes.items():
            if options.on in sharded:
                add(
                    f'index "{index}" of the topology on shard "{shard}"',
                    suffixed(index, shard),
                    ("indexes", index),
                )
    for physical, owners in check_collisions(names).items():
        yield Problem(
            code=Code.COLLISION,
            message=f'"{physical}" would be the name of {" and of ".join(owners)}',
            hint="rename the shard or the index",
            path=max(
                (paths[owner] for owner in owners),
                key=lambda path: (path[0] == "indexes", path[0] == "shards", path),
            ),
        )


def _index_names(table: DeclaredTable) -> list[str]:
    """Return the names that its indexes have, with those of its named keys."""
    keys = [
        name
        for name, kind in table.constraints.items()
        if kind in {"primary key", "unique", "exclude"}
    ]
    return [*table.indexes, *keys]
