"""The table of the API: every address, what it takes, and which verb's document it answers with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from nas.cli.devices import stored_devices
from nas.cli.jobs import job_rows, progress, summary
from nas.cli.queue.logs import plain_lines
from nas.cli.queue.turns import pause_job, places, stop_job
from nas.cli.queue.work import worker_rows
from nas.cli.server.children import Children
from nas.cli.server.downloads import download
from nas.cli.server.streams import Streams
from nas.cli.stored.remarks import remarks
from nas.cli.stored.supernets import described
from nas.store import Job, Store

if TYPE_CHECKING:
    from dashboards.opened import OpenedStore

LONGEST_FILE = 200_000  # characters of a job file
Name = Annotated[str, Field(min_length=1, max_length=200)]
Condition = Annotated[str, Field(min_length=1, max_length=500)]
JOB = "/api/jobs/<job>"
JOB_ID = "/api/jobs/<int:job>"  # of what is downloaded


@dataclass(frozen=True)
class Service:
    """What answers are made of.

    folders: where files may be that a submitted job names; None: job files are trusted like those of
    `nas submit`.
    """

    url: str
    opened: "OpenedStore"
    folders: tuple[str, ...] | None = ()
    children: Children = field(default_factory=Children)
    streams: Streams = field(default_factory=Streams)

    @property
    def request(self) -> dict[str, Any]:
        """What every child is told."""
        return {"store": self.url, "folders": self.folders}

    def end(self) -> None:
        """Ends what would go on after the server."""
        self.streams.end()
        self.children.end()


class Taken(BaseModel):
    """What a request may hold; anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Taken):
    """An empty one."""


@dataclass(frozen=True)
class Call:
    """A request that has been checked. words: those of its address by what they stand for."""

    words: Mapping[str, Any]
    query: Any
    body: Any


@dataclass(frozen=True)
class Route:
    """An address, and what is done there. name: the operation's in the OpenAPI document.

    verb: the command whose JSON document it answers with.  body: None for what only reads.
    """

    name: str
    path: str
    says: str
    answer: Callable[[Service, Call], Any]
    verb: str | None = None
    query: type[Taken] = Nothing
    body: type[Taken] | None = None
    method: str = "GET"
    gives: str = "application/json"

    @property
    def writes(self) -> bool:
        """Whether it needs the write token."""
        return self.method != "GET"


# -- reading --


class FrontQuery(Taken):
    """The options of `nas front`."""

    device: Name | None = None
    where: Annotated[list[Condition], Field(max_length=20)] = []


class FrontsQuery(FrontQuery):
    """The same of several jobs."""

    job: Annotated[list[Name], Field(min_length=1, max_length=50)]


class LogQuery(Taken):
    """after: only lines after the one of this id."""

    after: Annotated[int, Field(ge=0, lt=2**31)] = 0


class ListQuery(Taken):
    """tag: only jobs that are marked so."""

    tag: Name | None = None


def _list_jobs(service: Service, call: Call) -> Any:
    rows, tag = job_rows(service.opened.get()), call.query.tag
    return [row for row in rows if tag is None or tag in row["tags"]]


