"""Broken and hostile statements by the thousand: whatever the router accepts shows nothing of
another workspace and changes no row of it.

Each statement is one of the case files with some of its words replaced, cut, doubled, wrapped, or
crossed with another. One half comes in the name of a workspace, the other half in nobody's: then
the statement says whose rows it means, or is refused. PARLANT_SHARD_TEST_FUZZ says how many
(default 3,000; `make fuzz` takes 100,000). Every run makes others; a statement that fails is found
again by its number and the run's PARLANT_SHARD_TEST_SEED.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from oracle import Sharded, marks, report
from test_router_attacks import ATTACKS, adapted

from parlant_shard.router.route import Kind, Params
from router_cases import TABLES, cases, row_id

STATEMENTS = int(os.environ.get("PARLANT_SHARD_TEST_FUZZ", "3000"))
SEED = os.environ["PARLANT_SHARD_TEST_SEED"]
PARTS = 4  # of each half

TOKEN = re.compile(
    r"""(?isx) ( (?:[ebxun]|u&)?'(?:[^'\\]|''|\\.)*' | "(?:[^"]|"")*" | \$(\w*)\$.*?\$\2\$
    | --[^\n]* | /\*.*?\*/ | %\(\w+\)s | %s | \$\d+ | \w+ | \s+ | [<>=!~@|&*+/%^#?-]+ | . )"""
)
FILES = ("orm.yaml", "constructs.yaml", "document.yaml", "attacks.yaml", "across.yaml")
SEEDS: list[tuple[str, Params]] = [
    *((c.sql, c.params) for f in FILES for c in cases(f)),
    *(adapted(a) for a in ATTACKS),
]
SHARED = ["workspace", '"user"', "knowledge_base", "workflow", "api_key"]
PHYSICAL = ["parlant_agent_s1", "parlant_agent_s2", "parlant_session_s1", "parlant_agent_global"]
SYSTEM = ["pg_class", "pg_catalog.pg_stats", "pg_stat_activity", "parlant_shard.map"]
HOSTILE = [
    "OR true", "AND false", "NOT", "UNION ALL SELECT * FROM parlant_agent", "UNION TABLE workspace",
    ", parlant_agent z", "CROSS JOIN parlant_session z", "NATURAL JOIN parlant_agent", "LATERAL",
    "ONLY", "workspace_id = 'ws_b'", "workspace_id <> 'ws_a'", "OR workspace_id IS NOT NULL",
    "'ws_b'", "--", "/*", "*/", ";", "; DELETE FROM parlant_agent", "RETURNING *", "FOR UPDATE",
    "IN (SELECT id FROM parlant_agent)", "EXISTS (TABLE parlant_agent)", "AS workspace_id",
    "SET workspace_id = 'ws_b'", "ON CONFLICT DO NOTHING", "LIMIT ALL", "OFFSET 0", "DISTINCT",
    "GROUP BY ROLLUP (1)", "HAVING true", "ORDER BY 1", "WITH w AS (TABLE parlant_agent)", "::text",
    "::regclass", "(SELECT name FROM parlant_agent WHERE workspace_id = 'ws_b' LIMIT 1)", "public.",
    "current_setting('is_superuser')", "set_config('a.b', 'c', true)", "query_to_xml('x',t,t,'')",
    "pg_read_file('x')", "coalesce(", "(", ")", "((", "))", "*", ".*", "a.*", ",", "$1", "%s",
    "E'\\'",
    "$$", "U&'\\0041'", "\u00a0", "\\", '"', "'", "TABLESAMPLE SYSTEM (100)", "WINDOW w AS ()",
    "JOIN LATERAL (TABLE parlant_tool) q ON true", "USING (id)", "USING (workspace_id)", "AS a (x)",
]  # fmt: skip


def words(text: str) -> list[str]:
    return [m[0] for m in TOKEN.finditer(text)]


