"""What jobs ask agents to measure: a queue for each agent's name, with a lease on what one works on."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from nas.errors import ConflictError, StoreError
from nas.store import tables as t
from nas.store.connection.database import Database
from nas.store.connection.engine import database_seconds
from nas.store.connection.patience import again
from nas.store.devices import AgentLease
from nas.store.leases import LEASE_SECONDS, Lease, RowLease, held, new_owner, reason
from nas.store.records import Job, Request
from nas.store.values import now

ATTEMPTS = 3
PENDING = ("queued", "running")
HUNG = "hung"  # a field of payloads, and a kind of events: over what a process had to be ended


def hung(request: Request) -> list[str]:
    """A subnet for every process that had to be ended because it hung over it."""
    noted = request.payload.get(HUNG) if isinstance(request.payload, dict) else None
    return [key for key in noted if isinstance(key, str)] if isinstance(noted, list) else []


class RequestLease(RowLease):
    """The right to answer a request. Left without an answer, it has failed after an error, else it is queued
    again.
    """

    def __init__(self, store: Database, request: Request, owner: str) -> None:
        super().__init__(store, t.requests, request.id, owner)
        self.request = request

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the result."""
        self._release(state="done", result=result, error=None, finished_at=now())

    def fail(self, error: str) -> None:
        """Writes why there is no result."""
        self._release(state="failed", error=error, finished_at=now())

    def give_back(self, *, begun: bool = False) -> None:
        """Queues the request again, as if nobody had begun with it unless `begun`."""
        if begun and self.request.attempt >= ATTEMPTS:
            self.fail(f"{ATTEMPTS} processes that measured it hung")
        else:
            self._release(state="queued", attempt=self.request.attempt - (not begun))

    def hung_over(self, subnet: str) -> None:
        """Queues the request again with a note of the subnet, which counts instead of the attempt."""
        payload = {**self.request.payload, HUNG: [*hung(self.request), subnet]}
        self._release(state="queued", attempt=self.request.attempt - 1, payload=payload)

    def _left(self, error: BaseException | None) -> None:
        with suppress(ConflictError, StoreError):
            if isinstance(error, Exception) and not isinstance(error, ConflictError | StoreError):
                self.fail(reason(error))
            else:
                self.give_back()

    def _conflict(self) -> ConflictError:
        return ConflictError(f"Request {self.request.id} was cancelled, or another agent has taken it over.")


class Requests(Database):
    """The requests of a store."""

    @again
    def add_request(self, lease: Lease, agent: str, payload: Mapping[str, Any]) -> Request:
        """A new queued request of the job."""
        row = {"job_id": lease.job.id, "agent": agent, "payload": payload, "created_at": now()}
        new = sa.insert(t.requests).values({**row, "state": "queued", "attempt": 0})
        with lease.write() as connection:
            row_id = connection.execute(new.returning(t.requests.c.id)).scalar_one()
            return _requests(connection, t.requests.c.id == row_id)[0]

    @again
    def requests(self, job: Job) -> list[Request]:
        """The job's requests, the oldest first."""
        with self.read() as connection:
            return _requests(connection, t.requests.c.job_id == job.id)

    @again
    def request(self, request_id: int) -> Request:
        """One request as it is now."""
        with self.read() as connection:
            return _requests(connection, t.requests.c.id == request_id)[0]

    @again
    def cancel_request(self, lease: Lease, request: Request) -> None:
        """Withdraws a request that has no answer yet; an agent that works on it can no longer write."""
        c = t.requests.c
        with lease.write() as connection:
            values = {"state": "cancelled", "owner": None, "lease_until": None, "finished_at": now()}
            pending = (c.id == request.id) & c.state.in_(PENDING)
            connection.execute(sa.update(t.requests).where(pending).values(values))

    @again
    def refuse_answer(self, lease: Lease, request: Request, agent: str, error: str) -> bool:
        """Queues a request with a bad answer again, for this agent; False: it has been asked often enough.

        It has failed then; the answer stays, to be looked at.
        """
        c, asked_again = t.requests.c, request.attempt < ATTEMPTS
        values: dict[str, Any] = {"state": "failed", "error": error}
        if asked_again:
            values = {"state": "queued", "error": error, "agent": agent, "result": None, "finished_at": None}
        with lease.write() as connection:
            answered = (c.id == request.id) & (c.state == "done")
            connection.execute(sa.update(t.requests).where(answered).values(values))
        return asked_again

    @again
    def fail_abandoned(self, agent: str) -> None:
        """Fails the agent's requests with which `ATTEMPTS` agents have begun and none has ended."""
        with self.write() as connection:
            _fail_abandoned(connection, agent)

    @again
    def take_request(self, agent: AgentLease) -> RequestLease | None:
        """The oldest request of the agent that nobody works on, taken by this process; None without any.

        One that was left in the middle by a process that is dead, or whose lease has run out, is among them.
        """
        owner, c, name = new_owner(), t.requests.c, agent.agent.name
        mine = (c.agent == name) & c.state.in_(PENDING)
        agent.check_held()
        with self.read() as connection:
            if all(request.live for request in _requests(connection, mine)):
                return None
        with agent.write() as connection:
            _fail_abandoned(connection, name)
            waiting = [request for request in _requests(connection, mine) if not request.live]
            if not waiting:
                return None
            values: dict[str, Any] = {"owner": owner, "state": "running", "attempt": c.attempt + 1}
            values |= {"lease_until": database_seconds() + LEASE_SECONDS}
            this = (c.id == waiting[0].id) & c.state.in_(PENDING)
            if connection.execute(sa.update(t.requests).where(this).values(values)).rowcount == 0:
                return None
            return RequestLease(self, _requests(connection, c.id == waiting[0].id)[0], owner)


def _requests(connection: Connection, which: sa.ColumnElement[bool]) -> list[Request]:
    hidden = ("owner", "lease_until")
    query = sa.select(t.requests, database_seconds().label("now")).where(which).order_by(t.requests.c.id)
    requests = []
    for row in connection.execute(query).mappings():
        live = held(row["owner"], row["lease_until"], row["now"])
        fields = {name: value for name, value in row.items() if name not in (*hidden, "now")}
        requests.append(Request(**fields, live=live))
    return requests


def _fail_abandoned(connection: Connection, agent: str) -> None:
    c = t.requests.c
    error = f"{ATTEMPTS} processes of agent '{agent}' ended while they measured it"
    worn_out = (c.agent == agent) & (c.state == "running") & (c.attempt >= ATTEMPTS)
    ids = [request.id for request in _requests(connection, worn_out) if not request.live]
    values = {"state": "failed", "error": error, "owner": None, "lease_until": None, "finished_at": now()}
    connection.execute(sa.update(t.requests).where(c.id.in_(ids)).values(values))
