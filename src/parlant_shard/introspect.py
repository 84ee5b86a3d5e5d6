"""Read a live database (or the scratch one) into a `Catalog` and `Facts`.

One REPEATABLE READ transaction per server, so that the parts agree with each other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, cast

from psycopg.conninfo import conninfo_to_dict

from parlant_shard import control, db
from parlant_shard.catalog import (
    SUBSCRIPTION_PEER,
    Bound,
    Catalog,
    Check,
    Column,
    EnumType,
    EventTrigger,
    Facts,
    Foreign,
    ForeignKey,
    ForeignServer,
    Function,
    Grant,
    Index,
    Key,
    KeyTable,
    Managed,
    Placement,
    Policy,
    Publication,
    Relkind,
    Retired,
    Seal,
    Slot,
    Subscription,
    Table,
    Trigger,
    UserMapping,
    View,
)
from parlant_shard.control import Epoch
from parlant_shard.errors import ServerError
from parlant_shard.names import key_schema
from parlant_shard.sqlfiles import queries
from parlant_shard.topology import Isolation

Row = dict[str, Any]

# The tables of our own schema in its first version, and how kinds of relations are called.
_TABLES = ("meta", "object", "shard", "directory", "placement", "run", "step")
_KINDS = {
    "m": "materialized view",
    "S": "sequence",
    "c": "composite type",
    "r": "table of an extension",
    "p": "table of an extension",
    "f": "table of an extension",
    "v": "view of an extension",
}

OURS = (
    "parlant_shard_"  # what our foreign servers, publications, subscriptions and slots start with
)

_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*)'
_BRANCH = re.compile(
    rf"^SELECT\s+(?P<columns>.+?)\s+FROM\s+(?P<table>{_IDENTIFIER}\.{_IDENTIFIER})$", re.S
)
_ITEM = re.compile(
    rf"^(?:{_IDENTIFIER}\.)?(?P<name>{_IDENTIFIER})(?:\s+AS\s+(?P<alias>{_IDENTIFIER}))?$"
)
_SIDE = r"'[^']*'|-?\d+"
_BOUND = re.compile(rf"^FOR VALUES FROM \((MINVALUE|{_SIDE})\) TO \((MAXVALUE|{_SIDE})\)$")
_RANGE_KEY = re.compile(rf"^RANGE \((?P<column>{_IDENTIFIER})\)$")


def facts(connection: db.Connection, server: str, namespace: str) -> Facts:
    """Ask who we are and what the server is."""
    row = _one(connection, "facts", namespace=namespace)
    settings = {**row["settings"], "TimeZone": row["timezone"]}
    can = {
        name
        for name, allowed in (
            ("create-database", row["create_database"]),
            ("create-role", row["create_role"]),
            ("create-schema", row["create_schema"]),
            ("create-in-namespace", row["create_in_namespace"]),
            ("replication", row["replication"]),
            ("subscribe", row["create_subscription"]),
            ("fdw", row["use_fdw"]),
        )
        if allowed or row["superuser"]
    }
    if row["namespace_exists"]:
        can.add("namespace")
    info = connection.info
    return Facts(
        server=server,
        version_num=row["version_num"],
        database=row["database"],
        host=info.host,
        port=str(info.port),
        user=row["user"],
        password=info.password or None,
        now=row["now"],
        settings=settings,
        superuser=row["superuser"],
        roles=frozenset(row["roles"]),
        can=frozenset(can),
        extensions_available=frozenset(row["extensions_available"] or ()),
        extensions_trusted=frozenset(row["extensions_trusted"] or ()),
        in_recovery=row["in_recovery"],
        read_only=row["read_only"],
        identity=row["identity"],
        sslmode=_sslmode(connection),
        event_triggers=tuple(
            EventTrigger(**{**r, "tags": tuple(r["tags"])})
            for r in _all(connection, "event_triggers")
        ),
    )


def unsafe_roles(connection: db.Connection, isolation: Isolation) -> dict[str, str]:
    """Why the role of the application is none that policies bind; empty where it is."""
    rows = _all(connection, "unsafe", role=isolation.role, analytics=isolation.analytics)
    return {r["name"]: r["why"] for r in rows if r["why"] is not None}


def _sslmode(connection: db.Connection) -> str | None:
    """Of the dsn, a service file or the environment; None where it is libpq's default."""
    said = next((o.val for o in connection.pgconn.info if o.keyword == b"sslmode"), None)
    return None if said in {None, b"", b"prefer"} else said.decode()


