"""What a job optimises and limits, told of each of its devices: `latency_ms` of `latency_ms@pi`, `@laptop`.

In a job with one device a quantity has its plain name. With several, the plain name stands for all of them.
How long a job may take is one more quantity: `30min`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from nas.limits import (
    ACCURACY,
    BALANCED,
    KNOWN_BEFORE,
    NOT_IN_DEVICES,
    PER_DEVICE,
    SEARCHED,
    Limit,
    on_device,
    split,
)
from search_spaces.errors import NASError, did_you_mean
from search_spaces.registry import constant
from supernet import tasks

OBJECTIVES = (
    ACCURACY,
    "latency_ms",
    "params",
    "macs",
    "memory_bytes",
    "peak_memory_bytes",
    BALANCED,
    *(name for name in SEARCHED if name not in (ACCURACY, BALANCED)),
)
LONGEST_NAME = 100  # of one device of several, which is part of names of stages
UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}  # in seconds
LONGEST_BUDGET = 365 * UNITS["d"]
_TIME = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(s|min|h|d)", re.ASCII)


def named(metric: str, device: str, devices: Collection[str]) -> str:
    """The quantity's name on a device of a job that has these."""
    return metric if len(devices) == 1 else on_device(metric, device)


def everywhere(name: str, devices: Collection[str]) -> tuple[str, ...]:
    """The names of a quantity in a job with these devices: one, or one a device.

    The name of a device that lists its precisions stands for each of them.
    Raises ValueError for a device that is none of them.
    """
    metric, device = split(name)
    asked = devices if device is None else [device] if device in devices else _precisions_of(device, devices)
    if not asked:
        raise ValueError(f"'{name}' is told of no device of this job. {did_you_mean(str(device), devices)}")
    if metric not in PER_DEVICE:
        return (name,)
    return tuple(named(metric, one, devices) for one in asked)


def _precisions_of(device: str, devices: Collection[str]) -> list[str]:
    return [name for name in devices if name.startswith(on_device(device, ""))]


def limits_everywhere(limits: Iterable[Limit], devices: Collection[str]) -> tuple[Limit, ...]:
    """The limits, with one a device for what is told of each. Raises ValueError as `everywhere`."""
    return tuple(replace(limit, name=name) for limit in limits for name in everywhere(limit.name, devices))


def checked_objective(name: str) -> str:
    """The name itself. Raises ValueError unless it is one, perhaps with a device behind it."""
    metric, device = split(name)
    if metric not in OBJECTIVES or (device is not None and metric not in PER_DEVICE):
        *first, last = (f"'{objective}'" for objective in OBJECTIVES)
        raise ValueError(f"must be {', '.join(first)} or {last}, not '{name[:60]}'")
    return name


def checked_quality(name: str) -> str:
    """The name itself. Raises ValueError unless a search can be for it."""
    if name not in SEARCHED:
        *first, last = (f"'{quality}'" for quality in SEARCHED)
        raise ValueError(f"must be {', '.join(first)} or {last}, not '{name[:60]}'")
    return name


def task_of(data: Any) -> str:
    """The task of the data that a section `data` names, as the file of that data set says.

    Classification where it says none; and where there is no such data set, of which others tell.
    """
    name = data.get("name") if isinstance(data, Mapping) else data
    try:
        task = constant("nas.datasets", name, "TASK", tasks.TASK) if isinstance(name, str) else tasks.TASK
    except NASError:
        return tasks.TASK
    return str(task)


def first_quality(task: str) -> str:
    """What a job of the task searches for unless it says so."""
    return tasks.get(task).qualities[0].name


def check_quality(quality: str, data: str) -> None:
    """Raises ValueError for a quality that the task of the data set of this name does not have."""
    task = task_of(data)
    names = [kind.name for kind in tasks.get(task).qualities if kind.searched]
    if quality not in names:
        raise ValueError(
            f"quality is {quality}, and data set '{data}' is of task {task}: it can be {' or '.join(names)}"
        )


