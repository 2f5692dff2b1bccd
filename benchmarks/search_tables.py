"""The tables of `search.py`: every figure is over seeds, and compared seed by seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from search_methods import BATCH
from search_reference import SHARES
from search_runs import COUNTS, STEP, Outcome

STOCK, SEEDED, GOAL = "optuna-nsga2", "nsga2", 0.99
MATCHED_AT = 1000
ByMethod = Mapping[str, Sequence[Outcome]]


def by_method(outcomes: Sequence[Outcome], problem: str) -> dict[str, list[Outcome]]:
    """The outcomes of one problem by method, by seed within it."""
    found: dict[str, list[Outcome]] = {}
    for outcome in sorted(outcomes, key=lambda one: one.seed):
        if outcome.problem == problem:
            found.setdefault(outcome.method, []).append(outcome)
    return found


def volume(outcome: Outcome, count: int) -> float:
    """The hypervolume after so many evaluations; NaN if the search ended before."""
    if outcome.budget < count:
        return float("nan")
    return outcome.volumes[min(count // STEP, len(outcome.volumes)) - 1]


def reached(outcome: Outcome, goal: float) -> float:
    """Evaluations until the hypervolume is at the goal, to the next multiple of STEP; infinite: never."""
    at = np.flatnonzero(np.array(outcome.volumes) >= goal)
    return float(STEP * (at[0] + 1)) if len(at) else float("inf")


def matching(outcomes: Sequence[Outcome], rivals: Sequence[Outcome]) -> list[float]:
    """By seed: evaluations to match a rival's end, of the same seed. Empty: a rival's budget ends early."""
    goals = {rival.seed: volume(rival, MATCHED_AT) for rival in rivals}
    if not goals or np.isnan(list(goals.values())).any():
        return []
    return [reached(one, goals.get(one.seed, goals[min(goals)])) for one in outcomes]


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation over the seeds; – where a search ended before."""
    if not len(values) or np.isnan(values).any():
        return "–"
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def counted(values: Sequence[float]) -> str:
    """Median of numbers of evaluations (smallest to largest), and how many seeds got there if not all did."""
    if not len(values):
        return "–"
    there = [value for value in values if np.isfinite(value)]
    if not there:
        return "never"
    middle = float(np.median(values))
    text = f"{middle:.0f}" if np.isfinite(middle) else "never"
    ends = (
        f"{min(values):.0f} to {max(values):.0f}" if len(there) == len(values) else f"from {min(there):.0f}"
    )
    return f"{text} ({ends}{'' if len(there) == len(values) else f'; {len(there)} of {len(values)} seeds'})"


def print_volumes(found: ByMethod) -> None:
    """Hypervolume by evaluations, and evaluations to reach what others reach."""
    titles = " | ".join(map(str, COUNTS))
    goals = " | ".join(f"to match {rival} at {MATCHED_AT}" for rival in (STOCK, SEEDED))
    print(f"\n| method | seeds | {titles} | {goals} | to {100 * GOAL:.0f} % |")
    print("|---|---|" + "---|" * (len(COUNTS) + 3))
    for method, runs in found.items():
        cells = [spread([volume(run, count) for run in runs], 3) for count in COUNTS]
        rivals = [counted(matching(runs, found.get(rival, []))) for rival in (STOCK, SEEDED)]
        goal = counted([reached(run, GOAL) for run in runs])
        print(f"| {method} | {len(runs)} | {' | '.join([*cells, *rivals, goal])} |")


def print_ratios(found: ByMethod) -> None:
    """By seed the evaluations of each method over those of our NSGA-II, both to match the stock one.

    A search that never gets there counts as if it did at the end of its budget; so the ratio of one that does
    is rather too high than too low where `nsga2` never gets there.
    """
    stock = found.get(STOCK, [])
    own = matching(found.get(SEEDED, []), stock)
    if not own:
        return
    print(f"\n| method | evaluations / those of {SEEDED}, both to match {STOCK} at {MATCHED_AT} | largest |")
    print("|---|---|---|")
    for method, runs in found.items():
        ends = [min(n, run.budget) for n, run in zip(matching(runs, stock), runs, strict=True)]
        if len(ends) == len(own) and method != SEEDED:
            ratios = np.array(ends) / np.minimum(own, MATCHED_AT)
            print(f"| {method} | {spread(ratios.tolist(), 2)} | {ratios.max():.2f} |")


def print_regrets(found: ByMethod) -> None:
    """Accuracy points lost by the latency-limited pick, and evaluations that were wasted."""
    counts = [count for count in COUNTS if count in (100, 500, 1000)]
    limits = "/".join(f"{100 * share:.0f}" for share in SHARES)
    titles = " | ".join(f"points lost under {limits} % of the cost range at {count}" for count in counts)
    print(f"\n| method | {titles} | infeasible % | duplicates % |")
    print("|---|" + "---|" * (len(counts) + 2))
    for method, runs in found.items():
        cells = [_regret(runs, count) for count in counts]
        wasted = [
            f"{100 * np.mean([getattr(run, what) / run.evaluations for run in runs]):.1f}"
            for what in ("infeasible", "duplicates")
        ]
        print(f"| {method} | {' | '.join([*cells, *wasted])} |")


def _regret(runs: Sequence[Outcome], count: int) -> str:
    """Means over the seeds at each limit, with standard deviations."""
    if any(str(count) not in run.regrets for run in runs):
        return "–"
    lost = 100 * np.array([run.regrets[str(count)] for run in runs])
    return ", ".join(spread(column.tolist(), 2) for column in lost.T)


def print_cpu(outcomes: Sequence[Outcome], problems: Sequence[str]) -> None:
    """CPU ms of the searcher for each subnet that it proposed, up to 500 and to 1,000."""
    print("\n| method | " + " | ".join(f"{p}, to {n}" for p in problems for n in (500, 1000)) + " |")
    print("|---|" + "---|" * (2 * len(problems)))
    tables = {problem: by_method(outcomes, problem) for problem in problems}
    for method in dict.fromkeys(method for table in tables.values() for method in table):
        cells = [_cpu(tables[p].get(method, []), n) for p in problems for n in (500, 1000)]
        print(f"| {method} | {' | '.join(cells)} |")


def _cpu(runs: Sequence[Outcome], count: int) -> str:
    """A search that ends before shows what it took to its end, and where that is."""
    if not runs:
        return "–"
    end = min(count, *(run.evaluations for run in runs))
    spent = [1e3 * run.cpu_s[-(-end // BATCH) - 1] / end for run in runs]
    note = "" if end == count else f" (to {end})"
    return f"{np.mean(spent):.1f}, worst {max(spent):.1f}{note}"
