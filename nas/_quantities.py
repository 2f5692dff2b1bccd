"""What a job optimises and limits, told of each of its devices: `latency_ms` of `latency_ms@pi`, `@laptop`.

In a job with one device a quantity has its plain name. With several, the plain name stands for all of them.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

from nas.conditions import (
    ACCURACY,
    BALANCED,
    KNOWN_BEFORE,
    NOT_IN_DEVICES,
    PER_DEVICE,
    QUALITIES,
    Condition,
    on_device,
    split,
)
from search_spaces._errors import did_you_mean

OBJECTIVES = (ACCURACY, "latency_ms", "params", "macs", "memory_bytes", "peak_memory_bytes", BALANCED)
LONGEST_NAME = 100  # of one device of several, which is part of names of stages


def named(metric: str, device: str, devices: Collection[str]) -> str:
    """The quantity's name on a device of a job that has these."""
    return metric if len(devices) == 1 else on_device(metric, device)


def everywhere(name: str, devices: Collection[str]) -> tuple[str, ...]:
    """The names of a quantity in a job with these devices: one, or one a device.

    Raises ValueError for a device that is none of them.
    """
    metric, device = split(name)
    if device is not None and device not in devices:
        raise ValueError(f"'{name}' is told of no device of this job. {did_you_mean(device, devices)}")
    if metric not in PER_DEVICE:
        return (name,)
    told = devices if device is None else [device]
    return tuple(named(metric, one, devices) for one in told)


def conditions_everywhere(conditions: Iterable[Condition], devices: Collection[str]) -> tuple[Condition, ...]:
    """The conditions, with one a device for what is told of each. Raises ValueError as `everywhere`."""
    return tuple(
        replace(condition, name=name)
        for condition in conditions
        for name in everywhere(condition.name, devices)
    )


def checked_objective(name: str) -> str:
    """The name itself. Raises ValueError unless it is one, perhaps with a device behind it."""
    metric, device = split(name)
    if metric not in OBJECTIVES or (device is not None and metric not in PER_DEVICE):
        *known, last = (f"'{known}'" for known in OBJECTIVES)
        raise ValueError(f"must be {', '.join(known)} or {last}, not '{name[:60]}'")
    return name


def objectives_of(names: Iterable[str], devices: Collection[str]) -> tuple[str, ...]:
    """The objectives of a job with these devices. Raises ValueError for names that make no search."""
    found = tuple(name for given in names for name in everywhere(given, devices))
    if not found or len(set(found)) < len(found):
        raise ValueError("must be at least one name, without repeats")
    if len(found) == 1 and found[0] not in QUALITIES:
        raise ValueError(
            f"must hold {ACCURACY} when it is one alone: {found[0]} is known without evaluating a subnet "
            f"({BALANCED} will do, too)"
        )
    if set(QUALITIES) <= set(found):
        raise ValueError(f"can hold one of {' and '.join(QUALITIES)}: a search maximises one quality")
    return found


def constraints_of(texts: Iterable[str], devices: Collection[str]) -> tuple[str, ...]:
    """The constraints of a job with these devices; what is told of one device only stays as it is written.

    Raises ValueError for those that cannot be limits, UsageError for those that are no conditions.
    """
    found: list[str] = []
    for text in texts:
        condition = Condition.parse(text)
        if split(condition.name)[0] not in KNOWN_BEFORE:
            known = ", ".join(KNOWN_BEFORE)
            raise ValueError(
                f"'{text}' is not known before a subnet is evaluated; a limit can be on {known}. Afterwards "
                f"`nas front --where '{condition}'` shows what meets it"
            )
        there = conditions_everywhere([condition], devices)
        found += [text] if there == (condition,) else map(str, there)
    return tuple(found)


def checked_devices(names: Collection[str]) -> None:
    """Raises ValueError for no device at all, and for names of several that conditions cannot hold."""
    if not names:
        raise ValueError("must name at least one device")
    for name in names if len(names) > 1 else ():
        if len(name) > LONGEST_NAME or any(character in name for character in NOT_IN_DEVICES):
            raise ValueError(
                f"'{name[:60]}' cannot be one of several: such a name has at most {LONGEST_NAME} "
                f"characters, none of them one of {' '.join(NOT_IN_DEVICES)}"
            )
