"""Runs of search methods, for `search.py`: each is a JSON line in a file, and is not run again."""

import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import search_methods as methods
from search_problems import Floats, Problem, problem
from search_real import REAL, real
from search_reference import Reference, reference

COUNTS = (50, 100, 250, 500, 1000)  # evaluations at which results are shown
STEP = 5  # evaluations between two hypervolumes of a curve
WARM_UP = 75
RUNS = "runs.jsonl"


@dataclass(frozen=True)
class Task:
    """One search."""

    problem: str
    method: str
    seed: int
    budget: int


@dataclass(frozen=True)
class Outcome:
    """What came of a search.

    volumes: hypervolume (a share of the front's) after STEP, 2 STEP, ... evaluations, truth without noise.
    regrets: by number of evaluations (of COUNTS), accuracy lost at each limit on the first cost.
    infeasible, duplicates: among all evaluations.  cpu_s: of the searcher alone, after each 25.
    """

    problem: str
    method: str
    seed: int
    budget: int
    evaluations: int
    volumes: list[float]
    regrets: dict[str, list[float]]
    infeasible: int
    duplicates: int
    cpu_s: list[float]

    @property
    def task(self) -> Task:
        return Task(self.problem, self.method, self.seed, self.budget)


@lru_cache(maxsize=1)
def setting(name: str, folder: Path) -> tuple[Problem, Reference]:
    """A problem and its front, which the folder keeps."""
    made = real(folder) if name == REAL else problem(name)
    return made, reference(made, folder)


def run(task: Task, folder: Path) -> Outcome:
    """One search from its start to its end."""
    made, best = setting(task.problem, folder)
    _warm(task.method)
    method = methods.build(task.method, made, task.seed, task.budget)
    codes, told, spent = _searched(made, method, task)
    truth, outside = made.truth(codes), made.outside(codes)
    within = outside == 0
    counts = range(STEP, len(codes) + STEP, STEP)
    shown = [count for count in COUNTS if count <= len(codes)]
    return Outcome(
        **asdict(task),
        evaluations=len(codes),
        volumes=[round(best.hypervolume(truth[:n][within[:n]]), 6) for n in counts],
        regrets={str(n): best.regrets(told[:n][within[:n]], truth[:n][within[:n]]) for n in shown},
        infeasible=int((~within).sum()),
        duplicates=len(codes) - len(np.unique(codes, axis=0)),
        cpu_s=spent,
    )


def _searched(made: Problem, method: methods.Method, task: Task) -> tuple[np.ndarray, Floats, list[float]]:
    """Codes (n, choices) and told objectives (n, objectives) in order; CPU seconds after each 25."""
    codes, told, spent, total = [made.space.encode([])], [made.truth(made.space.encode([]))], [], 0.0
    left = task.budget
    while left:
        begin = time.process_time()
        asked = method.ask(min(methods.BATCH, left))
        total += time.process_time() - begin
        if not len(asked):
            break
        values, outside = made.told(asked, task.seed), made.outside(asked)
        begin = time.process_time()
        method.tell(values, outside)
        total += time.process_time() - begin
        codes.append(asked)
        told.append(values)
        left -= len(asked)
        spent += [round(total, 4)] * ((task.budget - left) // methods.BATCH - len(spent))
    return np.concatenate(codes), np.concatenate(told), spent


@cache
def _warm(method: str) -> None:
    """Once in a process a short search, after which all that the method imports is there."""
    made = problem("mat")
    if method in methods.names(made) and method not in methods.ENDS:
        _searched(made, methods.build(method, made, 0, WARM_UP), Task("mat", method, 0, WARM_UP))


def tasks(
    problems: Sequence[str], only: Sequence[str] | None, seeds: int, budget: int, folder: Path
) -> list[Task]:
    """All searches, the seeds one after the other, so that an interrupted run has some of everything."""
    every = {name: methods.chosen(only, setting(name, folder)[0]) for name in problems}
    return [
        Task(name, method, seed, min(budget, methods.ENDS.get(method, budget)))
        for seed in range(seeds)
        for name in problems
        for method in every[name]
        if not (method == "exhaustive" and seed)  # it has no randomness
    ]


def outcomes(wanted: Sequence[Task], folder: Path, processes: int) -> list[Outcome]:
    """The outcomes of all tasks, those that the folder has read, the others run and added to it."""
    path = folder / RUNS
    known = {outcome.task: outcome for outcome in outcomes_in(folder)}
    left = [task for task in wanted if task not in known]
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool, path.open("a", encoding="utf-8") as file:
        running = [pool.submit(run, task, folder) for task in left]
        for number, done in enumerate(as_completed(running), start=1):
            outcome = done.result()
            file.write(json.dumps(asdict(outcome)) + "\n")
            file.flush()
            known[outcome.task] = outcome
            print(f"{number}/{len(left)} {outcome.task}", file=sys.stderr, flush=True)
    return [known[task] for task in wanted]


def outcomes_in(folder: Path) -> list[Outcome]:
    """Those that the folder has."""
    path = folder / RUNS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]
