"""The client's part of row-level security: what is set on a server before a statement.

The setting is local to a transaction and goes out together with the statement, in a pipeline: what
is sent between two synchronisations is one transaction, so nothing is left in the session, and a
pooler in transaction mode keeps the two together. In a transaction of the application it is sent
with the first statement, and again where the workspace changes or a savepoint was left: PostgreSQL
takes it back with the savepoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

from parlant_shard import signing
from parlant_shard.client import failures
from parlant_shard.client.steps import Context
from parlant_shard.errors import TopologyError
from parlant_shard.router.route import Route
from parlant_shard.topology import Topology

_SET = "SELECT pg_catalog.set_config('parlant.workspace_id', $1, true)"
_SET_WITH_ACTOR = (
    "SELECT pg_catalog.set_config('parlant.workspace_id', $1, true), "
    "pg_catalog.set_config('parlant.actor', $2, true)"
)


class Wall:
    """The setting of each statement. Holds the signing key: it never shows in a repr."""

    __slots__ = ("_actor", "_key", "_on")

    def __init__(
        self, topology: Topology, actor: str | Callable[[], str | None] | None = None
    ) -> None:
        isolation = topology.isolation
        self._on = isolation.rls
        self._key = isolation.key if isolation.signed else None
        self._actor = actor
        if actor is not None and not isolation.rls:
            raise TopologyError(
                "actor travels with the setting of row-level security, which is off",
                code="PS726",
                hint="write: isolation: {rls: true, role: ...}; or give it in the dsn: "
                "options=-cparlant.actor=NAME",
                file=str(topology.file),
                line=topology.line("isolation"),
                path="isolation.rls",
            )
        if isolation.signed and self._key is None:
            raise TopologyError(
                "isolation.signed needs the key that tokens are signed with",
                code="PS721",
                hint='write: isolation: {signed: true, key: "${PARLANT_SIGNING_KEY}"}',
                file=str(topology.file),
                line=topology.line("isolation.signed"),
                path="isolation.signed",
            )

    def wanted(self, route: Route, context: Context) -> str | None:
        """What must be set for a statement and is not: a workspace, all, none (""); None: nothing.

        Raises Unroutable (PS724) for a statement of several workspaces, unless all were asked for.
        """
        if not self._on:
            return None
        if context.everything:
            name: str | None = signing.EVERYTHING
        elif len(route.workspaces) > 1:
            raise failures.refused(
                route,
                "PS724",
                f"the statement is about {len(route.workspaces)} workspaces, and row-level "
                "security admits one at a time",
                "run it once for each, or through router.all_workspaces() as the role of "
                "isolation.analytics",
            )
        else:
            name = route.workspaces[0] if route.workspaces else None
        if context.transaction:
            # Without a workspace the one of the statement before must not stay.
            return None if (name or "") == (context.admitted or "") else name or ""
        return name

    def statement(self, name: str) -> tuple[LiteralString, list[str]]:
        """What admits a statement to a workspace, and says who acts: SQL with its parameters."""
        if self._actor is None:
            return _SET, [self.setting(name)]
        actor = self._actor() if callable(self._actor) else self._actor
        return _SET_WITH_ACTOR, [self.setting(name), actor or ""]

    def setting(self, name: str) -> str:
        """The value of the setting: the workspace, or a token that says it; "" is none."""
        if self._key is None or not name or name == signing.EVERYTHING:
            return name
        return signing.token(name, self._key)
