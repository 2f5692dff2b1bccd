"""What `nas export-optuna` costs: seconds for each thousand trials, into a SQLite file and into a journal.

    python benchmarks/optuna_export.py [--trials 200] [SPACE ...]

Trials of a made-up search. A search of n trials takes n / 1,000 times as long. docs/search.md has the result.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import search_spaces
from nas.results.optuna_study import export
from nas.store import Job, NewEvaluation, NewSubnet, Store
from search_spaces import SearchSpace

SPACES = ("matformer", "autoformer_tiny")
FILES = {"SQLite": "sqlite:///{}/studies.db", "journal": "{}/studies.log"}


def searched(store: Store, space: SearchSpace, trials: int) -> Job:
    """A job whose search has evaluated so many subnets."""
    archs = space.decode(space.sample_choices(np.random.default_rng(0), trials))
    costs = [space.cost(arch) for arch in archs]
    evaluations = [
        NewEvaluation(
            NewSubnet(arch.key, arch.to_dict(), cost.params, cost.macs),
            0.5,
            objectives={"accuracy": 0.5, "latency_ms": 2.0},
            position=position,
            stderr=0.01,
        )
        for position, (arch, cost) in enumerate(zip(archs, costs, strict=True))
    ]
    job = store.create_job(space.name, config={}, seed=0, provenance={})
    described = {"family": space.family, "options": dict(space.options), "size": str(space.size)}
    with store.acquire(job) as lease:
        store.begin_stage(lease, "space", "key")
        store.finish_stage(lease, "space", {"space": described})
        store.add_evaluations(lease, evaluations)
        lease.finish("succeeded")
    return job


def seconds_per_thousand(store: Store, job: Job, storage: str) -> tuple[float, float]:
    """Of wall time and of CPU time."""
    start, begun = time.perf_counter(), time.process_time()
    trials = export(store, job, storage).trials
    wall, cpu = time.perf_counter() - start, time.process_time() - begun
    return 1000 * wall / trials, 1000 * cpu / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("spaces", nargs="*", default=SPACES, metavar="SPACE")
    parser.add_argument("--trials", type=int, default=200)
    asked = parser.parse_args()
    print("| space (parameters a trial) | storage | s for 1,000 trials | of these CPU |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/store.sqlite") as store:
        for name in asked.spaces:
            space = search_spaces.get(name)
            job = searched(store, space, asked.trials)
            for kind, storage in FILES.items():
                below = Path(folder) / f"{name}-{kind}"
                below.mkdir()
                wall, cpu = seconds_per_thousand(store, job, storage.format(below))
                print(f"| {name} ({len(space.choices)}) | {kind} | {wall:.1f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()
