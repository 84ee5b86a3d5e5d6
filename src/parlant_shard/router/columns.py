"""Columns: what a name means, and what the application sees of a table."""

from __future__ import annotations

from parlant_shard.router.allowed import FIELDS, FUNCTIONS, SYSTEM_COLUMNS, may_be_a_field
from parlant_shard.router.model import Derived, Item, Ref, Refusal, Scope, Star
from parlant_shard.router.parsing import Node
from parlant_shard.router.scopes import named, needs_all
from parlant_shard.router.tenants import Tenants
from parlant_shard.router.tokens import Tokens
from parlant_shard.router.tree import is_transparent, labels, text_of
from parlant_shard.shardmap import ShardMap

_MAX_COLUMNS = 1664  # PostgreSQL's MaxTupleAttributeNumber
_REWRITE = "write the statement without it, or send it to the server directly"


class Columns:
    """Checks every column of one statement and remembers what splicing must know of them."""

    def __init__(self, root: Node, tokens: Tokens, shard_map: ShardMap, tenants: Tenants) -> None:
        self.root = root
        self._given: frozenset[str] | None = None
        self._catalogue = shard_map.column_names
        self.tokens = tokens
        self.map = shard_map
        self.key = shard_map.key
        self.tenants = tenants
        self.names: set[str] = set()  # every column that is named anywhere
        self.schema_names: list[tuple[int, int]] = []  # `schema.` in front of columns: cut

    def check(self, node: Node, scope: Scope) -> None:
        fields = node["fields"]
        if "A_Star" in fields[-1]:
            # A whole row inside an expression.
            self._whole_row(text_of(fields[-2]) if len(fields) > 1 else None, scope)
            if len(fields) > 2:
                self._cut_schema([text_of(f) for f in fields[:-1]], node, scope)
            return
        names = [text_of(f) for f in fields]
        if len(names) > 2:
            self._cut_schema(names[:-1], node, scope)
            names = names[-2:]
        column = names[-1]
        self.names.add(column)
        if len(names) == 1:
            self._unqualified(column, scope)
            return
        item = named(scope, names[0])
        if item is None:
            self.check_field(column)
            return  # PostgreSQL says what is wrong with it
        if item.columns is not None and column in item.columns:
            return
        if column in SYSTEM_COLUMNS:
            refuse_system_column(column)
        if column == self.key and item.ref is not None and self.key in item.outputs:
            self._show_key(item)
            return
        if item.columns is not None and item.name not in {"old", "new"}:
            raise Refusal(
                "PS605" if column in FUNCTIONS or column in self.map.functions else "PS619",
                f'"{names[0]}" has no column "{column}"',
                "PostgreSQL would look for a function of that name; write a call as a call",
            )
        self.check_field(column)

    def check_field(self, name: str) -> None:
        """`x.name`, of which nobody knows whether x has it: PostgreSQL would call name(x)."""
        if name in FIELDS or name in FUNCTIONS or name in self._catalogue:
            return
        if name not in self.map.functions and may_be_a_field(name) and name in self._labels():
            return
        raise Refusal(
            "PS605",
            f'"{name}" is not known as a column, and PostgreSQL would call the function "{name}"',
            "name the columns of the sub-query or function: ... AS alias (column, ...)",
        )

    def _labels(self) -> frozenset[str]:
        if self._given is None:
            self._given = frozenset(labels(self.root))
        return self._given

    def _unqualified(self, column: str, scope: Scope) -> None:
        if column in SYSTEM_COLUMNS:
            level: Scope | None = scope
            while level is not None:
                if any(i.columns and column in i.columns for i in level.items):
                    return
                level = level.outer
            refuse_system_column(column)
        level = scope
        lacking: list[Item] = []
        while level is not None:
            for item in level.items:
                if item.columns is None:
                    if column == self.key and lacking:
                        raise Refusal(
                            "PS619",
                            f'nobody knows whether "{item.name}" has a column "{column}"',
                            f'write "{lacking[0].name}.{column}", or name its columns',
                        )
                    # It may be a column of that item, or the whole row of one.
                    self._whole_row(column, scope)
                    return
                if item.columns is not None and column in item.columns:
                    if column == self.key and any(
                        i.ref is not None and i.ref.role != "from" for i in lacking
                    ):
                        raise Refusal(
                            "PS619",
                            f'"{column}" would be ambiguous on the shards',
                            f'write "{item.name}.{column}"',
                        )
                    return
                if (
                    column == self.key
                    and item.ref is not None
                    and item.ref.spec.key_added
                    and self.key in item.outputs
                ):
                    lacking.append(item)
            level = level.outer
        if column == self.key and lacking:
            if len([i for i in lacking if i.name not in {"old", "new"}]) > 1:
                raise Refusal(
                    "PS619",
                    f'"{column}" is ambiguous: several tables have it on the shards',
                    f'write "{lacking[0].name}.{column}"',
                )
            self._show_key(lacking[0])
            return
        # No column of that name: the name of a table is its whole row.
        self._whole_row(column, scope)

    def _show_key(self, item: Item) -> None:
        if item.ref is not None and item.ref.role == "from" and item.ref.spec.key_added:
            if item.renamed:
                raise Refusal(
                    "PS619",
                    f'"{self.key}" of "{item.name}", whose columns are renamed',
                    "leave the column alias list out",
                )
            item.ref.shows_key = True

    def _whole_row(self, name: str | None, scope: Scope) -> None:
        item = named(scope, name) if name is not None else None
        if item is None or item.ref is None or not item.ref.guarded:
            return
        item.ref.whole = True
        if item.ref.role != "from" and item.ref.spec.key_added:
            raise Refusal(
                "PS629",
                f'the whole row "{item.name}" has another column on the shards',
                "name the columns",
            )

    def _cut_schema(self, names: list[str], node: Node, scope: Scope) -> None:
        """`public.t.c`: the table has an alias on the shard, so the schema goes."""
        if len(names) != 2 or names[0] != self.map.namespace:
            raise Refusal(
                "PS603",
                f'unknown name "{".".join(names)}"',
                "write the column with the alias of its table, without database or schema",
            )
        item = named(scope, names[1])
        if item is None or item.ref is None or item.ref.alias is not None:
            raise Refusal(
                "PS603",
                f'"{".".join(names)}" is not in FROM',
                "use the alias, without a schema"
                if item is not None
                else "add the table to FROM, or correct the name",
            )
        first = self.tokens.at(node["location"])
        self.schema_names.append((self.tokens.start(first), self.tokens.start(first + 2)))

    def star(self, column: Node, scope: Scope) -> None:
        names = [text_of(f) for f in column["fields"][:-1]]
        needs_all(i for i in scope.items if not names or i.name == names[-1])
        location = column.get("location", 0)
        if location < 0:  # TABLE t
            scope.stars.append(Star((-1, -1), None))
            return
        first, last = self.tokens.name(location)
        if len(names) > 1:
            self._cut_schema(names, column, scope)
        span = self.tokens.tokens[first].start, self.tokens.tokens[last].end
        scope.stars.append(Star(span, names[-1] if names else None))

    def refuse_bare_row(self, name: str, scope: Scope) -> None:
        level: Scope | None = scope
        while level is not None:
            for item in level.items:
                if item.columns is not None and name in item.columns:
                    return
            level = level.outer
        for item in scope.items:
            if item.name == name and item.ref is not None and item.ref.guarded:
                raise Refusal(
                    "PS629",
                    f'the whole row "{name}" as one value would arrive as another type',
                    f'select "{name}".*, or row_to_json("{name}")',
                )

    def outputs(self, node: Node, scope: Scope, *, transparent: bool = True) -> Derived:
        columns: list[str] | None = []
        outputs: dict[str, tuple[Ref, str]] = {}
        if "valuesLists" in node:
            width = len(node["valuesLists"][0]["List"]["items"])
            return Derived(tuple(f"column{n}" for n in range(1, width + 1)))
        for entry in node.get("targetList", ()):
            target = entry["ResTarget"]
            value = target["val"]
            column = value.get("ColumnRef")
            if column is not None and "A_Star" in column["fields"][-1]:
                qualifier = text_of(column["fields"][-2]) if len(column["fields"]) > 1 else None
                for item in scope.items:
                    if qualifier not in {None, item.name}:
                        continue
                    if item.columns is None or scope.merged:
                        columns = None
                    elif columns is not None:
                        columns += item.columns
                        # A star of stars of stars doubles with each level.
                        if len(columns) > _MAX_COLUMNS:
                            raise Refusal(
                                "PS619",
                                f"a query of more than {_MAX_COLUMNS} columns, which PostgreSQL "
                                "refuses",
                                "name the columns that are needed",
                            )
                    for name in item.columns or ():
                        if name in item.outputs:
                            outputs.setdefault(name, item.outputs[name])
                continue
            label = target.get("name") or (text_of(column["fields"][-1]) if column else None)
            if label is None:
                columns = None
                continue
            if columns is not None:
                columns.append(label)
            base = self.tenants.base(column, scope) if column else None
            if base is not None:
                outputs[label] = base
        if not transparent or not is_transparent(node):
            # What is outside restricts the result, not the rows that it was made of.
            self.tenants.opaque(outputs.values())
        return Derived(tuple(columns) if columns is not None else None, outputs)


def refuse_system_column(name: str) -> None:
    raise Refusal(
        "PS627", f'"{name}" is a system column: it means something on one shard only', _REWRITE
    )
