"""The documentation names every code, hazard, exit code and key, and its links lead somewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from parlant_shard import cli, ddlfile, planner
from parlant_shard.errors import Exit
from parlant_shard.plan import NEEDS_ALLOW, Hazard
from parlant_shard.topology import CODES, json_schema, load_topology

_ROOT = Path(__file__).parent.parent
_DOCS = _ROOT / "docs"
_PAGES = sorted([_ROOT / "README.md", *_DOCS.rglob("*.md"), *_ROOT.glob("examples/*/README.md")])


def _rows(page: str) -> dict[str, str]:
    """Return the rows of all tables of a page: first cell, without backquotes → last cell."""
    found = {}
    for line in (_DOCS / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("| "):
            cells = [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            found[cells[0].replace("`", "")] = cells[-1]
    return found


def _codes_of_source() -> set[str]:
    source = _ROOT / "src"
    files = [*source.rglob("*.py"), *source.rglob("*.sql")]
    return {c for f in files for c in re.findall(r"\bPS\d{3}\b", f.read_text(encoding="utf-8"))}


def test_every_code_is_documented() -> None:
    documented = {row for row in _rows("errors.md") if re.fullmatch(r"PS\d{3}", row)}
    assert documented == _codes_of_source()


@pytest.mark.parametrize("codes", [CODES, ddlfile.CODES], ids=["topology", "ddlfile"])
def test_meanings_are_those_of_the_code(codes: dict[str, str]) -> None:
    rows = _rows("errors.md")
    assert {code: rows[code] for code in codes} == codes


def test_every_exit_code_is_documented() -> None:
    assert {str(int(code)) for code in Exit} <= _rows("errors.md").keys()
    readme = (_ROOT / "README.md").read_text(encoding="utf-8")
    assert not [code for code in Exit if f"\n| {int(code)} | " not in readme]


def test_every_hazard_is_documented() -> None:
    assert {hazard.value for hazard in Hazard} == _rows("hazards.md").keys() - {"hazard", "---"}
    introduction = (_DOCS / "hazards.md").read_text(encoding="utf-8").partition("\n|")[0]
    assert all(f"`{hazard.value}`" in introduction for hazard in NEEDS_ALLOW)


def test_every_key_of_the_topology_is_documented() -> None:
    page = (_DOCS / "topology.md").read_text(encoding="utf-8")
    assert not sorted(key for key in set(_keys(json_schema())) if f"`{key}`" not in page)


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (key for key in schema.get("properties", {}) if key != "properties")
        for value in schema.values():
            yield from _keys(value)


def test_every_option_is_documented_and_every_documented_option_exists() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in _PAGES)
    documented = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", pages))
    everywhere = re.findall(r"--?[a-z][a-z-]*", cli.app.info.epilog or "")
    options = [everywhere[:1], everywhere[1:2], everywhere[2:], *_options(get_command(cli.app))]
    assert not [names for names in options if documented.isdisjoint(names)]
    long = {name for name in documented if name.startswith("--")}
    of_others = {"--enable-row-security", "--help"}
    assert long - {name for names in options for name in names} == of_others


def _options(command: Any) -> Iterator[list[str]]:
    """Give the names of each option of a command and of those below it."""
    yield from (p.opts for p in command.params if p.opts[0].startswith("-"))
    for below in getattr(command, "commands", {}).values():
        yield from _options(below)


def test_keys_without_use_are_those_that_a_plan_notes(tmp_path: Path) -> None:
    page = (_DOCS / "topology.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` .*not used by this release", page, re.MULTILINE) == ["routing"]
    file = tmp_path / "topology.yaml"
    file.write_text(
        "{version: 1, name: t, schema: {preset: parlant}, coordinator: core,"
        " servers: {core: {dsn: 'host=a', replicas: [{dsn: 'host=b'}]}},"
        " shards: {s1: {server: core, workspaces: [a]}},"
        " routing: [{statements: read, read: primary}]}"
    )
    routing, replicas = planner._unused(load_topology(file))
    assert "`routing:` is checked, but this release does not use it" in routing
    assert "`monitor` and `advise`" in replicas


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(_ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, fragment = target.partition("#")
        other = page.parent / path if path else page
        assert other.exists(), target
        if fragment:
            assert fragment in _headings(other), target


def _headings(page: Path) -> set[str]:
    text = page.read_text(encoding="utf-8")
    return {_anchor(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
