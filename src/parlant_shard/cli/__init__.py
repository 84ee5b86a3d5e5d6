"""The command line. The only package that prints, asks and exits."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import psycopg
import typer
from typer.exceptions import TyperException

from parlant_shard import __version__
from parlant_shard.cli import archives, change, embedded, looking, routing, upkeep, workspaces
from parlant_shard.cli.shell import app, complain, global_options, options, shard_error, tell
from parlant_shard.errors import Exit, ShardError

# The option parser swallows KeyboardInterrupt and returns this instead; no command of ours does.
_PARSER_SAW_CTRL_C = 130

# Importing them registers their commands.
_ = (archives, change, embedded, looking, routing, upkeep, workspaces)

# `global_options` takes them out wherever they stand, so the option parser cannot list them.
_EVERYWHERE = "Everywhere: --output text|json (`query`: csv too), --no-color, -v, --verbose"
for _group in (app, archives.archive_app, embedded.local_app, workspaces.workspace_app):
    _group.info.epilog = _EVERYWHERE
    for _command in _group.registered_commands:
        _command.epilog = _EVERYWHERE


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    # A supervisor's SIGTERM ends a run as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; return the exit code. Every failure becomes one message on stderr."""
    options.json, options.csv, options.verbose = False, False, False
    options.color = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    try:
        result = app(global_options(arguments), standalone_mode=False, prog_name="parlant-shard")
    except TyperException as error:
        message = error.format_message()
        if not message.startswith("Usage:"):
            complain("PS900", _usage(message), "see `parlant-shard --help`")
        elif options.json:
            complain("PS900", "a command is missing", "see `parlant-shard --help`")
        else:  # a group without a command: its help
            tell(message)
        return Exit.USAGE
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except ShardError as error:
        shard_error(error)
        return error.exit_code
    except psycopg.Error as error:
        # Every connection of ours wraps its errors; this is the net below them.
        complain("PS405", str(error).strip() or type(error).__name__, "look at the server's log")
        return Exit.FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return Exit.FAILED
    except OSError as error:
        what = f' "{error.filename}"' if error.filename else ""
        complain(
            "PS902",
            f"the operating system refused{what}: {(error.strerror or str(error)).lower()}",
            "look at the path, its permissions and the free space",
        )
        return Exit.FAILED
    except Exception as error:
        if options.verbose:
            traceback.print_exc()
        complain(
            "PS999",
            f"internal error: {type(error).__name__}: {error}",
            "this is a defect of parlant-shard; run again with -v and report what it prints",
        )
        return Exit.FAILED
    if result == _PARSER_SAW_CTRL_C:
        return _interrupted()
    return result if isinstance(result, int) else Exit.DONE


def _interrupted() -> int:
    complain("PS901", "interrupted", "what was done stays; run the same command again: it resumes")
    return Exit.FAILED


def _usage(message: str) -> str:
    """A message of the option parser in our spelling: lower case, double quotes, no full stop."""
    text = message.rstrip(".").replace("'", '"')
    return text[:1].lower() + text[1:]


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
