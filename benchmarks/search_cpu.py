"""What a proposal of `surrogate` costs after so many evaluations: CPU time of one thread, no search before.

Random architectures are told, then a few batches are asked for and told; all but the first are timed.

    python benchmarks/search_cpu.py
    PYTHONPATH=OTHER_CHECKOUT python benchmarks/search_cpu.py
"""

import argparse
import os
import time
from collections.abc import Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from search_methods import BATCH, Ours, described
from search_problems import PROBLEMS, Problem, problem

COUNTS = (250, 500, 1000, 1350, 5000)
BATCHES = 5


def spent(made: Problem, count: int) -> float:
    """CPU milliseconds a proposal of BATCHES batches after `count` evaluations."""
    rng = np.random.default_rng(0)
    searched = described(made, 0, 2 * COUNTS[-1])
    method = Ours("surrogate", searched)
    codes = np.unique(made.space.sample_choices(rng, 2 * count), axis=0)
    codes = rng.permutation(searched.moved(codes, rng))
    codes = np.unique(codes[made.within_limits(codes)], axis=0)
    told = rng.permutation(codes)[: count - count % BATCH]
    method.take(told, made.told(told, 0))
    _batch(method, made)  # a search has a model of the batch before
    return 1e3 * sum(_batch(method, made) for _ in range(BATCHES)) / (BATCHES * BATCH)


def _batch(method: Ours, made: Problem) -> float:
    """CPU seconds of the searcher for another batch."""
    begin = time.process_time()
    asked = method.ask(BATCH)
    spent_asking = time.process_time() - begin
    values = made.told(asked, 0)
    begin = time.process_time()
    method.tell(values, made.outside(asked))
    return spent_asking + time.process_time() - begin


def main(argv: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(COUNTS))
    args = parser.parse_args(argv)
    print("| problem | choices | " + " | ".join(f"after {count}" for count in args.counts) + " |")
    print("|---|---|" + "---|" * len(args.counts))
    spent(problem("mat"), BATCH * 4)  # imports
    for name in args.problems:
        made = problem(name)
        cells = [f"{spent(made, count):.1f}" for count in args.counts]
        print(f"| {name} | {len(made.space.choices)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
