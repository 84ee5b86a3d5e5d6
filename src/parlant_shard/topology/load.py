"""Reading a topology file: text to a checked Topology, or to one error with its line.

Stages, each of which ends the reading with its first mistake by line: the YAML; the version; names,
types and spellings; what spans sections; the schema's tables and columns.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from parlant_shard.ddlfile import DeclaredTable, declared_tables, is_complete, read_statements
from parlant_shard.errors import TopologyError
from parlant_shard.topology import checks, document, model
from parlant_shard.topology.codes import BY_VALUE, Code
from parlant_shard.topology.document import Document, Problem, Rejected
from parlant_shard.topology.model import Topology, line_of, scalar
from parlant_shard.topology.preset import preset, presets, with_preset

_SECRETS = ("dsn", "admin_dsn", "peer_dsn")
_KEYS = ("key", "previous_key")  # of isolation
# where each model sits in the file; "*" is any name or number
_SECTIONS: dict[tuple[str, ...], type[BaseModel]] = {
    (): Topology,
    ("schema",): model.SchemaSource,
    ("servers", "*"): model.Server,
    ("servers", "*", "replicas", "*"): model.Replica,
    ("shards", "*"): model.Shard,
    ("tables", "*"): model.TableOptions,
    ("tables", "*", "partition"): model.Partition,
    ("tables", "*", "audit"): model.RowAudit,
    ("audit",): model.Audit,
    ("indexes", "*"): model.IndexOptions,
    ("routing", "*"): model.Rule,
    ("isolation",): model.Isolation,
}
_EXPECTED = {
    "string_type": "a string",
    "path_type": "a path",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}


def load_topology(path: str | Path, environ: Mapping[str, str] | None = None) -> Topology:
    """Return the topology in a file, checked; raise TopologyError with file, line, path and hint.

    `environ` is where `${VARIABLES}` are looked up, the process' environment by default. Nothing is
    contacted. A schema file that does not parse raises SchemaError.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise TopologyError(
            f"the topology file cannot be read: {(exc.strerror or 'error').lower()}",
            code=Code.FILE.value,
            hint='check the path; "parlant-shard init" writes a starter topology',
            file=str(file),
        ) from exc
    return parse_topology(data, file=file, environ=environ)


