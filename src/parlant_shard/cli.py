"""The command line. The only module that prints, asks and exits."""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import typer
from typer.exceptions import TyperException

from parlant_shard import __version__, local, render
from parlant_shard.errors import CannotConnect, Exit, ShardError, TopologyError
from parlant_shard.plan import Plan, Step
from parlant_shard.topology import STARTER, Topology, json_schema, load_topology

if TYPE_CHECKING:
    from parlant_shard.client import Router

FORMAT_VERSION = 1

# The option parser swallows KeyboardInterrupt and returns this instead; no command of ours does.
_PARSER_SAW_CTRL_C = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Shard PostgreSQL by workspace: plan, apply, look.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
workspace_app = typer.Typer(no_args_is_help=True, help="Workspaces and where they live.")
local_app = typer.Typer(no_args_is_help=True, help="The embedded servers of a topology.")
app.add_typer(workspace_app, name="workspace")
app.add_typer(local_app, name="local")

TopologyFile = Annotated[Path, typer.Argument(metavar="TOPOLOGY", help="The topology file.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Allow = Annotated[
    list[str], typer.Option("--allow", metavar="HAZARD", help="Allow deletes-data or drops-object.")
]


@dataclass(slots=True)
class Options:
    """The global options, wherever they stood on the command line."""

    json: bool = False
    csv: bool = False
    color: bool = True
    verbose: bool = False


options = Options()


def _global_options(arguments: Sequence[str]) -> list[str]:
    """Take the global options out of the arguments: they are accepted anywhere."""
    rest: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--":
            _refuse_csv(rest)
            return [*rest, word, *queue]
        if word == "--output" or word.startswith("--output="):
            value = word.partition("=")[2] if "=" in word else (queue.pop(0) if queue else "")
            if value not in {"text", "json", "csv"}:
                raise TyperException(f'--output is text or json, not "{value}"')
            options.json, options.csv = value == "json", value == "csv"
        elif word == "--no-color":
            options.color = False
        elif word in {"-v", "--verbose"}:
            options.verbose = True
        else:
            rest.append(word)
    _refuse_csv(rest)
    return rest


def _refuse_csv(words: Sequence[str]) -> None:
    if options.csv and next((w for w in words if not w.startswith("-")), "") != "query":
        raise TyperException("--output csv is for `query`")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # A supervisor's SIGTERM ends a run as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return the exit code. Every failure becomes one message on stderr."""
    options.json, options.csv, options.verbose = False, False, False
    options.color = sys.stderr.isatty()
    try:
        result = app(_global_options(arguments), standalone_mode=False, prog_name="parlant-shard")
    except TyperException as error:
        message = error.format_message()
        if not message.startswith("Usage:"):
            _error("PS900", _usage(message), "see `parlant-shard --help`")
        elif options.json:
            _error("PS900", "a command is missing", "see `parlant-shard --help`")
        else:  # a group without a command: its help
            _tell(message)
        return Exit.USAGE
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except ShardError as error:
        _shard_error(error)
        return error.exit_code
    except psycopg.Error as error:
        # Every connection of ours wraps its errors; this is the net below them.
        _error("PS405", str(error).strip() or type(error).__name__, "look at the server's log")
        return Exit.FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return Exit.FAILED
    except OSError as error:
        what = f' "{error.filename}"' if error.filename else ""
        _error(
            "PS902",
            f"the operating system refused{what}: {(error.strerror or str(error)).lower()}",
            "look at the path, its permissions and the free space",
        )
        return Exit.FAILED
    except Exception as error:
        if options.verbose:
            traceback.print_exc()
        _error(
            "PS999",
            f"internal error: {type(error).__name__}: {error}",
            "this is a defect of parlant-shard; run again with -v and report what it prints",
        )
        return Exit.FAILED
    if result == _PARSER_SAW_CTRL_C:
        return _interrupted()
    return result if isinstance(result, int) else Exit.DONE


def _interrupted() -> int:
    _error("PS901", "interrupted", "what was done stays; run the same command again: it resumes")
    return Exit.FAILED


def _usage(message: str) -> str:
    """A message of the option parser in our spelling: lower case, double quotes, no full stop."""
    text = message.rstrip(".").replace("'", '"')
    return text[:1].lower() + text[1:]


# --- output ---------------------------------------------------------------------------------------


def _json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps({"format_version": FORMAT_VERSION, **data}, indent=2, default=str))


def _tell(text: str) -> None:
    """Progress and remarks: stderr, so that stdout holds results alone."""
    typer.echo(text, err=True)


