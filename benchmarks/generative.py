"""The generative searcher measured: regret on tabulated spaces, and the front of the example's supernet.

    python benchmarks/generative.py --only curves             # 10 seeds, half an hour on one core
    python benchmarks/generative.py --only example --seeds 3  # trains a supernet a seed, as long

`curves`: the best of n evaluations against the best there is, in a space of which every quality is known,
under limits on parameters and MACs; all rivals are spared what breaks a limit. `example`: every architecture
of examples/turbovit.yaml is evaluated once with the weights of its own supernet; then searchers are told what
they ask for. Chosen on the search split, reported on the report split; costs are MACs, so that no timing
noise chooses.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tabulated import KINDS, Tabulated, random_search, regrets, regularised_evolution, searched

import search_spaces
import supernet
from nas import datasets, searchers
from nas.config import load_config
from nas.limits import Limit
from nas.search.stage import UNIFORM_SEEDS
from nas.searchers import SearchProblem
from nas.spaces.job_space import exact_metrics, resolve
from nas.training.supernets import strategy
from search_spaces import SearchSpace
from supernet.evaluation.scores import scored
from supernet.training.trainer import Training

Floats = NDArray[np.float64]
EXAMPLE = Path(__file__).parent.parent / "examples" / "turbovit.yaml"
SECTIONS = ("curves", "example")
# Of the page on TurboViT: bounds that its abstract implies. 9,016 of 29,484 architectures keep them.
BOUNDS = (Limit("params", "<=", 12.71e6), Limit("macs", "<=", 2.206e9))
SHOWN = (32, 64, 128, 256)  # evaluations
RIVALS: dict[str, Callable[[Tabulated, int], Floats]] = {
    "random": random_search,
    "regularised evolution": regularised_evolution,
    "`evolution`": lambda truth, budget: searched("evolution", truth, budget)[0],
    "`nsga2`": lambda truth, budget: searched("nsga2", truth, budget)[0],
    "`generative`, factorised": lambda truth, budget: searched(
        "generative", truth, budget, generator="factorised"
    )[0],
    "`generative`": lambda truth, budget: searched("generative", truth, budget)[0],
}
FRONT_RIVALS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "evolution": ("evolution", {}),
    "nsga2": ("nsga2", {}),
    "generative, factorised": ("generative", {"generator": "factorised"}),
    "generative": ("generative", {}),
}


def print_curves(seeds: range) -> None:
    """Mean regret in % of the range of qualities after so many evaluations, and the worst seed at the end."""
    space = search_spaces.get("turbovit")
    for kind in KINDS:
        print(f"\nRegret in % of the range, {kind} truth, {len(seeds)} seeds\n")
        print("| searcher | " + " | ".join(map(str, SHOWN)) + " | worst at the end | CPU ms a subnet |")
        print("|---|" + "---|" * (len(SHOWN) + 2))
        for name, rival in RIVALS.items():
            start = time.process_time()
            curves = []
            for seed in seeds:
                curve = regrets(rival(Tabulated(space, BOUNDS, kind, seed), SHOWN[-1]))
                curves.append([curve[count - 1] for count in SHOWN])
            cpu = 1000 * (time.process_time() - start) / len(seeds) / SHOWN[-1]
            cells = [cell([100 * row[i] for row in curves]) for i in range(len(SHOWN))]
            worst = 100 * max(row[-1] for row in curves)
            print(f"| {name} | {' | '.join(cells)} | {worst:.2f} | {cpu:.0f} |", flush=True)


def print_example(seeds: range, folder: Path | None) -> None:
    """Hypervolume of the front on the report split after as many evaluations as the example makes."""
    # With the optimiser of the time at which the figures were taken.
    config = load_config(EXAMPLE, ["train.optimizer=adamw"], environment={})
    data = datasets.build(config.data.name, **config.data.options)
    space = resolve(config, data)
    budget = config.search.evaluations
    volumes: dict[str, list[float]] = {name: [] for name in (*FRONT_RIVALS, "everything")}
    for seed in seeds:
        table = evaluated(space, data, config, seed, folder)
        for name, (searcher, options) in FRONT_RIVALS.items():
            rows = asked(searcher, options, space, table[0], seed, budget)
            volumes[name].append(front_volume(space, rows, *table))
        volumes["everything"].append(front_volume(space, list(range(len(table[0]))), *table))
    print(f"\nHypervolume on the report split, {budget} of {space.size:,} subnets evaluated\n")
    print("| searcher | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |")
    print("|---|" + "---|" * (len(seeds) + 1))
    for name, found in volumes.items():
        print(f"| {name} | {' | '.join(f'{v:.4f}' for v in found)} | {cell(found, '.4f')} |")
    for name in ("random", "evolution", "nsga2"):
        gains = [a - b for a, b in zip(volumes["generative"], volumes[name], strict=True)]
        print(f"\nGenerative minus {name}, paired: {cell(gains, '.4f')}", flush=True)


def evaluated(
    space: SearchSpace, data: Any, config: Any, seed: int, folder: Path | None
) -> tuple[Floats, Floats]:
    """Accuracy of every architecture (n,) on the search and on the report split, in `all_codes`' order."""
    net = supernet.build(space, seed=seed)
    file = folder and folder / f"turbovit-{seed}.safetensors"
    if file and file.exists():
        net.shared.load_state_dict(load_file(file))
    else:
        training = Training(net, strategy(config.train.sampling, net), config.train, seed=seed)
        for _ in training.run(lambda step: data.train_batch(seed, step, training.recipe.batch_size)):
            pass
        net.shared.load_state_dict(training.weights())
        if file:
            save_file(net.shared.state_dict(), file)
    archs = space.decode(space.all_codes())
    order = sorted(archs, key=lambda arch: str(arch.values))
    columns = []
    for split in ("search", "report"):
        hits: dict[Any, float] = {}
        for part in parts(order, 64):
            found = scored(net, part, data.batches(split, 256))
            hits |= {arch: float(hit.float().mean()) for arch, hit in found.items()}
        columns.append(np.array([hits[arch] for arch in archs]))
    return columns[0], columns[1]


