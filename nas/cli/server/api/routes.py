"""The table of the API: every address, what it takes, and which verb's document it answers with."""

from collections.abc import Callable
from typing import Any

from nas.cli.server.api import changes, reading
from nas.cli.server.api.downloads import ExtractBody
from nas.cli.server.api.service import Nothing, Route, Taken
from nas.store import Job, Store

JOB = "/api/jobs/<job>"
JOB_ID = "/api/jobs/<int:job>"  # of what is downloaded


def _change(
    name: str,
    says: str,
    change: Callable[[Store, Job, Any], Any],
    body: type[Taken] = Nothing,
    verb: str | None = None,
) -> Route:
    """What is changed of one job."""
    return Route(name, f"{JOB}/{name}", says, changes.change(change), verb, body=body, method="POST")


ROUTES = (
    Route(
        *("jobs", "/api/jobs", "All jobs, the newest first.", reading.list_jobs),
        *("nas ls", reading.ListQuery),
    ),
    Route(
        *("job", JOB, "One job: its state, its stages, what it has found.", reading.show_job),
        "nas show JOB",
    ),
    Route(
        *("config", f"{JOB}/config", "The job's whole config.", reading.show_config),
        "nas show JOB --config",
    ),
    Route("progress", f"{JOB}/progress", "How far the job is.", reading.show_progress),
    Route(
        *("events", f"{JOB}/events", "How far the job is, as server-sent events until it has ended."),
        reading.events,
        gives="text/event-stream",
    ),
    Route(
        *("front", f"{JOB}/front", "The Pareto front of the job.", reading.front),
        *("nas front JOB", reading.FrontQuery),
    ),
    Route(
        *("log", f"{JOB}/log", "What the job's processes have said.", reading.log),
        *("nas logs JOB", reading.LogQuery),
    ),
    Route(
        *("fronts", "/api/front", "The front of several jobs.", reading.fronts),
        *("nas front JOB...", reading.FrontsQuery),
    ),
    Route(
        *("compare", f"{JOB}/compare", "The job's front and another one's.", reading.compare),
        *("nas compare JOB OTHER", reading.CompareQuery),
    ),
    Route(
        *("explain", f"{JOB}/explain", "What the choices of a subnet are worth.", reading.explain),
        *("nas explain JOB SUBNET", reading.ExplainQuery),
    ),
    Route(
        *("what_if", f"{JOB}/what-if", "The front that is foretold for another question.", reading.what_if),
        *("nas what-if JOB", reading.WhatIfQuery),
    ),
    Route("spaces", "/api/spaces", "What can be searched.", reading.spaces, "nas spaces ls"),
    Route("space", "/api/spaces/<space>", "One space.", reading.space, "nas spaces show SPACE"),
    Route(
        *("supernets", "/api/supernets", "The supernets, and what uses them.", reading.supernets),
        "nas supernets",
    ),
    Route(
        *("supernet", "/api/supernets/<supernet>", "One supernet.", reading.supernet),
        "nas supernets show NAME",
    ),
    Route("workers", "/api/workers", "What workers run now.", reading.workers, "nas workers"),
    Route(
        *("devices", "/api/devices", "The devices and agents of the store.", reading.devices),
        "nas devices ls",
    ),
    Route(
        *("submit", "/api/jobs", "Check a job file and queue it.", changes.submit, "nas submit FILE"),
        body=changes.SubmitBody,
        method="POST",
    ),
    _change("stop", "Stop the job.", changes.stopped),
    _change("pause", "Stop the job for a while.", changes.paused),
    _change("resume", "Queue the job again.", changes.resumed),
    _change(
        *("priority", "Change its priority.", changes.prioritised, changes.PriorityBody),
        "nas priority JOB N",
    ),
    _change("note", "Write a note on the job.", changes.noted, changes.NoteBody, "nas note JOB TEXT"),
    _change("tags", "Mark the job with tags.", changes.tagged, changes.TagsBody, "nas tag JOB TAG..."),
    _change(
        *("remove", "Delete the job with its results and files.", changes.deleted, changes.RemoveBody),
        "nas rm JOB",
    ),
    Route(
        *("extract", f"{JOB_ID}/extract", "A subnet, or the front, as stand-alone checkpoints: a zip file."),
        changes.extract,
        body=ExtractBody,
        method="POST",
        gives="application/zip",
    ),
)
