"""Which modules of somebody's own a job names, and who may name them: a job's author, not a store.

A job file is code that its author runs. The same job read back from a store is not: whoever can write to the
store has written it. See docs/security.md.
"""

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from nas.config import JobConfig
from nas.config.strict import STORED_JOB
from nas.errors import StoreError
from nas.store import Job
from search_spaces.errors import UsageError
from search_spaces.registry import allow, trusted

COMMANDS = "NAS_COMMANDS"  # programs that may be run although a store names them, with commas between them


def named(config: JobConfig) -> dict[str, str]:
    """The components of a job by the field that names them."""
    return {
        "data.name": config.data.name,
        **_families(config),
        "predictor.name": config.predictor.name,
        "search.searcher": config.search.searcher,
        **{f"devices.{name}.backend": device.backend for name, device in config.devices.items()},
    }


def _families(config: JobConfig) -> dict[str, str]:
    if config.supernets is None:
        return {"supernet.family": config.supernet.family}
    return {f"supernets.{i}.family": entry.family for i, entry in enumerate(config.supernets)}


def allow_named(config: JobConfig) -> None:
    """What the author of a job names may be imported by this process, and by those that it starts; the
    program of `notify.command` may be run.
    """
    allow(named(config).values())
    if config.notify is not None and config.notify.command is not None:
        program = config.notify.command[0]
        if "," not in program:
            os.environ[COMMANDS] = ",".join(sorted({program, *_allowed_programs()}))


def check_program(program: str) -> None:
    """Raises UsageError for a program of a stored `notify.command` that nobody here has allowed."""
    if program not in _allowed_programs():
        raise UsageError(
            f"notify.command names the program {program[:60]!r}, which was not allowed here.",
            f"If you trust it, set {COMMANDS}={program[:60]} (several: with commas between them).",
        )


def _allowed_programs() -> set[str]:
    return {name for name in os.environ.get(COMMANDS, "").split(",") if name}


def stored_config(job: Job) -> JobConfig:
    """The config of a job out of a store, of which nothing has been imported yet.

    Raises UsageError for a module of somebody's own that was not allowed here, StoreError for a config that
    is none.
    """
    config = as_stored(job.config, where=f"The config of job '{job.name}'")
    for field, name in named(config).items():
        trusted(name, where=f"{field} of job '{job.name}'")
    return config


def as_stored(config: Mapping[str, Any], *, where: str) -> JobConfig:
    """A stored config as it is, without what was added to a family's defaults since; imports nothing.

    Raises StoreError for one that is none.
    """
    try:
        return JobConfig.model_validate(config, strict=False, context=STORED_JOB)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part)[:60] for part in first["loc"])
        raise StoreError(
            f"{where} in the store cannot be read: {path}: {first['msg']}.", "`nas doctor` checks the store."
        ) from error