def introspect(
    connection: db.Connection,
    *,
    namespace: str,
    topology: str = "",
    epochs: Mapping[str, Epoch | None] | None = None,
    server: str = "",
) -> Catalog:
    """Read everything of `namespace` and our own rows that belong to `topology`.

    `server` is what messages call it. `epochs` says what the control column of a partitioned table
    counts, where that is a number.
    """
    if connection.info.server_version < 150000:
        raise ServerError(
            f"PostgreSQL {connection.info.server_version // 10000} is too old: 15 is the oldest "
            "supported",
            code="PS406",
            hint="security_invoker views and ON DELETE SET NULL (column) came with 15",
        )
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        return _read(connection, namespace, topology, epochs or {}, server)


def _read(
    connection: db.Connection,
    namespace: str,
    topology: str,
    epochs: Mapping[str, Epoch | None],
    server: str,
) -> Catalog:
    internal = _internal(connection, topology, server, namespace)
    keys: Mapping[str, KeyTable] = internal.get("keys", {})
    relations = _all(connection, "relations", namespace=namespace)
    columns = _grouped(connection, "columns", "oid", namespace)
    constraints = _grouped(connection, "constraints", "rel", namespace)
    indexes = _grouped(connection, "indexes", "rel", namespace)
    triggers = _grouped(connection, "triggers", "rel", namespace)
    policies = _grouped(connection, "policies", "rel", namespace)
    grants = _grouped(connection, "grants", "rel", namespace)
    identity_keys = {
        r["rel"]: r["name"] for r in _all(connection, "replica_identity_keys", namespace=namespace)
    }

    tables: dict[str, Table] = {}
    views: dict[str, View] = {}
    others: dict[str, str] = {}
    unsupported: list[str] = []
    for relation in relations:
        oid, name, kind = relation["oid"], relation["name"], relation["kind"]
        if relation["of_extension"] or kind in {"m", "S", "c"}:
            others[name] = _KINDS[kind]
            if kind == "m" and not relation["of_extension"]:
                unsupported.append(f'materialized view "{name}"')
            continue
        if kind == "v":
            views[name] = _view(relation, columns[oid], grants[oid], namespace)
            continue
        tables[name] = _table(
            relation,
            columns[oid],
            constraints[oid],
            indexes[oid],
            triggers[oid],
            policies[oid],
            grants[oid],
            identity_keys.get(oid),
            namespace,
            epochs,
            keys,
        )
        if relation["parent"] is not None and not relation["is_partition"]:
            unsupported.append(f'table inheritance of "{name}"')
    for row in _all(connection, "other_types", namespace=namespace):
        others[row["name"]] = {"d": "domain", "c": "composite type"}.get(row["type"], "type")
        if row["type"] in {"d", "c"}:
            unsupported.append(f'{others[row["name"]]} "{row["name"]}"')

    return Catalog(
        extensions=frozenset(r["name"] for r in _all(connection, "extensions")),
        enums={
            r["name"]: EnumType(name=r["name"], labels=tuple(r["labels"]))
            for r in _all(connection, "enums", namespace=namespace)
        },
        functions={
            r["signature"]: Function(
                signature=r["signature"],
                definition=r["definition"],
                executors=None if r["executors"] is None else tuple(r["executors"]),
            )
            for r in _all(connection, "functions", namespace=namespace)
        },
        tables=tables,
        views=views,
        foreign_servers={
            r["name"]: ForeignServer(name=r["name"], options=_options(r["options"]))
            for r in _all(connection, "foreign_servers")
            if r["name"].startswith(OURS)
        },
        user_mappings={
            (m.server, m.role): m
            for m in map(_mapping, _all(connection, "user_mappings"))
            if m.server.startswith(OURS)
        },
        publications=publications(connection, namespace),
        subscriptions=subscriptions(connection),
        slots=frozenset(r["name"] for r in _all(connection, "slots") if r["name"].startswith(OURS)),
        slot_states=slot_states(connection),
        wal_end=wal_end(connection),
        other_relations={**others, **internal.pop("of_other_topologies", {})},
        unsupported=tuple(unsupported),
        **internal,
    )