class Mutator:
    """Makes one statement; the same seed and number give the same.

    One of nobody's gets conditions that name a workspace, most of them.
    """

    def __init__(self, number: int, *, nobodys: bool = False) -> None:
        self.dice = random.Random(f"{SEED} {number}")
        self.text, self.params = self.dice.choice(SEEDS)
        self.nobodys = nobodys

    def make(self) -> tuple[str, Params]:
        tokens = words(self.text)
        # What is bent a little is understood more often, and gets further.
        ways = self.dice.choice([self.gentle, self.gentle, self.ways])
        for _ in range(self.dice.choice([1, 1, 1, 1, 2, 3])):
            self.dice.choice(ways)(self, tokens)
        if self.nobodys and self.dice.random() < 0.8:
            self.name(tokens)
        text = "".join(tokens)
        if self.dice.random() < 0.12:
            text = self.dice.choice(WRAPS).format(text.rstrip("; \n"))
        return text, self._bound(text)

    def place(self, tokens: list[str], wanted: Callable[[str], bool] = str.strip) -> int | None:
        found = [i for i, t in enumerate(tokens) if wanted(t)]
        return self.dice.choice(found) if found else None

    def replace(self, tokens: list[str]) -> None:
        """A word of another statement in the place of a word."""
        at = self.place(tokens)
        others = [t for t in words(self.dice.choice(SEEDS)[0]) if t.strip()]
        if at is not None and others:
            tokens[at] = self.dice.choice(others)

    def relation(self, tokens: list[str]) -> None:
        """Another relation in the place of one."""
        at = self.place(tokens, lambda t: t.startswith("parlant_") or t in SHARED)
        if at is not None:
            tokens[at] = self.dice.choice([*TABLES.values(), *SHARED, *PHYSICAL, *SYSTEM])

    def tenant(self, tokens: list[str]) -> None:
        """Another workspace's name or id in the place of a value."""
        at = self.place(tokens, lambda t: t[:1] == "'" or t.isdigit() or t[:1] in "%$")
        if at is not None:
            other = row_id("ws_b", self.dice.choice(list(TABLES)), self.dice.randint(1, 5))
            tokens[at] = self.dice.choice(
                ["'ws_b'", f"'{other}'", "'WS_A'", "'ws_a '", "NULL", "''"]
            )

    def insert(self, tokens: list[str]) -> None:
        tokens.insert(self.dice.randint(0, len(tokens)), f" {self.dice.choice(HOSTILE)} ")

    def cut(self, tokens: list[str]) -> None:
        at = self.place(tokens)
        if at is not None:
            del tokens[at : at + self.dice.choice([1, 1, 1, 2, 4])]

    def double(self, tokens: list[str]) -> None:
        at = self.place(tokens)
        if at is not None:
            tokens[at:at] = [*tokens[at : at + self.dice.randint(1, 6)], " "]

    def swap(self, tokens: list[str]) -> None:
        one, other = self.place(tokens), self.place(tokens)
        if one is not None and other is not None:
            tokens[one], tokens[other] = tokens[other], tokens[one]

    def cross(self, tokens: list[str]) -> None:
        """The rest of another statement behind the beginning of this one."""
        other = words(self.dice.choice(SEEDS)[0])
        at = self.dice.randint(0, len(tokens))
        tokens[at:] = [" ", *other[self.dice.randint(0, len(other)) :]]

    def letters(self, tokens: list[str]) -> None:
        """Another spelling of a word: case, quotes, an escape."""
        at = self.place(tokens, lambda t: t[:1].isalpha())
        if at is not None:
            word = tokens[at]
            tokens[at] = self.dice.choice(
                [word.upper(), f'"{word}"', f'"{word.upper()}"', f'U&"{word}"', f"{word}/**/"]
            )

    def alike(self, tokens: list[str]) -> None:
        """A word of the same kind of another statement: a column, a number, an operator."""
        at = self.place(tokens)
        if at is None:
            return
        kind = _kind(tokens[at])
        others = [t for t in words(self.dice.choice(SEEDS)[0]) if t.strip() and _kind(t) == kind]
        if others:
            tokens[at] = self.dice.choice(others)

    def condition(self, tokens: list[str]) -> None:
        """One more condition, or one less strict."""
        at = self.place(tokens, lambda t: t.upper() in {"WHERE", "ON", "AND", "HAVING"})
        if at is not None:
            tokens[at] += f" {self.dice.choice(CONDITIONS)} "

    def name(self, tokens: list[str]) -> None:
        """A workspace's name for the rows: behind a WHERE or ON, or for each table of its own."""
        one = self.dice.choice(["ws_a", "ws_a", "ws_b"])
        if self.dice.random() < 0.3:
            for at, token in enumerate(tokens):
                if token.upper() in {"WHERE", "ON"}:
                    tokens[at] += f" workspace_id = '{one}' AND "
            return
        before = ""
        for at, token in enumerate(tokens):
            if token.startswith("parlant_") and before.upper() in {"FROM", "JOIN", ","}:
                follows = next((t for t in tokens[at + 1 :] if t.strip()), ";")
                label = "" if follows.isidentifier() and follows.upper() not in CLAUSES else token
                tokens[at] = f"(SELECT * FROM {token} WHERE workspace_id = '{one}') {label}"
                if self.dice.random() < 0.1:
                    one = "ws_b"
            before = token.strip() or before

    gentle = (tenant, tenant, relation, letters, alike, alike, condition, condition)
    ways = (replace, replace, relation, tenant, tenant, insert, insert, cut, double, swap, cross,
            letters)  # fmt: skip

    def _bound(self, text: str) -> Params:
        """Values for the placeholders that are there now, one of them perhaps another's."""
        given = self.params
        if names := set(re.findall(r"%\((\w+)\)s", text)):
            known = given if isinstance(given, dict) else {}
            found: Any = {name: known.get(name, self._value()) for name in sorted(names)}
        else:
            count = text.count("%s") or max(map(int, re.findall(r"\$(\d)", text)), default=0)
            known_values = list(given) if isinstance(given, list) else []
            found = (known_values + [self._value() for _ in range(count)])[:count]
        if found and self.dice.random() < 0.2:
            keys = list(found) if isinstance(found, dict) else range(len(found))
            found[self.dice.choice(list(keys))] = self.dice.choice(OTHERS)
        return found or given

    def _value(self) -> Any:
        return self.dice.choice(["ws_a", "x", 1, True, row_id("ws_a", "agent", 1), *OTHERS])


