"""What the API tells of a store: the documents that verbs print."""

from typing import Annotated, Any

from flask import Response
from pydantic import Field

from nas.cli.devices import stored_devices
from nas.cli.jobs import job_rows, progress, summary
from nas.cli.queue.logs import plain_lines
from nas.cli.queue.work import worker_rows
from nas.cli.server.api.service import Call, Condition, Name, Service, Taken
from nas.cli.spaces import space_choices, space_rows
from nas.cli.stored.supernets import described
from search_spaces.errors import NotFoundError

LONGEST_SUBNET = 10_000  # characters of an architecture as JSON


class FrontQuery(Taken):
    """The options of `nas front`."""

    device: Name | None = None
    where: list[Condition] = Field([], max_length=20)


class FrontsQuery(FrontQuery):
    """The same of several jobs."""

    job: Annotated[list[Name], Field(min_length=1, max_length=50)]


class CompareQuery(Taken):
    """The options of `nas compare`. other: the second job.  reference: as NAME=VALUE."""

    other: Name
    device: Name | None = None
    reference: list[Condition] = Field([], max_length=20)


class ExplainQuery(Taken):
    """The options of `nas explain`. subnet, other: the beginning of a key, or an architecture as JSON."""

    subnet: Annotated[str, Field(min_length=1, max_length=LONGEST_SUBNET)]
    other: Annotated[str, Field(min_length=1, max_length=LONGEST_SUBNET)] | None = None
    device: Name | None = None


class WhatIfQuery(Taken):
    """The options of `nas what-if`. limits: those of the job where there are none; an empty one is none."""

    limits: list[Annotated[str, Field(max_length=500)]] = Field([], max_length=20)
    device: Name | None = None
    objectives: Condition | None = None


class LogQuery(Taken):
    """after: only lines after the one of this id."""

    after: Annotated[int, Field(ge=0, lt=2**31)] = 0


class ListQuery(Taken):
    """tag: only jobs that are marked so."""

    tag: Name | None = None


def list_jobs(service: Service, call: Call) -> Any:
    rows, tag = job_rows(service.opened.get()), call.query.tag
    return [row for row in rows if tag is None or tag in row["tags"]]


def show_job(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return summary(opened, opened.job(call.words["job"]))


def show_config(service: Service, call: Call) -> Any:
    return service.opened.get().job(call.words["job"]).config


def show_progress(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return progress(opened, opened.job(call.words["job"]))


def front(service: Service, call: Call) -> Any:
    return _front_of(service, [call.words["job"]], call.query)


def fronts(service: Service, call: Call) -> Any:
    return _front_of(service, call.query.job, call.query)


def _front_of(service: Service, names: list[str], query: FrontQuery) -> Any:
    from nas.limits import Limit
    from nas.results import front as fronts_of

    opened = service.opened.get()
    jobs = list({job.id: job for job in map(opened.job, names)}.values())
    limits = [Limit.parse(text) for text in query.where]
    return fronts_of.front(opened, jobs, device=query.device, where=limits).to_dict()


def log(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return plain_lines(opened.log(opened.job(call.words["job"]), after=call.query.after))


def events(service: Service, call: Call) -> Response:
    job = service.opened.get().job(call.words["job"])
    answer = Response(service.streams.open(service.opened, job.id), mimetype="text/event-stream")
    answer.headers["X-Accel-Buffering"] = (
        "no"  # a proxy that gathers answers would tell everything at the end
    )
    return answer


def supernets(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return [described(opened, supernet) for supernet in opened.supernets()]


def supernet(service: Service, call: Call) -> Any:
    opened = service.opened.get()
    return described(opened, opened.supernet(call.words["supernet"]))


def workers(service: Service, call: Call) -> Any:
    return worker_rows(service.opened.get())


def devices(service: Service, call: Call) -> Any:
    return stored_devices(service.opened.get())


def compare(service: Service, call: Call) -> Any:
    return _of_child(service, call, "compare")


def explain(service: Service, call: Call) -> Any:
    return _of_child(service, call, "explain")


def what_if(service: Service, call: Call) -> Any:
    return _of_child(service, call, "what-if")


def _of_child(service: Service, call: Call, verb: str) -> Any:
    """What takes seconds of a processor, or fits something, is done in a process of its own."""
    job = service.opened.get().job(call.words["job"])
    options = call.query.model_dump()
    return service.children.ask({**service.request, "verb": verb, "job": job.id, "options": options})


def spaces(service: Service, call: Call) -> Any:
    return space_rows()


def space(service: Service, call: Call) -> Any:
    """Of a space that ships with Elastiform: any other name would be a module to be imported."""
    import search_spaces

    name = call.words["space"]
    if name not in search_spaces.names():
        raise NotFoundError(f"There is no space {name[:60]!a}.", "/api/spaces lists them.")
    return space_choices(search_spaces.get(name))