def _table(
    relation: Row,
    columns: list[Row],
    constraints: list[Row],
    indexes: list[Row],
    triggers: list[Row],
    policies: list[Row],
    grants: list[Row],
    identity_key: str | None,
    namespace: str,
    epochs: Mapping[str, Epoch | None],
    keys: Mapping[str, KeyTable],
) -> Table:
    by_number = {c["num"]: c["name"] for c in columns}
    identity = relation["replica_identity"]
    if identity == "i":
        owned = next((i["name"] for i in indexes if i["replica_identity"]), identity_key)
        identity = f"i:{owned}"
    by = None
    if relation["partition_key"]:
        match = _RANGE_KEY.match(relation["partition_key"])
        # Any other strategy is not ours; the text keeps it distinguishable.
        by = unquote(match["column"]) if match else relation["partition_key"]
    is_partition = relation["is_partition"]
    return Table(
        name=relation["name"],
        kind=Relkind(relation["kind"]),
        columns=tuple(_column(c) for c in columns),
        keys=tuple(
            Key(
                name=c["name"],
                primary=c["type"] == "p",
                columns=tuple(by_number[k] for k in c["key"] or () if k),
                definition=c["definition"],
                valid=c["index_valid"] is not False,
                inherited=c["inherited"],
            )
            for c in constraints
            if c["type"] in "pux"
        ),
        checks=tuple(
            Check(
                name=c["name"],
                definition=c["definition"].removesuffix(" NOT VALID"),
                # PostgreSQL has what it does not enforce as NOT VALID too.
                valid=c["validated"] or not c["enforced"],
                inherited=c["inherited"],
            )
            for c in constraints
            if c["type"] == "c"
        ),
        foreign_keys=tuple(
            ForeignKey(
                name=c["name"],
                columns=tuple(by_number[k] for k in c["key"]),
                **_target(c, namespace, keys),
                ref_columns=tuple(c["ref_columns"]),
                on_delete=c["on_delete"],
                on_update=c["on_update"],
                match=c["match"],
                set_columns=tuple(by_number[k] for k in c["set_key"] or ()),
                deferrable=c["deferrable"],
                initially_deferred=c["deferred"],
                unenforced=not c["enforced"],
                # PostgreSQL has what it does not enforce as NOT VALID too.
                valid=c["validated"] or not c["enforced"],
                inherited=c["inherited"],
            )
            for c in constraints
            if c["type"] == "f"
        ),
        indexes=tuple(
            Index(
                name=i["name"],
                unique=i["unique"],
                definition=i["definition"].split(i["marker"], 1)[1],
                valid=i["valid"],
                parent=i["parent"],
                comment=i["comment"],
            )
            for i in indexes
        ),
        triggers=tuple(_trigger(t) for t in triggers),
        policies=tuple(
            Policy(
                name=p["name"],
                command=p["command"],
                permissive=p["permissive"],
                roles=tuple(p["roles"]),
                using=p["using"],
                check=p["check"],
            )
            for p in policies
        ),
        grants=tuple(
            sorted(
                Grant(role=g["role"], privilege=g["privilege"], grantable=g["grantable"])
                for g in grants
            )
        ),
        options=_options(relation["options"]),
        comment=relation["comment"],
        unlogged=relation["persistence"] == "u",
        # A foreign table has none; the server says so with another letter than for a new table.
        replica_identity="d" if relation["kind"] == "f" else identity,
        row_security=relation["row_security"],
        force_row_security=relation["force_row_security"],
        partition_by=by,
        epoch=epochs.get(relation["name"]),
        parent=_outside(relation["parent_schema"], relation["parent"], namespace)
        if is_partition
        else None,
        bound=bound(relation["bound"], epochs.get(relation["parent"])) if is_partition else None,
        foreign=Foreign(
            server=relation["foreign_server"], options=_options(relation["foreign_options"])
        )
        if relation["foreign_server"]
        else None,
        detach_pending=bool(relation["detach_pending"]),
        populated=bool(relation["populated"]),
        owner=relation["owner"],
        owned=relation["owned"],
    )


def _target(row: Row, namespace: str, keys: Mapping[str, KeyTable]) -> dict[str, Any]:
    """What a foreign key refers to; a key table of ours stands for its reference table."""
    name = row["ref_table"]
    if row["ref_schema"] == key_schema(namespace) and name in keys:
        return {"ref_table": keys[name].table, "key_table": name}
    return {"ref_table": _outside(row["ref_schema"], name, namespace)}


def _column(row: Row) -> Column:
    return Column(
        name=row["name"],
        type=row["type"],
        not_null=row["not_null"],
        default=row["default"],
        identity=row["identity"],
        generated=row["generated"],
        collation=row["collation"],
        comment=row["comment"],
    )


def _trigger(row: Row) -> Trigger:
    head, tail = row["definition"].split(row["marker"], 1)
    return Trigger(name=row["name"], head=head, tail=tail, enabled=row["enabled"])


