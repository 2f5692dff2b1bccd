"""A Ray to work with: one of our own on this machine, or a cluster that already runs.

What Ray does is never the record: workers compute, this process writes to the store.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import ray

from nas.config.ray_address import knock, unreachable
from nas.errors import JobFailedError

LOCAL = "local"
OBJECT_STORE_BYTES = 100 * 2**20
LAST_SECONDS, KILLED_SECONDS = 1.5, 1.0  # that Ray's processes have to end, by themselves and when killed
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to others
    "RAY_AIR_NEW_OUTPUT": "0",  # plain lines, which can be switched off
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    # A busy machine needs longer than Ray's 30 seconds to start its servers.
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_raylet_start_wait_time_s": "300",
}
# Ray ends this process a minute after it has lost its head, of which `check_head` is to tell in a sentence.
JOINED = {"RAY_gcs_rpc_server_reconnect_timeout_s": str(7 * 24 * 3600)}


@contextmanager
def own_ray(
    cpus: int, folder: Path, *, hint: str, object_store_bytes: int = OBJECT_STORE_BYTES
) -> Iterator[None]:
    """A Ray of our own, in `folder`; one that already runs on this machine is left alone.

    Raises JobFailedError, with the hint, when it does not start.
    """
    others = set(psutil.Process().children(recursive=True))
    with _surroundings():
        try:
            _init(
                address=LOCAL,
                num_cpus=cpus,
                include_dashboard=False,
                object_store_memory=object_store_bytes,
                _temp_dir=str(folder / "ray"),
            )
        except (RuntimeError, OSError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(".")
            raise JobFailedError(f"Ray did not start on this machine: {reason}.", hint) from error
        try:
            yield
        finally:
            started = set(psutil.Process().children(recursive=True)) - others
            ray.shutdown()
            _end(started, patience=LAST_SECONDS)  # or they would write into the folder when it is gone


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """A connection to a Ray cluster that runs: `auto`, the one that this machine is part of, or `host:port`.

    Raises JobFailedError when there is none.
    """
    knock(address)
    with _surroundings(JOINED):
        try:
            _init(address=address)
        except (RuntimeError, OSError, ValueError) as error:
            raise unreachable(address, error) from error
        try:
            yield
        finally:
            ray.shutdown()


def check_head() -> None:
    """Raises JobFailedError where the head of the Ray that this process has joined is gone."""
    address: str = ray.get_runtime_context().gcs_address
    try:
        knock(address)
    except JobFailedError as error:
        raise JobFailedError(
            f"The head of the Ray cluster at {address} is gone.",
            "What was finished is saved: when a head runs there again, `nas resume` goes on.",
        ) from error


def _init(**options: Any) -> None:
    """Starts or joins a Ray, without its words on stdout and without its handlers of SIGTERM.

    What it had started when it was interrupted ends.
    """
    others = set(psutil.Process().children(recursive=True))
    set_handler, utils = ray._private.utils.set_sigterm_handler, ray._private.utils
    utils.set_sigterm_handler = lambda handler: None  # Ray ends the process on it, at once and half started
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception:
        raise
    except BaseException:
        _end(set(psutil.Process().children(recursive=True)) - others)
        raise
    finally:
        utils.set_sigterm_handler = set_handler
        _hear_signals()


def _end(processes: Collection[psutil.Process], *, patience: float = 0.0) -> None:
    """Kills what has not ended by itself after so many seconds."""
    alive = psutil.wait_procs(processes, timeout=patience)[1]
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=KILLED_SECONDS)


def _hear_signals() -> None:
    """Makes signals Python's again: Ray's library installs a handler below it that aborts the process."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if (handler := signal.getsignal(number)) is not None:
                signal.signal(number, handler)


@contextmanager
def _surroundings(further: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """ENVIRONMENT and further variables; what Ray prints, such as why a worker died, goes to stderr."""
    environment = {**ENVIRONMENT, **further}
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
