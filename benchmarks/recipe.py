"""The training recipe of the embedded job: several at equal numbers of forward-backward passes, three seeds.

Prints a Markdown table (kept in `benchmarks/recipe.md`): accuracy on the search split of digit pairs, mean
and standard error over the seeds, for the smallest, a middle, the largest and 16 random subnets.

    python benchmarks/recipe.py --passes 800 --seeds 3
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

import search_spaces
import supernet
from nas import datasets
from supernet._evaluate import correct
from supernet._recipe import Recipe
from supernet._sampling import Joint, Sandwich, SinglePath, Strategy, Weighted
from supernet._train import Training

BASE = Recipe(steps=0, lr=3e-3, warmup=150)
FIRST = replace(BASE, largest_first=0.25)
RECIPES: dict[str, tuple[Strategy, int, Recipe, dict[str, object]]] = {
    "single path, ends .1/.2, largest first 25 %": (SinglePath(0.1, 0.2), 1, FIRST, {}),
    "single path, ends .1/.2": (SinglePath(0.1, 0.2), 1, BASE, {}),
    "the first, with a norm in the stem": (SinglePath(0.1, 0.2), 1, FIRST, {"stem_norm": True}),
    "weighted .20/.22/.24/.34": (Weighted(), 1, BASE, {}),
    "sandwich, hard labels": (Sandwich(), 4, BASE, {}),
    "sandwich, distilled after 40 %": (Sandwich(), 4, replace(BASE, distill=True), {}),
    "joint, 4 granularities": (Joint(), 4, BASE, {}),
    "single path, random only": (SinglePath(0.0, 0.0), 1, BASE, {}),
}


def accuracies(name: str, passes: int, seed: int) -> tuple[list[float], float]:
    """Accuracies of smallest, middle, largest and (mean) 16 random subnets; CPU seconds of the training."""
    strategy, per_step, recipe, options = RECIPES[name]
    data = datasets.build("digit_pairs")
    space = search_spaces.get("matformer", **options)
    net = supernet.build(space, seed=seed)
    training = Training(net, strategy, replace(recipe, steps=passes // per_step), seed=seed)
    start = time.process_time()
    for _ in training.run(lambda step: data.train_batch(seed, step, recipe.batch_size)):
        pass
    seconds = time.process_time() - start
    random = space.decode(space.sample_choices(np.random.default_rng(0), 16))
    ends = space.uniform(3)
    hits = correct(net, list({*ends, *random}), data.batches("search", 256))
    value = {arch: float(h.float().mean()) for arch, h in hits.items()}
    return [*(value[a] for a in ends), float(np.mean([value[a] for a in random]))], seconds


def row(name: str, passes: int, seeds: int) -> str:
    """One line of the table."""
    runs = [accuracies(name, passes, seed) for seed in range(seeds)]
    values = 100 * np.array([run[0] for run in runs])
    mean, error = values.mean(axis=0), values.std(axis=0, ddof=1) / np.sqrt(seeds)
    cells = [f"{m:.1f} ± {e:.1f}" for m, e in zip(mean, error, strict=True)]
    return f"| {name} | {' | '.join(cells)} | {np.mean([run[1] for run in runs]):.0f} |"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(RECIPES))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"Digit pairs, {args.passes} passes, {args.seeds} seeds, accuracy % on the search split\n")
    print("| recipe | smallest | middle | largest | 16 random | CPU s |\n|---|---|---|---|---|---|")
    for name in args.only:
        print(row(name, args.passes, args.seeds), flush=True)


if __name__ == "__main__":
    main()
