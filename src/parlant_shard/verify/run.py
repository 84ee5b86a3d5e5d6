"""One audit: servers in parallel, check by check, with progress, a state file and a report."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Composable, Literal

from parlant_shard import db, trail
from parlant_shard.errors import CannotConnect, ShardError, TopologyError
from parlant_shard.locks import lock_is_free
from parlant_shard.shardmap import shard_of
from parlant_shard.topology import Topology
from parlant_shard.verify import across, duplicates, hidden, placement, structure, walls
from parlant_shard.verify.checks import CHECKS, OF_DEFINITIONS, OF_ROWS
from parlant_shard.verify.read import Seen, read
from parlant_shard.verify.report import SAMPLES, Check, Failure, Finding, Report, Snapshot
from parlant_shard.verify.rows import Place, Probe, Probes, by_index, of_workspace
from parlant_shard.verify.site import Fresh, Readers, Site, failed_at, fresh
from parlant_shard.verify.state import Position, Progress, load

Say = Callable[[str], None]
Error = psycopg.Error | ShardError

# Findings of one kind, on one table, that are told apart by workspace. More become one.
_TOLD_APART = 100

# Seconds for a run of `apply` or `maintain` to end, before definitions are looked at again.
_RUNS = 15.0

# Seconds between two words about a table that takes long.
_WORD = 10.0


def verify(
    topology: Topology,
    *,
    workspace: str | None = None,
    state: Path | None = None,
    say: Say = lambda _: None,
) -> Report:
    """Audit every server of a topology, or what concerns one workspace. Changes nothing.

    Leaves a row in the audit trail, where the role may write there.

    With `state` what is finished is kept in a file, and an interrupted run goes on there. Raises
    CannotConnect when no server can be reached.
    """
    if workspace == "":
        raise TopologyError(
            "the name of a workspace is empty",
            code="PS704",
            hint="name a workspace, or leave --workspace out; rows with an empty workspace are "
            "found by the audit of everything",
        )
    with trail.recorded(topology, "verify", tell=say, reader=True) as entry:
        entry.objects = [] if workspace is None else [workspace]
        report = _audit(topology, workspace, load(state, topology, workspace), say)
        _note(entry, report)
    return report


def _audit(topology: Topology, workspace: str | None, progress: Progress, say: Say) -> Report:
    stop = threading.Event()
    seen = read(topology, workspace, stop)
    run = _Run(seen, progress, say, stop)
    try:
        report = run.report()
    except BaseException:
        seen.give_up()
        raise
    finally:
        for site in seen.sites.values():
            site.close()
    if not report.failures:
        progress.remove()
    return report


def _note(entry: trail.Entry, report: Report) -> None:
    """What the audit trail says of an audit: which checks found something, and no row's key."""
    errors = [f.check for f in report.findings if f.severity == "error"]
    if errors:
        entry.result = trail.Result.FINDINGS
    elif report.failures:
        entry.result = trail.Result.FAILED
    entry.detail = {
        "errors": len(errors),
        "warnings": len(report.findings) - len(errors),
        "not_checked": len(report.failures),
        "checks": sorted(set(errors)),
    }


# What looks at definitions: the checks that it may find something for, and itself. Of all servers,
# then of one after the other: what one refuses must not keep the others from being looked at.
_OF_ALL: tuple[tuple[tuple[str, ...], Callable[[Seen], Iterable[Finding]]], ...] = (
    (("schema",), structure.definitions),
    (("placement",), placement.placement),
    (("shard-map",), placement.stored_map),
    (("audit-trail",), hidden.audit_trail),
)
_OF_EACH: tuple[tuple[tuple[str, ...], Callable[[Seen, str], Iterable[Finding]]], ...] = (
    (("grants", "bypassing-roles", "superuser-owner"), walls.rights),
    (
        (
            "keys",
            "partitions",
            "policies",
            "replication",
            "shard-check",
            "audit-trail",
            "not-valid",
            "schema",
        ),
        hidden.hidden,
    ),
)
# These name one table of many, which may be another a moment later.
_ABOUT_ROLES = frozenset({"bypassing-roles", "superuser-owner"})


