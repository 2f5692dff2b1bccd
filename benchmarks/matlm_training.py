"""Nested training of a small decoder for bytes, for `matlm.py`.

Part a: objectives of the paper (Devvrit et al., arXiv 2310.07707) on a decoder of which only the FFNs have
widths: S, M, L and XL of all layers. The sum over the granularities has four passes in each of its steps; the
others have one, and four times the steps, so that every nested training computes about what S, M, L and XL
trained alone for the sum's steps compute together.

Part recipes: optimisers and learning rates for the same supernet, by single paths.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matlm_results import Row, kept, table, told

import supernet
from nas import datasets
from nas.config import JobConfig, load_config
from nas.datasets import DataSet, task_of
from nas.evaluation.qualities import one_quality
from nas.spaces.job_space import resolve
from nas.training.retrain import SCRATCH, Retraining, quality_of, recipe_of
from nas.training.supernets import finished, strategy
from search_spaces import Architecture
from search_spaces.families.matlm import GRANULARITIES
from supernet.evaluation.scores import scored
from supernet.supernet import Supernet
from supernet.training.alone import from_scratch
from supernet.training.strategies import SinglePath
from supernet.training.trainer import Training

EXAMPLE = Path(__file__).parent.parent / "examples" / "matlm.yaml"
BITS = "bits_per_byte"
PASSES = len(GRANULARITIES)  # in a step of the sum over the granularities
NETS = {"embed_dim": [64], "depth": [3], "num_heads": [4], "head_dim": 16, "mlp_ratio": [0.5, 1, 2, 4]}
CONTEXT, BATCH, WARM_UP, EVALUATED = 128, 8, 0.1, 64

EVEN, SKEWED = (0.25, 0.25, 0.25, 0.25), (0.20, 0.22, 0.24, 0.34)
FOR_XL = (0.1, 0.1, 0.1, 0.7)
ALONE, XL_ALONE = "S, M, L, XL alone", "XL alone, all steps"
RECIPE_STEPS, RANDOM = 400, 8


@dataclass(frozen=True)
class Way:
    """One nested training: what it sets of section `train`, and how many steps for one of the sum's."""

    train: Mapping[str, Any]
    steps: int = PASSES


def sampled(weights: Sequence[float]) -> Way:
    """One granularity a step."""
    return Way({"sampling": {"strategy": "weighted", "weights": list(weights)}, "largest_first": 0})


def summed(weights: Sequence[float] | None) -> Way:
    """All granularities in each step; weights: of their losses."""
    return Way({"sampling": {"strategy": "joint", "weights": weights}, "largest_first": 0}, steps=1)


NESTED: Mapping[str, Way] = {
    "sum over granularities": summed(None),
    "sum, losses .1/.1/.1/.7": summed(FOR_XL),
    "sampled, .25 each": sampled(EVEN),
    "sampled, .20/.22/.24/.34": sampled(SKEWED),
    "default (widths by layer)": Way({}),
}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    f"{title}, lr {lr:g}": {"optimizer": name} | ({"lr": lr} if name == "adamw" else {"muon": {"lr": lr}})
    for name, title, lrs in (("adamw", "AdamW", (1e-3, 3e-3, 1e-2)), ("muon", "Muon", (0.01, 0.02, 0.04)))
    for lr in lrs
}


def config_of(train: Mapping[str, Any], steps: int, space: Mapping[str, Any]) -> JobConfig:
    """The example's job with other nets; a tenth of the steps to warm up."""
    short = {"steps": steps, "batch_size": BATCH, "warmup": int(WARM_UP * steps), **train}
    settings = [f"train.{key}={json.dumps(value)}" for key, value in short.items()]
    sizes = [f"data.context={CONTEXT}", f"supernet.space={json.dumps(space)}"]
    return load_config(EXAMPLE, [*sizes, *settings])


@cache
def python_docs(context: int) -> DataSet:
    """The example's data, read once."""
    return datasets.build("python_docs", context=context)


def bits(
    net: Supernet, archs: Sequence[Architecture], data: DataSet, split: str
) -> dict[Architecture, float]:
    """Bits per byte of subnets on all of a split."""
    scores = scored(net, archs, data.batches(split, EVALUATED), task=task_of(data))
    return {arch: one_quality(BITS, values, data, split).value for arch, values in scores.items()}


def trained(config: JobConfig, data: DataSet, seed: int) -> tuple[Supernet, float]:
    """The job's supernet, and the CPU seconds of its training."""
    net = supernet.build(resolve(config, data), seed=seed)
    how = strategy(config.train.sampling, net)
    training = Training(net, how, config.train, seed=seed, task=task_of(data))
    spent = train(training, data)
    net.shared.load_state_dict(finished(training, data))
    return net.eval(), spent


