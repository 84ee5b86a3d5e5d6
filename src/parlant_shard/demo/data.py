"""Rows for the demo: what a support team's Parlant database could hold. Pure and repeatable."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any
from uuid import UUID

SEED = 20_250_917
DAYS_BACK = 150  # how old the oldest session is; the demo's retention is longer

Row = tuple[Any, ...]

# Parents first: this is the order in which the tables are loaded.
COLUMNS: Mapping[str, str] = {
    "parlant_agent": "id workspace_id created_by name description system_prompt created_at",
    "parlant_tool": "id workspace_id name display_name description tool_type parameters",
    "parlant_agent_tool": "id workspace_id agent_id tool_id priority",
    "parlant_guideline": "id workspace_id agent_id condition action priority",
    "parlant_term": "id workspace_id agent_id name description synonyms",
    "parlant_canned_response": "id workspace_id agent_id template category",
    "parlant_journey": "id workspace_id agent_id title description conditions",
    "parlant_journey_state": "id workspace_id journey_id name state_type chat_prompt is_initial "
    "is_final",
    "parlant_journey_transition": "id workspace_id journey_id from_state_id to_state_id condition",
    "parlant_journey_guideline": "id workspace_id journey_id guideline_id",
    "parlant_session": "id workspace_id agent_id user_id customer_id status title "
    "current_journey_id current_state_id event_count message_count started_at last_activity_at "
    "created_at satisfaction_score locale",
    "parlant_event": "id workspace_id session_id offset event_type content tool_call_id journey_id "
    "state_id created_at",
    "parlant_variable": "id workspace_id agent_id session_id key scope value value_type",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A workspace with its people: `staff` are user ids, the first one owns the workspace."""

    id: str
    name: str
    staff: tuple[str, ...]
    sessions: int


