"""Steps for the rows that say where workspaces live."""

from __future__ import annotations

from collections.abc import Iterator

from psycopg.sql import SQL, Composable, Identifier, Literal

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.ddl import render
from parlant_shard.plan.draft import Builder, Draft
from parlant_shard.plan.model import Lock, Phase


class Placements(Builder):
    """Steps for the rows that say where workspaces live."""

    def _placement(self, change: c.SetPlacements | c.SetDirectory) -> Iterator[Draft]:
        directory = isinstance(change, c.SetDirectory)
        table = Identifier("parlant_shard", "directory" if directory else "placement")
        topology = Literal(self.target.topology)
        sql: list[Composable] = []
        if isinstance(change, c.SetDirectory) and change.shards_changed:
            sql.append(SQL("DELETE FROM parlant_shard.shard WHERE topology = {}").format(topology))
            sql += [
                SQL(
                    "INSERT INTO parlant_shard.shard (topology, shard, server) VALUES ({}, {}, {})"
                ).format(topology, Literal(shard), Literal(server))
                for shard, server in change.shards
            ]
        if change.delete:
            sql.append(
                SQL(
                    "DELETE FROM {} WHERE topology = {} AND workspace_id = ANY ({}::text[])"
                ).format(
                    table, topology, Literal(canonical.array(p.workspace for p in change.delete))
                )
            )
        if change.upsert:
            sql.append(
                SQL(
                    "INSERT INTO {} AS old (topology, workspace_id, shard, state) "
                    "SELECT {}, w, s, t FROM unnest({}::text[], {}::text[], {}::text[]) "
                    "AS new (w, s, t) ON CONFLICT (topology, workspace_id) DO UPDATE SET "
                    "shard = EXCLUDED.shard, state = EXCLUDED.state, epoch = old.epoch + 1, "
                    "updated_at = pg_catalog.now()"
                ).format(
                    table,
                    topology,
                    Literal(canonical.array(p.workspace for p in change.upsert)),
                    Literal(canonical.array(p.shard for p in change.upsert)),
                    Literal(canonical.array(p.state for p in change.upsert)),
                )
            )
        parts = []
        if change.upsert:
            parts.append(f"place {_count(len(change.upsert), 'workspace')}")
        if change.delete:
            parts.append(f"forget {_count(len(change.delete), 'workspace')}")
        if isinstance(change, c.SetDirectory) and change.shards_changed:
            parts.append(f"record {_count(len(change.shards), 'shard')}")
        where = "in the directory" if directory else "on this server"
        yield Draft(
            phase=Phase.DIRECTORY if directory else Phase.PLACEMENT,
            server=change.server,
            title=f"{', '.join(parts)} {where}",
            sql=tuple(render(s) for s in sql),
            lock=Lock.ROW_EXCLUSIVE,
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