def _show_job(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return summary(opened, opened.job(call.words["job"]))


def _show_config(service: Service, call: Call) -> Any:
    return service.opened.get().job(call.words["job"]).config


def _show_progress(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return progress(opened, opened.job(call.words["job"]))


def _front(service: Service, call: Call) -> Any:
    return _front_of(service, [call.words["job"]], call.query)


def _fronts(service: Service, call: Call) -> Any:
    return _front_of(service, call.query.job, call.query)


def _front_of(service: Service, names: list[str], query: FrontQuery) -> Any:
    from nas.limits import Limit
    from nas.results.front import front

    opened = service.opened.get()
    jobs = list({job.id: job for job in map(opened.job, names)}.values())
    limits = [Limit.parse(text) for text in query.where]
    return front(opened, jobs, device=query.device, where=limits).to_dict()


def _log(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return plain_lines(opened.log(opened.job(call.words["job"]), after=call.query.after))


def _events(service: Service, call: Call) -> Response:
    job = service.opened.get().job(call.words["job"])
    answer = Response(service.streams.open(service.opened, job.id), mimetype="text/event-stream")
    answer.headers["X-Accel-Buffering"] = (
        "no"  # a proxy that gathers answers would tell everything at the end
    )
    return answer


def _supernets(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return [described(opened, supernet) for supernet in opened.supernets()]


def _supernet(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return described(opened, opened.supernet(call.words["supernet"]))


def _workers(service: Service, call: Call) -> Any:
    return worker_rows(service.opened.get())


def _devices(service: Service, call: Call) -> Any:
    return stored_devices(service.opened.get())


# -- writing --


class SubmitBody(Taken):
    """A job file and the options of `nas submit`. file: the text of the job file, YAML."""

    file: Annotated[str, Field(min_length=1, max_length=LONGEST_FILE)]
    name: Name | None = None
    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    after: Name | None = None
    needs: Name | None = None
    key: Name | None = None
    sweep: Annotated[list[Annotated[str, Field(max_length=2_000)]], Field(max_length=20)] = []


class PriorityBody(Taken):
    """The highest goes first."""

    priority: Annotated[int, Field(ge=-1_000_000, le=1_000_000)]


class NoteBody(Taken):
    """note: an empty one is removed."""

    note: Annotated[str, Field(max_length=10_000)]


class TagsBody(Taken):
    """tags: all that the job is to have."""

    tags: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=100)]


class ExtractBody(Taken):
    """Which subnet: exactly one of subnet (the beginning of its key), where, and knee: true."""

    subnet: Name | None = None
    where: Annotated[list[Condition], Field(max_length=20)] = []
    knee: bool = False
    weights: Name | None = None


def _submit(service: Service, call: Call) -> Any:
    options = call.body.model_dump()
    file = options.pop("file")
    return service.children.ask({**service.request, "verb": "submit", "file": file, "options": options})


def _change(change: Callable[[Store, Job, Any], Any]) -> Callable[[Service, Call], Any]:
    """What changes a job: in a transaction or two of a store that is open no longer than that."""

    def answer(service: Service, call: Call) -> Any:
        job = service.opened.get().job(call.words["job"])
        with Store.open(service.url) as store:
            return change(store, store.job(job.id), call.body)

    return answer


def _stopped(store: Store, job: Job, body: Nothing) -> Any:
    return {"id": job.id, "job": job.name, "message": stop_job(store, job)}


def _paused(store: Store, job: Job, body: Nothing) -> Any:
    return {"id": job.id, "job": job.name, "message": pause_job(store, job)}


def _resumed(store: Store, job: Job, body: Nothing) -> Any:
    from nas.errors import ConflictError

    if job.submitted_at is None or job.state not in ("stopped", "failed"):
        raise ConflictError(
            f"Job '{job.name}' cannot be queued again (state: {job.state}).",
            "What was submitted can, when it has stopped or failed.",
        )
    return places(store, [store.requeue(job)])


def _prioritised(store: Store, job: Job, body: PriorityBody) -> Any:
    return places(store, [store.set_priority(job, body.priority)])


def _noted(store: Store, job: Job, body: NoteBody) -> Any:
    return remarks(store.set_note(job, body.note))


def _tagged(store: Store, job: Job, body: TagsBody) -> Any:
    return remarks(store.set_tags(job, body.tags))


def _extract(service: Service, call: Call) -> Response:
    choice = call.body.model_dump(exclude={"weights"})
    return download(service.children, service.request, call.words["job"], choice, call.body.weights)


ROUTES = (
    Route("jobs", "/api/jobs", "All jobs, the newest first.", _list_jobs, "nas ls", ListQuery),
    Route("job", JOB, "One job: its state, its stages, what it has found.", _show_job, "nas show JOB"),
    Route("config", f"{JOB}/config", "The job's whole config.", _show_config, "nas show JOB --config"),
    Route("progress", f"{JOB}/progress", "How far the job is.", _show_progress),
    Route(
        *(
            "events",
            f"{JOB}/events",
            "How far the job is, as server-sent events until it has ended.",
            _events,
        ),
        gives="text/event-stream",
    ),
    Route("front", f"{JOB}/front", "The Pareto front of the job.", _front, "nas front JOB", FrontQuery),
    Route("log", f"{JOB}/log", "What the job's processes have said.", _log, "nas logs JOB", LogQuery),
    Route("fronts", "/api/front", "The front of several jobs.", _fronts, "nas front JOB...", FrontsQuery),
    Route("supernets", "/api/supernets", "The supernets, and what uses them.", _supernets, "nas supernets"),
    Route(
        *("supernet", "/api/supernets/<supernet>", "One supernet.", _supernet, "nas supernets show NAME"),
    ),
    Route("workers", "/api/workers", "What workers run now.", _workers, "nas workers"),
    Route("devices", "/api/devices", "The devices and agents of the store.", _devices, "nas devices ls"),
    Route(
        *("submit", "/api/jobs", "Check a job file and queue it.", _submit, "nas submit FILE"),
        body=SubmitBody,
        method="POST",
    ),
    Route("stop", f"{JOB}/stop", "Stop the job.", _change(_stopped), body=Nothing, method="POST"),
    Route(
        "pause", f"{JOB}/pause", "Stop the job for a while.", _change(_paused), body=Nothing, method="POST"
    ),
    Route("resume", f"{JOB}/resume", "Queue the job again.", _change(_resumed), body=Nothing, method="POST"),
    Route(
        *("priority", f"{JOB}/priority", "Change its priority.", _change(_prioritised), "nas priority JOB N"),
        body=PriorityBody,
        method="POST",
    ),
    Route(
        *("note", f"{JOB}/note", "Write a note on the job.", _change(_noted), "nas note JOB TEXT"),
        body=NoteBody,
        method="POST",
    ),
    Route(
        *("tags", f"{JOB}/tags", "Mark the job with tags.", _change(_tagged), "nas tag JOB TAG..."),
        body=TagsBody,
        method="POST",
    ),
    Route(
        *("extract", f"{JOB_ID}/extract", "A subnet as a stand-alone checkpoint: a zip file.", _extract),
        body=ExtractBody,
        method="POST",
        gives="application/zip",
    ),
)
