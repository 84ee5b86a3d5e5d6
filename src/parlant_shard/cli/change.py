"""Commands that write a topology, check it, and make the servers follow it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from parlant_shard import render
from parlant_shard.cli.shell import (
    FORMAT_VERSION,
    Allow,
    Progress,
    TopologyFile,
    Yes,
    app,
    complain,
    load,
    options,
    reason,
    tell,
    write_json,
)
from parlant_shard.errors import Exit, TopologyError
from parlant_shard.plan import Plan
from parlant_shard.topology import STARTER, json_schema


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path(),
) -> None:
    """Write a commented starter topology, and the JSON Schema that editors check it with."""
    target, beside = directory / "topology.yaml", directory / "topology.schema.json"
    if target.exists():
        raise TopologyError(
            f'"{target}" exists already',
            code="PS150",
            hint="remove it, or name another directory",
        )
    directory.mkdir(parents=True, exist_ok=True)
    # Overwritten, if it is there: it follows the release, and nobody edits it.
    beside.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
    target.write_text(STARTER, encoding="utf-8")
    if options.json:
        write_json({"file": str(target), "schema": str(beside)})
    else:
        typer.echo(f"wrote {target} and {beside.name}")
        tell(f"next: parlant-shard plan {target}")


@app.command()
def validate(file: TopologyFile) -> None:
    """Check the topology file alone; contacts nothing."""
    topology = load(file, start=False)
    shards, workspaces = (
        len(topology.shards),
        sum(len(s.workspaces) for s in topology.shards.values()),
    )
    if options.json:
        write_json({"ok": True, "name": topology.name, "shards": shards, "workspaces": workspaces})
    else:
        typer.echo(
            f'{file}: topology "{topology.name}" is valid: {len(topology.servers)} servers, '
            f"{shards} shards, {workspaces} listed workspaces"
        )


@app.command()
def schema() -> None:
    """Print the JSON Schema of the topology file."""
    typer.echo(json.dumps(json_schema(), indent=2))


@app.command()
def plan(
    file: TopologyFile,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="PLAN.json")] = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 3 when there are changes.")
    ] = False,
) -> int:
    """Show what differs between the topology and the live servers, as steps."""
    from parlant_shard import trail
    from parlant_shard.planner import make_plan

    topology = load(file)
    with trail.recorded(topology, "plan", tell=tell, reader=True) as entry:
        found = make_plan(topology)
        entry.detail = {"steps": len(found.steps), "topology_sha256": topology.sha256}
    if out is not None:
        try:
            out.write_text(
                json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise TopologyError(
                f'"{out}" cannot be written: {reason(error)}',
                code="PS156",
                hint="name a file in a directory that exists",
            ) from error
    if options.json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        typer.echo(render.plan_text(found, sql=options.verbose))
        if out is not None:
            tell(f"saved to {out}; execute it with: parlant-shard apply {out}")
    if _broken(found):
        return Exit.FAILED
    return Exit.FINDINGS if detailed_exitcode and found.steps else Exit.DONE


def _broken(found: Plan) -> bool:
    """Complain of copies that missed changes; return whether there are any."""
    for copy in found.broken_copies:
        complain(copy.code, copy.message, copy.hint)
    return bool(found.broken_copies)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="TOPOLOGY|PLAN.json")],
    yes: Yes = False,
    allow: Allow = [],  # noqa: B006  # typer copies it
) -> int:
    """Make the servers what the topology says. Can be killed at any point and run again."""
    from parlant_shard.apply import apply as execute

    unknown = sorted(set(allow) - {"deletes-data", "drops-object"})
    if unknown:
        raise TyperException(
            f"--allow {unknown[0]}: only deletes-data and drops-object need to be allowed"
        )
    saved, topology_file = _saved_plan(file)
    topology = load(topology_file)
    progress = Progress()
    declined = False

    def confirm(found: Plan) -> bool:
        nonlocal declined
        progress.total = len(found.steps)
        if yes:
            tell(render.summary(found))
            return True
        if options.json or not sys.stdin.isatty():
            raise TyperException("apply asks before it changes anything: add --yes")
        typer.echo(render.plan_text(found, sql=options.verbose), err=True)
        declined = not typer.confirm("Apply?", err=True)
        return not declined

    outcome = execute(
        topology, saved=saved, allow=frozenset(allow), confirm=confirm, listener=progress
    )
    if options.json:
        write_json(
            {
                "run_id": outcome.run_id,
                "steps": outcome.done,
                "seconds": round(outcome.seconds, 3),
                "resumed": outcome.resumed,
                "notices": list(outcome.plan.notices),
                "broken_copies": [b.to_json() for b in outcome.plan.broken_copies],
            }
        )
    elif declined:
        typer.echo("nothing was changed")
    elif outcome.done == 0:
        typer.echo(f'Topology "{topology.name}": nothing to do.')
    else:
        again = ", resuming an interrupted run" if outcome.resumed else ""
        typer.echo(
            f'Topology "{topology.name}": {outcome.done} steps done in {outcome.seconds:.1f} s'
            f"{again}."
        )
    return Exit.FAILED if _broken(outcome.plan) else Exit.DONE


def _saved_plan(file: Path) -> tuple[Plan | None, Path]:
    """Tell a saved plan from a topology by its content; return the topology file too."""
    if file.suffix.lower() != ".json":
        return None, file
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        known = data.get("format_version", FORMAT_VERSION)
        found = Plan.from_json(data) if known == FORMAT_VERSION else None
    except FileNotFoundError as error:
        raise TopologyError(
            f'"{file}" does not exist', code="PS151", hint="name a topology or a saved plan"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(
            f'"{file}" cannot be read: {reason(error)}',
            code="PS151",
            hint="look at the path and its permissions",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TopologyError(
            f'"{file}" is no plan of parlant-shard',
            code="PS152",
            hint="make one with `parlant-shard plan TOPOLOGY -o PLAN.json`",
        ) from error
    if found is None:
        raise TopologyError(
            f'plan "{file}" has the format {data.get("format_version")}, this release knows '
            f"{FORMAT_VERSION}",
            code="PS153",
            hint="make a new plan with this release",
        )
    topology = Path(found.file)
    if not topology.is_absolute() and not topology.exists():
        topology = file.parent / topology
    if not topology.exists():
        raise TopologyError(
            f'the plan names the topology file "{found.file}", which does not exist here',
            code="PS155",
            hint="run it in the directory in which the plan was made",
        )
    return found, topology
