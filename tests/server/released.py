"""The databases of a release, made anew from its snapshot in tests/data/released/.

A dump is not all of a live topology. What it lacks is made here as it was on the day of the
snapshot: the replication slot of each subscription, at the publisher; the subscription enabled, and
its tables marked as copied (their rows are in the dump); and in `parlant_shard.retired` the oid of
each detached table. Positions of replication and statistics are those of a server that has just
been restored.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from protocol import World
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from parlant_shard.topology import Topology, load_topology
from servers import Clusters

SNAPSHOTS = Path(__file__).parents[1] / "data" / "released"
RELEASES = tuple(sorted(p.name for p in SNAPSHOTS.iterdir() if (p / "facts.json").is_file()))
WAIT = 60.0  # seconds for a subscription to start


class Released(World):
    """The live servers of a release, and a copy of its files in `directory`."""

    def __init__(self, release: str, directory: Path, clusters: Clusters) -> None:
        super().__init__(directory, clusters, over=2)
        shutil.copytree(SNAPSHOTS / release, directory, dirs_exist_ok=True)
        facts = json.loads((directory / "facts.json").read_text(encoding="utf-8"))
        self.counts: dict[str, dict[str, int]] = facts["rows"]
        # Both first, for each dump names the other server; the publisher is loaded first.
        for server in ("core", "east"):
            self.dsn(server)
        for server in self.dsns:
            text = (directory / f"{server}.sql").read_text(encoding="utf-8")
            with self.connect(server) as connection:
                connection.execute(self._addressed(text))
        with self.connect() as core:
            for server in self.dsns:
                with self.connect(server) as connection:
                    _revive(core, connection)

    def _addressed(self, text: str) -> sql.SQL:
        """Put this world's servers in the place of the marks."""
        logins = {
            # Another server reaches it there; where a test may not know, by its own address.
            name: conninfo_to_dict(self.clusters.get(i % self.over).peer_dsn(dsn))
            for i, (name, dsn) in enumerate(self.dsns.items())
        }
        return sql.SQL(
            re.sub(r"\$\{(\w+)\.(\w+)\}", lambda m: str(logins[m[1]].get(m[2], "")), text)  # type: ignore[arg-type]
        )

    def topology(self, file: str = "topology.yaml") -> Topology:
        """Read a topology of the snapshot, as a user of today's code would."""
        return load_topology(self.directory / file, environ=self.dsns)

    def written(self, file: str = "topology.yaml") -> Path:
        """Write the connection strings into a topology, for another process; return the file."""
        path = self.directory / file
        text = path.read_text(encoding="utf-8")
        for name, dsn in self.dsns.items():
            text = text.replace(f"${{{name}}}", dsn)
        path.write_text(text, encoding="utf-8")
        return path

    def rows_of(self, workspace: str) -> dict[str, int]:
        """Count the rows of a workspace in attached tables, by logical table."""
        return {
            table: sum(
                self.value(
                    f"SELECT count(*) FROM {table}_{shard} WHERE workspace_id = '{workspace}'",
                    server=server,
                )
                for shard, server in (("s1", "core"), ("s2", "east"), ("s3", "east"))
            )
            for table in self.counts[workspace]
        }


def _revive(publisher: psycopg.Connection[Any], connection: psycopg.Connection[Any]) -> None:
    """Start the subscriptions of a database, and find its detached tables again."""
    # The dump has set the session up for itself.
    connection.execute("RESET ALL")
    connection.execute(
        "UPDATE parlant_shard.retired SET relid = coalesce(to_regclass(format('%I', name)), 0)"
    )
    for name, slot in connection.execute(
        "SELECT subname, subslotname FROM pg_subscription "
        "WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    ).fetchall():
        publisher.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        named = sql.Identifier(name)
        connection.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(named))
        connection.execute(
            sql.SQL("ALTER SUBSCRIPTION {} REFRESH PUBLICATION WITH (copy_data = false)").format(
                named
            )
        )
        deadline = time.monotonic() + WAIT
        while not connection.execute(
            "SELECT FROM pg_stat_subscription WHERE subname = %s AND received_lsn IS NOT NULL",
            [name],
        ).fetchall():
            assert time.monotonic() < deadline, f"subscription {name} does not start"
            time.sleep(0.05)


def members(file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of an export."""
    import tarfile

    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            yield member.name, content.read()