class _Run:
    def __init__(self, seen: Seen, progress: Progress, say: Say, stop: threading.Event) -> None:
        self.seen, self.progress, self._say, self._stop = seen, progress, say, stop
        self.findings: list[Finding] = []
        self.failures: tuple[Failure, ...] = ()
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.remarks: dict[str, list[str]] = defaultdict(list)
        self._lock = threading.Lock()
        self._lost: set[str] = set()
        self._skipped: dict[str, set[str]] = defaultdict(set)  # checks: servers
        # By check, server and cause: the first error, and the tables that could not be looked at.
        self._unchecked: dict[tuple[str, str, str], tuple[Error, list[str]]] = {}

    def say(self, text: str) -> None:
        with self._lock:
            self._say(text)

    def report(self) -> Report:
        seen = self.seen
        self.progress.begin(
            [Snapshot(server=n, taken_at=s.taken_at) for n, s in sorted(seen.sites.items())]
        )
        for server, error in seen.unreachable.items():
            self.say(f"{server}: {error.message}")
        self._definitions()
        names = self.seen.readable  # without a server that died meanwhile
        with ThreadPoolExecutor(max_workers=max(1, len(names))) as pool:
            futures = [pool.submit(self._rows_of, n) for n in names]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                seen.give_up()
                raise
        self._across()
        self._definitions_again()
        self.failures = tuple(self._all_failures())
        return Report(
            topology=seen.topology.name,
            workspace=seen.workspace,
            checks=tuple(self._check(name) for name in CHECKS),
            findings=tuple(_folded(_ordered(self.findings))),
            failures=self.failures,
            snapshots=tuple(self.progress.snapshots),
            placed=placement.placed(self.seen),
        )

    # --- definitions -----------------------------------------------------------------------------

    def _definitions(self) -> None:
        for checks, server, work in _looks(self.seen):
            began = time.monotonic()
            while server not in self._lost:
                found: list[Finding] = []
                try:
                    found.extend(f for f in work(self.seen) if self._concerns(f))
                except (psycopg.Error, ShardError) as error:
                    if self._lose_dead(wholly=True):
                        continue
                    where = server or failed_at(error) or self.seen.topology.coordinator
                    self._failed(checks[0], where, error)
                    for check in checks:
                        self._skipped[check].add(where)
                self.findings += found
                break
            self.seconds[checks[0]] += time.monotonic() - began
        self.say(f"definitions, placement and rights: {len(self.findings)} findings")

    def _definitions_again(self) -> None:
        """Look at all servers once more, and keep what is still wrong.

        The snapshots are of several moments, and `apply` or `maintain` may have been at work.
        """
        before = [f for f in self.findings if f.check in OF_DEFINITIONS]
        if not before:
            return
        for site in self.seen.sites.values():
            # A run that builds an index concurrently waits for every snapshot.
            with suppress(psycopg.Error):
                site.release()
        running = self._await_runs()
        try:
            seen = read(self.seen.topology, self.seen.workspace, self._stop)
        except (psycopg.Error, ShardError):
            return  # what was seen once stands
        try:
            if not self.seen.sites.keys() <= seen.sites.keys():
                return  # without that server less would be known of the others, too
            again = [f for _, _, work in _looks(seen) for f in work(seen) if self._concerns(f)]
        except (psycopg.Error, ShardError):
            return
        finally:
            for site in seen.sites.values():
                site.close()
        places = {_place(f) for f in before}
        lasting = [f for f in again if _place(f) in places]
        # Where nothing could be compared any more, what was seen once stands.
        dark = {f.server for f in again if f.check == "schema" and f.statement is None}
        lasting += [f for f in before if f.server in dark and f not in lasting]
        self.findings = [f for f in self.findings if f.check not in OF_DEFINITIONS] + lasting
        if running:
            for check in sorted({f.check for f in lasting}):
                self.remarks[check].append("a run of apply or maintain had not ended: look again")

    def _await_runs(self) -> bool:
        """Give a run that is changing definitions a moment to end; whether it is still going on."""
        site = self.seen.coordinator
        if site is None or site.connection.closed:
            return False
        until = time.monotonic() + _RUNS
        try:
            with fresh(site) as now:
                while not lock_is_free(now.connection, self.seen.topology.name):
                    if time.monotonic() > until or self._stop.is_set():
                        return True
                    time.sleep(0.5)
        except (psycopg.Error, ShardError):
            return False
        return False

    def _concerns(self, finding: Finding) -> bool:
        """With --workspace: what is about that workspace, its shard, or all shards."""
        workspace = self.seen.workspace
        if workspace is None:
            return True
        if finding.workspace is not None:
            return finding.workspace == workspace
        return finding.shard in {None, shard_of(self.seen.topology, workspace)}

    # --- rows ------------------------------------------------------------------------------------

    def _rows_of(self, server: str) -> None:
        seen, site = self.seen, self.seen.sites[server]
        probes = Probes(
            seen.topology,
            seen.tenancy,
            seen.desired,
            seen.base_of(server),
            seen.live[server],
            seen.purged(server),
        )
        mine = [p for p in seen.places if p.server == server]
        for check in OF_ROWS:
            if check == "missing-key" and seen.workspace is not None:
                continue
            began, rows = time.monotonic(), 0
            for place in mine:
                for unit, work in self._units(site, probes, check, place):
                    try:
                        found = self.progress.done(unit)
                        if found is None:
                            found = work()
                            self.progress.finish(unit, found)
                    except (psycopg.Error, ShardError) as error:
                        if site.connection.closed:
                            self._lose(server, error)
                            return
                        if not self._retired(place, error):
                            # Else it is the session on the coordinator, which has the parents.
                            where = seen.topology.coordinator if _is_loss(error) else server
                            where = failed_at(error) or where
                            self._failed(check, where, error, table=place.table)
                        continue
                    with self._lock:
                        self.findings += found
                        self.counts[check] += sum(f.rows for f in found)
                    rows += sum(f.rows for f in found)
            took = time.monotonic() - began
            with self._lock:
                self.seconds[check] = max(self.seconds[check], took)
            self.say(f"{server}: {check}: {len(mine)} tables, {rows} rows found ({took:.1f} s)")

    def _retired(self, place: Place, error: psycopg.Error | ShardError) -> bool:
        """Whether it is a partition that was dropped since the snapshot: `maintain` did its work.

        Whether it should have gone is for the checks of definitions to say.
        """
        gone = isinstance(error, psycopg.errors.UndefinedTable) or (
            isinstance(error, ShardError) and error.code == "PS703"
        )
        if not gone or place.table == place.root:
            return False
        try:
            return self.seen.sites[place.server].is_gone(place.table)
        except psycopg.Error:
            return False

    def _units(
        self, site: Site, probes: Probes, check: str, place: Place
    ) -> Iterator[tuple[str, Callable[[], list[Finding]]]]:
        for probe in probes.of(check, place):
            yield probe.unit, lambda probe=probe: self._probe(site, probe)  # type: ignore[misc]
        home = self.seen.topology.coordinator
        if check != "parents" or self.seen.coordinator is None or home in self._lost:
            return
        for fk in self.seen.base_of(site.server).tables[place.logical].foreign_keys:
            if probes.parent_here(place, fk) is None and not fk.unenforced:
                yield (
                    f"parents {site.server} {place.table} {fk.name} (remote)",
                    lambda fk=fk: across.remote_parents(self.seen, place, fk),  # type: ignore[misc]
                )

    def _probe(self, site: Site, probe: Probe) -> list[Finding]:
        """Read a table page range by page range, from where an earlier run left off."""
        place, seen = probe.place, self.seen
        heap = site.heap(place.table)
        also = of_workspace(seen.tenancy.key, seen.workspace, seen.table(place))
        totals: dict[tuple[str, str | None], Finding] = {}
        reader: Site | Fresh = site
        left = self.progress.position(probe.unit)
        position = Position(filenode=heap.filenode, page=0, xmin=site.xmin)
        last_word = time.monotonic()

        def batch(*conditions: Composable) -> None:
            for row in reader.rows(probe.batch([*conditions, *also]), before=probe.before):
                _add(totals, probe, row["kind"], row["workspace"], row["rows"], row["sample"])

        if left is not None and left[0].filenode == heap.filenode:
            position = left[0]
            for finding in left[1]:
                totals[finding.detail, finding.workspace] = finding
            # What was written since then may lie on pages that were read before.
            young = SQL("pg_catalog.age(r.xmin) <= pg_catalog.age({}::pg_catalog.xid)").format(
                Literal(str(position.xmin % 2**32))
            )
            before = SQL("r.ctid < {}::pg_catalog.tid").format(Literal(f"({position.page},0)"))
            if position.page:
                site.sweep(
                    replace(heap, pages=position.page), lambda where: batch(where, before, young)
                )
        unit = position

        def reached(page: int) -> None:
            nonlocal last_word
            self.progress.advance(probe.unit, replace(unit, page=page), list(totals.values()))
            if time.monotonic() - last_word > _WORD:
                last_word = time.monotonic()
                share = 100 * page // max(1, heap.pages)
                self.say(f"{site.server}: {probe.check}: {place.table}: {share} %")

        whole = by_index(seen.tenancy.key, seen.workspace, seen.table(place))
        site.sweep(heap, batch, since=position.page, reached=reached, whole=whole)
        if site.rewritten({place.table, probe.parent or place.table}):
            # The snapshot shows an empty table: rows would be missed, parents be taken for missing.
            totals.clear()
            with fresh(site) as now:
                reader = now
                site.sweep(heap, batch, whole=whole)
        return list(totals.values())

    # --- across servers --------------------------------------------------------------------------

    def _across(self) -> None:
        seen = self.seen
        home = seen.topology.coordinator
        holders = {s.server for s in seen.topology.shards.values()}
        readers = Readers(seen.sites, trusting=home)
        plans: list[tuple[str, Iterable[str], Callable[[Seen, str], across.Result], set[str]]] = [
            ("duplicate-key", seen.tenancy.sharded, duplicates.duplicate_keys, set()),
            (
                "reference-rows",
                seen.tenancy.of_kind("reference") if seen.workspace is None else (),
                across.reference_rows,
                {home},
            ),
            (
                "federated-rows",
                seen.tenancy.sharded,
                lambda seen, logical: across.federated_rows(seen, logical, readers),
                {home, *holders},
            ),
        ]
        with closing(readers):
            for check, tables, work, needed in plans:
                if not self._can_read(needed):
                    continue  # said for the servers that are missing
                began = time.monotonic()
                for logical in tables:
                    found = self.progress.done(f"{check} {logical}")
                    if found is None:
                        found = self._compared(check, logical, work, needed)
                    self.findings += found
                    self.counts[check] += sum(f.rows for f in found)
                self.seconds[check] = time.monotonic() - began
                self.say(f"{check}: {self.counts[check]} found ({self.seconds[check]:.1f} s)")

    def _can_read(self, needed: set[str]) -> bool:
        usable = set(self.seen.readable)
        return bool(usable) and needed <= usable

    def _compared(
        self,
        check: str,
        logical: str,
        work: Callable[[Seen, str], across.Result],
        needed: set[str],
    ) -> list[Finding]:
        """Compare a table between servers; where enough are left, without one that dies."""
        while self._can_read(needed):
            try:
                result = work(self.seen, logical)
            except (psycopg.Error, ShardError) as error:
                if self._lose_dead():
                    continue
                where = failed_at(error) or self.seen.topology.coordinator
                self._failed(check, where, error, table=logical)
                return []
            self.remarks[check] += result.remarks
            if not (self.seen.unreachable or self.seen.blind):
                self.progress.finish(f"{check} {logical}", result.findings)
            return result.findings
        return []

    # --- what could not be checked ---------------------------------------------------------------

    def _lose(self, server: str, error: Error) -> None:
        """From here on the server's rows cannot be read: its snapshot is gone."""
        if isinstance(error, psycopg.Error):
            error = db.wrap(error, server=server, doing="reading rows")
        with self._lock:
            self._lost.add(server)
            self.seen = replace(self.seen, blind={**self.seen.blind, server: error})
        self.say(error.message)

    def _lose_dead(self, *, wholly: bool = False) -> bool:
        """Look which servers died; whether there is one. `wholly`: before definitions were read."""
        seen = self.seen
        asked = sorted(seen.sites) if wholly else seen.readable
        dead = {n: e for n in asked if (e := seen.sites[n].lost()) is not None}
        for server, error in dead.items():
            if not wholly:
                self._lose(server, error)
                continue
            wrapped = db.wrap(error, server=server, doing="reading its catalogue")
            self._lost.add(server)
            self.seen = replace(
                self.seen,
                sites={n: s for n, s in self.seen.sites.items() if n != server},
                unreachable={**self.seen.unreachable, server: wrapped},
            )
            self.say(wrapped.message)
        return bool(dead)

    def _failed(self, check: str, server: str, error: Error, *, table: str | None = None) -> None:
        if isinstance(error, ShardError):
            cause = error.message
        elif error.sqlstate == "42501":
            cause = error.sqlstate  # the message names the table
        else:
            cause = db.wrap(error, server=server, doing="").message
        with self._lock:
            tables = self._unchecked.setdefault((check, server, cause), (error, []))[1]
            if table is not None and table not in tables:
                tables.append(table)

    def _failure(self, check: str, server: str, error: Error, tables: list[str]) -> Failure:
        """One failure for all tables that could not be looked at for one cause."""
        more = f" and {len(tables) - 1} more tables" if len(tables) > 1 else ""
        if isinstance(error, ShardError):
            detail = error.message + (f' (for "{tables[0]}"{more})' if more else "")
            return Failure(check=check, server=server, detail=detail, hint=error.hint)
        doing = f'reading "{tables[0]}"{more}' if tables else "reading its catalogue"
        if (error.sqlstate or "").startswith("22"):
            # The message would quote the value of a column.
            detail = f"{doing}: a value made PostgreSQL stop [{error.sqlstate}]"
            return Failure(check=check, server=server, detail=detail)
        wrapped = db.wrap(error, server=server, doing=doing)
        hint = wrapped.hint
        if check == "federated-rows":
            hint = across.link_hint(self.seen.facts[server].user, error) or hint
        return Failure(check=check, server=server, detail=wrapped.message, hint=hint)

    def _all_failures(self) -> Iterator[Failure]:
        for (check, server, _), (failed, tables) in self._unchecked.items():
            if not (server in self._lost and _is_loss(failed)):  # else it is said below
                yield self._failure(check, server, failed, tables)
        for server, error in sorted(self.seen.unreachable.items()):
            yield Failure(check="schema", server=server, detail=error.message, hint=error.hint)
        for server, error in sorted(self.seen.blind.items()):
            yield Failure(
                check="misplaced-rows", server=server, detail=error.message, hint=error.hint
            )

    def _check(self, name: str) -> Check:
        seen = self.seen
        errors = sum(f.check == name and f.severity == "error" for f in self.findings)
        warnings = sum(f.check == name and f.severity == "warning" for f in self.findings)
        missing = {*seen.unreachable, *self._skipped[name]}
        missing |= {f.server for f in self.failures if f.check == name}
        if name not in OF_DEFINITIONS:
            missing |= {*seen.blind}
        parts = [
            f"{number} {noun}{'' if number == 1 else 's'}"
            for number, noun in ((errors, "error"), (warnings, "warning"))
            if number
        ]
        if missing:
            parts.append(f"not checked everywhere: {', '.join(sorted(missing))}")
        if seen.workspace is not None and name in {"missing-key", "reference-rows"}:
            parts.append("not about one workspace")
        parts += self.remarks[name]
        return Check(
            name=name,
            ok=not errors and not missing,
            detail="; ".join(parts) or CHECKS[name],
            seconds=round(self.seconds[name], 3),
        )