def parts(items: list[Any], size: int) -> Iterator[list[Any]]:
    """The items in parts of that size."""
    return (items[i : i + size] for i in range(0, len(items), size))


def asked(
    searcher: str, options: dict[str, Any], space: SearchSpace, accuracy: Floats, seed: int, budget: int
) -> list[int]:
    """Places in `all_codes` of what a searcher asks for; objectives are accuracy and MACs."""
    place = {code.tobytes(): i for i, code in enumerate(space.all_codes())}
    costs = partial(exact_metrics, space)
    problem = SearchProblem(
        space,
        {"accuracy": "maximize", "macs": "minimize"},
        costs,
        costs,
        start=tuple(space.uniform(UNIFORM_SEEDS)),
        seed=seed,
        budget=budget,
        population=32,
    )
    proposing, rows = searchers.build(searcher, problem, **options), list[int]()
    while len(rows) < budget:
        codes = proposing.ask(16)
        places = [place[code.tobytes()] for code in codes]
        values = np.stack([accuracy[places], costs(codes)["macs"]], axis=1)
        proposing.tell(codes, values.astype(np.float64))
        rows += places
    return rows


def front_volume(space: SearchSpace, rows: list[int], search: Floats, report: Floats) -> float:
    """Share of the box that the front dominates: chosen by the search split, told by the report split."""
    macs = space.costs(space.all_codes())["macs"] / space.cost(space.largest).macs
    points = np.stack([1 - search[rows], macs[rows]], axis=1)
    best = np.array(rows)[np.flatnonzero(moocore.is_nondominated(points))]
    told = np.stack([1 - report[best], macs[best]], axis=1)
    return float(moocore.hypervolume(told, ref=[1.0, 1.0]))


def cell(values: list[float], form: str = ".2f") -> str:
    """Mean and standard error."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{np.mean(values):{form}} ± {error:{form}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS)
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--weights", type=Path, help="folder in which supernets are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.weights:
        arguments.weights.mkdir(parents=True, exist_ok=True)
    if arguments.only != "example":
        print_curves(range(arguments.seeds or 10))
    if arguments.only != "curves":
        print_example(range(arguments.seeds or 3), arguments.weights)


if __name__ == "__main__":
    main()
