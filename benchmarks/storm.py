"""Whether the queue loses anything, whatever is killed: workers over stub jobs, and random faults.

    python benchmarks/storm.py --kills 100                  # SQLite
    python benchmarks/storm.py --kills 100 --postgresql     # in a server of its own, which is killed, too

Faults: kill -9 of a worker or of its job's process, SIGTERM to a worker, SIGSTOP of both for longer than the
lease, a disk that is full for a second (RLIMIT_FSIZE of both); with PostgreSQL a crash or a restart of the
server, or all its connections cut.
How far it is stands on stderr, once a minute. A storm in which nothing can be struck for five minutes is
given up.

lost: jobs that have not succeeded.  twice: writes that were acknowledged more than once.  wrong: what a job
holds otherwise than its seed says (`benchmarks/stub_job.py`), and what the invariant checker finds.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import stub_job
from postgresql_server import Server, server_of

from nas.errors import StoreError
from nas.queue.worker import Worker
from nas.store import NewJob, Store, Submission
from nas.store.queue import waiting

WORKERS = 4
LEASE = 3.0
JOB_PAUSE = 0.15  # before every write of a job, so that kills hit all of them
PAUSES = (0.05, 0.6)  # seconds between two faults
FULL_BYTES, FULL_SECONDS = 30_000, 1.0
DOWN_SECONDS = 1.0
LEAST_WAITING, SUBMITTED = 8, 20
DRAIN_SECONDS = 600.0
TELL_SECONDS, CALM_SECONDS = 60.0, 300.0
FAULTS = {"kill worker": 30, "kill job": 35, "terminate": 10, "suspend": 8, "full disk": 8}
SERVER_FAULTS = {"server crash": 3, "server restart": 2, "connections cut": 4}
COMMAND = (sys.executable, str(Path(__file__).with_name("stub_job.py")))
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@dataclass
class Storm:
    """The workers of one storm, and what was done to them."""

    url: str
    folder: Path
    draw: random.Random
    server: Server | None = None
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    later: list[tuple[float, int, str]] = field(default_factory=list)  # when, to which process, what

    def tend(self) -> None:
        """Replaces the workers that have ended, and ends what was to last for a while only."""
        environment = os.environ | {"STORM_TOLD": str(self.folder / "told"), "STORM_LEASE": str(LEASE)}
        environment |= {"STORM_PAUSE": str(JOB_PAUSE)}
        command = [sys.executable, __file__, "--work", self.url]
        self.workers = [one for one in self.workers if one.poll() is None]
        while len(self.workers) < WORKERS:
            with (self.folder / "workers").open("ab") as output:
                started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            self.workers.append(started)
        due = [one for one in self.later if one[0] <= time.monotonic()]
        self.later = [one for one in self.later if one not in due]
        for _, pid, what in due:
            with suppress(ProcessLookupError):
                if what == "suspend":
                    os.kill(pid, signal.SIGCONT)
                else:
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, UNLIMITED)

    def strike(self) -> None:
        """One fault."""
        faults = FAULTS | (SERVER_FAULTS if self.server is not None else {})
        what = self.draw.choices(list(faults), list(faults.values()))[0]
        busy = [(one, jobs) for one in self.workers if (jobs := _children(one.pid))]
        if not busy:
            return
        worker, jobs = self.draw.choice(busy)
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if what in SERVER_FAULTS:
                self._strike_server(what)
            elif what == "kill job":
                jobs[0].kill()
            elif what in ("kill worker", "terminate"):
                worker.send_signal(signal.SIGKILL if what == "kill worker" else signal.SIGTERM)
            else:
                for pid in (worker.pid, *(job.pid for job in jobs)):
                    self._strike_for_a_while(pid, what)
            self.done[what] += 1

    def _strike_for_a_while(self, pid: int, what: str) -> None:
        if what == "suspend":
            os.kill(pid, signal.SIGSTOP)
        else:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))
        seconds = 1.6 * LEASE if what == "suspend" else FULL_SECONDS
        self.later.append((time.monotonic() + seconds, pid, what))

    def _strike_server(self, what: str) -> None:
        assert self.server is not None, "the fault is one of a server"
        if what == "connections cut":
            self.server.cut_connections(self.url)
            return
        if what == "server crash":
            self.server.crash()
        else:
            self.server.stop("fast")
        time.sleep(DOWN_SECONDS)
        self.server.start()

    def end(self) -> None:
        """Ends the workers, also those that are suspended."""
        for _, pid, what in self.later:
            with suppress(ProcessLookupError):
                if what == "suspend":
                    os.kill(pid, signal.SIGCONT)
        for worker in self.workers:
            with suppress(ProcessLookupError):
                worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            worker.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", action="store_true", help="in a server of its own")
    parser.add_argument("--work", metavar="URL", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work)
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # not without its server
    with tempfile.TemporaryDirectory(prefix="nas-storm-") as name, server_of(asked.postgresql) as server:
        folder = Path(name)
        os.environ["NAS_ARTIFACTS"] = str(folder / "artifacts")
        url = f"sqlite:///{folder / 'nas.db'}" if server is None else server.create("storm")
        began = time.perf_counter()
        with Store.open(url) as store:
            storm = Storm(url, folder, random.Random(asked.seed), server)
            try:
                drain_after(storm, store, asked.kills)
            finally:
                storm.end()
            seconds = time.perf_counter() - began
            wrong = tell(storm, store, seconds=seconds)
        sys.exit(1 if wrong else 0)


def work(url: str) -> None:
    """A worker of the storm."""
    stub_job.use_lease_of(LEASE)
    try:
        with Store.open(url) as store:
            Worker(store, COMMAND, tell=lambda line: None).run()
    except StoreError as error:  # another one is started
        print(error, flush=True)


def drain_after(storm: Storm, store: Store, kills: int) -> None:
    """The storm, and then the calm in which all that is left is done."""
    waiting.MAX_ATTEMPTS = kills + 10  # what kills a job here is no fault of its own
    told_at = struck_at = time.monotonic()
    while (before := storm.done.total()) < kills:
        if len(store.waiting()) < LEAST_WAITING:
            submit(store, storm.draw)
        storm.tend()
        time.sleep(storm.draw.uniform(*PAUSES))
        storm.strike()
        now = time.monotonic()
        struck_at = now if storm.done.total() > before else struck_at
        if now - struck_at > CALM_SECONDS:
            sys.exit(f"nothing could be struck for {CALM_SECONDS:g} seconds, after {before} kills")
        if now - told_at > TELL_SECONDS:
            told_at = now
            print(f"{storm.done.total()} of {kills} kills", file=sys.stderr, flush=True)
    deadline = time.monotonic() + DRAIN_SECONDS
    while any(job.state in ("queued", "running") for job in store.jobs()) and time.monotonic() < deadline:
        storm.tend()
        time.sleep(0.2)


def submit(store: Store, draw: random.Random) -> None:
    """Queues some more jobs, each with a seed of its own."""
    seeds = [draw.randrange(2**31) for _ in range(SUBMITTED)]
    values = [{"config": {}, "seed": seed, "provenance": {}} for seed in seeds]
    store.submit([NewJob("job", None, one, Submission(priority=draw.randrange(3))) for one in values])


def tell(storm: Storm, store: Store, *, seconds: float) -> bool:
    """Prints what became of the jobs; whether anything is not as it must be."""
    from nas.analysis.invariants import problems  # noqa: PLC0415 - imports torch, which no worker here needs

    jobs = store.jobs()
    lost = [f"job {job.id} {job.state}: {job.error}" for job in jobs if job.state != "succeeded"]
    lines = [line.split() for line in (storm.folder / "told").read_text().splitlines()]
    counts = Counter((job, *what[:2]) for job, _, *what in lines)
    twice = [f"job {job} told twice: {' '.join(what)}" for (job, *what), n in counts.items() if n > 1]
    ended = [job.id for job in jobs if job.state == "succeeded"]
    wrong = [f"job {number}: {what}" for number in ended for what in stub_job.wrong(store, number)]
    wrong += [f"invariant: {problem}" for problem in problems(storm.url)]
    attempts = [job.attempt for job in jobs]
    name = "SQLite" if storm.server is None else "PostgreSQL"
    print(f"{name}: {storm.done.total()} kills in {seconds:.0f} s")
    print("  " + ", ".join(f"{what} {count}" for what, count in sorted(storm.done.items())))
    print(f"  jobs {len(jobs)}, attempts {sum(attempts)}, at most {max(attempts)} at one job")
    print(f"  acknowledged writes {len(lines)}")
    print(f"  lost {len(lost)}, twice {len(twice)}, wrong {len(wrong)}")
    for line in (*lost, *twice, *wrong)[:50]:
        print(f"  {line}")
    return bool(lost or twice or wrong)


def _children(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children()
    return []


if __name__ == "__main__":
    main()
