"""What the queue costs, and whether it loses anything: many workers, made-up jobs, kills.

    python benchmarks/claims.py                    # SQLite: 8 workers, 200 jobs
    python benchmarks/claims.py --kills 20         # that many are killed and replaced
    python benchmarks/claims.py --rate 50          # so many evaluations a second, for --seconds 60
    python benchmarks/claims.py --postgresql       # any of them, in a server of its own, or at a URL

A worker here takes jobs by the store's own calls; its job renews the lease five times in a tenth of a
second and succeeds. With kills a lease lasts two seconds instead of thirty, and a job has as many attempts as
there are kills and one: these are no fault of the job.

With --rate every worker takes one job and writes its share of the evaluations, each in a transaction of its
own when its time has come; they begin when all have one. late: how far behind its time a write was begun.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import stub_job
from postgresql_server import server_of

from nas.store import Job, NewJob, Store, Submission, leases
from nas.store.queue import waiting

RENEWALS, PAUSE_SECONDS = 5, 0.02
SHORT_LEASE = 2.0
PRIORITIES = 5
LIMIT_SECONDS = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, help="evaluations a second, by all workers together")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long")
    parser.add_argument(
        "--postgresql",
        metavar="URL",
        nargs="?",
        const="",
        help="of an empty database; without: a server of its own",
    )
    parser.add_argument("--work", nargs=2, metavar=("URL", "LEASE"), help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=3, metavar=("URL", "RATE", "COUNT"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        work(asked.work[0], float(asked.work[1]))
        return
    if asked.write:
        write(asked.write[0], float(asked.write[1]), int(asked.write[2]))
        return
    with tempfile.TemporaryDirectory() as folder, server_of(asked.postgresql == "") as server:
        url = asked.postgresql or f"sqlite:///{Path(folder) / 'nas.db'}"
        url = url if server is None else server.create("claims")
        if asked.rate is not None:
            rated(url, asked, folder=Path(folder))
            return
        waiting.MAX_ATTEMPTS = max(waiting.MAX_ATTEMPTS, asked.kills + 1)
        submit(url, asked.jobs, seed=asked.seed)
        began = time.perf_counter()
        ran = run(url, asked.workers, asked.kills, folder=Path(folder), seed=asked.seed)
        seconds = time.perf_counter() - began
        with Store.open(url, read_only=True) as store:
            tell(ran, store.jobs(), seconds=seconds)


def submit(url: str, count: int, *, seed: int) -> None:
    """Queues the jobs, of random priorities."""
    draw = random.Random(seed)
    values = {"config": {}, "seed": 0, "provenance": {}}
    new = [NewJob("job", None, values, Submission(priority=draw.randrange(PRIORITIES))) for _ in range(count)]
    with Store.open(url) as store:
        store.submit(new)


def work(url: str, lease_seconds: float) -> None:
    """A worker: says what it takes, with attempt, priority and milliseconds, what it renews and ends."""
    leases.LEASE_SECONDS = waiting.LEASE_SECONDS = lease_seconds
    with Store.open(url) as store:
        while True:
            began = time.perf_counter()
            claim = store.take_job()
            taken_ms = 1e3 * (time.perf_counter() - began)
            if claim is None:
                if not any(job.state in ("queued", "running") for job in store.jobs()):
                    return
                time.sleep(0.2)
                continue
            print("takes", claim.job.id, claim.job.attempt, claim.job.priority, taken_ms, flush=True)
            with claim, store.join_claim(claim.job, claim.owner) as lease:
                for _ in range(RENEWALS):
                    began = time.perf_counter()
                    lease.check()
                    print("renews", 1e3 * (time.perf_counter() - began), flush=True)
                    time.sleep(PAUSE_SECONDS)
                lease.finish("succeeded")
            print("ends", claim.job.id, flush=True)


def write(url: str, rate: float, count: int) -> None:
    """A worker of --rate: says when it begins, and of every evaluation what it took and how late it was."""
    with Store.open(url) as store:
        claim = store.take_job()
        assert claim is not None, "there is a job for every worker"
        with claim, store.join_claim(claim.job, claim.owner) as lease:
            until = time.monotonic() + LIMIT_SECONDS
            while store.waiting() and time.monotonic() < until:  # until every worker has its job
                time.sleep(0.1)
            begun = time.time()
            print("begins", begun, flush=True)
            for position in range(count):
                time.sleep(max(0.0, begun + position / rate - time.time()))
                late_ms = 1e3 * (time.time() - begun - position / rate)
                began = time.perf_counter()
                store.add_evaluations(lease, [stub_job.evaluation(claim.job.seed, position)])
                print("late", late_ms, flush=True)
                print("writes", 1e3 * (time.perf_counter() - began), flush=True)
                if position % 10 == 0:
                    began = time.perf_counter()
                    lease.check()
                    print("renews", 1e3 * (time.perf_counter() - began), flush=True)
            print("ends", time.time(), flush=True)
            lease.finish("succeeded")


def rated(url: str, asked: argparse.Namespace, *, folder: Path) -> None:
    """Runs --rate, and prints what came of it."""
    rate, count = asked.rate / asked.workers, round(asked.rate * asked.seconds / asked.workers)
    submit(url, asked.workers, seed=asked.seed)
    command = [sys.executable, __file__, "--write", url, str(rate), str(count)]
    workers = [started(command, folder / f"writer-{number}.txt") for number in range(asked.workers)]
    for worker in workers:
        worker.process.wait(LIMIT_SECONDS + asked.seconds)
    lines = [line for worker in workers for line in worker.lines]
    first, last = (
        choose([float(line[1]) for line in lines if line[0] == word] or [0.0])
        for word, choose in (("begins", min), ("ends", max))
    )
    with Store.open(url, read_only=True) as store:
        jobs = store.jobs()
        stored = [evaluation.position for job in jobs for evaluation in store.evaluations(job)]
        whole = [sorted(e.position for e in store.evaluations(job)) == list(range(count)) for job in jobs]
    words = ("begins", "late", "writes", "renews", "ends")
    told = sum(line[0] == "writes" for line in lines if line)
    print(f"evaluations {told} of {count * asked.workers}, workers {asked.workers}, ", end="")
    print(f"{told / (last - first):.1f} a second for {last - first:.1f} s")
    print(f"stored {len(stored)}, jobs that hold each of theirs once {sum(whole)}, ", end="")
    print(f"lines of errors {sum(line[:1] == [] or line[0] not in words for line in lines)}")
    tell_ms(lines, {"writes": "write", "late": "late", "renews": "renewal"})


def started(command: Sequence[str], output: Path) -> "Worker":
    """A worker's process, which has begun."""
    with output.open("wb") as file:
        return Worker(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), output)


