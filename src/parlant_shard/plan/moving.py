"""Steps that move rows out of a default partition.

The rows are copied aside, into tables of the schema `parlant_shard` that nobody reads, in a
transaction of its own. Then everybody who began before its end is waited for (by whoever runs the
steps): who comes later sees the copies as well as the originals. So the exchange, in a second
transaction, changes nothing for any snapshot: the default partition goes and the copies take its
place. It is refused where a row of the default partition changed since the copy; the places and
transaction ids of all its rows tell.

The exchange takes every lock that it needs before it does anything, and the waits for all of them
together are shorter than `deadlock_timeout`, so that no application loses a deadlock to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import changes as c
from parlant_shard.allrows import every_row
from parlant_shard.catalog import Table
from parlant_shard.ddl import Ddl, names, render
from parlant_shard.diff import GUARD
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Hazard, Kind, Lock

ASIDE = "parlant_shard"  # the schema of the copies
CHANGED = "PS004"  # SQLSTATE: the default partition was written to between copy and exchange
# The comment of a copy: what it is, the fingerprint of the original (of the remainder only), and of
# which table. A killed run's copies are known by it.
MARK = "parlant-shard moving "

# What a foreign key does so that copies go with their originals: it can be there, and validated,
# before the exchange, which then has nothing to look at.
_FOLLOWS = frozenset({"c", "n"})

# Milliseconds for the first lock of the exchange, and for all others together.
_FIRST, _OTHERS = 300, 500
# Once it has its locks it reads the original once, and waits for nobody.
_EXCHANGE = 120_000


class Moving(Builder):
    """Steps for rows of default partitions."""

    def _move(self, change: c.MoveRows | c.DropCopies) -> Iterator[Draft]:
        match change:
            case c.DropCopies(names=copies):
                yield self._on(
                    change,
                    f"drop what an interrupted run had copied out of the default partition of "
                    f'"{change.table.name}"',
                    *map(_drop, copies),
                )
            case c.MoveRows():
                yield from self._move_rows(change)

    def _move_rows(self, change: c.MoveRows) -> Iterator[Draft]:
        parent, default = change.table, change.default
        into = f"{len(change.partitions)} partition{'s' if len(change.partitions) > 1 else ''}"
        yield self._on(
            change,
            f'copy the rows of default partition "{default.name}" aside, for {into}',
            *self._copy(change),
            kind=Kind.VALIDATE,
            lock=Lock.ACCESS_SHARE,  # of what is in use: nobody can wait for the copies
            hazards=(Hazard.FULL_SCAN,),
        )
        copies = (*change.partitions, change.remainder)
        for fk in parent.foreign_keys:
            if fk.on_delete not in _FOLLOWS or fk.unenforced:
                continue  # ATTACH adds it: a copy must not keep anybody from deleting
            add = SQL("ADD ") + self.ddl.named_foreign_key(replace(fk, valid=True))
            yield self._on(
                change,
                f'add foreign key "{fk.name}" to the copies, not yet validated',
                *(_aside(x.name, add + SQL(" NOT VALID")) for x in copies),
                lock=Lock.SHARE_ROW_EXCLUSIVE,
            )
            yield self._on(
                change,
                f'validate foreign key "{fk.name}" of the copies',
                *(
                    _aside(x.name, SQL("VALIDATE CONSTRAINT {}").format(Identifier(fk.name)))
                    for x in copies
                ),
                kind=Kind.VALIDATE,
                lock=Lock.SHARE_UPDATE_EXCLUSIVE,
            )
        yield replace(
            self._on(
                change,
                f'exchange default partition "{default.name}" of "{parent.name}" for the copies',
                *self._exchange(change),
                hazards=(Hazard.BLOCKS_WRITES, Hazard.BLOCKS_READS),
            ),
            lock_timeout=_FIRST,
            statement_timeout=_EXCHANGE,
            undo=tuple(render(_drop(x.name)) for x in copies),
        )

    def _copy(self, change: c.MoveRows) -> Iterator[Composable]:
        parent, aside = change.table, Ddl(ASIDE)
        columns = names(x.name for x in parent.columns if not x.generated)
        source = self.ddl.name(change.default.name)
        yield every_row(self.target.namespace, [change.default.name])
        for copy in (*change.partitions, change.remainder):
            yield aside.create_like(self.ddl.name(parent.name), copy)
            yield _comment(copy.name, f"{MARK}- {self._qualified(parent.name)}")
        # What was there before the copy must be there after it, and nothing else in the copies.
        yield self._note(change)
        for copy in change.partitions:
            assert copy.bound is not None
            yield _aside(
                copy.name,
                SQL("ADD CONSTRAINT {} CHECK ({})").format(
                    Identifier(GUARD), self.ddl.within(parent, copy.bound)
                ),
            )
            yield _insert(copy.name, columns, source, self.ddl.within(parent, copy.bound))
        yield _insert(change.remainder.name, columns, source, self._rest(change))
        yield self._compare(change, counted=True)
        for copy in (*change.partitions, change.remainder):
            yield from aside.furnish(replace(copy, comment=None))

    def _rest(self, change: c.MoveRows) -> Composable:
        assert change.table.partition_by is not None
        beside = [
            SQL("({})").format(self.ddl.beside(change.table, x.bound))
            for x in change.partitions
            if x.bound is not None
        ]
        return SQL("{} IS NULL OR ({})").format(
            Identifier(change.table.partition_by), SQL(" AND ").join(beside)
        )

    def _exchange(self, change: c.MoveRows) -> Iterator[Composable]:
        parent, default = change.table, change.default
        copies = (*change.partitions, change.remainder)
        referenced = sorted({fk.ref_table for fk in parent.foreign_keys})
        yield every_row(self.target.namespace, [default.name])
        # Nobody uses the copies, but for an autovacuum. Nobody waits for us yet.
        for copy in copies:
            yield _lock(Identifier(ASIDE, copy.name))
        yield _lock(self.ddl.name(parent.name))
        short = _OTHERS // (1 + len(referenced))
        yield SQL("SELECT pg_catalog.set_config('lock_timeout', {}, true)").format(
            Literal(str(short))
        )
        for name in (default.name, *referenced):
            yield _lock(self.ddl.name(name))
        yield self._compare(change, counted=False)
        yield self.ddl.alter(
            parent.name, SQL("DETACH PARTITION {}").format(self.ddl.name(default.name))
        )
        yield SQL("DROP TABLE {}").format(self.ddl.name(default.name))
        for copy in copies:
            yield _aside(copy.name, SQL("SET SCHEMA {}").format(Identifier(self.target.namespace)))
            yield self.ddl.attach(parent, copy)
            if copy is not change.remainder:
                yield self.ddl.alter(copy.name, SQL("DROP CONSTRAINT {}").format(Identifier(GUARD)))
            yield self.ddl.comment("TABLE", copy.name, copy.comment)

    def _note(self, change: c.MoveRows) -> Composable:
        """Write the fingerprint of the original into the comment of the remainder."""
        body = SQL(
            "BEGIN EXECUTE pg_catalog.format('COMMENT ON TABLE %I.%I IS %L', {}, {}, "
            "{} || {} || {}); END"
        ).format(
            *map(Literal, (ASIDE, change.remainder.name, MARK)),
            self._fingerprint(change.default),
            Literal(f" {self._qualified(change.table.name)}"),
        )
        return _do(body)

    def _compare(self, change: c.MoveRows, *, counted: bool) -> Composable:
        """Raise where the original is not what was noted, or the copies have other rows."""
        noted = SQL(
            "pg_catalog.split_part(pg_catalog.obj_description(pg_catalog.to_regclass({}), "
            "'pg_class'), ' ', 3)"
        ).format(Literal(Identifier(ASIDE, change.remainder.name).as_string(None)))
        wrong = SQL("{} IS DISTINCT FROM {}").format(noted, self._fingerprint(change.default))
        if counted:
            total = SQL(" + ").join(
                SQL("(SELECT count(*) FROM ONLY {})").format(Identifier(ASIDE, x.name))
                for x in (*change.partitions, change.remainder)
            )
            wrong += SQL(" OR pg_catalog.split_part({}, '/', 1)::bigint <> {}").format(noted, total)
        body = SQL(
            "BEGIN IF {} THEN RAISE EXCEPTION USING ERRCODE = {}, MESSAGE = {}; END IF; END"
        ).format(
            wrong,
            Literal(CHANGED),
            Literal(f'rows of default partition "{change.default.name}" changed meanwhile'),
        )
        return _do(body)

    def _fingerprint(self, table: Table) -> Composable:
        # A row that is there with the same place and transaction id was there all the time.
        return SQL(
            "(SELECT count(*) || '/' || coalesce(pg_catalog.bit_xor("
            "pg_catalog.hashtidextended(ctid, xmin::text::bigint)), 0) FROM ONLY {})"
        ).format(self.ddl.name(table.name))


def _do(body: Composable) -> Composable:
    return SQL("DO {}").format(Literal(render(body)))


def _lock(table: Composable) -> Composable:
    return SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(table)


def _drop(name: str) -> Composable:
    return SQL("DROP TABLE IF EXISTS {}").format(Identifier(ASIDE, name))


def _aside(name: str, action: Composable) -> Composable:
    return Ddl(ASIDE).alter(name, action)


def _comment(name: str, text: str) -> Composable:
    return Ddl(ASIDE).comment("TABLE", name, text)


def _insert(name: str, columns: Composable, source: Composable, where: Composable) -> Composable:
    return SQL("INSERT INTO {} ({}) SELECT {} FROM ONLY {} WHERE {}").format(
        Identifier(ASIDE, name), columns, columns, source, where
    )