def _is_loss(error: Error) -> bool:
    """Whether a session could not be opened, or ended."""
    if isinstance(error, ShardError):
        return isinstance(error, CannotConnect)
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P0"))


def _looks(
    seen: Seen,
) -> Iterator[tuple[tuple[str, ...], str | None, Callable[[Seen], Iterable[Finding]]]]:
    """What looks at definitions: its checks, the server if it looks at one, and itself."""
    for checks, work in _OF_ALL:
        yield checks, None, work
    for checks, of_one in _OF_EACH:
        for server in sorted(seen.sites):
            yield checks, server, partial(_at, of_one, server)


def _at(
    of_one: Callable[[Seen, str], Iterable[Finding]], server: str, seen: Seen
) -> Iterable[Finding]:
    return of_one(seen, server)


def _place(finding: Finding) -> tuple[str | None, ...]:
    """What a finding of definitions is about. Its words are another matter: it may get worse."""
    table = None if finding.check in _ABOUT_ROLES else finding.table
    return finding.check, finding.server, finding.shard, table, finding.workspace


def _add(
    totals: dict[tuple[str, str | None], Finding],
    probe: Probe,
    kind: str,
    workspace: str | None,
    rows: int,
    sample: list[dict[str, str | None]],
) -> None:
    detail = dict(probe.words)[kind]
    place = probe.place
    old = totals.get((detail, workspace))
    if old is None:
        old = Finding(
            check=probe.check,
            server=place.server,
            shard=place.shard,
            table=place.table,
            workspace=workspace,
            detail=detail,
            statement=probe.statement(kind, workspace),
        )
    samples = (*old.sample, *sample)[:SAMPLES]
    totals[detail, workspace] = replace(old, rows=old.rows + rows, sample=samples)


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    order = {name: number for number, name in enumerate(CHECKS)}
    return sorted(
        findings,
        key=lambda f: (
            order[f.check],
            f.severity,
            f.server,
            f.shard or "",
            f.table or "",
            f.detail,
            f.workspace or "",
        ),
    )


def _folded(findings: list[Finding]) -> Iterator[Finding]:
    """Make one finding of what differs in nothing but the workspace, where that is too many."""
    groups: dict[tuple[str, str, str | None, str | None, str], list[Finding]] = {}
    for finding in findings:
        key = (finding.check, finding.server, finding.shard, finding.table, finding.detail)
        groups.setdefault(key, []).append(finding)
    for group in groups.values():
        if len(group) <= _TOLD_APART:
            yield from group
            continue
        yield replace(
            group[0],
            workspace=None,
            rows=sum(f.rows for f in group),
            detail=f"{group[0].detail} ({len(group)} workspaces; the statement is of the first)",
        )