@dataclass(frozen=True)
class Worker:
    """A worker's process, and the file of what it says."""

    process: "subprocess.Popen[bytes]"
    output: Path

    @property
    def is_at_work(self) -> bool:
        """Whether it runs and has taken a job."""
        return self.process.poll() is None and b"takes" in self.output.read_bytes()

    @property
    def lines(self) -> list[list[str]]:
        """What it has said, as words; half of a line is what a kill has left."""
        return [line.split() for line in self.output.read_text().rpartition("\n")[0].splitlines()]


def run(url: str, workers: int, kills: int, *, folder: Path, seed: int) -> list[Worker]:
    """All workers when the last one has ended; each that is killed is followed by another one."""
    draw, workers_so_far = random.Random(seed), list[Worker]()
    command = [sys.executable, __file__, "--work", url, str(SHORT_LEASE if kills else leases.LEASE_SECONDS)]

    def start() -> Worker:
        workers_so_far.append(started(command, folder / f"worker-{len(workers_so_far)}.txt"))
        return workers_so_far[-1]

    running, deadline = [start() for _ in range(workers)], time.monotonic() + LIMIT_SECONDS
    while kills and time.monotonic() < deadline and any(one.process.poll() is None for one in running):
        time.sleep(draw.uniform(0.1, 0.5))
        place = draw.randrange(workers)
        if running[place].is_at_work:
            running[place].process.kill()
            running[place].process.wait()
            running[place], kills = start(), kills - 1
    for one in running:
        one.process.wait(max(0.0, deadline - time.monotonic()))
    return workers_so_far


def tell(workers: Sequence[Worker], jobs: Sequence[Job], *, seconds: float) -> None:
    """Prints what became of the jobs, and what claims and renewals took."""
    kills = sum(worker.process.returncode < 0 for worker in workers)
    lines = [line for worker in workers for line in worker.lines]
    ends = Counter(line[1] for line in lines if line[0] == "ends")
    words = ("takes", "renews", "ends")
    print(f"jobs {len(jobs)}, workers {len(workers) - kills}, kills {kills}, {seconds:.1f} s")
    print(f"succeeded {sum(job.state == 'succeeded' for job in jobs)}, ", end="")
    print(f"lost {sum(job.state != 'succeeded' for job in jobs)}, ", end="")
    print(f"ended twice {sum(count > 1 for count in ends.values())}, ", end="")
    print(f"begun again {sum(job.attempt > 1 for job in jobs)}, ", end="")
    print(f"lines of errors {sum(line[:1] == [] or line[0] not in words for line in lines)}")
    for job in jobs:
        if job.state != "succeeded":
            takers = [one for one in workers if any(line[:2] == ["takes", str(job.id)] for line in one.lines)]
            killed = sum(one.process.returncode < 0 for one in takers)
            print(f"job {job.id}: {job.state} in attempt {job.attempt}; {killed} who took it were killed")
    if not kills:
        turns = [[int(line[3]) for line in worker.lines if line[0] == "takes"] for worker in workers]
        print(f"workers that saw priorities rise: {sum(t != sorted(t, reverse=True) for t in turns)}")
    tell_ms(lines, {"takes": "claim", "renews": "renewal"})


def tell_ms(lines: Sequence[Sequence[str]], names: Mapping[str, str]) -> None:
    """Prints of the lines that begin with each word how their last numbers are distributed."""
    for word, name in names.items():
        ms = [float(line[-1]) for line in lines if line and line[0] == word]
        p50, p99, most = np.percentile(ms, [50, 99, 100])
        print(f"{name}: {len(ms)}, median {p50:.1f} ms, 99 % {p99:.1f} ms, longest {most:.1f} ms")


if __name__ == "__main__":
    main()
