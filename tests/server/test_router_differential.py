"""Generated statements on the shards and on an unsharded database: equal, or refused.

A statement's text is drawn piece by piece from a few tables, with and without a key of their own.
One in three comes in nobody's name: it says itself whose rows it means, and does what it does on a
database with everybody's rows, or is refused. PARLANT_SHARD_TEST_STATEMENTS says how many (default
2,000). Every run draws others; PARLANT_SHARD_TEST_SEED repeats one.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from oracle import Sharded, report
from tenants import WORKSPACES

from parlant_shard.router.route import Kind
from router_cases import row_id

STATEMENTS = int(os.environ.get("PARLANT_SHARD_TEST_STATEMENTS", "2000"))
SEED = int(os.environ["PARLANT_SHARD_TEST_SEED"])

# Columns by type: u uuid, t text, i integer, b boolean, d timestamp, j jsonb, e an enum.
COLUMNS = {
    "parlant_agent": "id:u workspace_id:t name:t description:t status:e temperature:i "
    "total_sessions:i created_at:d last_active_at:d allow_data_export:b",
    "parlant_session": "id:u agent_id:u workspace_id:t title:t status:e locale:t tokens_used:i "
    "satisfaction_score:i created_at:d current_journey_id:u",
    "parlant_tool": "id:u workspace_id:t name:t tool_type:t enabled:b use_count:i created_at:d",
    "parlant_event": "id:u session_id:u offset:i event_type:e content:j created_at:d journey_id:u",
    "parlant_guideline": "id:u agent_id:u condition:t priority:i enabled:b match_count:i",
    "parlant_journey": "id:u agent_id:u title:t description:t enabled:b total_sessions:i",
    "parlant_journey_state": "id:u journey_id:u name:t state_type:e is_final:b created_at:d",
    "parlant_variable": "id:u agent_id:u session_id:u key:t scope:t value:j is_private:b",
    "workspace": "id:t name:t owner_id:t created_at:d",
    "api_key": "id:t name:t workspace_id:t",
}
TYPED = {
    table: [tuple(c.split(":")) for c in columns.split()] for table, columns in COLUMNS.items()
}
KINDS = {"parlant_agent": "agent", "parlant_session": "session", "parlant_tool": "tool"} | {
    "parlant_event": "event", "parlant_guideline": "guideline", "parlant_journey": "journey",
    "parlant_journey_state": "state", "parlant_variable": "variable",
}  # fmt: skip
# Child and parent: the joins that applications write.
EDGES = [
    ("parlant_session", "agent_id", "parlant_agent"),
    ("parlant_event", "session_id", "parlant_session"),
    ("parlant_event", "journey_id", "parlant_journey"),
    ("parlant_guideline", "agent_id", "parlant_agent"),
    ("parlant_journey", "agent_id", "parlant_agent"),
    ("parlant_journey_state", "journey_id", "parlant_journey"),
    ("parlant_variable", "session_id", "parlant_session"),
    ("parlant_variable", "agent_id", "parlant_agent"),
    ("parlant_session", "current_journey_id", "parlant_journey"),
    ("parlant_agent", "workspace_id", "workspace"),
    ("api_key", "workspace_id", "workspace"),
]
SHARDED = [t for t in COLUMNS if t not in {"workspace", "api_key"}]
ENUMS = {"agent": "active inactive archived", "session": "active completed abandoned"} | {
    "event": "customer_message agent_message tool_call", "state": "chat tool decision final",
}  # fmt: skip
JOINS = ["JOIN", "JOIN", "INNER JOIN", "LEFT JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column in scope: how it is written, its type, and the table it comes from."""

    text: str
    type: str
    table: str


@dataclass(slots=True)
class Item:
    """An item of a FROM clause: its text, the name it is known by, its columns."""

    text: str
    name: str
    columns: list[Column]