CLAUSES = {"WHERE", "JOIN", "LEFT", "RIGHT", "FULL", "INNER", "CROSS", "NATURAL", "ON", "USING"} | {
    "GROUP", "ORDER", "HAVING", "LIMIT", "OFFSET", "UNION", "EXCEPT", "INTERSECT", "FOR", "WINDOW",
    "RETURNING", "SET", "TABLESAMPLE", "FETCH", "WHEN",
}  # fmt: skip
OTHERS = ["ws_b", row_id("ws_b", "agent", 1), row_id("ws_b", "session", 2)]
CONDITIONS = [
    "true OR", "NOT", "workspace_id = 'ws_b' OR", "workspace_id IS NULL OR", "(1 = 1) OR",
    "EXISTS (SELECT FROM parlant_agent z WHERE z.workspace_id = 'ws_b') AND",
    "'ws_b' IN (SELECT workspace_id FROM parlant_agent) OR",
    "(SELECT count(*) FROM parlant_session) > 5 OR", "'ws_b' = ANY (ARRAY['ws_a', 'ws_b']) AND",
]  # fmt: skip


def _kind(token: str) -> str:
    if token[:1] in "'$%" or token.isdigit():
        return "value"
    return "word" if token[:1].isalpha() or token[:1] == '"' else "sign"


WRAPS = [
    "WITH x AS ({}) SELECT * FROM x",
    "SELECT * FROM ({}) AS q",
    "SELECT ARRAY({})",
    "SELECT EXISTS ({}), count(*) FROM parlant_agent",
    "({}) UNION ALL ({})".replace("({})", "({0})"),
    "EXPLAIN {}",
    "INSERT INTO parlant_agent {}",
    "DELETE FROM parlant_agent WHERE id IN ({})",
    "SELECT * FROM parlant_agent a, LATERAL ({}) q",
    "PREPARE p AS {}",
    "COPY ({}) TO STDOUT",
    "DO $$ BEGIN {} END $$",
]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("workspace", ["ws_a", None])
def test_nothing_of_another_workspace(sharded: Sharded, workspace: str | None, part: int) -> None:
    became: Counter[str] = Counter()
    for number in range(part, STATEMENTS // 2, PARTS):
        text, params = Mutator(number, nobodys=workspace is None).make()
        if "\0" in text:
            continue
        which = f"PARLANT_SHARD_TEST_SEED={SEED}, number {number}\n"
        route = sharded.route(text, params, workspace)
        if route.kind is Kind.REFUSED:
            assert route.code, f"{which}{text}"
            became["refused"] += 1
            continue
        named = {workspace} if workspace is not None else sharded.named(text, params)
        assert set(route.workspaces) <= named, which + report(text, params, route)
        effect = sharded.run_sharded(route)
        if effect.sqlstate is not None:
            # A condition that sees a row before the tenant's predicate can print it in an error:
            # that is for row-level security (docs/router.md).
            effect.message = ""
        if route.writes and route.held is None and all(t.shard is None for t in route.targets):
            # Nobody's change of what is shared takes along what refers to it.
            effect.broken = []
        wrong = sharded.leaks(route, effect, text, params)
        if any(t.shard for t in route.targets) and not route.workspaces:
            wrong += marks(str(effect.rows), but=sharded.named(text, params))
        assert not wrong, which + report(text, params, route, *wrong)
        kind = "ran" if effect.sqlstate is None else "failed"
        became[f"{kind} {'for a workspace' if route.workspaces else 'for nobody'}"] += 1
    # A fuzzer of which everything is refused proves nothing.
    assert became["ran for a workspace"] > STATEMENTS / 2 / PARTS * 0.05, became
