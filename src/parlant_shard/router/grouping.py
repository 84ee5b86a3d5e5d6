"""GROUP BY a primary key: which columns a query may use only because of that."""

from __future__ import annotations

from parlant_shard.router.model import Dependent, Item, Refusal, Scope
from parlant_shard.router.parsing import Node
from parlant_shard.router.tenants import Tenants
from parlant_shard.router.tree import column_refs, text_of

_NOT_COMPARABLE = frozenset(["json", "xml", "point", "polygon", "line", "path", "jsonpath"])


def dependents(node: Node, scope: Scope, tenants: Tenants) -> list[Dependent]:
    """Find columns that are usable only because their table's primary key is grouped by."""
    clause = node.get("groupClause", ())
    grouped: dict[int, set[str]] = {}
    for entry in clause:
        for column in _grouped_by(entry, node, scope, tenants):
            base = tenants.base(column, scope)
            if base is not None:
                grouped.setdefault(id(base[0]), set()).add(base[1])
    found = []
    for item in scope.items:
        ref = item.ref
        if ref is None or not ref.guarded or not ref.spec.primary_key:
            continue
        own = grouped.get(id(ref), set())
        if not own >= set(ref.spec.primary_key):
            continue
        loose = _used_outside_aggregates(node, scope, item, tenants) - own
        if ref.spec.key_added and not ref.shows_key:
            loose.discard(tenants.key)
        if not loose:
            continue
        if any("GroupingSet" in entry for entry in clause):
            raise Refusal(
                "PS619",
                f'columns of "{item.name}" that only depend on its primary key, with GROUPING SETS',
                f"group by them as well: {', '.join(sorted(loose))}",
            )
        names = [n for n, base in item.outputs.items() if base[1] in loose]
        for name in names:
            if ref.spec.type_of(item.outputs[name][1]) in _NOT_COMPARABLE:
                raise Refusal(
                    "PS619",
                    f'"{item.name}.{name}" depends on a grouped primary key, and its type '
                    "cannot be grouped by",
                    "select it in an outer query",
                )
        found.append(Dependent(ref, tuple(names)))
    return found


def _grouped_by(entry: Node, node: Node, scope: Scope, tenants: Tenants) -> list[Node]:
    """The plain columns of a GROUP BY entry, which may be a target's number or label."""
    targets = [t["ResTarget"] for t in node.get("targetList", ())]
    number = entry.get("A_Const", {}).get("ival")
    if number is not None:
        at = number.get("ival", 0) - 1
        meant = targets[at : at + 1] if at >= 0 else []
    elif "ColumnRef" in entry and tenants.base(entry["ColumnRef"], scope) is None:
        label = text_of(entry["ColumnRef"]["fields"][-1])
        meant = [t for t in targets if t.get("name") == label]
    elif "ColumnRef" in entry or "GroupingSet" in entry:
        return list(column_refs(entry))
    else:
        return []
    return [t["val"]["ColumnRef"] for t in meant if "ColumnRef" in t["val"]]


def _used_outside_aggregates(node: Node, scope: Scope, item: Item, tenants: Tenants) -> set[str]:
    """The table's own names of its columns that a grouping query uses as they are."""
    used: set[str] = set()
    for part in ("targetList", "havingClause", "sortClause", "distinctClause", "windowClause"):
        for column in column_refs(node.get(part), aggregates=False):
            fields = column["fields"]
            if "A_Star" in fields[-1]:
                if len(fields) == 1 or text_of(fields[-2]) == item.name:
                    used.update(base[1] for base in item.outputs.values())
                continue
            base = tenants.base(column, scope)
            if base is not None and base[0] is item.ref:
                used.add(base[1])
            elif base is None and len(fields) == 1 and text_of(fields[0]) == item.name:
                raise Refusal(
                    "PS629",
                    f'the whole row "{item.name}" in a query that groups by its primary key',
                    "build the value in a sub-query, and group outside of it",
                )
    return used
