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
    """Stop a submitted job for a while. Jobs that wait for it go on waiting; `nas resume` queues it again.

    \b
    Example:
      nas pause JOB
    """
    from nas.store import Store

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    with Store.open(url) as opened:
        words = pause_job(opened, stored)
    note(words, quiet=ctx.obj.quiet)


def pause_job(opened: "Store", job: "Job") -> str:
    """Stops a submitted job for a while; what becomes of it, in words. Raises ConflictError for any other."""
    from nas.errors import ConflictError

    if job.submitted_at is None or job.state not in ("queued", "running"):
        raise ConflictError(
            f"Job '{job.name}' cannot be paused (state: {job.state}).",
            "Only what waits or runs after `nas submit` can; `nas stop` ends any job that runs.",
        )
    if opened.cancel(job, pause=True):
        return f"Job '{job.name}' is paused: it is out of the queue until `nas resume`."
    opened.note_pause(job)
    opened.request_stop(job)
    return f"Job '{job.name}' is paused after its current batch, or within 10 seconds."


def stop_job(opened: "Store", job: "Job") -> str:
    """Stops a job that runs or waits in the queue; what becomes of it, in words.

    Raises ConflictError for one that nobody runs.
    """
    from nas.errors import ConflictError

    is_live = opened.is_live(job)
    if not is_live and job.submitted_at is not None and opened.cancel(job):
        _notify(opened, job)
        return f"Job '{job.name}' has stopped: it is out of the queue."
    if not is_live:
        state = "interrupted" if job.state == "running" else job.state
        hint = f"`nas front {job.id}` prints what it found; `nas resume {job.id}` goes on with it."
        raise ConflictError(f"No process runs job '{job.name}' (state: {state}).", hint)
    opened.request_stop(job)
    return f"Job '{job.name}' stops after its current batch, or within 10 seconds."


def _notify(opened: "Store", job: "Job") -> None:
    """Of a job that ended without a process; nothing more is imported where nobody is to be told."""
    if job.config.get("notify") is not None:
        from nas.notifications import notify_of_end

        notify_of_end(opened, job, tell=note)


def priority(
    job: JobName,
    number: Annotated[
        int, typer.Argument(metavar="N", min=-1_000_000, max=1_000_000, help="The highest goes first.")
    ],
    store: StoreURL = None,
    as_json: AsJSON = False,
) -> None:
    """Change the priority of a submitted job; of equal ones the oldest goes first.

    \b
    Example:
      nas priority JOB 9
    """
    from nas.store import Store

    url = store_url(store)
    with Store.open(url, read_only=True) as opened:
        stored = opened.job(job)
    with Store.open(url) as opened:
        emit_places(opened, [opened.set_priority(stored, number)], as_json=as_json)


def queue_again(url: str, job: "Job", *, as_json: bool) -> None:
    """Puts a submitted job that has stopped or failed back into the queue, and says where it is."""
    from nas.store import Store

    with Store.open(url) as opened:
        emit_places(opened, [opened.requeue(job)], as_json=as_json)


def emit_places(opened: "Store", jobs: "list[Job]", *, as_json: bool) -> None:
    """Where submitted jobs stand: a line each, or a JSON list."""
    if as_json:
        emit_json(places(opened, jobs))
        return
    turns = Turns.of(opened)
    for job in jobs:
        is_abandoned = job.state == "running" and not opened.is_live(job)
        words = "goes on when a worker has taken it over." if is_abandoned else _words(job, turns)
        emit(f"Job '{job.name}' ({job.id}) {words}")


def places(opened: "Store", jobs: "list[Job]") -> list[dict[str, Any]]:
    """Where submitted jobs stand, as plain data: the JSON of `nas submit`."""
    turns = Turns.of(opened)
    return [{"id": job.id, "job": job.name, "state": job.state, **place(job, turns)} for job in jobs]


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
