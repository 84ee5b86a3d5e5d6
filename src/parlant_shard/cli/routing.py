"""Where statements go."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from psycopg.adapt import AdaptersMap, Loader
from psycopg.pq import Format
from psycopg.types.string import TextLoader
from typer.exceptions import TyperException

from parlant_shard.cli.shell import TopologyFile, app, load, options, tell
from parlant_shard.errors import CannotConnect
from parlant_shard.topology import Topology

if TYPE_CHECKING:
    from parlant_shard.client import Router


Statement = Annotated[str, typer.Argument(metavar="SQL", help="One statement.")]
Tenant = Annotated[str | None, typer.Option("--workspace", metavar="WS", help="Whose rows.")]
Values = Annotated[
    str | None, typer.Option("--params", metavar="JSON", help="A list, or an object of names.")
]
Everything = Annotated[bool, typer.Option("--all", help="Read all workspaces.")]
MapFile = Annotated[
    Path | None, typer.Option("--map", metavar="FILE", help="A map from `export --format json`.")
]


def _router(topology: Topology, file: Path | None = None) -> Router:
    """A router for one command: it goes by the map as it is now."""
    from parlant_shard.client import Router, source
    from parlant_shard.shardmap import ShardMap

    found = ShardMap.load(file) if file is not None else source.load(topology)
    if found is None:
        raise source.not_stored(topology)
    return Router(topology, shard_map=found)


def _as_postgres_says() -> AdaptersMap:
    """Adapters for printing: what Python cannot hold is shown as PostgreSQL writes it.

    A timedelta has no months, so intervals are always. Dates and times are if they are infinite,
    before Christ, or after the year 9999.
    """
    found = AdaptersMap(psycopg.adapters)
    found.register_loader("interval", TextLoader)
    for kind in ("date", "timestamp", "timestamptz", "time", "timetz"):
        found.register_loader(kind, _or_text(kind))
    return found


def _or_text(kind: str) -> type[Loader]:
    found = psycopg.adapters.get_loader(psycopg.adapters.types.get_oid(kind), Format.TEXT)
    assert found is not None
    usual: type[Any] = found

    class OrText(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._usual = usual(oid, context)

        def load(self, data: Any) -> Any:
            try:
                return self._usual.load(data)
            except psycopg.DataError:
                return bytes(data).decode()

    return OrText


def _params(text: str | None) -> list[Any] | dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise TyperException(f"--params is not JSON: {error}") from error
    if not isinstance(found, list | dict):
        raise TyperException("--params is a JSON list, or an object for %(name)s")
    return found


@app.command()
def route(
    file: TopologyFile,
    sql: Statement,
    workspace: Tenant = None,
    params: Values = None,
    everything: Everything = False,
    map_file: MapFile = None,
) -> None:
    """Show where a statement goes, as what, and why. Runs nothing but a look-up."""
    from parlant_shard import explain
    from parlant_shard.router.route import Kind

    values = _params(params)
    topology = load(file, start=map_file is None)
    with _router(topology, map_file) as router:
        found = router.route(sql, values, workspace=workspace, all_workspaces=everything)
        if found.kind is Kind.LOOKUP:
            try:
                found = router.resolve(sql, values, workspace=workspace)
            except CannotConnect as error:
                if map_file is None:
                    raise
                tell(f"the look-up was left out: {error.message}")
    if options.json:
        typer.echo(json.dumps(found.to_data(), indent=2, ensure_ascii=False))
        return
    bold = sys.stdout.isatty() and options.color
    mark = (lambda text: typer.style(text, bold=True, underline=True)) if bold else None
    typer.echo(explain.route_text(found, sql, mark))


@app.command()
def query(
    file: TopologyFile,
    sql: Statement,
    workspace: Tenant = None,
    params: Values = None,
    everything: Everything = False,
) -> None:
    """Run a statement where it belongs and print its rows: a table, JSON or CSV."""
    from parlant_shard import explain
    from parlant_shard.client.pools import Pools

    values = _params(params)
    with _router(load(file)) as router:
        router.pools = Pools(router.topology, router.options, context=_as_postgres_says())
        result = router.execute(sql, values, workspace=workspace, all_workspaces=everything)
    names = explain.columns_of(result.description)
    rows = result.fetchall() if names else []
    if options.json:
        typer.echo(explain.rows_json(names, rows, result.statusmessage))
    elif options.csv:
        if names:
            typer.echo(explain.rows_csv(names, rows), nl=False)
    else:
        typer.echo(explain.rows_table(names, rows) if names else result.statusmessage)


@app.command()
def export(
    file: TopologyFile,
    format_: Annotated[str, typer.Option("--format", metavar="FORMAT", help="json")] = "json",
) -> None:
    """Print the shard map for others: the stored one, else what the servers' state gives."""
    if format_ != "json":
        later = format_ in {"pgbouncer", "pgdog", "mermaid", "dot", "sql"}
        raise TyperException(
            f"--format {format_} does not exist yet"
            if later
            else f"--format is json, not {format_}"
        )
    from parlant_shard.client import source

    topology = load(file)
    found = source.load(topology)
    if found is None:
        from parlant_shard.planner import map_of, read_state

        found = map_of(read_state(topology))
        tell("no shard map is stored yet: this one is computed from the servers and the topology")
    typer.echo(found.dump(), nl=False)
