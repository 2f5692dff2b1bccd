"""The embedded job measured: CPU seconds, front, predictor, and subnets against nets trained alone.

The last table trains the smallest, the middle and the largest architecture alone, with the supernet's recipe
and number of optimiser steps, and divides the subnet's accuracy (inherited weights) by theirs; both on the
report split, for each seed.

    python benchmarks/quickstart.py --seeds 3
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import torch

import nas
import search_spaces
import supernet
from nas import datasets, pipeline
from nas.config import JobConfig, load_config
from nas.datasets import DataSet
from nas.extraction import load_supernet
from nas.front import ParetoFront
from nas.jobs import create
from nas.spaces import resolve
from nas.stages.train import recipe, strategy
from nas.store import Store
from search_spaces import Architecture, SearchSpace
from supernet._base import Supernet
from supernet._evaluate import correct
from supernet._train import Training

EXAMPLE = Path(__file__).parent.parent / "examples" / "quickstart.yaml"


class StageClock:
    """A `Progress` that notes the CPU seconds of this process and its children at every change of stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._name, self._since, self._children = "start", _cpu(), 0.0

    def stage(self, name: str) -> None:
        now = max(_cpu(), self._since)
        self.seconds[self._name] = now - self._since
        self._name, self._since = name, now

    def update(self, done: int, total: int, **info: object) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        print(message)


def _cpu() -> float:
    """CPU seconds so far of this process, its children that live and those that have ended."""
    me = psutil.Process()
    times = me.cpu_times()
    live = [child.cpu_times() for child in me.children(recursive=True)]
    ended = times.children_user + times.children_system
    return times.user + times.system + ended + sum(child.user + child.system for child in live)


def alone(arch: Architecture, config: JobConfig, data: DataSet, space: SearchSpace, seed: int) -> float:
    """Accuracy on the report split of one (uniform) architecture trained alone with the job's recipe."""
    layers = arch.to_dict()
    options = {name: [value[0] if isinstance(value, list) else value] for name, value in layers.items()}
    only = search_spaces.get("matformer", **(dict(space.options) | options))
    net = supernet.build(only, seed=seed)
    return _trained(net, config, data, seed)[only.largest]


def _trained(net: Supernet, config: JobConfig, data: DataSet, seed: int) -> dict[Architecture, float]:
    training = Training(net, strategy(config.train.sampling, net), recipe(config), seed=seed)
    for _ in training.run(lambda step: data.train_batch(seed, step, config.train.batch_size)):
        pass
    net.shared.load_state_dict(training.weights())
    return _report(net, net.space.uniform(3), data)


def _report(net: Supernet, archs: Sequence[Architecture], data: DataSet) -> dict[Architecture, float]:
    hits = correct(net, archs, data.batches("report", 256))
    return {arch: float(hit.float().mean()) for arch, hit in hits.items()}


def print_job(front: ParetoFront, clock: StageClock, store: Store, job_name: str) -> None:
    """CPU seconds by stage, the front and the predictor's score."""
    print("| stage | CPU s |\n|---|---|")
    for name, seconds in clock.seconds.items():
        if name != "start":
            print(f"| {name} | {seconds:.0f} |")
    print("\n| subnet | params | MACs | accuracy % (report) | predicted ms | measured ms |")
    print("|---|---|---|---|---|---|")
    for member in front.members:
        print(
            f"| {member.subnet} | {member.params:,} | {member.macs:,} | {100 * member.quality:.1f} ± "
            f"{100 * (member.stderr or 0):.1f} | {member.predicted_ms:.2f} | {member.measured_ms:.2f} |"
        )
    row = store.predictor(store.job(job_name))
    assert row is not None
    score, ceiling = row.score, row.score["repeatability"]
    print(
        f"\nPredictor '{row.kind}' on held-out subnets: MAPE {100 * score['mape']:.1f} %, within 10 %: "
        f"{100 * score['within_10']:.0f} %, Kendall tau {score['tau']:.2f} ({score['count']} measured; "
        f"repeatability of the measurements: MAPE {100 * ceiling['mape']:.1f} %, tau {ceiling['tau']:.2f})"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--store", help="URL of a store that keeps the job; default: a temporary one")
    args = parser.parse_args(argv)
    config = load_config(EXAMPLE)
    data = datasets.build(config.data.name, **config.data.options)
    space = resolve(config, data)
    shared: list[dict[Architecture, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(args.store or f"sqlite:///{folder}/q.db") as store,
    ):
        clock = StageClock()
        job = create(store, config, name=None)
        pipeline.run(store, job, progress=clock)
        clock.stage("end")
        print_job(nas.JobHandle(store, job).front(), clock, store, job.name)
        shared.append(_report(load_supernet(store, job), space.uniform(3), data))
    torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
    shared += [_trained(supernet.build(space, seed=s), config, data, s) for s in range(1, args.seeds)]
    print("\n| architecture | subnet % | trained alone % | ratio |\n|---|---|---|---|")
    for name, arch in zip(("smallest", "middle", "largest"), space.uniform(3), strict=True):
        inherited = np.array([accuracy[arch] for accuracy in shared])
        own = np.array([alone(arch, config, data, space, seed) for seed in range(args.seeds)])
        cells = (
            f"{100 * inherited.mean():.1f} ± {_se(100 * inherited):.1f}",
            f"{100 * own.mean():.1f} ± {_se(100 * own):.1f}",
        )
        ratio = inherited / own
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratio.mean():.3f} ± {_se(ratio):.3f} |", flush=True)


def _se(values: np.ndarray) -> float:
    """Standard error over the seeds."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
