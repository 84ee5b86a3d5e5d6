"""Compare views."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from parlant_shard import canonical
from parlant_shard import changes as c
from parlant_shard.catalog import Catalog, View
from parlant_shard.diff.names import refuse_name
from parlant_shard.errors import SchemaError


def blocked_by_views(tables: Iterable[c.Change]) -> frozenset[str]:
    """Tables that cannot change while a view reads them: retyped columns, and replaced tables."""
    return frozenset(
        change.table.name
        for change in tables
        if (isinstance(change, c.DropTable) and change.why is c.Why.REPLACED)
        or (
            isinstance(change, c.AlterColumn)
            and (change.old.type, change.old.collation) != (change.new.type, change.new.collation)
        )
    )


def views(
    server: str, live: Catalog, desired: Catalog, blocked: frozenset[str]
) -> Iterator[c.Change]:
    for name, view in desired.views.items():
        managed = desired.managed["view", name]
        old = live.views.get(name)
        if old is not None and blocked.intersection(old.sources):
            yield c.DropView(server=server, view=old, why=c.Why.REBUILT)
            yield c.CreateView(server=server, view=view, managed=managed)
            continue
        if old is None:
            taken = "table" if name in live.tables else live.other_relations.get(name)
            if taken:
                refuse_name(server, name, taken)
            yield c.CreateView(server=server, view=view, managed=managed)
            continue
        if name in live.other_relations:
            refuse_name(server, name, live.other_relations[name])
        if ("view", name) not in live.managed and old.text is not None:
            raise SchemaError(
                f'view "{name}" exists on server "{server}" and is not managed by parlant-shard',
                code="PS222",
                hint=f"ALTER VIEW {canonical.quote(name)} RENAME TO …",
            )
        if _same_view(old, view):
            if ("view", name) not in live.managed:  # its registration was lost
                yield c.CreateView(server=server, view=view, managed=managed, exists=True)
            continue
        appends = (
            view.columns[: len(old.columns)] == old.columns
            and view.types[: len(old.types)] == old.types
        )
        yield c.CreateView(server=server, view=view, managed=managed, exists=True, swap=not appends)
    for (kind, name), _ in sorted(live.managed.items()):
        if kind == "view" and name not in desired.views and name in live.views:
            yield c.DropView(server=server, view=live.views[name], why=c.Why.REMOVED)


def _same_view(live: View, view: View) -> bool:
    return (
        live.columns == view.columns
        and live.types == view.types
        and live.sources == view.sources
        and live.security_invoker == view.security_invoker
        and set(view.grants) <= set(live.grants)
    )
