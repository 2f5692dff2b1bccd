"""Whether what several jobs found can be compared: their data, their quality, their devices."""

from collections.abc import Collection, Sequence
from typing import Any

from nas.conditions import ACCURACY
from nas.store import Job, Store
from search_spaces._errors import UsageError, shortened

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
        names_by_id = {found.id: found.name for found in store.devices()}
        names = ", ".join(f"'{names_by_id[device_id]}' ({device_id})" for device_id in sorted(used))
        raise UsageError(
            f"Latencies of different devices do not compare: {names}.",
            "Choose one with --device; equal names with different fingerprints are different devices.",
        )


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
    told = ((stage and stage.result) or {}).get("data") or {}
    return told.get("digest")


def _options_differ(one: Any, other: Any) -> str:
    """The names of two data sets, or of two with one name the options that differ."""
    given, others = (data if isinstance(data, dict) else {"name": data} for data in (one, other))
    if given.get("name") != others.get("name"):
        return f"{given.get('name') or 'unknown'}, {others.get('name') or 'unknown'}"
    differing = [key for key in {**given, **others} if given.get(key) != others.get(key)]
    return "; ".join(
        f"{key}: {shortened(str(given.get(key)))}, {shortened(str(others.get(key)))}" for key in differing
    )
