"""Which steps may run when a saved plan is resumed, although nobody approved them by name.

A saved plan is executed as it was approved, and nothing else is. A killed run, however, can leave
a step half done, and finishing it then takes another statement than the plan has. The few
statements of that kind are listed here, each with what the plan must hold for it. Everything else
makes the plan stale: somebody else changed the server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from parlant_shard.catalog import Catalog
from parlant_shard.plan.model import NEEDS_ALLOW, Plan, Step

_NAME = r'"(?:[^"]|"")+"'
_ADDED = re.compile(
    rf"ALTER TABLE (?P<table>{_NAME}\.{_NAME}) ADD CONSTRAINT (?P<what>{_NAME} .*?)"
    r"(?P<late> NOT VALID)?",
    re.DOTALL,
)
_VALIDATED = re.compile(
    rf"ALTER TABLE (?P<table>{_NAME}\.{_NAME}) VALIDATE CONSTRAINT (?P<name>{_NAME})"
)
_CREATED = re.compile(rf"CREATE (?:UNLOGGED )?TABLE (?P<table>{_NAME}\.{_NAME})[ (].*", re.DOTALL)
_BUILT = re.compile(
    rf"(?:CREATE (?:UNIQUE )?INDEX CONCURRENTLY|REINDEX INDEX CONCURRENTLY) "
    rf"(?:{_NAME}\.)?(?P<index>{_NAME}).*",
    re.DOTALL,
)
_DROPPED = re.compile(rf"DROP INDEX CONCURRENTLY {_NAME}\.(?P<index>{_NAME})")
# What REINDEX CONCURRENTLY appends to the name of the index that it builds, or replaced.
_REBUILT = re.compile(r'_cc(?:new|old)\d*"$')


def unapproved(fresh: Plan, saved: Plan, live: Mapping[str, Catalog]) -> tuple[Step, ...]:
    """Return the steps of `fresh` that are neither in `saved` nor finish what it began.

    `fresh` is what is left to do now, `live` what the servers hold now.
    """
    planned = {step.id for step in saved.steps}
    extra = [step for step in fresh.steps if step.id not in planned]
    if not extra:
        return ()
    approved = {
        server: _Approved(tuple(sql for s in saved.steps if s.server == server for sql in s.sql))
        for server in {step.server for step in extra}
    }
    return tuple(
        step for step in extra if not approved[step.server].covers(step, live[step.server])
    )


class _Approved:
    """What the statements of a saved plan do on one server, as far as a repair can depend on it."""

    def __init__(self, statements: tuple[str, ...]) -> None:
        self.created = {m["table"] for s in statements if (m := _CREATED.fullmatch(s))}
        added = [m for s in statements if (m := _ADDED.fullmatch(s))]
        self.constraints = {m["what"] for m in added}
        self.on_tables = {(m["table"], _name(m["what"])) for m in added}
        self.indexes = {m["index"] for s in statements if (m := _BUILT.fullmatch(s))}

    def covers(self, step: Step, live: Catalog) -> bool:
        """Whether a step only finishes or clears away what these statements began."""
        return (
            len(step.sql) == 1
            and not NEEDS_ALLOW.intersection(step.hazards)
            and (
                self._adds_to_new_partition(step.sql[0])
                or self._validates(step.sql[0])
                or self._clears_index(step.sql[0], live)
            )
        )

    def _adds_to_new_partition(self, statement: str) -> bool:
        """A constraint that the plan gives to a table, and a partition that the plan created.

        The run that created the partition died before it reached the constraint, so the partition
        is now one of those that get it ahead of the table.
        """
        match = _ADDED.fullmatch(statement)
        return (
            match is not None
            and match["late"] is not None
            and match["what"] in self.constraints
            and match["table"] in self.created
        )

    def _validates(self, statement: str) -> bool:
        match = _VALIDATED.fullmatch(statement)
        return match is not None and (
            (match["table"], match["name"]) in self.on_tables
            or (
                match["table"] in self.created
                and match["name"] in {_name(what) for what in self.constraints}
            )
        )

    def _clears_index(self, statement: str, live: Catalog) -> bool:
        """The INVALID remains of an index that the plan builds. A valid one is somebody's work."""
        match = _DROPPED.fullmatch(statement)
        if match is None:
            return False
        planned = _REBUILT.sub('"', match["index"])
        name = match["index"][1:-1].replace('""', '"')
        return planned in self.indexes and any(
            index.name == name and not index.valid
            for table in live.tables.values()
            for index in table.indexes
        )


def _name(constraint: str) -> str:
    match = re.match(_NAME, constraint)
    assert match is not None  # what _ADDED matched begins with one
    return match[0]