def parse_topology(
    data: bytes, *, file: Path, environ: Mapping[str, str] | None = None
) -> Topology:
    """Return the topology in `data`, as if `file` held it."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise TopologyError(
            "the topology file is not UTF-8",
            code=Code.ENCODING.value,
            hint="save it as UTF-8",
            file=str(file),
            line=data.count(b"\n", 0, exc.start) + 1,
        ) from exc
    try:
        found = document.read(text, os.environ if environ is None else environ)
    except Rejected as exc:
        raise _error(exc.problem, file, {}) from None
    topology, problems = _validated(found, file)
    if topology is None:
        raise _first(problems, file, found.lines)
    topology._file = file
    topology._sha256 = sha256(data).hexdigest()
    topology._lines = found.lines
    _raise_first(checks.check_file(topology), topology)
    return _with_schema(topology)


def check_tables(topology: Topology, declared: Mapping[str, DeclaredTable]) -> None:
    """Raise TopologyError where the file names a table or column that the schema does not have.

    `load_topology` does this for presets and DDL files; for `schema: {from: …}` the plan calls it
    with what it has read from the live database.
    """
    _raise_first(
        [*checks.check_schema(topology, declared), *checks.check_names(topology, declared)],
        topology,
    )


def _with_schema(topology: Topology) -> Topology:
    source = topology.schema_source
    if source.from_ is not None:
        _raise_first([*checks.check_merged(topology), *checks.check_names(topology, {})], topology)
        return topology
    if source.preset is not None:
        if source.preset not in presets():
            problem = Problem(
                code=Code.PRESET,
                message=f'there is no preset "{source.preset}"',
                hint=checks.one_of(source.preset, presets(), "presets"),
                path=("schema", "preset"),
            )
            raise _first([problem], topology.file, topology._lines)
        found = preset(source.preset)
        topology = with_preset(topology, found)
        topology._schema_files = (found.file,)
    else:
        topology._schema_files = _files(topology)
    statements = read_statements(topology.schema_files)
    declared = declared_tables(statements, topology.namespace)
    _raise_first(checks.check_merged(topology), topology)
    if is_complete(statements):
        check_tables(topology, declared)
    return topology


def _files(topology: Topology) -> tuple[Path, ...]:
    """Return the DDL files: patterns in their order, the matches of one pattern by name."""
    found: dict[Path, None] = {}
    for number, pattern in enumerate(topology.schema_source.files or ()):
        try:
            anchored = Path(pattern).expanduser()
            base = Path(anchored.anchor) if anchored.is_absolute() else topology.directory
            relative = str(anchored.relative_to(base) if anchored.is_absolute() else anchored)
            matches = sorted(match for match in base.glob(relative) if match.is_file())
        except (ValueError, NotImplementedError, IndexError, RuntimeError, OSError):
            matches = []
        if not matches:
            problem = Problem(
                code=Code.SCHEMA_FILES,
                message=f'no file matches "{pattern}"',
                hint="the path is relative to the topology file",
                path=("schema", "files", str(number)),
            )
            raise _first([problem], topology.file, topology._lines)
        found.update(dict.fromkeys(matches))
    return tuple(found)


# --- values to models ----------------------------------------------------------------------------


def _validated(found: Document, file: Path) -> tuple[Topology | None, list[Problem]]:
    data = found.data
    assert isinstance(data, dict)
    if "version" in data and data["version"] != 1:
        # a newer file has keys that we do not know: the version is what to say about it
        data = {"version": data["version"]}
        found.problems.clear()
    problems = list(found.problems)
    _resolve_servers(data, file.absolute().parent, problems)
    try:
        topology = Topology.model_validate(data)
    except ValidationError as exc:
        # not chained anywhere: pydantic's errors hold the input, and that holds passwords
        errors = exc.errors(include_url=False)
        version = [error for error in errors if error["loc"] == ("version",)]
        wrong = [error for error in version if error["type"] == Code.VERSION.value]
        # a misspelled key is one mistake, not also a missing one
        misspelled = {error["loc"][:-1] for error in errors if error["type"] == "extra_forbidden"}
        problems += [
            _problem(error, found)
            for error in wrong or errors
            if error["type"] != "missing" or error["loc"][:-1] not in misspelled
        ]
        return None, problems
    return (None if problems else topology), problems


def _resolve_servers(data: dict[str, Any], base: Path, problems: list[Problem]) -> None:
    """Read `*_file` into its twin and make `embedded` absolute, in place."""
    isolation = data.get("isolation")
    if isinstance(isolation, dict):
        _read_secrets(isolation, ("isolation",), base, problems, _KEYS)
    servers = data.get("servers")
    if not isinstance(servers, dict):
        return
    for name, server in servers.items():
        if not isinstance(server, dict):
            continue
        path = ("servers", name)
        _read_secrets(server, path, base, problems)
        replicas = server.get("replicas")
        for number, replica in enumerate(replicas if isinstance(replicas, tuple) else ()):
            if isinstance(replica, dict):
                _read_secrets(replica, (*path, "replicas", str(number)), base, problems)
        embedded = server.get("embedded")
        if isinstance(embedded, str):
            directory = _absolute(base, embedded)
            if not embedded.strip() or directory is None:
                what = "an empty" if not embedded.strip() else "an unusable"
                problems.append(
                    Problem(
                        code=Code.NO_ADDRESS,
                        message=f'server "{name}" has {what} directory as embedded',
                        hint=f"name one, e.g. .parlant-shard/{name}",
                        path=(*path, "embedded"),
                    )
                )
            else:
                server["embedded"] = directory


def _absolute(base: Path, text: str) -> Path | None:
    """Return a path of the file as an absolute one; None where no path can be like that."""
    try:
        return (base / Path(text).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError):  # too long, ~nobody, a NUL
        return None


def _read_secrets(
    section: dict[str, Any],
    path: tuple[str, ...],
    base: Path,
    problems: list[Problem],
    keys: tuple[str, ...] = _SECRETS,
) -> None:
    whose = f'server "{path[1]}"' if path[1:] else path[0]
    what = "connection string" if keys is _SECRETS else "key"
    for key in keys:
        named = section.get(f"{key}_file")
        if not isinstance(named, str):
            continue
        inner = (*path, f"{key}_file")
        if section.get(key) is not None:
            problems.append(
                Problem(
                    code=Code.TWO_ADDRESSES if keys is _SECRETS else Code.SIGNING_KEY,
                    message=f"{whose} has {key} and {key}_file",
                    hint="keep one of the two",
                    path=inner,
                )
            )
            continue
        try:
            text = (base / Path(named).expanduser()).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, RuntimeError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else None
            problems.append(
                Problem(
                    code=Code.SECRET_FILE,
                    message=f'{key}_file "{named}" cannot be read: '
                    f"{(reason or 'not a text file').lower()}",
                    hint="the path is relative to the topology file",
                    path=inner,
                )
            )
            continue
        if not text.strip():
            problems.append(
                Problem(
                    code=Code.SECRET_FILE,
                    message=f'{key}_file "{named}" is empty',
                    hint=f"it holds the {what} and nothing else",
                    path=inner,
                )
            )
            continue
        section[key] = text


def _problem(error: Any, found: Document) -> Problem:
    """Return what pydantic says in the words of this tool."""
    path = tuple(str(part) for part in error["loc"] if part != "[key]")
    kind, value, context = error["type"], error.get("input"), error.get("ctx") or {}
    name = path[-1] if path else ""
    if name in (*_SECRETS, *_KEYS) and path not in found.lines:
        path = (*path[:-1], f"{name}_file")
    code = BY_VALUE.get(kind)
    if code is not None:
        hint = context.get("hint")
        shown = found.written.get(path)
        if code is Code.WORKSPACE_TYPE and shown:  # as it is written: 007, not 7
            return Problem(
                code=code,
                message=f"workspace {shown} is not a string",
                hint=f'quote it: "{shown}"',
                path=path,
            )
        return Problem(code=code, message=error["msg"], hint=hint, path=path)
    match kind:
        case "extra_forbidden":
            known = _keys_at(path[:-1])
            return Problem(
                code=Code.UNKNOWN_KEY,
                message=f'unknown key "{name}"',
                hint=checks.one_of(name, known, "known keys"),
                path=path,
            )
        case "missing":
            return Problem(
                code=Code.MISSING_KEY,
                message=f'the key "{name}" is missing',
                hint=_MISSING.get(name, f"add {name}"),
                path=path,
            )
        case "literal_error":
            choices = [word.strip(" '") for word in _choices(str(context.get("expected", "")))]
            return Problem(
                code=Code.CHOICE,
                message=f'"{scalar(value)}" is not one of {", ".join(choices)}',
                hint=checks.closest(scalar(value), choices) or f"use one of {', '.join(choices)}",
                path=path,
            )
        case _:
            expected = _EXPECTED.get(kind, "another value")
            return Problem(
                code=Code.WRONG_TYPE,
                message=f"expected {expected}, found {_shown(value, path, found)}",
                hint=f'quote it: "{found.written.get(path, scalar(value))}"'
                if expected == "a string" and isinstance(value, int | float | document.Date)
                else _SHAPES.get(expected, f"give {expected}"),
                path=path,
            )


_MISSING = {
    "version": "add: version: 1",
    "name": "add a name for the topology, e.g. name: production",
    "schema": "say where the tables are declared, e.g. schema: {preset: parlant}",
    "servers": 'list the servers, e.g. servers: {core: {dsn: "${CORE_DSN}"}}',
    "coordinator": "name the server that holds the shard map, e.g. coordinator: core",
    "shards": "list the shards, e.g. shards: {shard_1: {server: core, workspaces: [ws1]}}",
    "server": "name the server that the shard is on, e.g. server: core",
    "by": "name the column that the table is cut by, e.g. by: created_at",
    "every": "say how long a partition is, e.g. every: 1 month",
    "on": "name the table of the index, e.g. on: parlant_event",
    "columns": "list the columns of the index, e.g. columns: [session_id, created_at desc]",
}
_SHAPES = {
    "a list": "write a list: [a, b]",
    "a mapping": "write a mapping: {key: value}",
    "true or false": "write true or false, without quotes",
    "a whole number": "write a number, without quotes",
}


def _choices(expected: str) -> list[str]:
    """Read pydantic's "'a', 'b' or 'c'"."""
    return expected.replace(" or ", ", ").split(",")