def _error(code: str, message: str, hint: str | None, **place: Any) -> None:
    if options.json:
        body = {"code": code, "message": message, "hint": hint, **place}
        for key in ("file", "line", "path"):
            body.setdefault(key, None)
        typer.echo(json.dumps({"format_version": FORMAT_VERSION, "error": body}), err=True)
        return
    label = typer.style("error", fg="red", bold=True) if options.color else "error"
    where = ""
    if place.get("file"):
        line = f":{place['line']}" if place.get("line") else ""
        where = f"{place['file']}{line}: "
    _tell(f"{label} {code}: {where}{message}")
    _tell(f"  hint: {hint or 'look at the log of the server, and run it again with -v'}")


def _shard_error(error: ShardError) -> None:
    _error(error.code, error.message, error.hint, file=error.file, line=error.line, path=error.path)


class _Progress:
    """One line on stderr for every finished step, numbered."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def __call__(self, event: str, step: Step | None, text: str) -> None:
        if event == "done" and step is not None:
            self.done += 1
            _tell(f"[{self.done:>4}/{self.total}] {step.server}: {step.title} ({text})")
        elif event in {"retry", "wait", "note"}:
            where = "" if step is None else f"{step.server}: {step.title}: "
            _tell(f"  {'trying again: ' if event == 'retry' else ''}{where}{text}")


# --- topology -------------------------------------------------------------------------------------


def _load(file: Path, *, start: bool = True) -> Topology:
    """Load a topology; start its embedded servers where the command is going to talk to them."""
    topology = load_topology(file)
    if start:
        for name, server in topology.servers.items():
            if server.embedded is None:
                continue
            found = local.status(server.embedded)
            if found is None or not found.running:
                _tell(f'starting embedded server "{name}"')
                local.up(server.embedded)
    return topology


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path(),
) -> None:
    """Write a commented starter topology."""
    target = directory / "topology.yaml"
    if target.exists():
        raise TopologyError(
            f'"{target}" exists already',
            code="PS150",
            hint="remove it, or name another directory",
        )
    directory.mkdir(parents=True, exist_ok=True)
    target.write_text(STARTER, encoding="utf-8")
    if options.json:
        _json({"file": str(target)})
    else:
        typer.echo(f"wrote {target}")
        _tell(f"next: parlant-shard plan {target}")


@app.command()
def validate(file: TopologyFile) -> None:
    """Check the topology file alone; contacts nothing."""
    topology = _load(file, start=False)
    shards, workspaces = (
        len(topology.shards),
        sum(len(s.workspaces) for s in topology.shards.values()),
    )
    if options.json:
        _json({"ok": True, "name": topology.name, "shards": shards, "workspaces": workspaces})
    else:
        typer.echo(
            f'{file}: topology "{topology.name}" is valid: {len(topology.servers)} servers, '
            f"{shards} shards, {workspaces} listed workspaces"
        )


@app.command()
def schema() -> None:
    """Print the JSON Schema of the topology file."""
    typer.echo(json.dumps(json_schema(), indent=2))


# --- plan and apply -------------------------------------------------------------------------------


@app.command()
def plan(
    file: TopologyFile,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="PLAN.json")] = None,
    detailed_exitcode: Annotated[
        bool, typer.Option("--detailed-exitcode", help="Exit 3 when there are changes.")
    ] = False,
) -> int:
    """Show what differs between the topology and the live servers, as steps."""
    from parlant_shard.planner import make_plan

    found = make_plan(_load(file))
    if out is not None:
        try:
            out.write_text(
                json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise TopologyError(
                f'"{out}" cannot be written: {_reason(error)}',
                code="PS156",
                hint="name a file in a directory that exists",
            ) from error
    if options.json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        typer.echo(render.plan_text(found, sql=options.verbose))
        if out is not None:
            _tell(f"saved to {out}; execute it with: parlant-shard apply {out}")
    return Exit.FINDINGS if detailed_exitcode and found.steps else Exit.DONE


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="TOPOLOGY|PLAN.json")],
    yes: Yes = False,
    allow: Allow = [],  # noqa: B006  # typer copies it
) -> None:
    """Make the servers what the topology says. Can be killed at any point and run again."""
    from parlant_shard.apply import apply as execute

    unknown = sorted(set(allow) - {"deletes-data", "drops-object"})
    if unknown:
        raise TyperException(
            f"--allow {unknown[0]}: only deletes-data and drops-object need to be allowed"
        )
    saved, topology_file = _saved_plan(file)
    topology = _load(topology_file)
    progress = _Progress()
    declined = False

    def confirm(found: Plan) -> bool:
        nonlocal declined
        progress.total = len(found.steps)
        if yes:
            _tell(render.summary(found))
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
        _json(
            {
                "run_id": outcome.run_id,
                "steps": outcome.done,
                "seconds": round(outcome.seconds, 3),
                "resumed": outcome.resumed,
                "notices": list(outcome.plan.notices),
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
            f'"{file}" cannot be read: {_reason(error)}',
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


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return (error.strerror or str(error)).lower()


# --- looking --------------------------------------------------------------------------------------


@app.command()
def status(
    file: TopologyFile,
    history: Annotated[bool, typer.Option("--history", help="Every run, newest first.")] = False,
) -> int:
    """Shards, sizes, workspaces, partitions and the last run."""
    from parlant_shard import status as looking

    topology = _load(file)
    if history:
        runs = looking.history(topology)
        if options.json:
            _json({"runs": runs})
        else:
            typer.echo(render.history_text(runs) if runs else "no run is recorded")
        return Exit.DONE
    found = looking.status(topology)
    failed = [s for s in found["servers"] if "error" in s]
    if options.json:
        _json(found)
    else:
        typer.echo(render.status_text(found))
    for server in failed:
        _error("PS401", server["error"], server["hint"])
    if failed and len(failed) == len(found["servers"]):
        return Exit.CANNOT_CONNECT
    return Exit.FAILED if failed else Exit.DONE


@app.command()
def doctor(
    file: TopologyFile,
    sql: Annotated[
        Path | None, typer.Option("--sql", metavar="FILE", help="Statements to try as well.")
    ] = None,
) -> int:
    """Look at the live servers: what will not work, and what to do about it."""
    from parlant_shard import doctor as examining

    report = examining.doctor(_load(file), sql)
    if options.json:
        _json(report.to_json())
    else:
        typer.echo(report.to_text())
    return Exit.DONE if report.ok else Exit.FINDINGS


@app.command()
def maintain(
    file: TopologyFile,
    now: Annotated[
        str | None, typer.Option("--now", metavar="TIMESTAMP", help="ISO 8601; bare means UTC.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, change nothing.")] = False,
    metrics_file: Annotated[
        Path | None,
        typer.Option("--metrics-file", metavar="FILE", help="For Prometheus' textfile collector."),
    ] = None,
) -> int:
    """The partition cron: premake, roll indexes, validate, detach. Safe to run twice at once."""
    from parlant_shard import maintain as upkeep

    moment = None if now is None else upkeep.moment(now)
    topology = _load(file)
    progress = _Progress()

    def count(found: Plan) -> None:
        progress.total = len(found.steps)
        if dry_run and not options.json:
            typer.echo(render.plan_text(found, sql=options.verbose))

    report = upkeep.maintain(
        topology, now=moment, dry_run=dry_run, listener=progress, confirm=count
    )
    if options.json:
        _json(report.to_json())
    else:
        typer.echo(upkeep.report_text(report))
    for failure in report.failures:
        if not options.json:
            _error(failure.code, failure.message, failure.hint)
    if metrics_file is not None and not dry_run:
        upkeep.write_metrics(metrics_file, upkeep.metrics(report, time.time()))
    return report.exit_code


# --- routing --------------------------------------------------------------------------------------

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
    topology = _load(file, start=map_file is None)
    with _router(topology, map_file) as router:
        found = router.route(sql, values, workspace=workspace, all_workspaces=everything)
        if found.kind is Kind.LOOKUP:
            try:
                found = router.resolve(sql, values, workspace=workspace)
            except CannotConnect as error:
                if map_file is None:
                    raise
                _tell(f"the look-up was left out: {error.message}")
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

    values = _params(params)
    with _router(_load(file)) as router:
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

    topology = _load(file)
    found = source.load(topology)
    if found is None:
        from parlant_shard.planner import map_of, read_state

        found = map_of(read_state(topology))
        _tell("no shard map is stored yet: this one is computed from the servers and the topology")
    typer.echo(found.dump(), nl=False)


# --- workspaces -----------------------------------------------------------------------------------


@workspace_app.command("list")
def workspace_list(file: TopologyFile) -> None:
    """Every workspace of the directory."""
    from parlant_shard import status as looking

    rows = looking.workspaces(_load(file))
    if options.json:
        _json({"workspaces": rows})
    else:
        typer.echo(
            render.table(
                ["workspace", "shard", "server", "state"],
                [[r["workspace"], r["shard"], r["server"], r["state"]] for r in rows],
            )
        )


@workspace_app.command("show")
def workspace_show(
    file: TopologyFile, workspace: Annotated[str, typer.Argument(metavar="WS")]
) -> None:
    """Where one workspace lives."""
    from parlant_shard import status as looking
    from parlant_shard.shardmap import bucket, shard_of

    topology = _load(file)
    row = next((r for r in looking.workspaces(topology) if r["workspace"] == workspace), None)
    shard = row["shard"] if row else shard_of(topology, workspace)
    if shard is None:
        raise TopologyError(
            f'workspace "{workspace}" is unknown',
            code="PS324",
            hint="`parlant-shard workspace add` places it",
        )
    data = {
        "workspace": workspace,
        "shard": shard,
        "server": topology.shards[shard].server
        if shard in topology.shards
        else row and row["server"],
        "state": row["state"] if row else "not placed yet",
        "bucket": bucket(workspace) if topology.uses_buckets else None,
    }
    if options.json:
        _json(data)
    else:
        typer.echo("\n".join(f"{k}: {v}" for k, v in data.items() if v is not None))


@workspace_app.command("add")
def workspace_add(
    file: TopologyFile,
    workspace: Annotated[str, typer.Argument(metavar="WS")],
    to: Annotated[str | None, typer.Option("--to", metavar="SHARD")] = None,
) -> None:
    """Place a new workspace: edits the file (comments stay) and applies that."""
    from parlant_shard import workspace as placing
    from parlant_shard.apply import apply as execute
    from parlant_shard.errors import ApplyFailed

    topology = _load(file)
    shard = placing.choose_shard(topology, workspace, to)
    if not placing.needs_edit(topology, workspace, shard):
        placing.place(topology, workspace, shard)
    else:
        before = file.read_text(encoding="utf-8")
        placing.write(file, placing.with_workspace(file, workspace, shard))
        progress = _Progress()

        def confirm(found: Plan) -> bool:
            progress.total = len(found.steps)
            return True

        try:
            execute(_load(file), confirm=confirm, listener=progress, command="workspace add")
        except ApplyFailed:
            _tell(f'"{file}" names the workspace now; `parlant-shard apply {file}` goes on')
            raise
        except BaseException:
            placing.write(file, before)  # nothing was begun: the file must not say otherwise
            raise
    if options.json:
        _json({"workspace": workspace, "shard": shard, "server": topology.shards[shard].server})
    else:
        typer.echo(f"workspace {workspace} is on shard {shard}")


# --- embedded servers, demo -----------------------------------------------------------------------


def _embedded(file: Path) -> dict[str, Path]:
    topology = _load(file, start=False)
    found = {n: s.embedded for n, s in topology.servers.items() if s.embedded is not None}
    if not found:
        raise TopologyError(
            "the topology has no embedded server",
            code="PS154",
            hint="a server of the form {embedded: DIRECTORY} is one",
            file=str(file),
            line=topology.line("servers"),
            path="servers",
        )
    return found


@local_app.command("up")
def local_up(file: TopologyFile) -> None:
    """Initialise and start the embedded servers."""
    _show_local({name: local.up(directory) for name, directory in _embedded(file).items()})


@local_app.command("down")
def local_down(file: TopologyFile) -> None:
    """Stop the embedded servers; their data stay."""
    stopped = {name: local.down(directory) for name, directory in _embedded(file).items()}
    if options.json:
        _json({"stopped": stopped})
    else:
        for name, was_running in stopped.items():
            typer.echo(f"{name}: {'stopped' if was_running else 'was not running'}")


@local_app.command("status")
def local_status(file: TopologyFile) -> None:
    """Show which embedded servers run."""
    _show_local({name: local.status(directory) for name, directory in _embedded(file).items()})


def _show_local(found: dict[str, local.LocalServer | None]) -> None:
    rows = [
        {
            "server": name,
            "running": bool(s and s.running),
            "port": s.port if s else None,
            "version": s.version if s else None,
            "directory": str(s.directory) if s else None,
        }
        for name, s in found.items()
    ]
    if options.json:
        _json({"servers": rows})
    else:
        typer.echo(
            render.table(
                list(rows[0]),
                [[*{**r, "running": "yes" if r["running"] else "no"}.values()] for r in rows],
            )
        )


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option("--keep", metavar="DIR", help="Keep files and data there.")
    ] = None,
) -> None:
    """The main job end to end, on three embedded servers."""
    from parlant_shard import demo as showing

    showing.demo(keep, say=typer.echo)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parlant-shard {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Global options, accepted anywhere: --output text|json, --no-color, -v."""
