"""What writing a batch of evaluations into the store costs, for `search.py`."""

import time
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import numpy as np
from search_methods import BATCH
from search_problems import problem

from nas.store import NewEvaluation, NewSubnet, Store

BATCHES = 40
SPACES = ("mat", "mixed50")


def print_store(seeds: int) -> None:
    """CPU ms of a row in SQLite, one transaction a batch; mean and standard deviation of the seeds."""
    print(f"\nStore (SQLite), {BATCHES} transactions of {BATCH} rows, {seeds} seeds\n")
    print("| choices of the space | CPU ms a row | worst seed |\n|---|---|---|")
    for name in SPACES:
        spent = np.array([_spent(name, seed) for seed in range(seeds)])
        count = len(problem(name).space.choices)
        print(
            f"| {count} | {spent.mean():.3f} ± {spent.std(ddof=min(1, seeds - 1)):.3f} | {spent.max():.3f} |"
        )


def _spent(name: str, seed: int) -> float:
    """CPU ms a row, without making the rows."""
    batches = list(_batches(name, seed))
    with TemporaryDirectory() as place, Store.open(f"sqlite:///{place}/s.db") as store:
        job = store.create_job("rows", config={}, seed=seed, provenance={})
        with store.acquire(job) as lease:
            store.add_evaluations(lease, batches[0])  # the first one prepares the statements
            begin = time.process_time()
            for batch in batches[1:]:
                store.add_evaluations(lease, batch)
            spent = time.process_time() - begin
            lease.finish("succeeded")
    return 1e3 * spent / sum(map(len, batches[1:]))


def _batches(name: str, seed: int) -> Iterator[list[NewEvaluation]]:
    made = problem(name)
    drawn = made.space.sample_choices(np.random.default_rng(seed), 2 * BATCH * (BATCHES + 1))
    codes = np.unique(drawn, axis=0)[: BATCH * (BATCHES + 1)]
    told, archs = made.truth(codes), made.space.decode(codes)
    for start in range(0, len(codes), BATCH):
        yield [
            NewEvaluation(
                NewSubnet(archs[i].key, archs[i].to_dict(), params=1, macs=1),
                -float(told[i, 0]),
                stderr=0.01,
                count=1800,
                batch=start // BATCH,
                position=i,
                objectives=dict(zip(made.objectives, map(float, told[i]), strict=True)),
            )
            for i in range(start, min(start + BATCH, len(codes)))
        ]
