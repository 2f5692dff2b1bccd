"""The searched job run with its evaluations timed, for `search.py`: what searching costs beside them.

Processes of the pool are spawned: each imports the script again, and with it this module, whose last lines
have the evaluations of that process timed.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quickstart import StageClock

from nas import pipeline
from nas.config import load_config
from nas.jobs import create
from nas.store import Job, Store
from search_spaces import Architecture
from search_spaces.errors import NotFoundError, UsageError
from supernet.evaluation import scores

FILE = Path(__file__).parent / "searched_job.yaml"
JOB = "search-benchmark"
JOBS = {"search-benchmark": (), "search-benchmark-whole": ("search.racing=null",)}  # jobs and their settings
FOLDER = "NAS_BENCHMARK_TIMES"  # variable of the environment: where processes write what they have spent
SEARCH = "search"


class Clock(StageClock):
    """CPU seconds by stage, and of these what the processes of the pool spent in starting and evaluating."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self._current = folder, "start"
        self.evaluating: dict[str, dict[str, float]] = {}
        self._before = self._spent()

    def stage(self, name: str) -> None:
        super().stage(name)
        spent = self._spent()
        self.evaluating[self._current] = {key: spent[key] - self._before[key] for key in spent}
        self._current, self._before = name, spent

    def _spent(self) -> dict[str, float]:
        files = sorted(self._folder.glob("times-*.json"))
        each = [json.loads(path.read_text(encoding="utf-8")) for path in files]
        return {key: sum(times[key] for times in each) for key in ("start", "evaluation", "calls")}


def searched_job(folder: Path, name: str = JOB) -> tuple[Store, Job]:
    """The finished job of that name in the folder's store; it runs first where there is none.

    One that was interrupted goes on, but then nobody knows what its search cost in all.
    """
    store = Store.open(f"sqlite:///{folder / 'searched.db'}")
    try:
        job = store.job(name)
    except NotFoundError:
        _timed_run(store, create(store, load_config(FILE, JOBS[name]), name=name), folder)
    else:
        if job.state != "succeeded":
            pipeline.run(store, job, progress=StageClock())
    return store, store.job(name)


def _timed_run(store: Store, job: Job, folder: Path) -> None:
    times = folder / "times"
    times.mkdir(exist_ok=True)
    for path in times.glob("times-*.json"):
        path.unlink()
    os.environ[FOLDER] = str(times)
    clock = Clock(times)
    pipeline.run(store, job, progress=clock)
    clock.stage("end")
    del os.environ[FOLDER]
    told = {"seconds": clock.seconds, "evaluating": clock.evaluating}
    _times(folder, job.name).write_text(json.dumps(told), encoding="utf-8")


def _times(folder: Path, name: str) -> Path:
    return folder / f"overhead-{name}.json"


def print_overhead(folder: Path) -> None:
    """CPU seconds of the job's search: evaluations, starting the processes, and all the rest.

    Raises UsageError where the job of the folder was interrupted.
    """
    print("\nThe search of `searched_job.yaml`, CPU seconds of all its processes\n")
    print(
        "| racing | subnets | forward passes | the rest | share of the rest, % | share of the whole job, % "
        "| starting the pool | the rest, ms a subnet |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in JOBS:
        store, job = searched_job(folder, name)
        with store:
            count = len(store.evaluations(job, SEARCH))
        if not _times(folder, name).exists():
            raise UsageError(
                f"The job of {folder} was interrupted: its times are not known.", "Take a new folder."
            )
        told = json.loads(_times(folder, name).read_text(encoding="utf-8"))
        search, inside = told["seconds"][SEARCH], told["evaluating"][SEARCH]
        forward, running = inside["evaluation"], search - inside["start"]
        rest, job_seconds = running - forward, sum(told["seconds"].values())
        print(
            f"| {'on' if name == JOB else 'off'} | {count} | {forward:.1f} | {rest:.2f} "
            f"| {100 * rest / running:.1f} | {100 * rest / job_seconds:.1f} | {inside['start']:.1f} "
            f"| {1e3 * rest / count:.1f} |"
        )


def _timed(folder: Path) -> None:
    """Has `scored` write how much CPU time this process has spent in it, less that in fetching images."""
    scored, spent = scores.scored, {"start": 0.0, "evaluation": 0.0, "calls": 0}
    path = folder / f"times-{os.getpid()}.json"

    def timed(net: Any, archs: Sequence[Architecture], batches: Iterable[Any], **options: Any) -> Any:
        begin = time.process_time()
        spent["start"] = spent["start"] or begin
        fetching = [0.0]
        hits = scored(net, archs, _fetched(batches, fetching), **options)
        spent["evaluation"] += time.process_time() - begin - fetching[0]
        spent["calls"] += 1
        path.write_text(json.dumps(spent), encoding="utf-8")
        return hits

    scores.scored = timed


def _fetched(batches: Iterable[Any], fetching: list[float]) -> Iterator[Any]:
    """The same batches; adds up the CPU time that it took to get each."""
    iterator = iter(batches)
    while True:
        begin = time.process_time()
        batch = next(iterator, None)
        fetching[0] += time.process_time() - begin
        if batch is None:
            return
        yield batch


if FOLDER in os.environ:
    _timed(Path(os.environ[FOLDER]))