def _shown(value: object, path: tuple[str, ...], found: Document) -> str:
    """Return a value for a message; a text may be a secret, so only its type is said."""
    if isinstance(value, str):
        return "a string"
    return found.written.get(path) or scalar(value)


def _keys_at(path: tuple[str, ...]) -> list[str]:
    for pattern, section in _SECTIONS.items():
        if len(pattern) == len(path) and all(
            part in {"*", here} for part, here in zip(pattern, path, strict=True)
        ):
            return [field.alias or name for name, field in section.model_fields.items()]
    return []


# --- problems to errors --------------------------------------------------------------------------


def _raise_first(problems: Iterable[Problem], topology: Topology) -> None:
    found = list(problems)
    if found:
        raise _first(found, topology.file, topology._lines)


def _first(
    problems: list[Problem], file: Path, lines: Mapping[tuple[str, ...], int]
) -> TopologyError:
    """Return the error for the first problem by line; among equals the one that was found first."""
    return _error(min(problems, key=lambda problem: _line(problem, lines)), file, lines)


def _line(problem: Problem, lines: Mapping[tuple[str, ...], int]) -> int:
    return problem.line or line_of(lines, problem.path) or 1


def _error(problem: Problem, file: Path, lines: Mapping[tuple[str, ...], int]) -> TopologyError:
    return TopologyError(
        problem.message,
        code=problem.code.value,
        hint=problem.hint,
        file=str(file),
        line=_line(problem, lines),
        path=".".join(problem.path) or None,
    )
