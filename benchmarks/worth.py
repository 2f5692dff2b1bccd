"""What a training is worth: a supernet and its search against nets trained alone, in the same CPU time.

A job is run with its quality and MACs as its objectives; the CPU time of its training, its search and the
training of its finalists is what counts. Three, six or twelve hand-scaled nets of the same space, from the
smallest to the largest, then share this time: each is trained alone for the same number of steps, with the
job's recipe, as if nobody had thought of a supernet. The figure is the area under the best quality that is
to be had at or below so many MACs, over the logarithm of the MACs, as a share of the whole rectangle; both
on the report split. Accuracy counts as it is, bits per byte as the share of 8 bits that is spared. A job's
front was chosen on the search split; of the nets alone the best counts at every size, which is kind to
them.

    python benchmarks/worth.py examples/quickstart.yaml --seeds 3
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quickstart import StageClock

import nas
import supernet
from nas import datasets, pipeline
from nas.config import JobConfig, load_config
from nas.datasets import DataSet
from nas.jobs import create
from nas.limits import kind_of
from nas.spaces.job_space import resolve
from nas.store import Store
from nas.training.retrain import SCRATCH, Retraining, quality_of, recipe_of
from nas.training.supernets import finished
from search_spaces import Architecture, SearchSpace
from supernet import tasks
from supernet.supernet import Supernet
from supernet.training.alone import Alone, from_scratch
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

COUNTS = (3, 6, 12)
PAID_FOR = ("train", "search", "specialise")  # stages: measuring and reporting are the same for all
LEVELS = 400  # of a scale from the smallest to the largest net
TRIAL_STEPS = 40  # after which the time of a step is known

Points = list[tuple[int, float]]  # MACs, and quality on the report split between 0, the worst, and 1


@dataclass(frozen=True)
class Result:
    """One way to spend the time: CPU seconds, steps of each training, what came out, and its area."""

    way: str
    seed: int
    cpu_s: float
    steps: int
    points: Points
    area: float


def area(points: Points, space: SearchSpace) -> float:
    """Under the best quality at or below so many MACs, over log MACs from the smallest net on."""
    low, high = (np.log(space.cost(arch).macs) for arch in (space.smallest, space.largest))
    edges, best = [low], [0.0]
    for macs, quality in sorted(points):
        edges.append(min(float(np.log(macs)), high))
        best.append(max(best[-1], quality))
    return float(np.dot(best, np.diff([*edges, high])) / (high - low))


def hand_scaled(space: SearchSpace, count: int) -> list[Architecture]:
    """Nets that grow in all their choices together, evenly spaced in log MACs."""
    options = np.array([len(choice.options) for choice in space.choices])
    late = np.arange(len(options)) / len(options)  # one choice after the other
    levels = np.linspace(0.0, 1.0, LEVELS)[:, None] * (options - 1)
    codes = np.concatenate([np.rint(levels), np.floor(levels + late)]).astype(np.int64)
    scale = list(dict.fromkeys(space.decode(space.canonical(codes))))
    logs = np.log([space.cost(arch).macs for arch in scale])
    wanted = np.linspace(logs.min(), logs.max(), count)
    return list(dict.fromkeys(scale[int(np.abs(logs - log).argmin())] for log in wanted))


def searched(config: JobConfig, seed: int) -> tuple[float, Points]:
    """CPU seconds and front of the job with this seed."""
    values = {"seed": seed, "objectives": (config.quality, "macs"), "constraints": ()}
    alike = config.model_copy(
        update=values | {"execution": config.execution.model_copy(update={"workers": 1})}
    )
    with tempfile.TemporaryDirectory() as folder, Store.open(f"sqlite:///{folder}/store.sqlite") as store:
        clock, job = StageClock(), create(store, alike, name=None)
        pipeline.run(store, job, progress=clock)
        clock.stage("end")
        members = nas.JobHandle(store, job).front().members
        paid = sum(seconds for stage, seconds in clock.seconds.items() if stage in PAID_FOR)
        return paid, [(member.macs, share(config, member.quality)) for member in members]


def share(config: JobConfig, quality: float) -> float:
    """A quality between 0, the worst that counts, and 1."""
    return 1.0 - float(kind_of(config.quality).lost(quality))


def training_alone(net: Supernet, arch: Architecture, config: JobConfig, steps: int, seed: int) -> Training:
    """One net with fresh weights, before its first step."""
    how = Retraining(weights=SCRATCH, steps=steps, lrs=(config.train.lr,))
    recipe = recipe_of(config, how, config.train.lr)
    task = tasks.get(tasks.of_quality(config.quality))
    return Training(from_scratch(net, arch, seed=seed), SinglePath(), recipe, seed=seed, task=task)


def cpu_of(training: Training, data: DataSet, seed: int, *, until: int) -> float:
    """CPU seconds of training up to a step."""
    start = time.process_time()
    size = training.recipe.batch_size
    for _ in training.run(lambda step: data.train_batch(seed, step, size), until=until):
        pass
    return time.process_time() - start


def alone(config: JobConfig, space: SearchSpace, data: DataSet, seed: int, count: int, paid: float) -> Result:
    """So many nets that share the time."""
    net, archs = supernet.build(space, seed=seed), hand_scaled(space, count)
    trials = [training_alone(net, arch, config, 2 * TRIAL_STEPS, seed) for arch in archs]
    a_step = [cpu_of(trial, data, seed, until=TRIAL_STEPS) / TRIAL_STEPS for trial in trials]
    steps, spent, points = int(paid / sum(a_step)), 0.0, []
    for arch in archs:
        training = training_alone(net, arch, config, steps, seed)
        spent += cpu_of(training, data, seed, until=steps)
        ended = training.supernet
        assert isinstance(ended, Alone)
        ended.shared.load_state_dict(finished(training, data))
        reached = quality_of(ended.eval(), data, "report", metric=config.quality)
        points.append((space.cost(arch).macs, share(config, reached.value)))
    return Result(f"{count} nets alone", seed, spent, steps, points, area(points, space))


def compared(config: JobConfig, seed: int, counts: Sequence[int]) -> list[Result]:
    """The job with this seed, and nets alone in its time."""
    data = datasets.build(config.data.name, **config.data.options)
    space = resolve(config, data)
    torch.set_num_threads(1)
    paid, points = searched(config, seed)
    ours = Result("supernet and search", seed, paid, config.train.steps, points, area(points, space))
    return [ours, *(alone(config, space, data, seed, count, paid) for count in counts)]


def table(results: Sequence[Result]) -> str:
    """Means and standard errors over the seeds; ratios are of the same seed."""
    ours = {r.seed: r.area for r in results if r.way == "supernet and search"}
    lines = ["| way | CPU s | steps each | area | supernet's area over it |", "|---|---|---|---|---|"]
    for way in dict.fromkeys(r.way for r in results):
        some = [r for r in results if r.way == way]
        ratios = [ours[r.seed] / r.area for r in some]
        seconds = np.mean([r.cpu_s for r in some])
        steps = np.mean([r.steps for r in some])
        areas = told([r.area for r in some])
        ratio = "1" if way == "supernet and search" else told(ratios)
        lines.append(f"| {way} | {seconds:.0f} | {steps:.0f} | {areas} | {ratio} |")
    return "\n".join(lines)


def told(values: Sequence[float]) -> str:
    """Mean and standard error."""
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{mean:.3f} ± {error:.3f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="+", type=Path, help="job files, each with its data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `nas run`")
    parser.add_argument("--nets", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--json", type=Path, help="a file that takes every result as a line of JSON")
    args = parser.parse_args(argv)
    for file in args.file:
        results: list[Result] = []
        for seed in args.seeds:
            results += compared(load_config(file, args.set), seed, args.nets)
            if args.json:
                with args.json.open("a") as lines:
                    lines.writelines(_line(file, result) + "\n" for result in results[-len(args.nets) - 1 :])
        print(f"\n{file.stem}\n\n{table(results)}", flush=True)


def _line(file: Path, result: Result) -> str:
    plain: dict[str, Any] = {"job": file.stem} | vars(result)
    return json.dumps(plain)


if __name__ == "__main__":
    main()