TENANTS = (
    Tenant(id="acme", name="Acme Outdoor", staff=("ada", "ben"), sessions=90),
    Tenant(id="globex", name="Globex Energy", staff=("carla",), sessions=40),
    Tenant(id="initech", name="Initech Software", staff=("dev", "dana"), sessions=60),
    Tenant(id="umbrella", name="Umbrella Pharmacy", staff=("erik",), sessions=25),
    Tenant(id="hooli", name="Hooli Cloud", staff=("fay", "gus"), sessions=50),
    Tenant(id="stark", name="Stark Studio", staff=("hal",), sessions=0),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows of one workspace, per table in the order of its columns."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {t: [] for t in COLUMNS})

    @property
    def total(self) -> int:
        return sum(len(rows) for rows in self.rows.values())

    def column(self, table: str, name: str) -> list[Any]:
        at = COLUMNS[table].split().index(name)
        return [row[at] for row in self.rows[table]]

    def of_creator(self, user: str) -> dict[str, int]:
        """How many agents, sessions and events hang on the agents that a user created."""
        pairs = zip(
            self.column("parlant_agent", "id"),
            self.column("parlant_agent", "created_by"),
            strict=True,
        )
        agents = {agent for agent, creator in pairs if creator == user}
        pairs = zip(
            self.column("parlant_session", "id"),
            self.column("parlant_session", "agent_id"),
            strict=True,
        )
        sessions = {session for session, agent in pairs if agent in agents}
        events = [s for s in self.column("parlant_event", "session_id") if s in sessions]
        return {
            "parlant_agent": len(agents),
            "parlant_session": len(sessions),
            "parlant_event": len(events),
        }


def people() -> Iterator[Row]:
    """Yield (id, name, email) of every user."""
    for tenant in TENANTS:
        for user in tenant.staff:
            yield user, user.capitalize(), f"{user}@{tenant.id}.example"


def workspaces() -> Iterator[Row]:
    """Yield (id, name, owner_id) of every workspace."""
    for tenant in TENANTS:
        yield tenant.id, tenant.name, tenant.staff[0]


def rows_of(tenant: Tenant, now: datetime) -> Loaded:
    """Make the rows of a workspace. The same tenant and `now` (UTC, no zone) give the same rows."""
    return _Maker(tenant, now).make()


@dataclass(frozen=True, slots=True)
class _Agent:
    id: str
    role: _Role
    journey: str
    states: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Role:
    name: str
    purpose: str
    guidelines: tuple[tuple[str, str], ...]
    journey: str
    states: tuple[tuple[str, str, str], ...]  # name, type, what the agent says there
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    tool: str
    term: tuple[str, str]


_ROLES = (
    _Role(
        name="Order desk",
        purpose="Finds orders, explains delays and arranges returns.",
        guidelines=(
            ("the customer asks where an order is", "look the order up before answering"),
            ("the order is more than three days late", "apologise once and offer a refund"),
            ("the customer is upset", "stay calm, name the next step and its time"),
        ),
        journey="Return an item",
        states=(
            ("ask for the order", "chat", "Which order is it about?"),
            ("look it up", "tool", "I am looking that up."),
            ("can it be returned?", "decision", "Let me check the return window."),
            ("label sent", "final", "The label is in your mailbox."),
        ),
        questions=(
            "Where is my order? It should have been here on Monday.",
            "I would like to send the jacket back, it is too small.",
            "Can I still change the delivery address?",
        ),
        answers=(
            "I found it: it left the warehouse this morning and arrives tomorrow.",
            "Of course. I have sent a return label to your e-mail address.",
            "Yes, until the parcel is packed. What is the new address?",
        ),
        tool="find_order",
        term=("return window", "The 30 days in which an item can be sent back."),
    ),
    _Role(
        name="Billing",
        purpose="Explains invoices and changes payment details.",
        guidelines=(
            ("an invoice is disputed", "open a ticket and give its number"),
            ("the customer wants to cancel", "confirm the last billing day first"),
        ),
        journey="Explain an invoice",
        states=(
            ("ask for the invoice", "chat", "Which month do you mean?"),
            ("fetch the lines", "tool", "One moment, I am fetching it."),
            ("understood?", "decision", "Does that explain the amount?"),
            ("done", "final", "Anything else?"),
        ),
        questions=(
            "Why is this invoice higher than the last one?",
            "My card was replaced, where do I enter the new one?",
            "Please send me last year's invoices.",
        ),
        answers=(
            "You added two seats on the 12th; the line below the total shows them.",
            "Under Settings, Payment. The old card is not charged again.",
            "They are on the way to the address of the account.",
        ),
        tool="list_invoices",
        term=("proration", "A part of the monthly price, for the days that were used."),
    ),
    _Role(
        name="Technical support",
        purpose="Narrows a problem down and hands over with a summary.",
        guidelines=(
            ("an error message is quoted", "search the known issues for its text"),
            ("the problem is not solved in ten messages", "hand over to a person"),
            ("a password is shown in the chat", "ask the customer to change it"),
        ),
        journey="Reset access",
        states=(
            ("identify", "chat", "Which account is it?"),
            ("send the link", "tool", "I am sending a link."),
            ("did it work?", "decision", "Could you sign in?"),
            ("solved", "final", "Good. I close the ticket."),
        ),
        questions=(
            "I cannot sign in since the update, it says 'token expired'.",
            "The export stops at 80 percent every time.",
            "How do I add a colleague to the project?",
        ),
        answers=(
            "That is a known issue: sign out on all devices, then in again.",
            "The file is larger than the limit; I have raised it for you.",
            "Open Members and press Invite; the link is valid for a week.",
        ),
        tool="search_issues",
        term=("handover", "A person takes the conversation over, with a summary."),
    ),
)
_LOCALES = ("en", "en", "en", "de", "fr", "es")


class _Maker:
    def __init__(self, tenant: Tenant, now: datetime) -> None:
        self.tenant, self.now = tenant, now
        self.random = Random(f"{SEED} {tenant.id}")
        self.loaded = Loaded()

    def make(self) -> Loaded:
        if self.tenant.sessions:
            agents = [self.agent(i, role) for i, role in enumerate(_ROLES)]
            for number in range(self.tenant.sessions):
                self.session(number, self.random.choice(agents))
        return self.loaded

    def add(self, table: str, *values: Any) -> str:
        """Append a row after a fresh id and the workspace; return the id."""
        id_ = str(UUID(int=self.random.getrandbits(128), version=4))
        self.loaded.rows[table].append((id_, self.tenant.id, *values))
        return id_

    def agent(self, number: int, role: _Role) -> _Agent:
        creator = self.tenant.staff[number % len(self.tenant.staff)]
        made = self.now - timedelta(days=DAYS_BACK + 20 - number)
        prompt = f"You work for {self.tenant.name}. {role.purpose} Be brief and friendly."
        agent = self.add("parlant_agent", creator, role.name, role.purpose, prompt, made)
        label = role.tool.replace("_", " ")
        parameters = json.dumps({"type": "object", "properties": {"query": {"type": "string"}}})
        tool = self.add(
            "parlant_tool", role.tool, label.capitalize(), f"Calls {label}.", "api", parameters
        )
        self.add("parlant_agent_tool", agent, tool, 100 - number)
        guidelines = [
            self.add("parlant_guideline", agent, condition, action, 100 - i)
            for i, (condition, action) in enumerate(role.guidelines)
        ]
        name, meaning = role.term
        self.add("parlant_term", agent, name, meaning, json.dumps([name.split()[-1]]))
        self.add("parlant_canned_response", agent, "Thank you, {{customer}}!", "closing")
        journey, states = self.journey(agent, role)
        self.add("parlant_journey_guideline", journey, guidelines[0])
        return _Agent(agent, role, journey, states)

    def journey(self, agent: str, role: _Role) -> tuple[str, tuple[str, ...]]:
        conditions = json.dumps([role.guidelines[0][0]])
        journey = self.add("parlant_journey", agent, role.journey, role.purpose, conditions)
        last = len(role.states) - 1
        states = tuple(
            self.add("parlant_journey_state", journey, name, kind, says, i == 0, i == last)
            for i, (name, kind, says) in enumerate(role.states)
        )
        for before, after in pairwise(states):
            self.add("parlant_journey_transition", journey, before, after, "the step is done")
        # The decision may also lead back to the question.
        self.add("parlant_journey_transition", journey, states[2], states[0], "it is not")
        return journey, states

    def session(self, number: int, agent: _Agent) -> None:
        started = self.now - timedelta(
            days=self.random.uniform(0.1, DAYS_BACK), seconds=self.random.randrange(3600)
        )
        talk = list(self.conversation(agent))
        moment, times = started, []
        for _ in talk:
            times.append(moment)
            moment += timedelta(seconds=self.random.randint(4, 90))
        ended = self.random.random() < 0.8
        question = next(content for kind, content, *_ in talk if kind == "customer_message")
        session = self.add(
            "parlant_session",
            agent.id,
            self.random.choice(self.tenant.staff),
            f"customer-{self.random.randrange(1000):03d}",
            "completed" if ended else "active",
            json.loads(question)["text"][:60],
            agent.journey,
            agent.states[-1] if ended else agent.states[1],
            len(talk),
            sum(kind.endswith("_message") for kind, *_ in talk),
            started,
            times[-1],
            started,
            self.random.choice((3, 4, 4, 5, 5)) if ended else None,
            self.random.choice(_LOCALES),
        )
        for offset, ((kind, content, call, state), at) in enumerate(zip(talk, times, strict=True)):
            journey = agent.journey if state else None
            self.add("parlant_event", session, offset, kind, content, call, journey, state, at)
        tier = json.dumps(self.random.choice(("basic", "plus", "business")))
        self.add("parlant_variable", agent.id, session, "plan", "session", tier, "string")

    def conversation(self, agent: _Agent) -> Iterator[tuple[str, str, str | None, str | None]]:
        """Yield (event type, content, tool call id, journey state) of one session."""
        role, states = agent.role, agent.states
        for turn in range(self.random.randint(1, 3)):
            subject = self.random.randrange(len(role.questions))
            yield "customer_message", json.dumps({"text": role.questions[subject]}), None, None
            if turn == 0:
                entered = json.dumps({"from": role.states[0][0], "to": role.states[1][0]})
                yield "journey_transition", entered, None, states[1]
                call = f"call_{self.random.getrandbits(48):012x}"
                asked = json.dumps({"tool": role.tool, "arguments": {"query": "latest"}})
                yield "tool_call", asked, call, states[1]
                found = json.dumps({"status": "ok", "items": self.random.randint(1, 4)})
                yield "tool_result", found, call, states[1]
            yield "agent_message", json.dumps({"text": role.answers[subject]}), None, None
        yield "customer_message", json.dumps({"text": "Thank you, that helps."}), None, None
        yield "status_update", json.dumps({"status": "waiting"}), None, states[-1]
