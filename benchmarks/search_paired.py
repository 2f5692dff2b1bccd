"""Two versions of a searcher compared seed by seed, by the folders of two runs of `search.py`.

PYTHONPATH=OTHER_CHECKOUT python benchmarks/search.py --folder before --only cpu --methods surrogate
python benchmarks/search.py --folder after --only cpu --methods surrogate
python benchmarks/search_paired.py before after
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from search_runs import COUNTS, Outcome, outcomes_in
from search_tables import GOAL, counted, reached, volume

METHOD = "surrogate"


def print_pairs(before: Sequence[Outcome], after: Sequence[Outcome], problem: str) -> None:
    """Mean hypervolume by evaluations, over the seeds that both have, and how much each seed gains."""
    pairs = [
        (old, new)
        for old in sorted(before, key=lambda one: one.seed)
        for new in after
        if (old.task, METHOD, problem) == (new.task, old.method, old.problem)
    ]
    for count in COUNTS:
        values = np.array([[volume(one, count) for one in pair] for pair in pairs])
        if len(values) > 1 and np.isfinite(values).all():
            old, new = values.mean(axis=0)
            gains = values[:, 1] - values[:, 0]
            error = gains.std(ddof=1) / np.sqrt(len(gains))
            print(
                f"| {problem} | {len(pairs)} | {count} | {old:.3f} | {new:.3f} "
                f"| {gains.mean():+.4f} ± {error:.4f} | {(gains > 0).sum()} |"
            )


def print_goals(before: Sequence[Outcome], after: Sequence[Outcome], problem: str) -> None:
    """Evaluations to 99 %, and the searcher's CPU time a subnet over the whole search."""
    cells = []
    for outcomes in (before, after):
        runs = [one for one in outcomes if (one.problem, one.method) == (problem, METHOD)]
        spent = np.mean([1e3 * one.cpu_s[-1] / one.evaluations for one in runs])
        cells.append((counted([reached(one, GOAL) for one in runs]), f"{spent:.1f} to {runs[0].evaluations}"))
    (old, old_cpu), (new, new_cpu) = cells
    print(f"| {problem} | {old} | {new} | {old_cpu} | {new_cpu} |")


def main(argv: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    args = parser.parse_args(argv)
    before, after = (outcomes_in(folder) for folder in (args.before, args.after))
    problems = [
        name for name in dict.fromkeys(one.problem for one in before) if name in {o.problem for o in after}
    ]
    print("| problem | seeds | evaluations | before | after | after less before | seeds that gain |")
    print("|---|---|---|---|---|---|---|")
    for problem in problems:
        print_pairs(before, after, problem)
    print("\n| problem | to 99 %, before | after | CPU ms a subnet, before | after |\n|---|---|---|---|---|")
    for problem in problems:
        print_goals(before, after, problem)


if __name__ == "__main__":
    main()
