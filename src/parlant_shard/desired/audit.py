"""Recorded changes of rows: one partitioned table per shard, and what writes into it.

Statement-level triggers with transition tables write one INSERT … SELECT per statement. On a table
that is cut by time they are on the parent, where routed statements go; what names a partition
itself is not seen. The functions are SECURITY DEFINER, so nobody needs a right on the table. That
has row-level security without a policy: default privileges of a site give nobody its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psycopg.sql import SQL, Identifier, Literal

from parlant_shard import canonical
from parlant_shard.catalog import Catalog, Column, Function, Index, Relkind, Table, Trigger
from parlant_shard.ddl import render
from parlant_shard.errors import SchemaError
from parlant_shard.names import suffixed
from parlant_shard.sqlfiles import queries
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import AUDIT_TABLE, Topology

# One trigger per event: PostgreSQL allows transition tables in no other.
_EVENTS = {
    "insert": "NEW TABLE AS new_rows",
    "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "OLD TABLE AS old_rows",
}


def audited(topology: Topology) -> dict[str, tuple[str, ...]]:
    """Return the tables whose changes are recorded, with the columns that updates count for."""
    return {
        name: tuple(sorted(options.audit.columns))
        for name, options in sorted(topology.tables.items())
        if options.audit is not None
    }


def check_audit(topology: Topology, tenancy: Tenancy, base: Catalog) -> None:
    """Raise SchemaError (PS751 to PS754) for what cannot be recorded."""
    names = audited(topology)
    if AUDIT_TABLE in base.tables:
        raise SchemaError(
            f'the schema has a table "{AUDIT_TABLE}": recorded changes go to tables of that name',
            code="PS753",
            hint="rename it",
        )
    for name, columns in names.items():
        path = f"tables.{name}.audit"
        place = {"file": str(topology.file), "line": topology.line(path), "path": path}
        if name not in tenancy.sharded:
            raise SchemaError(
                f'changes of "{name}" cannot be recorded: it is no sharded table',
                code="PS751",
                hint="remove `audit` there; sharded tables can have it",
                **place,  # type: ignore[arg-type]  # the three keywords of a place
            )
        table = base.tables[name]
        if table.primary_key is None:
            raise SchemaError(
                f'changes of "{name}" cannot be recorded: it has no primary key to name rows by',
                code="PS752",
                hint="add a primary key, or remove `audit` there",
                **place,  # type: ignore[arg-type]
            )
        unknown = [c for c in columns if table.column(c) is None]
        if unknown:
            raise SchemaError(
                f'table "{name}" has no column "{unknown[0]}" whose changes could be recorded',
                code="PS754",
                hint=f"columns: {', '.join(c.name for c in table.columns)}",
                **place,  # type: ignore[arg-type]
            )


def base_table(tenancy: Tenancy) -> Table:
    """The table of recorded changes, before it is multiplied by the shards."""
    key = tenancy.key

    def column(name: str, type_: str, *, required: bool = True) -> Column:
        return Column(name=name, type=type_, not_null=required)

    return Table(
        name=AUDIT_TABLE,
        columns=(
            column("at", "timestamp with time zone"),
            column("transaction_id", "xid8"),
            column(key, tenancy.key_type),
            column("table_name", "text"),
            column("operation", "text"),
            column("row_key", "jsonb"),
            column("changed_columns", "text[]", required=False),
            column("actor", "text"),
            column("application_actor", "text", required=False),
        ),
        indexes=(
            Index(
                name=f"{AUDIT_TABLE}_key_idx",
                unique=False,
                definition=f"btree ({canonical.quote(key)}, at)",
            ),
        ),
        comment="parlant-shard: recorded changes of rows",
        # No policy: whatever default privileges grant, nobody but the owner has rows here.
        row_security=True,
    )


def shard_table(tenancy: Tenancy, shard: str) -> Table:
    """The table of one shard, cut by month."""
    table = base_table(tenancy)
    return Table(
        name=suffixed(AUDIT_TABLE, shard),
        kind=Relkind.PARTITIONED,
        columns=table.columns,
        indexes=tuple(
            Index(name=suffixed(i.name, shard), unique=False, definition=i.definition)
            for i in table.indexes
        ),
        comment=table.comment,
        row_security=True,
        partition_by="at",
    )


def triggers(topology: Topology, logical: str, shard: str) -> tuple[Trigger, ...]:
    """The triggers of one shard table; none where its changes are not recorded."""
    if logical not in audited(topology):
        return ()
    return tuple(
        Trigger(
            name=f"parlant_shard_audit_{event}",
            head=f"CREATE TRIGGER parlant_shard_audit_{event} AFTER {event.upper()}",
            tail=f"REFERENCING {rows} FOR EACH STATEMENT "
            f"EXECUTE FUNCTION {_signature(logical, shard)}",
        )
        for event, rows in _EVENTS.items()
    )


def functions(
    topology: Topology, tenancy: Tenancy, base: Catalog, shards: Iterable[str]
) -> Mapping[str, Function]:
    """The function of every recorded table of these shards."""
    found = {}
    for shard in shards:
        for logical, columns in audited(topology).items():
            signature = _signature(logical, shard)
            found[signature] = Function(
                signature=signature,
                definition=canonical.trigger_function(
                    signature,
                    _body(topology, tenancy, base.tables[logical], shard, columns),
                    definer=True,
                ),
            )
    return found


def _signature(logical: str, shard: str) -> str:
    return f"parlant_shard.{canonical.quote(suffixed(f'row_audit_{logical}', shard))}()"


def _body(
    topology: Topology, tenancy: Tenancy, table: Table, shard: str, watched: tuple[str, ...]
) -> str:
    """Only names go into the text, quoted; what a row holds never leaves its table."""
    assert table.primary_key is not None
    keys = list(table.primary_key.columns)
    partition = topology.partition_of(table.name)
    if partition is not None and partition.by not in keys:
        keys.append(partition.by)  # the declared key alone is unique within a partition only
    pairs = [SQL("{}, r.{}").format(Literal(k), Identifier(k)) for k in keys]
    text = queries("row_audit")["body"].partition("\n\n")[2]  # behind its comment
    return "\n" + render(
        SQL(text).format(
            namespace=Literal(topology.namespace),
            physical=Literal(suffixed(table.name, shard)),
            target=Identifier(topology.namespace, suffixed(AUDIT_TABLE, shard)),
            key=Identifier(tenancy.key),
            logical=Literal(table.name),
            row_key=SQL("jsonb_build_object({})").format(SQL(", ").join(pairs)),
            keys=Literal(canonical.array(sorted(keys))),
            watched=Literal(canonical.array(watched)),
        )
    )
