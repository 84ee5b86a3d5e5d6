"""What to move, or to add, so that nothing fills up within the horizon. Pure.

Every move is tried on the numbers first: a target takes a workspace only if it stays below its
capacity up to the horizon even at the upper end of both intervals. A move says what would be
enough; there is no command for it yet, so the text says what can be done without one.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from parlant_shard.forecast.model import GRID, STEP, Growth, TooLittle
from parlant_shard.forecast.outlook import Outlook, Outlooks
from parlant_shard.topology import Topology

_UNTIL = (
    "This version cannot move workspaces. Until one can: place new ones elsewhere (`workspace add "
    "--to`), keep rows for a shorter time (`retention` with `archive`), or enlarge the disk and "
    "`capacity`"
)
_NONE = (0.0,) * len(GRID)
# A thing of unknown growth that has less than this part of its capacity is taken as empty.
_EMPTY = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """What to do about one server or shard, and why. `commands` are ready for a shell.

    `snippet` is what the topology file needs first; `moves` are (workspace, from shard, to shard),
    which no command carries out yet.
    """

    kind: Literal["move", "add", "outgrows", "unknown"]
    target: Literal["server", "shard"]
    name: str
    text: str
    commands: tuple[str, ...] = ()
    snippet: str | None = None
    moves: tuple[tuple[str, str, str], ...] = ()


@dataclass(slots=True)
class _Load:
    """The size of a server or shard up to the horizon: as expected, and at the upper end."""

    kind: Literal["server", "shard"]
    name: str
    capacity: float | None
    expected: list[float]
    high: list[float]
    known: bool = True

    def put(self, other: _Load, sign: int = 1) -> None:
        self.expected = [a + sign * b for a, b in zip(self.expected, other.expected, strict=True)]
        self.high = [a + sign * b for a, b in zip(self.high, other.high, strict=True)]

    @property
    def is_over(self) -> bool:
        if self.capacity is None:
            return False
        return self.is_full or (self.known and max(self.expected) >= self.capacity)

    @property
    def is_full(self) -> bool:
        """Whether it is full today, whatever it does next."""
        return self.capacity is not None and self.expected[0] >= self.capacity

    @property
    def plight(self) -> str:
        when = "is full" if self.is_full else "fills up within the horizon"
        return f'{self.kind} "{self.name}" {when}'

    def room(self, more: _Load) -> float | None:
        """What is left at the upper end with `more`; None where no capacity is declared."""
        if self.capacity is None:
            return None
        return self.capacity - max(a + b for a, b in zip(self.high, more.high, strict=True))


@dataclass(slots=True)
class _State:
    topology: Topology
    servers: dict[str, _Load]
    shards: dict[str, _Load]
    workspaces: dict[tuple[str, str], _Load]  # (workspace, shard)
    at: dict[tuple[str, str], str] = field(default_factory=dict)  # where each is by now
    names: set[str] = field(default_factory=set)  # of servers and shards, advised ones too

    def free(self, word: str) -> str:
        """A name that nothing has yet: the word and a number."""
        numbers = range(len(self.shards if word == "shard" else self.servers) + 1, 10**6)
        name = next(n for n in (f"{word}_{i}" for i in numbers) if n not in self.names)
        self.names.add(name)
        return name

    def places(self, shard: str) -> tuple[_Load, ...]:
        """The shard and its server, those that were measured."""
        server = self.topology.shards[shard].server
        return tuple(
            load for load in (self.shards.get(shard), self.servers.get(server)) if load is not None
        )

    def server(self, shard: str) -> str:
        return self.topology.shards[shard].server

    def move(self, key: tuple[str, str], to: str) -> None:
        load, source = self.workspaces[key], self.at[key]
        self.shards[source].put(load, -1)
        self.shards[to].put(load)
        if self.server(source) != self.server(to):
            self.servers[self.server(source)].put(load, -1)
            self.servers[self.server(to)].put(load)
        self.at[key] = to


def advise(topology: Topology, found: Outlooks, *, days: float) -> tuple[Recommendation, ...]:
    """Return what to do, the most urgent first. `days` is the horizon."""
    weeks = min(math.ceil(days / STEP) + 1, len(GRID))
    # A shard whose server is down is not, though its tables may be found where it was before.
    measured = {o.name for o in found.shards}
    state = _State(
        topology,
        servers={o.name: _load(o, weeks) for o in found.servers},
        shards={o.name: _load(o, weeks) for o in found.shards},
        workspaces={
            (o.name, str(o.shard)): _load(o, weeks)
            for o in found.workspaces
            if isinstance(o.growth, Growth) and o.shard in measured
        },
    )
    state.at = {key: key[1] for key in state.workspaces}
    state.names = {*topology.servers, *topology.shards}
    urgent = sorted(
        (o for o in (*found.servers, *found.shards)),
        key=lambda o: (_first(o), o.kind != "server", o.name),
    )
    advice = [*_outgrowing(state, found)]
    for outlook in urgent:
        load = (state.servers if outlook.kind == "server" else state.shards)[outlook.name]
        if load.is_over:
            advice += _relieve(state, load)
    return tuple(advice)


def _first(outlook: Outlook) -> float:
    months = outlook.months
    return float("inf") if months is None or months[1] is None else months[1]


def _load(outlook: Outlook, weeks: int) -> _Load:
    growth = outlook.growth
    known = isinstance(growth, Growth)
    expected, high = (growth.expected, growth.high) if isinstance(growth, Growth) else (_NONE,) * 2
    if isinstance(growth, TooLittle):
        capacity = outlook.capacity or 0
        known = outlook.rows == 0 or outlook.bytes < _EMPTY * capacity
    return _Load(
        "server" if outlook.kind == "server" else "shard",
        outlook.name,
        outlook.capacity,
        [outlook.bytes + g for g in expected[:weeks]],
        [outlook.bytes + g for g in high[:weeks]],
        known,
    )


def _relieve(state: _State, load: _Load) -> Iterator[Recommendation]:
    """Move workspaces away, those that grow most first, until it is enough; else add."""
    moves: list[tuple[str, str, str]] = []
    plight = load.plight
    for key in _candidates(state, load):
        if not load.is_over:
            break
        target = _target(state, load, key)
        if target is not None:
            moves.append((key[0], state.at[key], target))
            state.move(key, target)
    if moves:
        yield Recommendation(
            kind="move",
            target=load.kind,
            name=load.name,
            text=f"{plight}: {_moved(moves)} "
            + ("would be enough" if not load.is_over else "would help, but is not enough")
            + f". {_UNTIL}",
            moves=tuple(moves),
        )
    if load.is_over:
        yield _add(state, load, plight)


def _candidates(state: _State, load: _Load) -> list[tuple[str, str]]:
    """The workspaces of a server or shard that can be moved by name, the fastest first."""
    here = [
        key
        for key, shard in state.at.items()
        if (shard if load.kind == "shard" else state.server(shard)) == load.name
        and any(key[0] in s.workspaces for s in state.topology.shards.values())
    ]
    return sorted(
        here,
        key=lambda k: (
            state.workspaces[k].expected[0] - state.workspaces[k].expected[-1],
            k,
        ),
    )


def _target(state: _State, load: _Load, key: tuple[str, str]) -> str | None:
    """The shard with most room left after taking a workspace; None where none has enough."""
    source, more = state.at[key], state.workspaces[key]
    best: tuple[float, str] | None = None
    for shard in state.shards:
        same = state.server(shard) == state.server(source)
        if shard == source or (load.kind == "server" and same):
            continue
        places = state.places(shard)
        rooms = [
            # On its own server it is counted already.
            p.room(_nothing(more) if p.kind == "server" and same else more)
            for p in places
        ]
        declared = [r for r in rooms if r is not None]
        if not declared or len(places) < 2 or min(declared) <= 0:
            continue
        if not all(p.known for p in places):
            continue
        best = max(best or (0.0, ""), (min(declared), shard))
    return None if best is None else best[1]


def _nothing(load: _Load) -> _Load:
    return _Load("shard", "", None, [0.0] * len(load.high), [0.0] * len(load.high))


def _add(state: _State, load: _Load, plight: str) -> Recommendation:
    """A new shard, on a new server unless only the shard is too small."""
    is_server = load.kind == "server"
    home = load.name if is_server else state.server(load.name)
    host = state.servers[home]
    # The shard alone is full and its server is not: a shard beside it is enough.
    beside = not is_server and not host.is_over
    sizes = [c for p in state.servers.values() if (c := p.capacity) is not None]
    own = load.capacity or 0.0
    capacity = int(max([*sizes, own]) if is_server else own)
    shard = state.free("shard")
    lines = []
    server = home
    if not beside:
        server = state.free("server")
        lines += [
            "servers:",
            f'  {server}: {{dsn: "${{{server.upper()}_DSN}}", capacity: {_size(capacity)}}}',
        ]
    own_capacity = "" if is_server else f", capacity: {_size(int(own))}"
    lines += [
        "shards:",
        f"  {shard}: {{server: {server}, workspaces: []{own_capacity}}}",
    ]
    moves = list(_to_the_new(state, load, shard, float(capacity)))
    text = f'{plight} and no shard has room: add shard "{shard}"'
    text += f' on server "{home}"' if beside else " on a server of its own"
    if moves:
        text += f" and place new workspaces there; {_moved(moves)} would make room"
    if load.is_over and (left := _candidates(state, load)):
        text += (
            f"; that is not enough: {_listed(k[0] for k in left)} would not fit there either, so "
            "give it more room"
        )
    elif load.is_over:
        text += (
            "; the workspaces that are listed are not enough to move: list more of those that "
            "live in buckets, or give them more shards"
        )
    text += f". {_UNTIL}"
    return Recommendation(
        kind="add",
        target=load.kind,
        name=load.name,
        text=text,
        snippet="\n".join(lines),
        commands=(f"parlant-shard apply {shlex.quote(str(state.topology.file))}",),
        moves=tuple(moves),
    )


def _to_the_new(
    state: _State, load: _Load, shard: str, capacity: float
) -> Iterator[tuple[str, str, str]]:
    weeks = len(load.high)
    fresh = _Load("shard", shard, capacity, [0.0] * weeks, [0.0] * weeks)
    for key in _candidates(state, load):
        if not load.is_over:
            return
        more, source = state.workspaces[key], state.at[key]
        room = fresh.room(more)
        if room is None or room <= 0:
            continue
        yield key[0], source, shard
        fresh.put(more)
        for place in {id(p): p for p in (*state.places(source), load)}.values():
            # A shard that is added on the same server takes nothing off that server.
            if place.kind == "shard" or load.kind == "server":
                place.put(more, -1)
        state.at.pop(key)


def _outgrowing(state: _State, found: Outlooks) -> Iterator[Recommendation]:
    """Workspaces that alone need more than any server or shard of the topology has."""
    servers = [p.capacity for p in state.servers.values() if p.capacity is not None]
    largest = max(servers, default=None)
    for outlook in found.workspaces:
        key = (outlook.name, str(outlook.shard))
        load = state.workspaces.get(key)
        if load is None:
            continue
        own = state.shards[key[1]].capacity
        limit = largest if largest is not None else own
        if limit is not None and max(load.expected) >= limit:
            del state.workspaces[key], state.at[key]
            yield Recommendation(
                kind="outgrows",
                target="shard",
                name=key[1],
                text=f'workspace "{outlook.name}" alone needs {_size(int(max(load.expected)))} '
                f"within the horizon, more than any server has ({_size(int(limit))}): give it a "
                "larger server of its own, or keep its rows for a shorter time; moving it helps "
                "nobody",
            )


def _moved(moves: Iterable[tuple[str, str, str]]) -> str:
    return "moving " + ", ".join(f'"{w}" to shard "{to}"' for w, _, to in moves)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def _size(size: int) -> str:
    """A size as the topology file takes it, not rounded down."""
    for unit, power in (("TB", 40), ("GB", 30), ("MB", 20)):
        if size >= 2**power:
            return f"{-(-size * 10 // 2**power) / 10:g} {unit}"
    return f"{-(-size // 1024)} kB"


def order(found: Sequence[Outlook]) -> tuple[Outlook, ...]:
    """The fastest first; then those that nothing is known of, the largest first."""

    def key(o: Outlook) -> tuple[bool, float, str]:
        grows = isinstance(o.growth, Growth)
        pace = o.growth.per_month[1] if isinstance(o.growth, Growth) else o.bytes
        return not grows, -pace, o.name

    return tuple(sorted(found, key=key))