@dataclass(slots=True)
class Maker:
    """Draws one statement. Values stand in the text as marks until the style is known."""

    data: Any
    workspace: str
    nobodys: bool = False  # the text itself says whose rows it means, as a rule
    values: list[tuple[Any, str]] = field(default_factory=list)
    ctes: dict[str, list[Column]] = field(default_factory=dict)
    names: int = 0

    # --- drawing ---------------------------------------------------------------------------------

    def pick(self, options: Any) -> Any:
        return self.data.draw(st.sampled_from(list(options)))

    def chance(self, percent: int) -> bool:
        return bool(self.data.draw(st.integers(0, 99)) < percent)

    def number(self, low: int, high: int) -> int:
        return int(self.data.draw(st.integers(low, high)))

    def fresh(self) -> str:
        self.names += 1
        return f"x{self.names}"

    def value(self, value: Any, cast: str = "") -> str:
        self.values.append((value, cast))
        return f"\0{len(self.values) - 1}\0"

    # --- relations -------------------------------------------------------------------------------

    def table(self, table: str, *, alias: str | None = None) -> Item:
        """A reference to a table under its own name or an alias, sometimes a confusing one."""
        name = alias or table
        written = self.pick([table, table, table, f'"{table}"', f"public.{table}"])
        if alias is None:
            match self.number(0, 9):
                case 0 | 1 | 2 | 3 | 4:
                    name = self.fresh()
                case 5 if table != "workspace":
                    name = self.pick(["workspace_id", "parlant_term", "parlant_tool_integration"])
        text = written
        columns = self.columns(name, table)
        if name != table:
            text += self.pick([" AS ", " "]) + name
            if self.chance(5):
                known = self.number(1, 3)
                text += f"({', '.join(f'k{n}' for n in range(known))})"
                all_columns = [Column(f"{name}.k{n}", "?", "") for n in range(known)]
                columns = all_columns + [c for c in columns if c.type in "bj"]
        return Item(text, name, columns)

    def columns(self, name: str, table: str) -> list[Column]:
        return [Column(f'{name}."{c}"', t, table) for c, t in TYPED[table]]

    def item(self, depth: int) -> Item:
        roll = self.number(0, 99)
        if roll < 12 and self.ctes:
            cte = self.pick(sorted(self.ctes))
            name = self.fresh()
            columns = [Column(f"{name}.{c.text}", c.type, c.table) for c in self.ctes[cte]]
            return Item(f"{cte} {name}", name, columns)
        if roll < 26 and depth > 0:
            name = self.fresh()
            query, columns = self.select(depth - 1, labelled=True)
            known = [Column(f"{name}.{c.text}", c.type, c.table) for c in columns]
            return Item(f"({query}) AS {name}", name, known)
        if roll < 30:
            name = self.fresh()
            texts = ", ".join(f"({n}, {self.text()})" for n in range(self.number(1, 3)))
            columns = [Column(f"{name}.n", "i", ""), Column(f"{name}.t", "t", "")]
            return Item(f"(VALUES {texts}) AS {name}(n, t)", name, columns)
        return self.table(self.pick([*SHARDED, *SHARDED, "workspace", "api_key", "api_key"]))

    def source(self, depth: int) -> Item:
        """A FROM clause: one item, or joins along the edges, or others."""
        left = self.item(depth)
        for _ in range(self.pick([0, 0, 0, 1, 1, 1, 2])):
            left = self.join(left, depth)
        if self.chance(5):
            inner = self.table(self.pick(SHARDED), alias=self.fresh())
            name, picked = self.fresh(), self.pick(inner.columns)
            query = f"SELECT {picked.text} AS l FROM {inner.text} WHERE {self.tie(inner, left)}"
            text = f"{left.text} CROSS JOIN LATERAL ({query} ORDER BY 1 LIMIT 3) {name}"
            column = Column(f"{name}.l", picked.type, "")
            return Item(text, left.name, [*left.columns, column])
        return left

    def join(self, left: Item, depth: int) -> Item:
        known = {c.table for c in left.columns}
        edges = [e for e in EDGES if e[0] in known or e[2] in known]
        if edges and self.chance(85):
            child, column, parent = self.pick(edges)
            ours, other = (child, parent) if child in known else (parent, child)
            right = self.table(other)
            if right.name == left.name or f"{right.name}." in left.text:
                right = self.table(other, alias=self.fresh())
            mine = self.named(left, ours, column if ours == child else "id")
            theirs = self.named(right, other, column if other == child else "id")
            on = f"{mine} = {theirs}"
        else:
            right = self.item(0)
            if right.name == left.name:
                right = self.table("parlant_tool", alias=self.fresh())
            on = self.equality(left, right)
        if self.chance(25):
            both = Item("", "", left.columns + right.columns)
            on = f"{on} AND {self.condition(both, 0)}"
        kind = self.pick(JOINS)
        shared = self.shared(left, right)
        columns = left.columns + right.columns
        if shared and self.chance(15):
            using = f"USING ({', '.join(shared[: self.number(1, 2)])})"
            return Item(f"{left.text} {kind} {right.text} {using}", left.name, columns)
        if self.chance(4):
            return Item(f"{left.text} NATURAL {kind} {right.text}", left.name, columns)
        if kind == "FULL JOIN" and " AND " in on:
            kind = "LEFT JOIN"  # not every condition can be fully joined on
        text = f"{left.text} {kind} {right.text} ON {on}"
        if self.chance(15):
            text = f"({text})"
        return Item(text, left.name, columns)

    def shared(self, left: Item, right: Item) -> list[str]:
        """The names of columns that USING can join two items by."""
        both = []
        for item in (left, right):
            both.append({(c.text.rpartition(".")[2], c.type) for c in item.columns})
        return sorted(name for name, type_ in both[0] & both[1] if type_ in "uti")

    def named(self, item: Item, table: str, column: str) -> str:
        ends = (f'."{column}"', f".{column}")
        found = [c.text for c in item.columns if c.table == table and c.text.endswith(ends)]
        return self.pick(found) if found else self.of_type(item, "u")

    def tenant(self, item: Item) -> list[str]:
        """Conditions that say whose rows an item's are: the keys, or the id of a row."""
        if not self.nobodys or self.chance(20):
            return []
        keys = [c for c in item.columns if c.text.endswith('."workspace_id"')]
        if keys and self.chance(90):
            return [
                f"{c.text} = {self.value(self.workspace)}" for c in keys if self.chance(85)
            ] or [f"{keys[0].text} = {self.value(self.workspace)}"]
        ids = [c for c in item.columns if c.type == "u" and c.table in KINDS]
        own = [c for c in ids if c.text.endswith('."id"')]
        if own and self.chance(70):
            column = self.pick(own)
            return [f"{column.text} = {self.uuid(column.table)}"]
        links = {(child, key): parent for child, key, parent in EDGES}
        for column in ids:
            parent = links.get((column.table, column.text.rpartition(".")[2].strip('"')))
            if parent in KINDS and self.chance(60):
                return [f"{column.text} = {self.uuid(parent)}"]
        return []

    def equality(self, left: Item, right: Item) -> str:
        types = {c.type for c in left.columns} & {c.type for c in right.columns} - {"e", "j"}
        if not types:
            return "true"
        type_ = self.pick(sorted(types))
        return f"{self.of_type(left, type_)} = {self.of_type(right, type_)}"

    def of_type(self, item: Item, type_: str) -> str:
        found = [c.text for c in item.columns if c.type == type_]
        return self.pick(found) if found else "NULL"

    # --- values ----------------------------------------------------------------------------------

    def text(self) -> str:
        return self.value(
            self.pick(["Agent 3", "tool_4", "en", "http", "Journey 7", "it's -- x", "ws_a", "%"])
        )

    def uuid(self, table: str) -> str:
        workspace = self.workspace if self.chance(90) else "ws_b"
        kind = KINDS.get(table, "agent")
        return self.value(str(row_id(workspace, kind, self.number(1, 50))), "uuid")

    def constant(self, column: Column) -> str:
        if column.text.endswith('"workspace_id"') and self.chance(90):
            return self.value(self.workspace)
        match column.type:
            case "u":
                return self.uuid(column.table)
            case "i":
                return self.value(self.number(0, 60))
            case "b":
                return self.pick(["true", "false"])
            case "d":
                return f"timestamp '2026-01-{self.number(5, 28):02d} 10:00'"
            case "e":
                return f"'{self.pick(ENUMS[KINDS.get(column.table, 'agent')].split())}'"
            case "j":
                return """'{"n": 3}'::jsonb"""
        return self.text()

    def scalar(self, item: Item, depth: int) -> tuple[str, str]:
        """An expression and its type."""
        column = self.pick(item.columns)
        match self.number(0, 11):
            case 0 if column.type == "i":
                return f"coalesce({column.text}, 0) + {self.value(self.number(1, 5))}", "i"
            case 1 if column.type == "t":
                return f"{self.pick(['upper', 'lower', 'length'])}({column.text})", "x"
            case 2:
                return f"CASE WHEN {self.condition(item, 0)} THEN 1 ELSE 0 END", "i"
            case 3:
                return f"{column.text} IS DISTINCT FROM {self.constant(column)}", "b"
            case 4 if depth > 0:
                return self.sub_scalar(item, depth)
            case 5 if depth > 0:
                return f"EXISTS ({self.correlated(item, depth)})", "b"
            case 6:
                return f"{column.text}::text", "t"
        return column.text, column.type

    def sub_scalar(self, item: Item, depth: int) -> tuple[str, str]:
        inner = self.table(self.pick(SHARDED), alias=self.fresh())
        numbers = [c.text for c in inner.columns if c.type == "i"]
        what = f"max({self.pick(numbers)})" if numbers and self.chance(50) else "count(*)"
        where = f"WHERE {' AND '.join([*self.tenant(inner), self.tie(inner, item)])}"
        return f"(SELECT {what} FROM {inner.text} {where})", "i"

    def correlated(self, item: Item, depth: int) -> str:
        inner = self.table(self.pick([*SHARDED, "api_key"]), alias=self.fresh())
        where = " AND ".join([*self.tenant(inner), self.tie(inner, item)])
        return f"SELECT 1 FROM {inner.text} WHERE {where}"

    def tie(self, inner: Item, outer: Item) -> str:
        """A condition that may correlate, and may use the key without saying whose."""
        roll = self.number(0, 9)
        if roll < 5:
            tied = self.equality(inner, outer)
        elif roll < 7 and any("workspace_id" in c.text for c in inner.columns + outer.columns):
            tied = f"workspace_id = {self.value(self.workspace)}"
        else:
            tied = self.condition(inner, 0)
        return f"{tied} AND {self.condition(inner, 0)}" if self.chance(30) else tied

    def condition(self, item: Item, depth: int) -> str:
        column = self.pick(item.columns)
        left = column.text
        match self.number(0, 13):
            case 0:
                return f"{left} IS {self.pick(['', 'NOT '])}NULL"
            case 1 if column.type in "itd":
                return f"{left} {self.pick(['<', '>', '<=', '>=', '<>'])} {self.constant(column)}"
            case 2:
                values = ", ".join(self.constant(column) for _ in range(self.number(1, 3)))
                return f"{left} {self.pick(['', 'NOT '])}IN ({values})"
            case 3:
                return f"({self.condition(item, depth)} OR {self.condition(item, depth)})"
            case 4:
                return f"NOT ({self.condition(item, depth)})"
            case 5 if column.type == "u" and depth > 0:
                child, key, _ = self.pick(EDGES[:-2])
                inner = self.table(child, alias=self.fresh())
                where = f" WHERE {self.condition(inner, 0)}" if self.chance(60) else ""
                return f'{left} IN (SELECT {inner.name}."{key}" FROM {inner.text}{where})'
            case 6 if depth > 0:
                not_ = self.pick(["", "NOT "])
                return f"{not_}EXISTS ({self.correlated(item, depth)})"
            case 7 if column.type == "i" and depth > 0:
                return f"{left} < {self.sub_scalar(item, depth)[0]}"
            case 8 if column.type == "t":
                return f"{left} LIKE {self.value('%' + str(self.number(1, 9)))}"
            case 9 if column.type == "i":
                return f"{left} BETWEEN {self.constant(column)} AND {self.constant(column)}"
            case 10:
                return f"{left} IS NOT DISTINCT FROM {self.constant(column)}"
            case 11:
                other = self.pick(item.columns)
                if other.type == "i" and column.type == "i":
                    return f"({left}, {other.text}) > (3, 3)"
        return f"{left} = {self.constant(column)}"

    # --- SELECT ----------------------------------------------------------------------------------

    def select(self, depth: int, *, labelled: bool = False) -> tuple[str, list[Column]]:
        """A SELECT and its columns; labelled ones get names, so that others can refer to them."""
        item = self.source(depth)
        targets: list[tuple[str, str]] = []
        grouping = ""
        roll = self.number(0, 99)
        if roll < 25:
            keys = [self.pick(item.columns) for _ in range(self.number(0, 2))]
            targets = [(c.text, c.type) for c in keys]
            targets += [self.aggregate(item) for _ in range(self.number(1, 2))]
            if keys:
                names = ", ".join(k.text for k in keys)
                form = self.pick(["{}", "{}", "{}", "ROLLUP ({})", "CUBE ({})"])
                grouping = f" GROUP BY {form.format(names)}"
                if self.chance(25):
                    grouping += f" HAVING count(*) > {self.value(self.number(0, 3))}"
        elif roll < 32 and (keyed := [c for c in item.columns if c.text.endswith('."id"')]):
            # What depends on a primary key needs no place in GROUP BY.
            key = self.pick(keyed)
            name = key.text.rpartition(".")[0]
            own = [c for c in item.columns if c.text.startswith(f"{name}.")]
            targets = [(c.text, c.type) for c in (self.pick(own), self.pick(own))]
            targets.append(self.aggregate(item))
            grouping = f" GROUP BY {key.text}"
        elif roll < 42 and not labelled:
            targets = [(self.pick(["*", f"{item.columns[0].text.split('.')[0]}.*"]), "*")]
        else:
            targets = [self.scalar(item, depth) for _ in range(self.number(1, 4))]
            if self.chance(12):
                targets.append(self.window(item))
        parts = self.tenant(item)
        if self.chance(60):
            parts.append(self.condition(item, depth))
        where = f" WHERE {' AND '.join(parts)}" if parts else ""
        distinct = "DISTINCT " if self.chance(8) and not grouping and roll >= 42 else ""
        columns = []
        written = []
        for number, (text, type_) in enumerate(targets):
            label = f"c{number}"
            if labelled:
                written.append(f"{text} AS {label}")
                columns.append(Column(label, type_, ""))
            else:
                labels = ["", "", f" AS {label}", f' "{label}"', " AS workspace_id"]
                written.append(text + ("" if type_ == "*" else self.pick(labels)))
        query = f"SELECT {distinct}{', '.join(written)} FROM {item.text}{where}{grouping}"
        if self.chance(5) and not distinct and not grouping and targets[0][1] != "*":
            numbers = ", ".join(str(n) for n in range(1, len(targets) + 1))
            return (
                f"{query.replace('SELECT', 'SELECT DISTINCT ON (1)', 1)} ORDER BY {numbers}",
                columns,
            )
        if targets[0][1] != "*":
            query += self.order(len(targets), limit=True, chance=20 if labelled else 35)
        return query, columns

    def order(self, width: int, *, limit: bool, chance: int) -> str:
        """ORDER BY every column, so that rows that look different have one order."""
        if not self.chance(chance):
            return ""
        way = self.pick(["", " DESC", " NULLS FIRST"])
        text = " ORDER BY " + ", ".join(f"{n}{way}" for n in range(1, width + 1))
        if limit and self.chance(60):
            text += f" LIMIT {self.value(self.number(0, 12))}"
            if self.chance(40):
                text += f" OFFSET {self.value(self.number(0, 5))}"
        return text

    def aggregate(self, item: Item) -> tuple[str, str]:
        column = self.pick(item.columns)
        match self.number(0, 5):
            case 0 if column.type == "i":
                return f"{self.pick(['sum', 'min', 'max', 'avg'])}({column.text})", "x"
            case 1:
                return f"count(DISTINCT {column.text})", "i"
            case 2:
                return f"count(*) FILTER (WHERE {self.condition(item, 0)})", "i"
            case 3 if column.type in "uti":
                return f"array_agg({column.text} ORDER BY {column.text})", "x"
        return self.pick(["count(*)", f"count({column.text})"]), "i"

    def window(self, item: Item) -> tuple[str, str]:
        by, order = self.pick(item.columns).text, self.pick(item.columns).text
        what = self.pick(["count(*)", "rank()", "dense_rank()", f"min({order}::text)"])
        return f"{what} OVER (PARTITION BY {by} ORDER BY {order})", "x"

    def query(self) -> tuple[str, bool]:
        """A whole query; whether its order is total."""
        clause = self.with_clause()
        text, _ = self.select(2)
        if self.chance(10):
            width = self.number(1, 2)
            branches = [self.plain(width) for _ in range(self.number(2, 3))]
            joined = branches[0]
            for branch in branches[1:]:
                joined += self.pick([" UNION ", " UNION ALL ", " EXCEPT ", " INTERSECT "]) + branch
            text = joined + self.order(width, limit=True, chance=50)
        ordered = re.search(r" ORDER BY 1[^()]*$", text) is not None
        if not ordered and self.chance(4):
            text += self.pick([" FOR UPDATE", " FOR SHARE", " FOR NO KEY UPDATE"])
        if self.chance(3):
            text = f"SELECT count(*) FROM ({text}) AS outermost"
            ordered = True
        return clause + text, ordered

    def plain(self, width: int) -> str:
        """A branch of a set operation: texts."""
        item = self.source(1)
        targets = ", ".join(f"{self.pick(item.columns).text}::text" for _ in range(width))
        where = " AND ".join([*self.tenant(item), self.condition(item, 1)])
        return f"SELECT {targets} FROM {item.text} WHERE {where}"

    def with_clause(self) -> str:
        if not self.chance(25):
            return ""
        parts = []
        for _ in range(self.number(1, 2)):
            query, columns = self.select(1, labelled=True)
            name = self.pick([self.fresh(), self.fresh(), "parlant_tool", "parlant_event", "q"])
            if name in self.ctes:
                name = self.fresh()
            parts.append(f"{name} AS {self.pick(['', '', 'MATERIALIZED '])}({query})")
            self.ctes[name] = columns
        # A CTE that has a table's name is only referred to as what it is.
        return f"WITH {', '.join(parts)} "

    # --- writes ----------------------------------------------------------------------------------

    def write(self) -> str:
        return str(self.pick([self.insert, self.update, self.delete])())

    def returning(self, columns: list[Column], name: str) -> str:
        if not self.chance(60):
            return ""
        stars = ["*", f"{name}.*"]
        some = [self.pick(columns).text for _ in range(self.number(1, 3))]
        return " RETURNING " + (self.pick(stars) if self.chance(30) else ", ".join(some))

    def target(self) -> tuple[str, str, str, list[Column]]:
        table = self.pick(SHARDED)
        name = self.fresh() if self.chance(50) else table
        text = table if name == table else table + self.pick([" AS ", " "]) + name
        return table, name, text, self.columns(name, table)

    def update(self) -> str:
        table, name, text, columns = self.target()
        sets = []
        for column, type_ in self.distinct([c for c in TYPED[table] if c[1] in "itbe"][1:]):
            if column == "workspace_id" or (column, type_) in {("offset", "i"), ("key", "t")}:
                continue
            if table == "parlant_tool" and column == "name":
                continue
            own = Column(f'{name}."{column}"', type_, table)
            forms = [self.constant(own), f'"{column}"' if self.chance(50) else own.text]
            if type_ == "i":
                limit = "1" if column == "satisfaction_score" else f"{own.text} + 1"
                forms = [limit, "DEFAULT"]
                inner = self.table(self.pick(SHARDED), alias=self.fresh())
                if column != "satisfaction_score":
                    tie = self.equality(inner, Item("", "", columns))
                    forms.append(f"(SELECT count(*) FROM {inner.text} WHERE {tie})")
            sets.append(f'"{column}" = {self.pick(forms)}')
        if not sets:
            sets = ["id = id"]
        return self.finish(f"UPDATE {text} SET {', '.join(sets)}", "FROM", table, name, columns)

    def distinct(self, columns: list[Any]) -> list[Any]:
        size = min(len(columns), self.number(1, 2))
        return list(dict.fromkeys(self.pick(columns) for _ in range(size)))

    def delete(self) -> str:
        table, name, text, columns = self.target()
        return self.finish(f"DELETE FROM {text}", "USING", table, name, columns)

    def finish(self, head: str, word: str, table: str, name: str, columns: list[Column]) -> str:
        """The other tables, the condition and what is returned of a write."""
        own = Item(name, name, columns)
        conditions = []
        text = head
        if self.chance(35):
            edges = [e for e in EDGES if e[0] == table or e[2] == table]
            if edges:
                child, key, parent = self.pick(edges)
                other = parent if child == table else child
                joined = self.table(other, alias=self.fresh())
                mine, theirs = (key, "id") if child == table else ("id", key)
                text += f" {word} {joined.text}"
                conditions.append(f'{name}."{mine}" = {joined.name}."{theirs}"')
                if self.chance(50):
                    conditions.append(self.condition(joined, 0))
        if self.chance(80):
            conditions.append(self.condition(own, 1))
        both = self.pick([" AND ", " AND ", " OR "])
        if tenant := self.tenant(own):
            conditions = [*tenant, f"({both.join(conditions)})"] if conditions else tenant
            both = " AND "
        if conditions:
            text += " WHERE " + both.join(conditions)
        if f" {word} " in text[len(head) :][:8]:
            # Which of several joined rows is returned is not determined: the target's own only.
            return text + (f" RETURNING {name}.*" if self.chance(40) else "")
        return text + self.returning(columns, name)

    def insert(self) -> str:
        agent = self.value(str(row_id(self.workspace, "agent", self.number(1, 50))), "uuid")
        session = self.value(str(row_id(self.workspace, "session", self.number(1, 80))), "uuid")
        options = {
            "parlant_guideline": (
                ["agent_id", "condition", "action", "priority"],
                [agent, self.text(), "'a'", self.pick(["DEFAULT", "3"])],
                ["id"],
            ),
            "parlant_event": (
                ["session_id", '"offset"', "event_type", "content"],
                [session, str(self.number(0, 9)), "'tool_call'", "'{}'"],
                ["session_id", '"offset"'],
            ),
            "parlant_variable": (
                ["agent_id", "session_id", "key", "value", "value_type"],
                [agent, session, f"'key_{self.number(1, 9)}'", "'1'", "'json'"],
                ["session_id", "key"],
            ),
            "parlant_tool": (
                ["workspace_id", "name", "display_name", "description", "tool_type", "parameters"],
                [self.own(), f"'tool_{self.number(40, 60)}'", "'d'", "'d'", "'http'", "'{}'"],
                ["workspace_id", "name"],
            ),
            "parlant_agent": (
                ["workspace_id", "created_by", "name"],
                [self.own(), "'user1'", self.text()],
                ["id"],
            ),
        }
        table = self.pick(sorted(options))
        columns, values, unique = options[table]
        name = self.fresh() if self.chance(40) else table
        text = f"INSERT INTO {table}{'' if name == table else f' AS {name}'}"
        text += f" ({', '.join(columns)}) "
        if self.chance(25) and table not in {"parlant_tool", "parlant_event"}:
            item = self.source(1)
            source = [v if v != "DEFAULT" else "1" for v in values]
            casts = ["::uuid" if c.endswith("_id") and c != "workspace_id" else "" for c in columns]
            casts = ["::jsonb" if c == "value" else k for c, k in zip(columns, casts, strict=True)]
            if table == "parlant_variable":
                source[2] = f"{self.pick(item.columns).text}::text"
            chosen = ", ".join(s + c for s, c in zip(source, casts, strict=True))
            where = " AND ".join([*self.tenant(item), self.condition(item, 1)])
            text += f"SELECT {chosen} FROM {item.text} WHERE {where}"
        else:
            text += f"VALUES ({', '.join(values)})"
            if self.chance(25) and table in {"parlant_guideline", "parlant_agent"}:
                text += f", ({', '.join(values)})"
        if self.chance(45):
            text += " ON CONFLICT"
            match self.number(0, 2):
                case 0:
                    text += " DO NOTHING"
                case 1:
                    text += f" ({', '.join(unique)}) DO NOTHING"
                case _:
                    column = columns[2] if table != "parlant_variable" else "value"
                    if table == "parlant_tool":
                        column = "display_name"
                    text += f" ({', '.join(unique)}) DO UPDATE SET {column} = excluded.{column}"
                    if self.chance(40):
                        own = Item(name, name, self.columns(name, table))
                        text += f" WHERE {self.condition(own, 0)}"
        if self.chance(50):
            text += " RETURNING " + self.pick(["*", ", ".join(f"{name}.{c}" for c in columns[:3])])
        return text

    def own(self) -> str:
        """The key of an inserted row."""
        return self.value(self.workspace) if self.chance(97) else "'ws_b'"

    # --- values into the text --------------------------------------------------------------------

    def finished(self, text: str) -> tuple[str, Any]:
        """Put the values in: literals, or placeholders of one style."""
        style = self.pick(["literal", "%s", "%(n)s", "$n"])
        params: Any = {} if style == "%(n)s" else []
        places: dict[int, str] = {}

        def put(match: re.Match[str]) -> str:
            number = int(match[1])
            value, cast = self.values[number]
            suffix = f"::{cast}" if cast else ""
            if style == "literal":
                if isinstance(value, int):
                    return str(value)
                return "'" + str(value).replace("'", "''") + "'" + suffix
            if style == "%s":
                params.append(value)
                return "%s" + suffix
            if number not in places:
                if style == "%(n)s":
                    params[f"p{number}"] = value
                    places[number] = f"%(p{number})s"
                else:
                    params.append(value)
                    places[number] = f"${len(params)}"
            return places[number] + suffix

        text = re.sub(r"\0(\d+)\0", put, text)
        return text, params or None


