"""`nas pause`, `nas priority`, and what other verbs say and do about a job's place in the queue."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from nas.cli.options import AsJSON, JobName, StoreURL, store_url
from nas.cli.output import emit, emit_json, note

if TYPE_CHECKING:
    from nas.store import Job, Store


def pause(ctx: typer.Context, job: JobName, store: StoreURL = None) -> None:
    """Stop a submitted job for a while. Jobs that wait for it go on waiting; `nas resume` queues it again."""
    from nas.errors import ConflictError
    from nas.store import Store

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    if stored.submitted_at is None or stored.state not in ("queued", "running"):
        raise ConflictError(
            f"Job '{stored.name}' cannot be paused (state: {stored.state}).",
            "Only what waits or runs after `nas submit` can; `nas stop` ends any job that runs.",
        )
    with Store.open(url) as opened:
        if opened.cancel(stored, pause=True):
            words = "is paused: it is out of the queue until `nas resume`."
        else:
            opened.note_pause(stored)
            opened.request_stop(stored)
            words = "is paused after its current batch, or within 10 seconds."
    note(f"Job '{stored.name}' {words}", quiet=ctx.obj.quiet)


def priority(
    job: JobName,
    number: Annotated[
        int, typer.Argument(metavar="N", min=-1_000_000, max=1_000_000, help="The highest goes first.")
    ],
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Change the priority of a submitted job; of equal ones the oldest goes first."""
    from nas.store import Store

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    with Store.open(url) as opened:
        emit_places(opened, [opened.set_priority(stored, number)], as_json=as_json)


def cancelled(url: str, job: "Job") -> bool:
    """Takes a submitted job that nobody runs out of the queue; False of any other, which stays as it is."""
    from nas.store import Store

    if job.submitted_at is None:
        return False
    with Store.open(url) as opened:
        return opened.cancel(job)


def queue_again(url: str, job: "Job", *, as_json: bool) -> None:
    """Puts a submitted job that has stopped or failed back into the queue, and says where it is."""
    from nas.store import Store

    with Store.open(url) as opened:
        emit_places(opened, [opened.requeue(job)], as_json=as_json)


def emit_places(opened: "Store", jobs: "list[Job]", *, as_json: bool) -> None:
    """Where submitted jobs stand: a line each, or a JSON list."""
    turns = Turns.of(opened)
    if as_json:
        emit_json([{"id": job.id, "job": job.name, "state": job.state, **place(job, turns)} for job in jobs])
        return
    for job in jobs:
        is_abandoned = job.state == "running" and not opened.is_live(job)
        words = "goes on when a worker has taken it over." if is_abandoned else _words(job, turns)
        emit(f"Job '{job.name}' ({job.id}) {words}")


@dataclass(frozen=True)
class Turns:
    """Of every job that waits in the queue its position, from 1; and who waits for another job.

    reasons: why jobs wait, as of `waiting_reasons`.
    """

    positions: Mapping[int, int]
    held_up: Collection[int]
    reasons: Mapping[int, str]

    @classmethod
    def of(cls, opened: "Store") -> Self:
        """Those of a store at this moment."""
        from nas.results.running.waiting import waiting_reasons

        positions = {job.id: turn for turn, job in enumerate(opened.waiting(), 1)}
        return cls(positions, opened.held_up(), waiting_reasons(opened))


def place(job: "Job", turns: Turns) -> dict[str, Any]:
    """How a submitted job stands in the queue, as plain data."""
    from nas.store.leases import whose

    return {
        "position": turns.positions.get(job.id),
        "priority": job.priority,
        "needs": job.needs,
        "after": job.after_id,
        "waits": job.id in turns.held_up,
        "reason": turns.reasons.get(job.id),
        "attempt": job.attempt,
        "attempts_left": max(0, job.last_attempt - job.attempt),
        "worker": None if job.owner is None else whose(job.owner),
        "paused": job.paused and job.state == "stopped",
        "sweep": job.sweep,
        "submitted_at": job.submitted_at,
    }


def _words(job: "Job", turns: Turns) -> str:
    if job.id not in turns.positions:
        return "runs." if job.state == "running" else f"has {job.state}."
    after = f", after job {job.after_id}" if job.id in turns.held_up else ""
    needs = f", for a worker with '{job.needs}'" if job.needs is not None else ""
    return f"is queued at position {turns.positions[job.id]}{after}{needs}."
