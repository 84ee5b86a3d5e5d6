"""What every command shares: the global options, output, messages, the loading of a topology."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from parlant_shard import local
from parlant_shard.errors import ShardError
from parlant_shard.plan import Step
from parlant_shard.topology import Topology, load_topology

FORMAT_VERSION = 1

METRICS_HINT = "give --metrics-file a file in the collector's directory, which our user may write"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Shard PostgreSQL by workspace: plan, apply, look.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

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


def global_options(arguments: Sequence[str]) -> list[str]:
    """Take the global options out of the arguments: they are accepted anywhere."""
    rest: list[str] = []
    comments: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        if word == "--":
            _refuse_csv(rest)
            return [*rest, word, *comments, *queue]
        if word == "--output" or word.startswith("--output="):
            value = word.partition("=")[2] if "=" in word else (queue.pop(0) if queue else "")
            if value not in {"text", "json", "csv"}:
                raise TyperException(f'--output is text or json, not "{value}"')
            options.json, options.csv = value == "json", value == "csv"
        elif word == "--no-color":
            options.color = False
        elif word in {"-v", "--verbose"}:
            options.verbose = True
        elif re.match(r"--[^\s=]*\s", word):
            comments.append(word)  # SQL that begins with a comment; no option has white space
        else:
            rest.append(word)
    _refuse_csv(rest)
    return [*rest, "--", *comments] if comments else rest


def _refuse_csv(words: Sequence[str]) -> None:
    if options.csv and next((w for w in words if not w.startswith("-")), "") != "query":
        raise TyperException("--output csv is for `query`")


# --- output ---------------------------------------------------------------------------------------


def write_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps({"format_version": FORMAT_VERSION, **data}, indent=2, default=str))


def tell(text: str) -> None:
    """Progress and remarks: stderr, so that stdout holds results alone."""
    typer.echo(text, err=True)


def complain(code: str, message: str, hint: str | None, **place: Any) -> None:
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
    tell(f"{label} {code}: {where}{message}")
    tell(f"  hint: {hint or 'look at the log of the server, and run it again with -v'}")


def shard_error(error: ShardError) -> None:
    complain(
        error.code, error.message, error.hint, file=error.file, line=error.line, path=error.path
    )


class Progress:
    """One line on stderr for every finished step, numbered."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def __call__(self, event: str, step: Step | None, text: str) -> None:
        if event == "done" and step is not None:
            self.done += 1
            of = f"/{self.total}" if self.total else ""  # a restore does not say how many
            tell(f"[{self.done:>4}{of}] {step.server}: {step.title} ({text})")
        elif event in {"retry", "wait", "note"}:
            where = "" if step is None else f"{step.server}: {step.title}: "
            tell(f"  {'trying again: ' if event == 'retry' else ''}{where}{text}")


# --- topology -------------------------------------------------------------------------------------


def load(file: Path, *, start: bool = True) -> Topology:
    """Load a topology; start its embedded servers where the command is going to talk to them."""
    topology = load_topology(file)
    if start:
        for name, server in topology.servers.items():
            if server.embedded is None:
                continue
            found = local.status(server.embedded)
            if found is None or not found.running:
                tell(f'starting embedded server "{name}"')
                local.up(server.embedded)
    return topology


def reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return (error.strerror or str(error)).lower()
