"""Steps for reference tables: publication, slots, subscriptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import changes as c
from parlant_shard.ddl import names, render, text
from parlant_shard.desired import PEER_OPTIONS
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Kind, Lock, Phase, Probe, secret_mark
from parlant_shard.sqlfiles import queries


class Replication(Builder):
    """Steps for reference tables: publication, slots, subscriptions."""

    def _replication(
        self,
        change: c.SetPublication
        | c.DropPublication
        | c.CreateSlot
        | c.DropSlot
        | c.CreateSubscription
        | c.ReconnectSubscription
        | c.RefreshSubscription
        | c.AwaitSubscription
        | c.DropSubscription,
    ) -> Iterator[Draft]:
        def draft(phase: Phase, title: str, *sql: Composable, **options: Any) -> Draft:
            return Draft(
                phase=phase,
                server=change.server,
                title=title,
                sql=tuple(render(s) for s in sql),
                **options,
            )

        match change:
            case c.SetPublication(publication=publication, exists=exists):
                tables = SQL(", ").join(
                    SQL("{} ({})").format(self.ddl.name(table), names(columns))
                    for table, columns in publication.tables
                )
                verb = (
                    "ALTER PUBLICATION {} SET TABLE "
                    if exists
                    else "CREATE PUBLICATION {} FOR TABLE "
                )
                # An applied TRUNCATE would fail on the foreign keys to the copies, for ever.
                publish = SQL("(publish = {})").format(Literal(", ".join(publication.operations)))
                name = Identifier(publication.name)
                statements = [text(verb).format(name) + tables]
                if not exists:
                    statements[0] += SQL(" WITH ") + publish
                elif change.operations:
                    statements.append(SQL("ALTER PUBLICATION {} SET ").format(name) + publish)
                yield draft(
                    Phase.PUBLICATION,
                    f'{"alter" if exists else "create"} publication "{publication.name}" of the '
                    "reference tables",
                    *statements,
                    lock=Lock.SHARE_UPDATE_EXCLUSIVE,
                )
            case c.DropPublication(publication=publication):
                yield draft(
                    Phase.DROP_PUBLICATION,
                    f'drop publication "{publication.name}"',
                    SQL("DROP PUBLICATION {}").format(Identifier(publication.name)),
                )
            case c.CreateSlot(name=name):
                # Apart from the subscription: CREATE SUBSCRIPTION would wait for its own
                # transaction where both databases are in one cluster.
                yield draft(
                    Phase.SLOTS,
                    f'create replication slot "{name}"',
                    SQL(
                        "SELECT pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput')"
                    ).format(Literal(name)),
                    kind=Kind.CONCURRENT,
                    probe=self._slot_probe(name, present="done", missing="absent"),
                )
            case c.DropSlot(name=name):
                yield draft(
                    Phase.DROP_SLOTS,
                    f'drop replication slot "{name}"',
                    SQL("SELECT pg_catalog.pg_drop_replication_slot({})").format(Literal(name)),
                    kind=Kind.CONCURRENT,
                    probe=self._slot_probe(name, present="absent", missing="done"),
                )
            case c.CreateSubscription(subscription=subscription, publisher=publisher):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'create subscription "{subscription.name}" to the reference tables',
                    SQL(
                        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} "
                        "WITH (create_slot = false, slot_name = {}, copy_data = true)"
                    ).format(
                        Identifier(subscription.name),
                        Literal(self._conninfo(publisher)),
                        Identifier(subscription.publication),
                        Literal(subscription.slot),
                    ),
                    secret=publisher if self.target.peers[publisher].password else None,
                    lock=Lock.ACCESS_SHARE,
                )
            case c.ReconnectSubscription(subscription=subscription, publisher=publisher):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'point subscription "{subscription.name}" at the coordinator',
                    SQL("ALTER SUBSCRIPTION {} CONNECTION {}").format(
                        Identifier(subscription.name), Literal(self._conninfo(publisher))
                    ),
                    secret=publisher if self.target.peers[publisher].password else None,
                )
            case c.RefreshSubscription(subscription=subscription):
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'refresh the tables of subscription "{subscription.name}"',
                    SQL("ALTER SUBSCRIPTION {} REFRESH PUBLICATION").format(
                        Identifier(subscription.name)
                    ),
                    kind=Kind.CONCURRENT,
                    lock=Lock.ACCESS_SHARE,
                )
            case c.AwaitSubscription(subscription=subscription):
                # The first line of the query is a comment for us.
                copied = SQL(queries("capacity")["copied"].partition("\n")[2].strip())
                yield draft(
                    Phase.SUBSCRIPTIONS,
                    f'wait until "{subscription.name}" has copied the reference tables',
                    copied.format(
                        name=Literal(subscription.name), count=Literal(len(subscription.tables))
                    ),
                    kind=Kind.WAIT,
                )
            case c.DropSubscription(subscription=subscription):
                gone = Identifier(subscription.name)
                yield draft(
                    Phase.DROP_REPLICATION,
                    f'drop subscription "{subscription.name}"; its slot goes on the coordinator',
                    SQL("ALTER SUBSCRIPTION {} DISABLE").format(gone),
                    SQL("ALTER SUBSCRIPTION {} SET (slot_name = NONE)").format(gone),
                    SQL("DROP SUBSCRIPTION {}").format(gone),
                )

    def _conninfo(self, server: str) -> str:
        peer = self.target.peers[server]
        options = {k: v for k, v in peer.options if k in PEER_OPTIONS}
        if peer.password is not None:
            options["password"] = secret_mark(server)
        return make_conninfo(user=peer.user, **options)

    def _slot_probe(self, name: str, *, present: str, missing: str) -> Probe:
        return Probe(
            query=render(
                SQL(
                    "SELECT CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_replication_slots "
                    "WHERE slot_name = {}) THEN {} ELSE {} END AS state"
                ).format(Literal(name), Literal(present), Literal(missing))
            )
        )
