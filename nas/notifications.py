"""Telling somebody that a job has ended: `notify` of its job file, as a POST or to a command.

What is sent holds no token, no URL of a store and nothing of the environment. A notification that fails is
told in the job's log, and changes nothing of the job.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from pydantic import ValidationError

from nas.config import NotifyConfig
from nas.config.components import check_program
from nas.config.sections import is_loopback
from nas.errors import StoreError
from nas.results.cautions import best_finalist
from nas.store import Job, Store
from search_spaces.errors import NASError

TRIES = 3
PAUSE_SECONDS = 0.5  # before the second try; doubled before the third
TRY_SECONDS = 4.0  # that one try may take
ENDED = ("succeeded", "failed", "stopped")
PASSED_ON = ("HOME", "LANG", "LC_ALL", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER")  # of the environment
STORE_URL = re.compile(r"\b(?:sqlite|postgresql)[+\w]*:/\S+")
USER_IN_URL = re.compile(r"//[^/\s@]+@")


class _FailedError(Exception):
    """A try that came to nothing; its text says why, without what was sent or to which path."""


class _NoRedirects(HTTPRedirectHandler):
    """An answer that sends elsewhere is a failed try: who else gets the notification was not said."""

    def redirect_request(self, *_: Any) -> None:
        return None


def notify_of_end(store: Store, job: Job, *, tell: Callable[[str], None] = lambda line: None) -> None:
    """Tells whom the job file names that the job has ended, if it has; tries three times.

    tell: told what failed, as the job's log is. Raises nothing of its own.
    """
    if job.config.get("notify") is None:
        return
    with suppress(StoreError):
        job = store.job(job.id)
    if job.state not in ENDED or job.paused:
        return
    failures = _notified(store, job)
    for failure in failures:
        tell(failure)
    with suppress(StoreError):
        store.add_log(job, failures)


def document(store: Store, job: Job) -> dict[str, Any]:
    """What is sent of a job that has ended."""
    last, best = store.last_event(job, "hypervolume"), best_finalist(store, job)
    times = {name: getattr(job, name) for name in ("created_at", "started_at", "finished_at")}
    return {
        "job": job.name,
        "id": job.id,
        "state": job.state,
        "error": None if job.error is None else without_urls(job.error),
        "goal": job.goal,
        "attempt": job.attempt,
        **{name: None if moment is None else moment.isoformat() for name, moment in times.items()},
        "evaluations": store.evaluation_count(job),
        "hypervolume": None if last is None else last.data.get("hypervolume"),
        "best": best
        and {"subnet": best.subnet.key, "metric": best.metric, "value": best.value, "stderr": best.stderr},
    }


def without_urls(text: str) -> str:
    """The text without URLs of stores and without users and passwords in others."""
    return USER_IN_URL.sub("//", STORE_URL.sub("(a store)", text))


def _notified(store: Store, job: Job) -> list[str]:
    """Why who was not told, one sentence each."""
    try:
        wanted = NotifyConfig.model_validate(job.config["notify"], strict=False)
        body = json.dumps(document(store, job), allow_nan=False).encode()
    except (ValidationError, StoreError, ValueError) as error:
        return [f"Nobody was notified: {type(error).__name__}."]
    failures = []
    if (url := wanted.url) is not None:
        failures.append(_tried(f"'{urlsplit(url).hostname}'", lambda seconds: _post(url, body, seconds)))
    if (command := wanted.command) is not None:
        try:
            check_program(command[0])
            failures.append(
                _tried(f"the command '{command[0][:60]}'", lambda seconds: _run(command, body, seconds))
            )
        except NASError as error:
            failures.append(f"Nobody was notified by a command: {error.message} {error.hint}")
    return [failure for failure in failures if failure]


def _tried(whom: str, attempt: Callable[[float], None]) -> str:
    """Why the last of three tries came to nothing; nothing where one did not."""
    reason = ""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_SECONDS * 2 ** (number - 1))
        try:
            _within(attempt)
            return ""
        except _FailedError as error:
            reason = str(error)
    return f"The notification of {whom} failed {TRIES} times: {reason}."


def _within(attempt: Callable[[float], None]) -> None:
    """One try, which is left to itself when its time is over: a server may answer a byte at a time."""
    failures: list[Exception | None] = []

    def work() -> None:
        try:
            attempt(TRY_SECONDS)
            failures.append(None)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TRY_SECONDS)
    if not failures:
        raise _FailedError(f"there was no answer in {TRY_SECONDS:g} seconds")
    if (error := failures[0]) is not None:
        reason = without_urls(" ".join(str(error).split()))[:200].rstrip(".")
        raise _FailedError(reason or type(error).__name__) from error


def _post(url: str, body: bytes, seconds: float) -> None:
    """Raises OSError where nobody answers, and _FailedError for a status that is not from 200 to 299."""
    here: tuple[ProxyHandler, ...] = (ProxyHandler({}),) if is_loopback(urlsplit(url).hostname or "") else ()
    headers = {"Content-Type": "application/json", "User-Agent": "elastiform"}
    request = Request(url, data=body, headers=headers, method="POST")
    try:
        with build_opener(_NoRedirects(), *here).open(request, timeout=seconds):
            pass
    except HTTPError as error:
        error.close()
        raise _FailedError(f"it answered with status {error.code}") from None


def _run(command: Sequence[str], body: bytes, seconds: float) -> None:
    environment: Mapping[str, str] = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
    try:
        process.communicate(body, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise _FailedError(f"it had not ended after {seconds:g} seconds") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.returncode != 0:
        raise _FailedError(f"it ended with exit code {process.returncode}")
