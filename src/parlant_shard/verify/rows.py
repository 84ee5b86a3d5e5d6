"""The checks of single rows: for each table of a shard, the statements that find what is wrong.

A probe is one condition on the rows `r` of one table. It is asked page range by page range; what it
counts adds up. The rules come from the topology and the schema, never from the constraints that
happen to be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

from parlant_shard import canonical, searchpath
from parlant_shard.catalog import Catalog, Check, ForeignKey, Relkind, Table
from parlant_shard.ddl import render, text
from parlant_shard.desired import Desired, check_name
from parlant_shard.diff import by_parent
from parlant_shard.names import suffixed
from parlant_shard.shardmap import BUCKETS
from parlant_shard.tenancy import Tenancy
from parlant_shard.topology import Topology
from parlant_shard.verify.report import SAMPLES

AND = SQL(" AND ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A table that holds rows of a shard: the shard table, or one of its partitions."""

    server: str
    shard: str
    logical: str
    table: str
    root: str  # the shard table itself
    primary_key: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One condition on the rows of a place.

    `kind` is an expression that tells findings apart, `words` says for each of its values what is
    wrong. The place's rows are `r`, `also` is what stands beside them in the FROM list. `parent`
    is the other table that is read.
    """

    check: str
    place: Place
    key: str
    table: Identifier
    also: Composable
    kind: Composable
    bad: Composable
    words: tuple[tuple[str, str], ...]
    about: str = ""  # tells probes of one check and table apart
    parent: str | None = None
    before: Composable | None = None  # what sets the session up for it

    @property
    def unit(self) -> str:
        return f"{self.check} {self.place.server} {self.place.table} {self.about}".strip()

    def batch(self, where: Iterable[Composable]) -> Composed:
        """Count what is wrong by kind and workspace, with the first primary keys of each."""
        return SQL(
            "SELECT kind, workspace, count(*) AS rows, "
            "pg_catalog.array_agg(sample) FILTER (WHERE n <= {samples}) AS sample FROM ("
            "SELECT kind, workspace, sample, "
            "row_number() OVER (PARTITION BY kind, workspace) AS n FROM ("
            "SELECT {kind} AS kind, r.{key}::pg_catalog.text AS workspace, {sample} AS sample "
            "FROM {table} AS r{also} WHERE {conditions}) AS found) AS numbered GROUP BY 1, 2"
        ).format(
            samples=Literal(SAMPLES),
            kind=self.kind,
            key=Identifier(self.key),
            sample=sample_of(self.place.primary_key),
            table=self.table,
            also=self.also,
            conditions=AND.join([*where, self.bad]),
        )

    def statement(self, kind: str, workspace: str | None) -> str:
        """The statement that shows the keys of what was found."""
        conditions = [self.bad]
        if len(self.words) > 1:
            conditions.append(SQL("{} = {}").format(self.kind, Literal(kind)))
        return shown(self.table, self.place, self.key, workspace, conditions, self.also)


def shown(
    table: Identifier,
    place: Place,
    key: str,
    workspace: str | None,
    conditions: Iterable[Composable],
    also: Composable = SQL(""),  # noqa: B008 - a constant
) -> str:
    """The statement that shows the rows `r` of one workspace with the primary keys of each.

    Whatever the settings of the session that it is pasted into: behind OFFSET 0 the planner cannot
    prove from a CHECK or a NOT NULL that there is nothing to find.
    """
    column = Identifier("r", key)
    columns = [column, *(Identifier("r", c) for c in place.primary_key if c != key)]
    if not place.primary_key:
        columns.append(Identifier("r", "ctid"))
    return render(
        SQL("SELECT {} FROM (SELECT {} FROM {} OFFSET 0) AS r{} WHERE {}").format(
            SQL(", ").join(columns),
            SQL("*" if place.primary_key else "ctid, *"),
            table,
            also,
            AND.join(
                [
                    *conditions,
                    SQL("pg_catalog.num_nulls({}) > 0").format(column)
                    if workspace is None
                    else SQL("{}::pg_catalog.text = {}").format(column, Literal(workspace)),
                ]
            ),
        )
    )


def sample_of(columns: Iterable[str]) -> Composable:
    """The primary key of `r` as JSON of texts; the place of the row where there is none."""
    pairs: list[Composable] = [
        part
        for column in columns
        for part in (Literal(column), SQL("r.{}::pg_catalog.text").format(Identifier(column)))
    ]
    pairs = pairs or [Literal("ctid"), SQL("r.ctid::pg_catalog.text")]
    return SQL("pg_catalog.jsonb_build_object({})").format(SQL(", ").join(pairs))


def places(
    topology: Topology, tenancy: Tenancy, server: str, live: Catalog, base: Catalog
) -> list[Place]:
    """The tables of a server that hold rows of shards, as they are there now."""
    leaves = by_parent(live.tables.values())
    found = []
    for shard, options in topology.shards.items():
        if options.server != server:
            continue
        for logical in tenancy.sharded:
            root = suffixed(logical, shard)
            table = live.tables.get(root)
            if table is None or table.kind is Relkind.FOREIGN:
                continue  # said by the checks of definitions
            declared = base.tables[logical].primary_key
            wanted = declared.columns if declared else ()
            names = [root]
            if table.kind is Relkind.PARTITIONED:
                names = sorted(t.name for t in leaves.get(root, ()) if t.kind is Relkind.TABLE)
            found += [
                Place(
                    server=server,
                    shard=shard,
                    logical=logical,
                    table=name,
                    root=root,
                    primary_key=tuple(c for c in wanted if live.tables[name].column(c)),
                )
                for name in names
            ]
    return found


class Probes:
    """Builds the probes of one server."""

    def __init__(
        self,
        topology: Topology,
        tenancy: Tenancy,
        desired: Desired,
        base: Catalog,
        live: Catalog,
        purged: Iterable[str],
    ) -> None:
        self.topology, self.tenancy, self.desired = topology, tenancy, desired
        self.base, self.live, self.purged = base, live, sorted(purged)
        self.key = tenancy.key

    def of(self, check: str, place: Place) -> Iterator[Probe]:
        match check:
            case "misplaced-rows":
                yield self._misplaced(place)
            case "missing-key":
                yield self._missing_key(place)
            case "rows-outside-check":
                yield from self._outside(place)
            case "parents":
                yield from self._parents(place)

    def _probe(
        self,
        check: str,
        place: Place,
        bad: Composable,
        words: tuple[tuple[str, str], ...],
        *,
        kind: Composable | None = None,
        also: Composable | None = None,
        about: str = "",
        parent: str | None = None,
        before: Composable | None = None,
    ) -> Probe:
        return Probe(
            check=check,
            place=place,
            key=self.key,
            table=self._relation(place.table),
            also=SQL("") if also is None else also,
            kind=Literal(words[0][0]) + SQL("::pg_catalog.text") if kind is None else kind,
            bad=bad,
            words=words,
            about=about,
            parent=parent,
            before=before,
        )

    def _relation(self, name: str) -> Identifier:
        return Identifier(self.topology.namespace, name)

    def _misplaced(self, place: Place) -> Probe:
        key = SQL("r.{}::pg_catalog.text").format(Identifier(self.key))
        home = at_home(self.topology, place.shard, key)
        stray = ("row", f'rows of a workspace that does not live on shard "{place.shard}"')
        bad = SQL("{} <> '' AND NOT ({})")
        if not self.purged:
            return self._probe("misplaced-rows", place, bad.format(key, home), (stray,))
        purged = SQL("{} = ANY ({})").format(key, texts(self.purged))
        command = f"parlant-shard workspace purge {self.topology.file} WS --allow deletes-data"
        return self._probe(
            "misplaced-rows",
            place,
            bad.format(key, SQL("NOT {} AND {}").format(purged, home)),
            (
                stray,
                (
                    "purged",
                    f"rows of a workspace that was purged: `{command}` with its name for WS "
                    "deletes them",
                ),
            ),
            kind=SQL("CASE WHEN {} THEN 'purged' ELSE 'row' END").format(purged),
        )

    def _missing_key(self, place: Place) -> Probe:
        key = SQL("r.{}::pg_catalog.text").format(Identifier(self.key))
        # Not IS NULL, which newer planners drop where they believe a NOT NULL.
        empty = SQL("(pg_catalog.num_nulls({key}) > 0 OR {key} = '')").format(key=key)
        nulls = [
            SQL("pg_catalog.num_nulls(r.{}) > 0").format(Identifier(c)) for c in place.primary_key
        ]
        return self._probe(
            "missing-key",
            place,
            SQL("({})").format(SQL(" OR ").join([empty, *nulls])),
            (
                ("workspace", f'rows with a NULL or empty "{self.key}"'),
                ("primary key", "rows with a NULL in the primary key"),
            ),
            kind=SQL("CASE WHEN {} THEN 'workspace' ELSE 'primary key' END").format(empty),
        )

    def _outside(self, place: Place) -> Iterator[Probe]:
        """Rows outside the CHECKs: those that are there, and those that should be.

        The CHECK on the key is left to `misplaced-rows` where it says what it should.
        """
        wanted = self.desired.catalogs[place.server].tables[place.root]
        name = check_name(place.logical, place.shard)
        ours = next(c for c in wanted.checks if c.name == name)
        found: dict[str, str] = {}
        # What the schema declares NOT ENFORCED, and nothing enforces, may be violated.
        enforced = {expression(c) for c in wanted.checks if not c.unenforced}
        loose = {expression(c) for c in wanted.checks} - enforced
        for table in (wanted, self.live.tables[place.root], self.live.tables[place.table]):
            for check in table.checks:
                if expression(check) not in {expression(ours), *loose}:
                    found.setdefault(expression(check), check.name)
        if not found:
            return
        rows = [
            SQL("({}, ({}))").format(Literal(name), text(condition))
            for condition, name in found.items()
        ]
        yield self._probe(
            "rows-outside-check",
            place,
            SQL("NOT v.inside"),
            tuple((name, f'rows that violate the CHECK "{name}"') for name in found.values()),
            kind=SQL("v.name::pg_catalog.text"),
            also=SQL(" CROSS JOIN LATERAL (VALUES {}) AS v (name, inside)").format(
                SQL(", ").join(rows)
            ),
            before=searchpath.opened(self.topology.namespace),
        )

    def _parents(self, place: Place) -> Iterator[Probe]:
        for fk in self.base.tables[place.logical].foreign_keys:
            parent = self.parent_here(place, fk)
            if parent is None:
                continue
            sharded = self.tenancy.kinds.get(fk.ref_table) == "sharded"
            keyed = self.desired.catalogs[place.server].tables[parent].column(self.key) is not None
            if fk.unenforced and not keyed:
                continue
            # The key is asked for apart: a parent of another workspace is a finding of its own.
            pairs = links(fk, self.key if sharded else None)
            here = [SQL("r.{} IS NOT NULL").format(Identifier(c)) for c, _ in pairs]
            same: list[Composable] = [
                SQL("p.{} = r.{}").format(Identifier(b), Identifier(a)) for a, b in pairs
            ]
            same = same or [SQL("true")]
            source = SQL("SELECT FROM {} AS p WHERE ").format(self._relation(parent))
            any_parent = SQL("EXISTS ({}{})").format(source, AND.join(same))
            within = [*same]
            if sharded:
                key = Identifier(self.key)
                within.append(SQL("p.{} = r.{}").format(key, key))
                # A row without a workspace is said by `missing-key`.
                here.append(SQL("r.{}::pg_catalog.text <> ''").format(key))
            elif keyed:
                # A reference table with the key: a foreign key takes another workspace's row too,
                # for its check passes over row-level security. Shared rows are everybody's.
                key = Identifier(self.key)
                within.append(
                    SQL(
                        "(pg_catalog.num_nulls(p.{0}) > 0 "
                        "OR p.{0}::pg_catalog.text = r.{0}::pg_catalog.text)"
                    ).format(key)
                )
                here.append(SQL("r.{}::pg_catalog.text <> ''").format(key))
            if fk.unenforced:
                # A parent may be missing, as declared; one of another workspace never belongs.
                here.append(any_parent)
            name = f'"{fk.ref_table}" ({", ".join(a for a, _ in pairs) or self.key})'
            yield self._probe(
                "parents",
                place,
                AND.join([*here, SQL("NOT EXISTS ({}{})").format(source, AND.join(within))]),
                (
                    ("missing", f"rows whose parent in {name} does not exist"),
                    ("foreign", f"rows whose parent in {name} is of another workspace"),
                ),
                kind=SQL("CASE WHEN {} THEN 'foreign' ELSE 'missing' END").format(any_parent),
                about=fk.name,
                parent=parent,
            )

    def parent_here(self, place: Place, fk: ForeignKey) -> str | None:
        """The parent's table on the same server; None where it is on the coordinator alone."""
        if self.tenancy.kinds.get(fk.ref_table) == "sharded":
            return suffixed(fk.ref_table, place.shard)
        if fk.ref_table in self.desired.catalogs[place.server].tables:
            return fk.ref_table
        return None