def bound(text: str | None, epoch: Epoch | None) -> Bound | None:
    """Read a bound that PostgreSQL deparsed in UTC; None for what is no time range."""
    if text is None:
        return None
    if text == "DEFAULT":
        return Bound(default=True)
    match = _BOUND.match(text)
    if match is None:
        return None
    low, high = match.groups()
    lower = None if low == "MINVALUE" else control.decode(low.strip("'"), epoch, up=False)
    upper = None if high == "MAXVALUE" else control.decode(high.strip("'"), epoch, up=True)
    if (lower is None and low != "MINVALUE") or (upper is None and high != "MAXVALUE"):
        return None
    return Bound(lower=lower, upper=upper)


def _view(relation: Row, columns: list[Row], grants: list[Row], namespace: str) -> View:
    options = dict(_options(relation["options"]))
    names = tuple(c["name"] for c in columns)
    sources = branches(relation["view_text"], names, namespace)
    return View(
        name=relation["name"],
        columns=names,
        types=tuple(c["type"] for c in columns),
        sources=sources or (),
        security_invoker=options.get("security_invoker") in {"true", "on", "1", "yes"},
        text=None if sources else relation["view_text"],
        comment=relation["comment"],
        grants=tuple(
            sorted(
                Grant(role=g["role"], privilege=g["privilege"], grantable=g["grantable"])
                for g in grants
            )
        ),
    )


def branches(text: str, columns: tuple[str, ...], namespace: str) -> tuple[str, ...] | None:
    """Read `SELECT … UNION ALL SELECT …` with nothing but bare branches over the same columns.

    Returns the tables, or None where the view is anything else. Majors differ in whether they
    qualify the columns of a branch, so the text itself cannot be compared.
    """
    found = []
    for part in re.split(r"\bUNION ALL\b", text.strip().removesuffix(";")):
        match = _BRANCH.match(part.strip().strip("()").strip())
        if match is None:
            return None
        items = [_ITEM.match(item.strip()) for item in _split_items(match["columns"])]
        if any(item is None for item in items):
            return None
        if tuple(unquote(cast(re.Match[str], i)["name"]) for i in items) != columns:
            return None
        schema, table = _split_qualified(match["table"])
        if schema != namespace:
            return None
        found.append(table)
    return tuple(found)


def _split_items(text: str) -> list[str]:
    return re.findall(r'(?:[^,"]|"(?:[^"]|"")*")+', text)


def _split_qualified(text: str) -> tuple[str, str]:
    schema, table = re.findall(_IDENTIFIER, text)
    return unquote(schema), unquote(table)


def unquote(identifier: str) -> str:
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier


def _outside(schema: str | None, name: str | None, namespace: str) -> str:
    """A relation's name, qualified where it is not in the namespace."""
    return str(name) if schema == namespace else f"{schema}.{name}"


def _mapping(row: Row) -> UserMapping:
    options = dict(_options(row["options"]))
    return UserMapping(
        server=row["server"],
        role=row["role"],
        user=options.get("user", ""),
        password=options.get("password"),
    )