def nested(way: str, seed: int, of: int) -> Row:
    """Bits per byte of S, M, L and XL of one supernet on the report split.

    of: steps of the sum over the granularities.
    """
    steps = of * NESTED[way].steps
    config = config_of(NESTED[way].train, steps, NETS)
    data = python_docs(CONTEXT)
    net, spent = trained(config, data, seed)
    sizes = {name: net.space.presets[name] for name in GRANULARITIES}
    values = bits(net, list(sizes.values()), data, "report")
    return {"steps": steps, "cpu_s": spent, **{name: values[arch] for name, arch in sizes.items()}}


def alone(way: str, seed: int, of: int) -> Row:
    """The same of nets with weights of their own; only XL, for the steps of the sampled, if `way` says so."""
    names, steps = (("xl",), of * PASSES) if way == XL_ALONE else (GRANULARITIES, of)
    config = config_of({}, steps, NETS)
    data = python_docs(CONTEXT)
    net = supernet.build(resolve(config, data), seed=seed)
    row: Row = {"steps": steps, "cpu_s": 0.0}
    for name in names:
        how = Retraining(weights=SCRATCH, steps=steps, lrs=(config.train.lr,))
        only = from_scratch(net, net.space.presets[name], seed=seed)
        recipe = recipe_of(config, how, config.train.lr)
        training = Training(only, SinglePath(), recipe, seed=seed, task=task_of(data))
        row["cpu_s"] += train(training, data)
        only.shared.load_state_dict(finished(training, data))
        row[name] = quality_of(only.eval(), data, "report", metric=BITS).value
    return row


def claim(folder: Path, seeds: Sequence[int], steps: int) -> str:
    """Part a: its table. steps: of the sum over the granularities."""
    rows: list[Row] = []
    for seed in seeds:
        for ways, make in (((ALONE, XL_ALONE), alone), (tuple(NESTED), nested)):
            wanted = [{"way": way, "seed": seed, "of": steps} for way in ways]
            rows += kept(folder / "a.jsonl", wanted, make)
    by_way = {way: [row for row in rows if row["way"] == way] for way in (ALONE, *NESTED, XL_ALONE)}
    lines = []
    for way, some in by_way.items():
        cells = [told([row[name] for row in some]) if name in some[0] else "" for name in GRANULARITIES]
        lines.append([way, f"{some[0]['steps']:,}", f"{np.mean([r['cpu_s'] for r in some]):.0f}", *cells])
        # The largest against itself trained alone for as many steps.
        like = next(
            by_way[name] for name in (ALONE, XL_ALONE) if by_way[name][0]["steps"] == some[0]["steps"]
        )
        behind = told([row["xl"] - other["xl"] for row, other in zip(some, like, strict=True)])
        lines[-1] += [behind if way in NESTED else ""]
    titles = ["way", "steps", "CPU s", "S", "M", "L", "XL", "XL less XL alone at equal steps"]
    return table(titles, lines)


def by_recipe(recipe: str, seed: int) -> Row:
    """Bits per byte of S, M, L, XL and random slices of a supernet that this recipe has trained."""
    config = config_of(RECIPES[recipe], RECIPE_STEPS, NETS)
    data = python_docs(CONTEXT)
    net, spent = trained(config, data, seed)
    sizes = [net.space.presets[name] for name in GRANULARITIES]
    random = net.space.decode(net.space.sample_choices(np.random.default_rng(0), RANDOM))
    values = bits(net, list({*random, *sizes}), data, "report")
    mean = float(np.mean([values[arch] for arch in random]))
    return {"cpu_s": spent, "random": mean, "sizes": [values[arch] for arch in sizes]}


def recipes(folder: Path, seeds: Sequence[int]) -> str:
    """Part recipes: its table."""
    wanted = [{"recipe": name, "seed": seed} for seed in seeds for name in RECIPES]
    rows = kept(folder / "recipes.jsonl", wanted, by_recipe)
    lines = []
    for name in RECIPES:
        some = [row for row in rows if row["recipe"] == name]
        sizes = [told(list(values)) for values in zip(*(row["sizes"] for row in some), strict=True)]
        random, seconds = told([row["random"] for row in some]), np.mean([row["cpu_s"] for row in some])
        lines.append([name, *sizes, random, f"{seconds:.0f}"])
    return table(["recipe", "S", "M", "L", "XL", f"{RANDOM} random slices", "CPU s"], lines)


def train(training: Training, data: DataSet) -> float:
    """CPU seconds of all its steps."""
    begin, size = time.process_time(), training.recipe.batch_size
    for _ in training.run(lambda step: data.train_batch(training.seed, step, size)):
        pass
    return time.process_time() - begin
