"""A job without any learning: its checkpoints, evaluations and front follow from its seed alone.

It writes what a real job writes, in the same order and by the same calls of the store, so that what a kill
leaves can be compared with what must be there. `python benchmarks/stub_job.py` is what a worker starts.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nas.artifacts import verified, write_atomic
from nas.errors import NoSpaceError
from nas.store import Lease, NewEvaluation, NewEvent, NewSubnet, Store, leases
from nas.store.connection.errors import os_words
from nas.store.queue import waiting
from predictors.measurement.labels import Measurement

STEPS, FILE_BYTES = 3, 65_536
BATCHES, BATCH = 4, 3
DEVICE = {"backend": "made up", "threads": 1}


def number(seed: int, name: str) -> float:
    """Between 0 and 1, as if by chance."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:6], "big") / 2**48


def content(seed: int, step: int) -> bytes:
    """Of the checkpoint of a step; the first four bytes tell the step."""
    block = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return step.to_bytes(4, "big") + block * (FILE_BYTES // len(block))


def subnet(seed: int, position: int) -> NewSubnet:
    """The one that the search evaluates at this position."""
    params = 1 + int(1e6 * number(seed, f"params {position}"))
    return NewSubnet(f"s{position:04d}", {"position": position}, params, 2 * params)


def evaluation(seed: int, position: int, split: str = "search") -> NewEvaluation:
    """Of this subnet on a split."""
    new, quality = subnet(seed, position), number(seed, f"{split} {position}")
    objectives = {"accuracy": quality, "params": float(new.params)}
    if split == "report":
        return NewEvaluation(new, quality, split=split, objectives=objectives)
    return NewEvaluation(new, quality, batch=position // BATCH, position=position, objectives=objectives)


def front(seed: int) -> list[int]:
    """The positions of the subnets that no other beats on the search split."""
    points = [(number(seed, f"search {i}"), subnet(seed, i).params, i) for i in range(BATCHES * BATCH)]
    return [i for q, p, i in points if not any(o >= q and s <= p and (o, s) != (q, p) for o, s, _ in points)]


def run(store: Store, lease: Lease, *, pause: float = 0.0, tell: Callable[[str], None] = str) -> None:
    """Runs the job to its end, or goes on where it was left.

    pause: seconds before every write.  tell: told what has been committed, right afterwards.
    """
    job = lease.job

    def once(name: str, make: Callable[[Store, Lease, Callable[[str], None]], None]) -> None:
        stage = store.stage(job, name)
        if stage is None or stage.state != "done":
            store.begin_stage(lease, name, "key")
            make(store, lease, told)
            store.finish_stage(lease, name, {"front": front(job.seed)} if name == "finalists" else {})

    def told(line: str) -> None:
        tell(f"{job.id} {lease.attempt} {line}")
        time.sleep(pause)

    once("train", _train)
    once("search", _search)
    once("finalists", _report)
    lease.finish("succeeded")
    tell(f"{job.id} {lease.attempt} succeeded")


def _train(store: Store, lease: Lease, told: Callable[[str], None]) -> None:
    store.remove_orphans(lease)
    seed, older = lease.job.seed, store.artifacts(lease.job, "checkpoint")
    last = int.from_bytes(verified(store, older[-1]).read_bytes()[:4], "big") if older else 0
    for step in range(last + 1, STEPS + 1):
        # First, as a real training does: a step that is repeated has its event already.
        store.add_events(lease, [NewEvent("train", {"loss": 1 / step}, stage="train", step=step)])
        try:
            path = store.new_artifact_path(lease, "checkpoint", ".bin", step=step)
            write_atomic(path, partial(_write, content(seed, step)))
        except OSError as error:
            raise NoSpaceError(f"The checkpoint cannot be written: {os_words(error)}.") from error
        artifact = store.add_artifact(lease, "checkpoint", path, step=step)
        told(f"file {step} {artifact.sha256}")
    for one in store.artifacts(lease.job, "checkpoint")[:-1]:
        store.remove_artifact(lease, one)


def _write(what: bytes, path: Path) -> None:
    path.write_bytes(what)


def _search(store: Store, lease: Lease, told: Callable[[str], None]) -> None:
    seed, begun = lease.job.seed, store.evaluation_count(lease.job)
    if begun:
        _show(store, lease, begun)  # a crash may have come between the last batch and its point
    for start in range(begun, BATCHES * BATCH, BATCH):
        store.add_evaluations(lease, [evaluation(seed, start + i) for i in range(BATCH)])
        told(f"batch {start // BATCH}")
        _show(store, lease, start + BATCH)


def _show(store: Store, lease: Lease, count: int) -> None:
    point = {"evaluations": count, "hypervolume": 0.5}
    store.add_events(lease, [NewEvent("hypervolume", point, stage="search", step=count)])


def _report(store: Store, lease: Lease, told: Callable[[str], None]) -> None:
    """What is there from before a kill is not told once more."""
    seed, best, device = lease.job.seed, front(lease.job.seed), store.register_device("made-up", DEVICE)
    reported = {one.subnet.key for one in store.evaluations(lease.job, "report")}
    if left := [one for i in best if (one := evaluation(seed, i, "report")).subnet.key not in reported]:
        store.add_evaluations(lease, left)
        told("report")
    if not store.measurements(lease.job, "finalist"):
        timings = [(subnet(seed, i), Measurement(1 + number(seed, f"ms {i}"), 0.01)) for i in best]
        store.add_measurements(lease, timings, device_id=device.id, purpose="finalist")
        told("measured")


def wrong(store: Store, job_id: int) -> list[str]:
    """What a job that has succeeded holds otherwise than its seed says."""
    job = store.job(job_id)
    seed, problems = job.seed, list[str]()
    searched = [(e.subnet.key, e.position, e.value) for e in store.evaluations(job, "search")]
    wanted = [evaluation(seed, i) for i in range(BATCHES * BATCH)]
    if searched != [(e.subnet.key, e.position, e.value) for e in wanted]:
        problems.append("its search is another one")
    reported = {e.subnet.key: e.value for e in store.evaluations(job, "report")}
    if reported != {e.subnet.key: e.value for e in (evaluation(seed, i, "report") for i in front(seed))}:
        problems.append("its front is another one")
    if len(store.measurements(job, "finalist")) != len(front(seed)):
        problems.append("not all of its front is measured once")
    files = [(one.step, one.sha256) for one in store.artifacts(job)]
    if files != [(STEPS, hashlib.sha256(content(seed, STEPS)).hexdigest())]:
        problems.append("its files are others")
    for kind, steps in (("train", STEPS), ("hypervolume", BATCHES)):
        if len(store.events(job, kind)) != steps:
            problems.append(f"its events of kind {kind} are not there once each")
    return problems


def main() -> int:
    """The job's process; settings of the storm come by the environment."""
    claimed = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_worker, daemon=True).start()
    use_lease_of(float(os.environ["STORM_LEASE"]))
    acknowledged = os.open(os.environ["STORM_TOLD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Store.open(claimed["store"]) as store:
        job = store.job(int(claimed["job"]))
        with store.join_claim(job, str(claimed["owner"])) as lease:
            pause = float(os.environ["STORM_PAUSE"])
            run(store, lease, pause=pause, tell=lambda line: _acknowledge(acknowledged, line))
    return 0


def use_lease_of(seconds: float) -> None:
    """Leases of another length, in this process."""
    leases.LEASE_SECONDS = waiting.LEASE_SECONDS = seconds
    leases.BEAT_SECONDS = seconds / 3


def _acknowledge(file: int, line: str) -> None:
    os.write(file, f"{line}\n".encode())


def _end_with_worker() -> None:
    """As `nas.cli.queue.run_claimed` does: the worker alone holds the other end of the standard input."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
