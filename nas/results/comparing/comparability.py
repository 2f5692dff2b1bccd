"""Whether what several jobs found can be compared: their data, their quality, their devices, their costs."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nas.limits import ACCURACY
from nas.results.members import Member
from nas.store import Device, Job, Store
from nas.store.values import shortened
from search_spaces.errors import UsageError

ONE_AT_A_TIME = "Ask for one job at a time."


def check_comparable(store: Store, jobs: Sequence[Job], used: Collection[int]) -> None:
    """Raises UsageError, with the reason, for jobs whose qualities or latencies do not compare.

    used: the ids of the devices whose latencies are to be compared.
    """
    first = jobs[0]
    for job in jobs[1:]:
        both = f"'{first.name}' and '{job.name}'"
        qualities = [one.config.get("quality", ACCURACY) for one in (first, job)]
        if qualities[0] != qualities[1]:
            raise UsageError(
                f"The qualities of {both} do not compare: one is {qualities[0]}, the other {qualities[1]}.",
                ONE_AT_A_TIME,
            )
        if difference := _data_differ(store, first, job):
            raise UsageError(
                f"The qualities of {both} do not compare: their data differ{difference}.",
                ONE_AT_A_TIME,
            )
    if len(used) > 1:
        devices = [row for row in store.devices() if row.id in used]
        names = ", ".join(f"'{row.name}' ({row.id})" for row in devices)
        raise UsageError(
            f"Latencies of different devices do not compare: {names}{_fingerprints_differ(devices)}.",
            "Choose one with --device; equal names with different fingerprints are different devices.",
        )


def check_costs_known(members: Iterable[Member], costs: Sequence[str]) -> None:
    """Raises UsageError where subnets are compared by a cost that is known of none of a job's.

    They would all be left out.
    """
    by_job: dict[str, list[Member]] = {}
    for member in members:
        by_job.setdefault(member.job, []).append(member)
    for job, finalists in by_job.items():
        for name in costs:
            if all(member.told(name) is None for member in finalists):
                raise UsageError(
                    f"The jobs are compared by {name}, which is not known of any subnet of '{job}'.",
                    ONE_AT_A_TIME,
                )


def _fingerprints_differ(devices: Sequence[Device]) -> str:
    """In what, for the end of a sentence: the fields that all of them tell, and not alike."""
    first, *others = (device.fingerprint for device in devices)
    differing = [
        f"{key}: {', '.join(shortened(str(values)) for values in (value, *(o[key] for o in others)))}"
        for key, value in first.items()
        if all(other.get(key) is not None for other in others) and any(o[key] != value for o in others)
    ]
    return f" ({'; '.join(differing)})" if differing else ""


def _data_differ(store: Store, one: Job, other: Job) -> str | None:
    """How, in words for the end of a sentence; None for the same data.

    The digest decides: the same files may lie in two folders, and one folder may have changed between jobs.
    """
    digests = [_digest(store, job) for job in (one, other)]
    configs: list[Any] = [job.config.get("data") for job in (one, other)]
    if all(digests):
        if digests[0] == digests[1]:
            return None
        same = " (the job files name the same ones, which have changed between the jobs)"
        return same if configs[0] == configs[1] else f" ({_options_differ(*configs)})"
    return None if configs[0] == configs[1] else f" ({_options_differ(*configs)})"


def _digest(store: Store, job: Job) -> str | None:
    stage = store.stage(job, "space")
    data = ((stage and stage.result) or {}).get("data") or {}
    return data.get("digest")


def _options_differ(one: Any, other: Any) -> str:
    """The names of two data sets, or of two with one name the options that differ."""
    given, others = (data if isinstance(data, dict) else {"name": data} for data in (one, other))
    if given.get("name") != others.get("name"):
        return f"{given.get('name') or 'unknown'}, {others.get('name') or 'unknown'}"
    differing = [key for key in {**given, **others} if given.get(key) != others.get(key)]
    return "; ".join(
        f"{key}: {shortened(str(given.get(key)))}, {shortened(str(others.get(key)))}" for key in differing
    )
