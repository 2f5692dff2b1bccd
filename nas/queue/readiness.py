"""Whether a job can be run on this machine now, as far as that is seen without beginning with it."""

from importlib.util import find_spec
from pathlib import Path

from nas.config.paths import PACKAGE, named_paths
from nas.results.running.time_left import planned
from nas.results.running.waiting import missing_devices
from nas.store import Job, Store
from nas.store.leases import new_owner, whose


def missing_files(store: Store, job: Job) -> str | None:
    """What of the data and weights that the job file names is not on this machine; None: all is there.

    Weights that a job begins with may be gone once it has trained its own.
    """
    trained = _has_trained(store, job)
    for field, path in named_paths(job.config):
        if trained and not field.startswith("data."):
            continue
        if path.startswith(PACKAGE):
            package = path.removeprefix(PACKAGE)
            if not package.isidentifier() or find_spec(package) is None:
                return f"{whose(new_owner())} lacks {field}: the package '{package}' is not installed there"
        elif not _is_there(path):
            return f"{whose(new_owner())} lacks {field}: there is no '{path}'"
    return None


def missing_device(store: Store, job: Job) -> str | None:
    """The device that has to measure the job first and has no agent; None: there is none such."""
    agents = {agent.name: agent for agent in store.agents()}
    return next(missing_devices(store, job, agents), None)


def _has_trained(store: Store, job: Job) -> bool:
    done = {stage.name for stage in store.stages(job) if stage.state == "done"}
    return all(name in done for name in planned(job) if name.partition(":")[0] == "train")


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # the job itself tells better what is wrong with it
        return True