def links(fk: ForeignKey, key: str | None) -> list[tuple[str, str]]:
    """The columns of a foreign key, apart from the distribution key (if one is given) on both."""
    pairs = zip(fk.columns, fk.ref_columns, strict=True)
    return [(a, b) for a, b in pairs if (a, b) != (key, key)]


def expression(check: Check) -> str:
    """The condition of a CHECK, without NO INHERIT or NOT ENFORCED behind it."""
    body = check.definition.removeprefix("CHECK ")
    return body[: body.rindex(")") + 1]


def at_home(topology: Topology, shard: str, key: Composable) -> Composable:
    """Whether a workspace lives on a shard, by the lists and buckets of the file.

    The bucket is computed here: the function of our schema could have been replaced.
    """
    options = topology.shards[shard]
    home: Composable = SQL("{} = ANY ({})").format(key, texts(sorted(options.workspaces)))
    if not options.buckets:
        return home
    digest = SQL("pg_catalog.sha256(pg_catalog.convert_to({}, 'UTF8'))").format(key)
    number = SQL(
        "((pg_catalog.get_byte({d}, 0) * 256 + pg_catalog.get_byte({d}, 1)) % {n})"
    ).format(d=digest, n=Literal(BUCKETS))
    spans = SQL(" OR ").join(
        SQL("{} BETWEEN {} AND {}").format(number, Literal(low), Literal(high))
        for low, high in sorted(options.buckets)
    )
    elsewhere = sorted(w for n, o in topology.shards.items() if n != shard for w in o.workspaces)
    return SQL("({} OR ({} <> ALL ({}) AND ({})))").format(home, key, texts(elsewhere), spans)


def texts(values: list[str]) -> Composable:
    return text(canonical.literal(canonical.array(values)) + "::pg_catalog.text[]")


def of_workspace(key: str, workspace: str | None, table: Table | None = None) -> list[Composable]:
    """The condition that leaves one workspace's rows."""
    if workspace is None:
        return []
    column = SQL("r.{}").format(Identifier(key))
    plain = table is not None and (found := table.column(key)) is not None and found.type == "text"
    # Without the cast an index serves; other types are compared by their text.
    return [
        (SQL("{} = {}") if plain else SQL("{}::pg_catalog.text = {}")).format(
            column, Literal(workspace)
        )
    ]


def by_index(key: str, workspace: str | None, table: Table) -> bool:
    """Whether an index finds the rows of that workspace."""
    column = table.column(key)
    if workspace is None or column is None or column.type != "text":
        return False
    name = canonical.quote(key)
    return any(k.columns[:1] == (key,) for k in table.keys) or any(
        i.valid
        and i.definition.startswith((f"btree ({name},", f"btree ({name})"))
        and " WHERE " not in i.definition
        for i in table.indexes
    )
