"""The stitching example measured: least squares against random layers, before and after training, and fronts.

For each seed two anchors are trained and stitched twice: with random stitching layers, and with those set by
least squares; both are then trained by the example's recipe. Accuracies are means over the seeds with their
standard errors, on the report split; fronts are chosen on the search split. The last table evaluates all
members with and without sharing what they have in common, in turns on one thread.

    python benchmarks/stitching.py --seeds 3
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import moocore
import numpy as np
import torch
from forward_work import forward_work
from torch import Tensor

import supernet
from nas import datasets
from nas.config import AnchorsInit, JobConfig, TrainedAnchor, load_config
from nas.datasets import DataSet
from nas.spaces.job_space import resolve
from nas.training.anchors import alone
from nas.training.anchors import recipe as anchor_recipe
from nas.training.supernets import strategy
from search_spaces import Architecture, SearchSpace
from supernet.evaluation.scores import scored
from supernet.families.stitching import Stitching
from supernet.supernet import Supernet
from supernet.training.recipe import Recipe
from supernet.training.strategies import SinglePath, Strategy
from supernet.training.trainer import Training

EXAMPLE = Path(__file__).parent.parent / "examples" / "stitching.yaml"
COLUMNS = ("random", "random, trained", "least squares", "least squares, trained")
Accuracies = dict[Architecture, float]


def trained(net: Supernet, how: Strategy, what: Recipe, data: DataSet, seed: int) -> Mapping[str, Tensor]:
    """The weights after a training."""
    training = Training(net, how, what, seed=seed)
    for _ in training.run(lambda step: data.train_batch(seed, step, what.batch_size)):
        pass
    return training.weights()


def anchors(init: AnchorsInit, space: SearchSpace, data: DataSet, seed: int) -> list[Mapping[str, Tensor]]:
    """The weights of the example's anchors, trained from this seed."""
    states = []
    for i, anchor in enumerate(init.anchors):
        assert isinstance(anchor, TrainedAnchor)
        own = 1000 * seed + 1 + i
        net = supernet.build(alone(space, i), seed=own)
        states.append(trained(net, SinglePath(), anchor_recipe(anchor, precision="fp32"), data, own))
    return states


def accuracies(net: Supernet, data: DataSet, split: str) -> Accuracies:
    members = net.space.decode(net.space.all_codes())
    hits = scored(net, members, data.batches(split, 256))
    return {arch: float(hit.float().mean()) for arch, hit in hits.items()}


def stitched(
    config: JobConfig, space: SearchSpace, data: DataSet, seed: int
) -> tuple[dict[str, Accuracies], Accuracies]:
    """Report accuracies in each of COLUMNS, and search accuracies in the last one."""
    init = config.supernet.init
    assert isinstance(init, AnchorsInit)
    states = anchors(init, space, data, seed)
    found: dict[str, Accuracies] = {}
    for name in ("random", "least squares"):
        net = supernet.build(space, seed=seed)
        assert isinstance(net, Stitching)
        net.load_anchors(dict(enumerate(states)))
        if name == "least squares":
            net.adapt(data.clean_batch(seed, step, 256) for step in range(init.images // 256))
        found[name] = accuracies(net, data, "report")
        weights = trained(net, strategy(config.train.sampling, net), config.train, data, seed)
        net.shared.load_state_dict(weights)
        found[f"{name}, trained"] = accuracies(net, data, "report")
    return found, accuracies(net, data, "search")


def between(space: SearchSpace, search: Accuracies, report: Accuracies) -> tuple[int, int, int]:
    """Of the front of accuracy over MACs: members, stitches between the anchors in both axes, and above the
    line between them.
    """
    members = list(search)
    macs = {arch: space.cost(arch).macs for arch in members}
    points = np.array([[-search[arch], macs[arch]] for arch in members])
    front = [members[i] for i in np.flatnonzero(moocore.is_nondominated(points))]
    small, large = space.preset("anchor0"), space.preset("anchor1")
    stitches = [arch for arch in front if arch not in (small, large)]
    inside = [
        arch
        for arch in stitches
        if report[small] < report[arch] < report[large] and macs[small] < macs[arch] < macs[large]
    ]
    slope = (report[large] - report[small]) / (macs[large] - macs[small])
    above = [a for a in stitches if report[a] > report[small] + slope * (macs[a] - macs[small])]
    return len(front), len(inside), len(above)


def sharing(space: SearchSpace, data: DataSet, rounds: int) -> tuple[float, float, float]:
    """Seconds with sharing, without, and the ratio of their MACs by count."""
    net = supernet.build(space)
    members = space.decode(space.all_codes())
    work = forward_work(net, members)
    batches = list(data.batches("search", 256))
    seconds: dict[str, list[float]] = {"together": [], "apart": []}
    for _ in range(rounds):
        for how, groups in {"together": [members], "apart": [[arch] for arch in members]}.items():
            began = time.perf_counter()
            for group in groups:
                scored(net, group, batches)
            seconds[how].append(time.perf_counter() - began)
    return float(np.median(seconds["together"])), float(np.median(seconds["apart"])), work.alone / work.halves


def cell(values: Sequence[float]) -> str:
    """Percent with the standard error over the seeds."""
    percent = 100 * np.array(values)
    error = percent.std(ddof=1) / np.sqrt(len(percent)) if len(percent) > 1 else float("nan")
    return f"{percent.mean():.1f} ± {error:.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="of the timing of shared prefixes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    config = load_config(EXAMPLE)
    data = datasets.build(config.data.name, **config.data.options)
    space = resolve(config, data)
    members = space.decode(space.all_codes())
    runs = [stitched(config, space, data, seed) for seed in range(args.seeds)]
    print(f"Digit pairs, {args.seeds} seeds, accuracy % on the report split\n")
    print(f"| member | M MACs | {' | '.join(COLUMNS)} |\n|---|---|{'---|' * len(COLUMNS)}")
    for arch in members:
        cells = [cell([found[column][arch] for found, _ in runs]) for column in COLUMNS]
        print(f"| {arch['stitch']} | {space.cost(arch).macs / 1e6:.2f} | {' | '.join(cells)} |")
    stitches = [arch for arch in members if ">" in str(arch["stitch"])]
    cells = [cell([np.mean([found[c][a] for a in stitches]) for found, _ in runs]) for c in COLUMNS]
    print(f"| mean of the stitches | | {' | '.join(cells)} |\n")
    print("| seed | small anchor % | large anchor % | on the front | stitches between | above the line |")
    print("|---|---|---|---|---|---|")
    for seed, (found, search) in enumerate(runs):
        report = found[COLUMNS[-1]]
        ends = [f"{100 * report[space.preset(f'anchor{i}')]:.1f}" for i in range(2)]
        print(f"| {seed} | {' | '.join(ends)} | {' | '.join(map(str, between(space, search, report)))} |")
    together, apart, ratio = sharing(space, data, args.rounds)
    print(
        f"\nEvaluating all {space.size} members on the search split: {together:.1f} s with shared prefixes, "
        f"{apart:.1f} s one by one, {apart / together:.2f}x (counted in MACs: {ratio:.2f}x; median of "
        f"{args.rounds} rounds, in turns)"
    )


if __name__ == "__main__":
    main()
