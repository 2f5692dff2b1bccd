"""Searchers compared on problems with a known truth, and what searching costs; `search.md` explains it all.

    python benchmarks/search.py --folder FOLDER                # everything; many CPU hours
    python benchmarks/search.py --folder FOLDER --only curves --problems mat --methods surrogate nsga2
    python benchmarks/search.py --folder FOLDER --only store overhead

FOLDER keeps each search, the fronts and the searched job: an interrupted run goes on with them. Take a
new one when a searcher has changed.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is there: CPU times are those of one thread

from search_overhead import print_overhead
from search_problems import PROBLEMS, additive_share
from search_real import REAL
from search_runs import Outcome, outcomes, setting, tasks
from search_store import print_store
from search_tables import by_method, print_cpu, print_ratios, print_regrets, print_volumes

PARTS = ("curves", "real", "cpu", "store", "overhead")
MOST_PROCESSES = 2


def searched(args: argparse.Namespace, problems: Sequence[str]) -> list[Outcome]:
    """All searches on the problems, from the folder or run now."""
    wanted = tasks(problems, args.methods, args.seeds, args.evaluations, args.folder)
    return outcomes(wanted, args.folder, args.processes)


def print_curves(args: argparse.Namespace, problems: Sequence[str]) -> None:
    """Everything about how good the searches are, one problem after the other."""
    found = searched(args, problems)
    for name in problems:
        made, best = setting(name, args.folder)
        kind = "exact" if best.exact else "the best that long searches found"
        size = f"{made.space.size:.3g} architectures, {len(made.space.choices)} choices"
        print(f"\n## {name}: {size}; front of {len(best.front)}, {kind}")
        share = 100 * additive_share(made)
        print(f"\nA sum over the choices explains {share:.1f} % of the variance of quality.")
        methods = by_method(found, name)
        for table in (print_volumes, print_ratios, print_regrets):
            table(methods)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--problems", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=1000, help="of each search; default: 1,000")
    parser.add_argument("--processes", type=int, choices=range(1, MOST_PROCESSES + 1), default=MOST_PROCESSES)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    if "curves" in args.only:
        print_curves(args, args.problems)
    if "real" in args.only:
        print_curves(args, [REAL])
    if "cpu" in args.only:
        print("\n## Searchers' own CPU time, ms a subnet")
        print_cpu(searched(args, args.problems), args.problems)
    if "store" in args.only:
        print_store(args.seeds)
    if "overhead" in args.only:
        print_overhead(args.folder)


if __name__ == "__main__":
    main()