def publications(connection: db.Connection, namespace: str) -> dict[str, Publication]:
    """The publications of this database with a name of ours."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in _all(connection, "publications", namespace=namespace):
        if row["name"].startswith(OURS):
            found[row["name"]].append(row)
    return {
        name: Publication(
            name=name,
            tables=tuple(
                sorted((r["table"], tuple(sorted(r["columns"]))) for r in rows if r["table"])
            ),
            operations=tuple(rows[0]["operations"]),
            filtered=tuple(sorted(r["table"] for r in rows if r["filtered"])),
        )
        for name, rows in found.items()
    }


def slot_states(connection: db.Connection) -> dict[str, Slot]:
    """Every replication slot of the server with a name of ours."""
    rows = _all(connection, "slot_states")
    return {r["name"]: Slot(**r) for r in rows if r["name"].startswith(OURS)}


def wal_end(connection: db.Connection) -> int | None:
    """Where the WAL of the server ends now, as a number; None where it is in recovery."""
    found: int | None = _one(connection, "wal_end")["position"]
    return found


def subscriptions(connection: db.Connection) -> dict[str, Subscription]:
    """The subscriptions of this database with a name of ours."""
    rows = [r for r in _all(connection, "subscriptions") if r["name"].startswith(OURS)]
    peers: dict[str, dict[str, Any]] = {}
    if rows and all(r["readable"] for r in rows):
        for row in _all(connection, "subscription_conninfo"):
            peers[row["name"]] = conninfo_to_dict(row["conninfo"])
    replayed = {}
    if rows and rows[0]["origins"]:
        replayed = {r["name"]: r["replayed"] for r in _all(connection, "replayed")}
    found = {}
    for row in rows:
        peer = peers.get(row["name"])
        found[row["name"]] = Subscription(
            name=row["name"],
            slot=row["slot"] or "",
            publication=row["publication"],
            tables=tuple(row["tables"] or ()),
            enabled=row["enabled"],
            peer=None
            if peer is None
            else tuple((k, str(peer[k])) for k in SUBSCRIPTION_PEER if peer.get(k)),
            password=None if peer is None else cast("str | None", peer.get("password")),
            synced=row["synced"],
            replayed=replayed.get(row["name"]),
            copied=row["copied"],
        )
    return found


def _internal(
    connection: db.Connection, topology: str, server: str, namespace: str
) -> dict[str, Any]:
    schema = next(iter(_all(connection, "internal_schema")), None)
    if schema is None:
        return {}
    if not schema["usable"]:
        raise db.not_usable(connection, server, schema["owner"])
    if schema["ours"] == 0 and not schema["filled"]:
        return {}  # made beforehand, to grant on it: ours to fill
    row = None
    if schema["ours"] == len(_TABLES):
        row = _one(connection, "internal_rows", topology=topology)
    lacks = row is None or any(
        row["version"] >= since and not schema[name]
        for since, name in (
            (2, "map"),
            (3, "retired"),
            (3, "signing_key"),
            (3, "audit"),
            (4, "sealed"),
        )
    )
    if row is None or lacks:
        raise ServerError(
            f'server "{server}": schema "parlant_shard" of database "{connection.info.dbname}" is '
            "not what parlant-shard made: some of its tables are missing or of somebody else",
            code="PS414",
            hint="restore it from a backup; or, where nothing was applied there, DROP SCHEMA "
            "parlant_shard CASCADE",
        )

    def placements(items: Iterable[list[str]] | None) -> frozenset[Placement]:
        return frozenset(Placement(workspace=w, shard=s, state=t) for w, s, t in items or ())

    return {
        **(_keys(connection, topology, namespace) if row["version"] >= 4 else {}),
        "internal_version": row["version"],
        "retired": tuple(Retired(**r) for r in _all(connection, "retired", topology=topology))
        if row["version"] >= 3
        else (),
        "signing_keys": frozenset(r["id"] for r in _all(connection, "signing_keys"))
        if row["version"] >= 3
        else frozenset(),
        "managed": {
            (k, n): Managed(kind=k, name=n, logical=logical, shard=s)
            for k, n, logical, s in row["managed"] or ()
        },
        "placements": placements(row["placements"]),
        "directory": placements(row["directory"]),
        "shards": dict(sorted(row["shards"] or ())),
        "of_other_topologies": {
            n: f'{kind} of topology "{t}"' for n, t, kind in row["of_other_topologies"] or ()
        },
    }


def _keys(connection: db.Connection, topology: str, namespace: str) -> dict[str, Any]:
    """Key tables of ours, their schema, and the ways to those of other servers."""
    columns: dict[str, list[Column]] = defaultdict(list)
    tables: dict[str, str] = {}
    for row in _all(connection, "key_tables", topology=topology):
        tables[row["name"]] = row["logical"]
        columns[row["name"]].append(
            Column(name=row["column"], type=row["type"], collation=row["collation"], not_null=True)
        )
    found: dict[str, Any] = {
        "keys": {
            name: KeyTable(name=name, table=table, columns=tuple(columns[name]))
            for name, table in tables.items()
        },
        "seals": {r["server"]: Seal(**r) for r in _all(connection, "seals", topology=topology)},
        "sealers": frozenset(r["role"] for r in _all(connection, "sealers")),
    }
    for row in _all(connection, "key_schema", schema=key_schema(namespace)):
        found |= {
            "key_schema_owner": row["owner"],
            "key_schema_owned": row["owned"],
            "strange_keys": frozenset(row["strange"]),
        }
    return found


def _options(items: list[str] | None) -> tuple[tuple[str, str], ...]:
    pairs = (item.partition("=") for item in items or ())
    return tuple(sorted((name, value) for name, _, value in pairs))


def _all(connection: db.Connection, name: str, **params: Any) -> list[Row]:
    return connection.execute(queries("introspect")[name], params if params else None).fetchall()


def _one(connection: db.Connection, name: str, **params: Any) -> Row:
    return _all(connection, name, **params)[0]


def _grouped(
    connection: db.Connection, name: str, key: str, namespace: str
) -> Mapping[int, list[Row]]:
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in _all(connection, name, namespace=namespace):
        if row.get("definition", "") is None and row.get("type") != "f":
            continue  # dropped since our snapshot: PostgreSQL deparses what is there now
        groups[row[key]].append(row)
    return groups
