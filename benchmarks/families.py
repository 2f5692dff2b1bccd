"""What several families in one job are worth, in the same CPU time: against each alone, and jobs merged.

`together` is the job file: a supernet of each family, one search over all. `apart` is a job for each of
these supernets, with an equal part of the evaluations and of the finalists, and the fronts merged. `FAMILY
alone` is one job with this family, which is trained for as long as all were together and searched with all
evaluations. The CPU time that counts is that of trainings and searches. The figure is that of `worth.py`: the
area under the best accuracy that is to be had at or below so many MACs, over the logarithm of the MACs from
the smallest network of any family to the largest, both on the report split.

    python benchmarks/families.py --seeds 0 1 2 --json families.jsonl
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quickstart import StageClock
from worth import Points, area, told

import nas
from nas import jobs, pipeline
from nas.config import JobConfig, SupernetConfig, load_config
from nas.results.extraction import space_of
from nas.store import Store
from search_spaces import SearchSpace

EXAMPLE = Path(__file__).parent.parent / "examples" / "families.yaml"
STEPS, EVALUATIONS, FINALISTS = 900, 192, 15
TOGETHER, APART = "together", "apart"
SAMPLE = {"samples": 12, "rounds": 2, "max_rounds": 2}  # latency is measured, and is no objective here


@dataclass(frozen=True)
class Result:
    """One way to spend the time: CPU seconds, steps by supernet, what came out by family, and its area."""

    way: str
    seed: int
    train_cpu_s: float
    search_cpu_s: float
    steps: dict[str, int]
    points: dict[str, Points]
    area: float


@dataclass(frozen=True)
class _Done:
    """A job that has ended: CPU seconds of its search, its finalists by family."""

    search_cpu_s: float
    points: dict[str, Points]


def asked(config: JobConfig, seed: int, evaluations: int, finalists: int) -> JobConfig:
    """The job with this seed and budget, for accuracy and MACs."""
    search = config.search.model_copy(update={"evaluations": evaluations, "finalists": finalists})
    changes: dict[str, Any] = {"seed": seed, "objectives": ("accuracy", "macs"), "constraints": ()}
    changes |= {"search": search, "predictor": config.predictor.model_copy(update=SAMPLE)}
    changes |= {"execution": config.execution.model_copy(update={"workers": 1})}
    return config.model_copy(update=changes)


def with_steps(config: JobConfig, steps: int) -> JobConfig:
    """The job with so many steps for each of its supernets."""
    entries = tuple(
        entry.model_copy(update={"train": alone.train.model_copy(update={"steps": steps})})
        for entry, alone in zip(config.supernets or (), config.each.values(), strict=True)
    )
    return config.model_copy(update={"supernets": entries})


def done(store: Store, config: JobConfig, name: str, family: str = "") -> _Done:
    """Runs a job. family: of all its subnets, where it has one supernet."""
    clock, job = StageClock(), jobs.create(store, config, name=name)
    pipeline.run(store, job, progress=clock)
    clock.stage("end")
    points: dict[str, Points] = {}
    for member in nas.JobHandle(store, store.job(job.id)).front().members:
        points.setdefault(member.family or family, []).append((member.macs, member.quality))
    return _Done(clock.seconds["search"], points)


def together_and_apart(
    store: Store, config: JobConfig, seed: int, evaluations: int, finalists: int
) -> tuple[list[Result], SearchSpace, dict[str, float]]:
    """Both, the space of the first, and the CPU seconds of a step of each family's training.

    Apart, each job uses the supernet that was trained for the first; its evaluations are paid for again.
    """
    whole = done(store, asked(config, seed, evaluations, finalists), TOGETHER)
    job = store.job(TOGETHER)
    space, uses = space_of(store, job), {str(use.name): use.supernet for use in store.supernets_of(job)}
    count, apart, search_cpu_s = len(uses), dict[str, Points](), 0.0
    for name, alone in config.each.items():
        section = {"supernet": SupernetConfig(use=uses[name].name), "reuse": False}
        named = asked(alone, seed, evaluations // count, max(1, finalists // count)).model_copy(
            update=section
        )
        filled, _ = jobs.with_supernet(store.url, named)
        part = done(store, filled, f"{APART}-{name}", name)
        apart |= part.points
        search_cpu_s += part.search_cpu_s
    trained = sum(supernet.cpu_seconds for supernet in uses.values())
    steps = {name: supernet.steps for name, supernet in uses.items()}
    results = [
        Result(way, seed, trained, searched, steps, points, area_of(points, space))
        for way, searched, points in (
            (TOGETHER, whole.search_cpu_s, whole.points),
            (APART, search_cpu_s, apart),
        )
    ]
    return results, space, {name: one.cpu_seconds / one.steps for name, one in uses.items()}


def alone(store: Store, config: JobConfig, name: str, space: SearchSpace, steps: int) -> Result:
    """One family, which is trained for so many steps."""
    job_name, train = f"{name}-alone", config.train.model_copy(update={"steps": steps})
    ended = done(store, config.model_copy(update={"train": train}), job_name, name)
    use = store.supernet_of(store.job(job_name))
    assert use is not None, "the job has trained it"
    trained = use.supernet.cpu_seconds
    way, macs_area = f"{name} alone", area_of(ended.points, space)
    return Result(way, config.seed, trained, ended.search_cpu_s, {name: steps}, ended.points, macs_area)


def area_of(points: dict[str, Points], space: SearchSpace) -> float:
    """Of the subnets of all families."""
    return area([point for some in points.values() for point in some], space)


def compared(config: JobConfig, seed: int, evaluations: int, finalists: int) -> list[Result]:
    """All ways with this seed."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/store.sqlite") as store:
        results, space, a_step = together_and_apart(store, config, seed, evaluations, finalists)
        for name, one in config.each.items():
            steps = max(1, round(results[0].train_cpu_s / a_step[name]))
            results.append(alone(store, asked(one, seed, evaluations, finalists), name, space, steps))
    return results


def table(results: Sequence[Result]) -> str:
    """Means and standard errors over the seeds; ratios are of the same seed."""
    ours = {r.seed: r.area for r in results if r.way == TOGETHER}
    lines = ["| way | CPU s, training + search | area | together over it |", "|---|---|---|---|"]
    for way in dict.fromkeys(r.way for r in results):
        some = [r for r in results if r.way == way]
        trained, searched = (
            np.mean([getattr(r, f"{what}_cpu_s") for r in some]) for what in ("train", "search")
        )
        ratio = "1" if way == TOGETHER else told([ours[r.seed] / r.area for r in some])
        areas = told([r.area for r in some])
        lines.append(f"| {way} | {trained:.0f} + {searched:.0f} | {areas} | {ratio} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "file", nargs="?", type=Path, default=EXAMPLE, help="a job file with several supernets"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS, help="of each supernet, together")
    parser.add_argument("--evaluations", type=int, default=EVALUATIONS)
    parser.add_argument("--finalists", type=int, default=FINALISTS)
    parser.add_argument("--json", type=Path, help="a file that takes every result as a line of JSON")
    args = parser.parse_args(argv)
    config, results = with_steps(load_config(args.file), args.steps), list[Result]()
    for seed in args.seeds:
        new = compared(config, seed, args.evaluations, args.finalists)
        results += new
        if args.json:
            with args.json.open("a") as lines:
                lines.writelines(json.dumps({"job": args.file.stem} | vars(result)) + "\n" for result in new)
    print(table(results), flush=True)


if __name__ == "__main__":
    main()
