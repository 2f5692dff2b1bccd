"""What the API changes in a store, as verbs would have done it."""

from collections.abc import Callable
from typing import Annotated, Any

from flask import Response
from pydantic import Field

from nas.cli.queue.turns import pause_job, places, stop_job
from nas.cli.runs import removed
from nas.cli.server.api.downloads import download
from nas.cli.server.api.service import Call, Name, Nothing, Service, Taken
from nas.cli.stored.remarks import remarks
from nas.store import Job, Store, remove

LONGEST_FILE = 200_000  # characters of a job file


class SubmitBody(Taken):
    """A job file and the options of `nas submit`. file: the text of the job file, YAML."""

    file: Annotated[str, Field(min_length=1, max_length=LONGEST_FILE)]
    name: Name | None = None
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    after: Name | None = None
    needs: Name | None = None
    key: Name | None = None
    sweep: list[Annotated[str, Field(max_length=2_000)]] = Field([], max_length=20)


class PriorityBody(Taken):
    """The highest goes first."""

    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class NoteBody(Taken):
    """note: an empty one is removed."""

    note: Annotated[str, Field(max_length=10_000)]


class TagsBody(Taken):
    """tags: all that the job is to have."""

    tags: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=100)]


class RemoveBody(Taken):
    """keep_supernet: what the job trained stays, also when no other job uses it."""

    keep_supernet: bool = False


def submit(service: Service, call: Call) -> Any:
    options = call.body.model_dump()
    file = options.pop("file")
    return service.children.ask({**service.request, "verb": "submit", "file": file, "options": options})


def change(change: Callable[[Store, Job, Any], Any]) -> Callable[[Service, Call], Any]:
    """What changes a job: in a transaction or two of a store that is open no longer than that."""

    def answer(service: Service, call: Call) -> Any:
        job = service.opened.get().job(call.words["job"])
        with Store.open(service.url) as store:
            return change(store, store.job(job.id), call.body)

    return answer


def stopped(store: Store, job: Job, body: Nothing) -> Any:
    return {"id": job.id, "job": job.name, "message": stop_job(store, job)}


def paused(store: Store, job: Job, body: Nothing) -> Any:
    return {"id": job.id, "job": job.name, "message": pause_job(store, job)}


def resumed(store: Store, job: Job, body: Nothing) -> Any:
    from nas.errors import ConflictError

    if job.submitted_at is None or job.state not in ("stopped", "failed"):
        raise ConflictError(
            f"Job '{job.name}' cannot be queued again (state: {job.state}).",
            "What was submitted can, when it has stopped or failed.",
        )
    return places(store, [store.requeue(job)])


def prioritised(store: Store, job: Job, body: PriorityBody) -> Any:
    return places(store, [store.set_priority(job, body.priority)])


def noted(store: Store, job: Job, body: NoteBody) -> Any:
    return remarks(store.set_note(job, body.note))


def tagged(store: Store, job: Job, body: TagsBody) -> Any:
    return remarks(store.set_tags(job, body.tags))


def extract(service: Service, call: Call) -> Response:
    return download(service.children, service.request, call.words["job"], call.body)


def deleted(store: Store, job: Job, body: RemoveBody) -> Any:
    return removed(job, remove(store, job, keep_supernet=body.keep_supernet))