@dataclass(slots=True)
class Tally:
    """What became of the statements of one test."""

    counts: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, str] = field(default_factory=dict)  # of what runs unsharded: why, and one

    def check(self, share: float) -> None:
        """Fail if too few were accepted: a router that refuses everything would be equal too."""
        equal, refused = self.counts["equal"], self.counts["refused"]
        assert equal > share * (equal + refused), (self.counts, self.refusals)


def run(sharded: Sharded, data: Any, tally: Tally, *, writes: bool, nobodys: bool) -> None:
    workspace = data.draw(st.sampled_from(["ws_a", "ws_a", "ws_a", "ws_b"]))
    maker = Maker(data, workspace, nobodys)
    text, ordered = (maker.write(), False) if writes else maker.query()
    text, params = maker.finished(text)
    caller = None if nobodys else workspace
    route = sharded.route(text, params, caller)
    if route.kind is Kind.REFUSED:
        assert route.code, report(text, params, route)
        assert route.code != "PS618", report(text, params, route, str(route.reason))
        oracle = sharded.run_unsharded(text, params, WORKSPACES if nobodys else [workspace])
        tally.counts["refused" if oracle.sqlstate is None else "wrong"] += 1
        if oracle.sqlstate is None:
            tally.refusals[f"{route.code} {route.reason}"] = text
        return
    assert set(route.workspaces) <= sharded.named(f"{text} {caller}", params)
    done = sharded.compare(text, params, caller, ordered=ordered, everybody=nobodys)
    assert done.oracle is not None
    tally.counts["equal" if done.oracle.sqlstate is None else "wrong"] += 1


