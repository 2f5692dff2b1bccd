"""Recipes for a ViT-ResNAS supernet on digit pairs: which norm in the stem, how many architectures a step.

    python benchmarks/vit_resnas_recipe.py --seeds 3          # about an hour on one core
    python benchmarks/vit_resnas_recipe.py --only norms --norm-steps 3000

Accuracies are means over the seeds with their standard errors, on the search split, by which recipes are
chosen. Steps see 64 images each, whatever the number of architectures that share them.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

import search_spaces
import supernet
from nas import datasets
from nas.datasets import DataSet
from search_spaces import Architecture
from supernet.evaluation.scores import scored
from supernet.supernet import Supernet
from supernet.training.recipe import Recipe
from supernet.training.strategies import MultiArchitectural, SinglePath, Strategy
from supernet.training.trainer import Training

SIZES = {"image_size": (8, 16), "in_chans": 1, "num_classes": 19}
COLUMNS = ("smallest", "middle", "largest", "16 random")
CALIBRATION = range(-1, -17, -1)
WIDENED: Mapping[str, Any] = {"widening": 0.25, "sort_every": 100}
NORM_STEPS = 1500
# Name, strategy, steps, recipe. The last two take about as much CPU time as four architectures a step.
SAMPLING: Sequence[tuple[str, Strategy, int, Mapping[str, Any]]] = (
    ("one, largest first", SinglePath(), 1500, {"largest_first": 0.25}),
    ("four, widened and sorted", MultiArchitectural(4), 1500, WIDENED),
    ("four, widened", MultiArchitectural(4), 1500, {"widening": 0.25}),
    ("four, largest first", MultiArchitectural(4), 1500, {"largest_first": 0.25}),
    ("two, widened and sorted, longer", MultiArchitectural(2), 2600, WIDENED),
    ("one, largest first, longer", SinglePath(), 4100, {"largest_first": 0.25}),
)


def trained(
    data: DataSet, how: Strategy, steps: int, recipe: Mapping[str, Any], seed: int, norm: str
) -> Supernet:
    space = search_spaces.get("vit_resnas", **SIZES, stem_norm=norm)
    net = supernet.build(space, seed=seed)
    training = Training(net, how, Recipe(**{"steps": steps, "largest_first": 0.0, **recipe}), seed=seed)
    for _ in training.run(lambda step: data.train_batch(seed, step, training.recipe.batch_size)):
        pass
    return net


def accuracies(net: Supernet, data: DataSet) -> list[float]:
    """In the order of COLUMNS."""
    space, rng = net.space, np.random.default_rng(5)
    ends = [space.smallest, space.uniform(3)[1], space.largest]
    drawn = space.decode(space.sample_choices(rng, 16))
    hits = scored(net, [*ends, *drawn], data.batches("search", 256))

    def mean(archs: Sequence[Architecture]) -> float:
        return float(np.mean([float(hits[arch].float().mean()) for arch in archs]))

    return [*(mean([arch]) for arch in ends), mean(drawn)]


def print_norms(data: DataSet, seeds: int, steps: int) -> None:
    rows: dict[str, list[list[float]]] = {}
    for seed in range(seeds):
        for norm in ("group", "batch"):
            net = trained(data, SinglePath(), steps, {"largest_first": 0.25}, seed, norm)
            rows.setdefault(f"{norm}, as trained", []).append(accuracies(net, data))
            if any(isinstance(module, nn.BatchNorm2d) for module in net.modules()):
                net.recalibrate(data.train_batch(seed, step, 64)[0] for step in CALIBRATION)
                rows.setdefault("batch, training images", []).append(accuracies(net, data))
                net.recalibrate(data.clean_batch(seed, step, 64) for step in CALIBRATION)
                rows.setdefault("batch, clean images", []).append(accuracies(net, data))
    print(f"Norm of the stem and where its statistics come from; one architecture a step, {steps} steps\n")
    print(f"| norm | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, found in rows.items():
        print(f"| {name} | {' | '.join(map(cell, zip(*found, strict=True)))} |", flush=True)


def print_sampling(data: DataSet, seeds: int) -> None:
    print("Architectures a step, each with its share of the 64 images; group norm\n")
    print(f"| architectures | steps | CPU s | {' | '.join(COLUMNS)} |\n|---|---|---|{'---|' * len(COLUMNS)}")
    for name, how, steps, recipe in SAMPLING:
        began = time.process_time()
        nets = [trained(data, how, steps, recipe, seed, "group") for seed in range(seeds)]
        seconds = (time.process_time() - began) / seeds
        found = [accuracies(net, data) for net in nets]
        print(
            f"| {name} | {steps} | {seconds:.0f} | {' | '.join(map(cell, zip(*found, strict=True)))} |",
            flush=True,
        )


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
    parser.add_argument("--only", choices=("norms", "sampling"))
    parser.add_argument("--norm-steps", type=int, default=NORM_STEPS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    data = datasets.build("digit_pairs")
    if args.only != "sampling":
        print_norms(data, args.seeds, args.norm_steps)
    if args.only != "norms":
        print_sampling(data, args.seeds)


if __name__ == "__main__":
    main()