def objectives_of(names: Iterable[str], devices: Collection[str]) -> tuple[str, ...]:
    """The objectives of a job with these devices. Raises ValueError for names that make no search."""
    objectives = tuple(name for given in names for name in everywhere(given, devices))
    if not objectives or len(set(objectives)) < len(objectives):
        raise ValueError("must be at least one name, without repeats")
    if len(objectives) == 1 and objectives[0] not in SEARCHED:
        others = " or ".join(name for name in SEARCHED if name != ACCURACY)
        raise ValueError(
            f"must hold {ACCURACY} when it is one alone: {objectives[0]} is known without evaluating a "
            f"subnet ({others} will do, too)"
        )
    if len(set(SEARCHED) & set(objectives)) > 1:
        raise ValueError(f"can hold one of {' and '.join(SEARCHED)}: a search is for one quality")
    return objectives


def with_quality_on(value: Mapping[str, Any]) -> dict[str, Any]:
    """A job file with `accuracy@NAME` among its objectives as one with `accuracy`, and `quality_on: NAME`.

    Raises ValueError for qualities on several devices.
    """
    given = value.get("objectives")
    names = [name for name in given if isinstance(name, str)] if isinstance(given, list | tuple) else []
    on = {name: split(name) for name in names if split(name)[0] in SEARCHED and split(name)[1] is not None}
    if not on:
        return dict(value)
    if len(on) > 1:
        raise ValueError(f"objectives hold {' and '.join(on)}: a search is for one quality on one device")
    ((quality, device),) = on.values()
    assert given is not None, "one of them names a device"
    return {**value, "objectives": [quality if name in on else name for name in given], "quality_on": device}


def check_quality_on(quality: str, device: str, devices: Collection[str]) -> None:
    """Raises ValueError for a device that the job does not have."""
    if device not in devices:
        name = on_device(quality, device)
        raise ValueError(
            f"objectives: '{name}' is told of no device of this job. {did_you_mean(device, devices)}"
        )


def limits_of(texts: Iterable[str], devices: Collection[str]) -> tuple[str, ...]:
    """The constraints of a job with these devices; what is told of one device only stays as it is written.

    Raises ValueError for those that cannot be limits of a search, UsageError for a text that states none.
    """
    written: list[str] = []
    for text in texts:
        limit = Limit.parse(text)
        if split(limit.name)[0] not in KNOWN_BEFORE:
            possible = ", ".join(KNOWN_BEFORE)
            raise ValueError(
                f"'{text}' is not known before a subnet is evaluated; a limit can be on {possible}. "
                f"Afterwards `nas front --where '{limit}'` shows what meets it"
            )
        on_devices = limits_everywhere([limit], devices)
        written += [text] if on_devices == (limit,) else map(str, on_devices)
    return tuple(written)


def checked_devices(names: Collection[str]) -> None:
    """Raises ValueError for no device at all, and for names of several that limits cannot hold."""
    if not names:
        raise ValueError("must name at least one device")
    for name in names if len(names) > 1 else ():
        if len(name) > LONGEST_NAME or any(character in name for character in NOT_IN_DEVICES):
            raise ValueError(
                f"'{name[:60]}' cannot be one of several: such a name has at most {LONGEST_NAME} "
                f"characters, none of them one of {' '.join(NOT_IN_DEVICES)}"
            )


def seconds_of(value: Any) -> Any:
    """A time such as 90s, 30min, 1.5h or `1h 30min` in seconds; a number is one of seconds already.

    Raises ValueError for anything else, and for a time that is 0 or longer than a year.
    """
    if isinstance(value, str):
        parts = _TIME.findall(value)
        if not parts or _TIME.sub("", value).strip():
            raise ValueError(f"must be a time such as 90s, 30min or 1.5h, not {value[:60]!r}")
        value = sum(float(number) * UNITS[unit] for number, unit in parts)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a time such as 90s, 30min or 1.5h")
    if not 0 < value <= LONGEST_BUDGET:
        raise ValueError("must be longer than 0 s and at most 365 d")
    return float(value)