def differential(sharded: Sharded, share: float, *, writes: bool, nobodys: bool) -> Tally:
    """Run a share of the statements; count what became of them."""
    tally = Tally()

    @seed(SEED)
    @settings(
        max_examples=max(1, int(STATEMENTS * share)),
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        deadline=None,
    )
    @given(data=st.data())
    def each(data: st.DataObject) -> None:
        run(sharded, data, tally, writes=writes, nobodys=nobodys)

    try:
        each()
    except AssertionError as error:
        error.add_note(f"PARLANT_SHARD_TEST_SEED={SEED} draws the same statements")
        raise
    return tally


@pytest.mark.timeout(3600)
def test_queries(sharded: Sharded) -> None:
    differential(sharded, 0.43, writes=False, nobodys=False).check(0.9)


@pytest.mark.timeout(3600)
def test_writes(sharded: Sharded) -> None:
    differential(sharded, 0.24, writes=True, nobodys=False).check(0.9)


@pytest.mark.timeout(3600)
def test_queries_without_a_workspace(sharded: Sharded) -> None:
    differential(sharded, 0.2, writes=False, nobodys=True).check(0.2)


@pytest.mark.timeout(3600)
def test_writes_without_a_workspace(sharded: Sharded) -> None:
    differential(sharded, 0.13, writes=True, nobodys=True).check(0.2)
