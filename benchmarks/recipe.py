"""The training recipe of supernets that begin with fresh weights: several at like CPU time, three seeds.

Each recipe trains the supernet of an example. Of a fixed list of its subnets, the front on the search split
is told on the report split: the area under the best accuracy at or below so many MACs, over log MACs
(`worth.py`). Beside it the mean accuracy of 16 random subnets and those of a ladder from the smallest to the
largest. Every result is kept as a line of JSON, and is not made again.

    python benchmarks/recipe.py --json recipe.jsonl --seeds 0 1 2
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from worth import area

import supernet
from nas import datasets
from nas.config import JobConfig, load_config
from nas.datasets import DataSet
from nas.spaces.job_space import resolve
from nas.training.supernets import finished, strategy
from search_spaces import Architecture, SearchSpace
from supernet.evaluation.scores import scored
from supernet.supernet import Supernet
from supernet.training.trainer import Training

EXAMPLES = Path(__file__).parent.parent / "examples"
RANDOM, LADDER, BINS, DRAWN = 16, 5, 110, 4000

ADAMW = {"optimizer": "adamw"}
SMALL_BATCHES = {"batch_size": 32, "steps": 3700}
RECIPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "matformer: AdamW": ("matformer", ADAMW | {"batch_size": 64, "steps": 2200}),
    "matformer: AdamW, lr .006": ("matformer", ADAMW | {"batch_size": 64, "steps": 2200, "lr": 6e-3}),
    "matformer: AdamW, batches of 32": ("matformer", ADAMW | SMALL_BATCHES),
    "matformer: Muon without decay": (
        "matformer",
        {"batch_size": 64, "steps": 2200, "muon": {"weight_decay": 0.0}},
    ),
    "matformer: Muon": ("matformer", {"batch_size": 64, "steps": 2200}),
    "matformer: Muon, batches of 32": ("matformer", SMALL_BATCHES),
    "matformer: Muon, batches of 32, lr .04": ("matformer", SMALL_BATCHES | {"muon": {"lr": 0.04}}),
    "matformer: Muon, batches of 32, largest first .15": (
        "matformer",
        SMALL_BATCHES | {"largest_first": 0.15},
    ),
    "matformer: Muon, batches of 32, linear": ("matformer", SMALL_BATCHES | {"schedule": "linear"}),
    "vit_resnas: AdamW": ("vit_resnas", ADAMW | {"steps": 2200}),
    "vit_resnas: Muon": ("vit_resnas", {"steps": 2200}),
    "vit_resnas: Muon, 4,400 steps": ("vit_resnas", {"steps": 4400}),
    "turbovit: AdamW": ("turbovit", ADAMW | {"steps": 2200}),
    "turbovit: Muon": ("turbovit", {"steps": 2200}),
}


def candidates(space: SearchSpace) -> list[Architecture]:
    """About 110 subnets, one of each interval of MACs, and uniform ones: the same ones for every recipe."""
    rng = np.random.default_rng(7)
    archs = list(dict.fromkeys(space.decode(space.sample_choices(rng, DRAWN))))
    order = np.argsort([space.cost(arch).macs for arch in archs])
    drawn = [archs[rng.choice(part)] for part in np.array_split(order, BINS) if len(part)]
    return list(dict.fromkeys([*space.uniform(8), *drawn]))


def accuracies(
    net: Supernet, archs: Sequence[Architecture], data: DataSet, split: str
) -> dict[Architecture, float]:
    hits = scored(net, archs, data.batches(split, 256))
    return {arch: float(hit.float().mean()) for arch, hit in hits.items()}


def outcome(net: Supernet, data: DataSet) -> dict[str, Any]:
    """What the trained supernet is worth: area, mean of random subnets, and the ladder; accuracies in %."""
    space = net.space
    listed = candidates(space)
    search = accuracies(net, listed, data, "search")
    macs = {arch: space.cost(arch).macs for arch in listed}
    front: list[Architecture] = []
    for arch in sorted(listed, key=lambda arch: (macs[arch], -search[arch])):
        if not front or search[arch] > search[front[-1]]:
            front.append(arch)
    random = space.decode(space.sample_choices(np.random.default_rng(0), RANDOM))
    ladder = space.uniform(LADDER)
    report = accuracies(net, list({*front, *random, *ladder}), data, "report")
    return {
        "area": area([(macs[arch], report[arch]) for arch in front], space),
        "random": 100 * float(np.mean([report[arch] for arch in random])),
        "ladder": [100 * report[arch] for arch in ladder],
    }


def trained(config: JobConfig, seed: int) -> dict[str, Any]:
    """CPU seconds of the training with this seed, and the outcome."""
    data = datasets.build(config.data.name, **config.data.options)
    net = supernet.build(resolve(config, data), seed=seed)
    training = Training(net, strategy(config.train.sampling, net), config.train, seed=seed)
    start = time.process_time()
    for _ in training.run(lambda step: data.train_batch(seed, step, config.train.batch_size)):
        pass
    seconds = time.process_time() - start
    net.shared.load_state_dict(finished(training, data))
    return {"cpu_s": seconds, **outcome(net.eval(), data)}


def row(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    """One line of the table: means and standard errors over the seeds."""
    cells = [_told([one["area"] for one in results], 3), _told([one["random"] for one in results], 1)]
    ladders = np.array([one["ladder"] for one in results]).mean(axis=0)
    seconds = np.mean([one["cpu_s"] for one in results])
    return f"| {name} | {' | '.join(cells)} | {' '.join(f'{a:.0f}' for a in ladders)} | {seconds:.0f} |"


def _told(values: Sequence[float], digits: int) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):.{digits}f} ± {error:.{digits}f}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="a file that keeps every result")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="*", default=list(RECIPES), help="names of recipes")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = [json.loads(line) for line in args.json.read_text().splitlines()] if args.json.exists() else []
    for seed in args.seeds:
        for name in args.only:
            if any((one["recipe"], one["seed"]) == (name, seed) for one in kept):
                continue
            example, changes = RECIPES[name]
            settings = [f"train.{key}={json.dumps(value)}" for key, value in changes.items()]
            config = load_config(EXAMPLES / f"{example}.yaml", settings)
            kept.append({"recipe": name, "seed": seed, **trained(config, seed)})
            with args.json.open("a") as lines:
                lines.write(json.dumps(kept[-1]) + "\n")
    print("| recipe | area | 16 random subnets % | ladder % | CPU s |\n|---|---|---|---|---|")
    for name in args.only:
        print(row(name, [one for one in kept if one["recipe"] == name]))


if __name__ == "__main__":
    main()
