"""The ViT-ResNAS example measured: its front against random search, its subnets against the same nets alone.

    python benchmarks/vit_resnas.py --seeds 3                 # all sections, about two hours on one core
    python benchmarks/vit_resnas.py --only steps              # one of SECTIONS

Subnets are chosen on the search split and reported on the report split. Costs are MACs, so that no timing
noise chooses. Every seed trains its own supernet with the example's recipe; `--weights DIR` keeps them.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import moocore
import numpy as np
import torch
from masked_vit_res import masked_forward
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

import search_spaces
import supernet
from nas import datasets, searchers
from nas.config import JobConfig, load_config
from nas.datasets import DataSet
from nas.limits import Limit
from nas.results.agreement import agreement
from nas.search.stage import UNIFORM_SEEDS
from nas.searchers import SearchProblem, with_directions
from nas.spaces.job_space import exact_metrics, resolve
from nas.training.retrain import recipe_of, retraining
from nas.training.supernets import strategy
from search_spaces import Architecture, SearchSpace
from supernet.evaluation.scores import scored
from supernet.families.vit_resnas import ViTResNAS
from supernet.training.alone import Alone, from_scratch, inherited
from supernet.training.strategies import MultiArchitectural, SinglePath
from supernet.training.trainer import Training

EXAMPLE = Path(__file__).parent.parent / "examples" / "vit_resnas.yaml"
SECTIONS = ("fronts", "retrained", "reference", "steps")
# By hand: widths double from stage to stage, equal blocks, an FFN of four times the width.
REFERENCE = {
    "embed_dim": [12, 24, 48],
    "num_heads": [3] * 9,
    "mlp_hidden": [48] * 3 + [96] * 3 + [192] * 3,
    "exists": [None, True, False] * 3,
}
WINDOW = 0.975  # of the reference's MACs, as published
COUNT = 10  # subnets of each kind that are trained alone
ALONE_STEPS = 1500
CANDIDATES = 6  # of a search, which are trained alone for a while before one is chosen
SPLITS = ("search", "report")

Accuracies = dict[Architecture, float]


class Bench:
    """The example's data and space, and the supernets of all seeds."""

    def __init__(self, seeds: int, folder: Path | None) -> None:
        # With the optimiser of the time at which the figures were taken.
        self.config: JobConfig = load_config(EXAMPLE, ["train.optimizer=adamw"], environment={})
        self.data: DataSet = datasets.build(self.config.data.name, **self.config.data.options)
        self.space: SearchSpace = resolve(self.config, self.data)
        self.seeds, self._folder = range(seeds), folder

    def supernet(self, seed: int) -> ViTResNAS:
        """Trained, or as an earlier call has left it."""
        net = supernet.build(self.space, seed=seed)
        assert isinstance(net, ViTResNAS)
        file = self._folder and self._folder / f"supernet-{seed}.safetensors"
        if file and file.exists():
            net.shared.load_state_dict(load_file(file))
            return net
        training = Training(net, strategy(self.config.train.sampling, net), self.config.train, seed=seed)
        train(training, self.data)
        if file:
            save_file(net.shared.state_dict(), file)
        return net

    def accuracies(self, net: ViTResNAS, archs: Sequence[Architecture], split: str) -> Accuracies:
        hits = scored(net, archs, self.data.batches(split, 256))
        return {arch: float(hit.float().mean()) for arch, hit in hits.items()}

    def alone(self, alone: Alone, scratch: bool, steps: int, seed: int) -> dict[str, float]:
        """Accuracy by split after a training by itself."""
        how = retraining(self.config, from_scratch=scratch, steps=steps, lrs=())
        train(Training(alone, SinglePath(), recipe_of(self.config, how, how.lrs[0]), seed=seed), self.data)
        arch = alone.space.largest
        hits = {split: scored(alone, [arch], self.data.batches(split, 256))[arch] for split in SPLITS}
        return {split: float(hit.float().mean()) for split, hit in hits.items()}


def train(training: Training, data: DataSet) -> None:
    size = training.recipe.batch_size
    for _ in training.run(lambda step: data.train_batch(training.seed, step, size)):
        pass
    training.supernet.shared.load_state_dict(training.weights())


def searched(
    bench: Bench,
    net: ViTResNAS,
    searcher: str,
    *,
    seed: int,
    window: tuple[float, float] = (0, np.inf),
    seeded: bool = True,
    costs: bool = True,
) -> Accuracies:
    """Accuracies on the search split of all that the searcher asked for, by batches as in the job.

    costs: whether MACs are minimised beside the accuracy, or it alone counts.
    """
    space, section = bench.space, bench.config.search

    exact = partial(exact_metrics, space)
    problem = SearchProblem(
        space,
        with_directions(["accuracy", *(["macs"] if costs else [])], "accuracy"),
        exact,
        exact,
        limits=(Limit("macs", ">=", window[0]), Limit("macs", "<=", window[1])),
        start=tuple(space.uniform(UNIFORM_SEEDS)) if seeded else (),
        seed=seed,
        budget=section.evaluations,
        population=section.population,
    )
    proposing = searchers.build(searcher, problem)
    accuracies: Accuracies = {}
    while len(accuracies) < section.evaluations:
        codes = proposing.ask(min(section.batch, section.evaluations - len(accuracies)))
        archs = space.decode(codes)
        of_batch = bench.accuracies(net, archs, "search")
        columns = [[of_batch[arch] for arch in archs], *([exact(codes)["macs"]] if costs else [])]
        proposing.tell(codes, np.stack(columns, axis=1).astype(np.float64))
        accuracies |= of_batch
    return accuracies


def front(space: SearchSpace, search: Accuracies) -> list[Architecture]:
    """What no other beats in accuracy and MACs, the cheapest first."""
    archs = list(search)
    points = np.array([[-search[arch], space.cost(arch).macs] for arch in archs])
    best = [archs[i] for i in np.flatnonzero(moocore.is_nondominated(points))]
    return sorted(best, key=lambda arch: space.cost(arch).macs)


def hypervolume(space: SearchSpace, report: Accuracies) -> float:
    """Share of the box between accuracy 1 at no cost and accuracy 0 at the largest subnet's."""
    largest = space.cost(space.largest).macs
    points = np.array([[1 - accuracy, space.cost(arch).macs / largest] for arch, accuracy in report.items()])
    return float(moocore.hypervolume(points, ref=[1.0, 1.0]))


def print_fronts(bench: Bench) -> None:
    """The front of seed 0, and the hypervolumes on the report split."""
    kinds = {
        "evolution": ("evolution", True),
        "random, same start": ("random", True),
        "random": ("random", False),
    }
    volumes: dict[str, list[float]] = {name: [] for name in kinds}
    for seed in bench.seeds:
        net = bench.supernet(seed)
        for name, (searcher, seeded) in kinds.items():
            chosen = front(bench.space, searched(bench, net, searcher, seed=seed, seeded=seeded))
            report = bench.accuracies(net, chosen, "report")
            volumes[name].append(hypervolume(bench.space, report))
            if seed == 0 and name == "evolution":
                print("| subnet | params | MACs | accuracy % (report) |\n|---|---|---|---|")
                for arch in chosen:
                    cost = bench.space.cost(arch)
                    print(
                        f"| {arch.key} | {cost.params:,} | {cost.macs:,} | {100 * report[arch]:.1f} |",
                        flush=True,
                    )
    evaluations = bench.config.search.evaluations
    print(f"\nHypervolume of the front on the report split, {evaluations} evaluations each\n")
    print(f"| seed | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}")
    for seed in bench.seeds:
        print(f"| {seed} | {' | '.join(f'{volumes[name][seed]:.4f}' for name in kinds)} |")
    print(f"| mean | {' | '.join(cell(volumes[name], '.4f') for name in kinds)} |")
    for name in list(kinds)[1:]:
        gains = [a - b for a, b in zip(volumes["evolution"], volumes[name], strict=True)]
        print(f"\nEvolution minus {name}, paired: {cell(gains, '.4f')}", flush=True)


def print_retrained(bench: Bench) -> None:
    """Whether subnets that are good in the supernet are good when they are trained alone from scratch."""
    low, high = (share * bench.space.cost(bench.space.architecture(REFERENCE)).macs for share in (0.9, 1.0))
    kinds: dict[str, Callable[[int, ViTResNAS], list[Architecture]]] = {
        "of all sizes": lambda seed, net: spread(
            front(bench.space, searched(bench, net, "evolution", seed=seed))
        ),
        "of one size": lambda seed, net: drawn(bench.space, low, high, seed),
    }
    groups: dict[str, list[tuple[list[float], list[float]]]] = {name: [] for name in kinds}
    print("| seed | kind | subnet | MACs | inherited % | alone % |\n|---|---|---|---|---|---|")
    for seed in bench.seeds:
        net = bench.supernet(seed)
        for name, choose in kinds.items():
            archs = choose(seed, net)
            before = bench.accuracies(net, archs, "report")
            after = {
                arch: bench.alone(from_scratch(net, arch, seed=seed), True, ALONE_STEPS, seed)["report"]
                for arch in archs
            }
            groups[name].append(([before[arch] for arch in archs], [after[arch] for arch in archs]))
            for arch in archs:
                macs = bench.space.cost(arch).macs
                cells = f"{100 * before[arch]:.1f} | {100 * after[arch]:.1f}"
                print(f"| {seed} | {name} | {arch.key} | {macs:,} | {cells} |", flush=True)
    print()
    for name, found in groups.items():
        taus = [str(round(told.tau, 2)) for group in found if (told := agreement([group]))]
        print(f"Kendall's tau, subnets {name}: {agreement(found)}; by seed {', '.join(taus)}")


def spread(archs: list[Architecture]) -> list[Architecture]:
    """COUNT of them at equal distances."""
    places = np.linspace(0, len(archs) - 1, min(COUNT, len(archs))).round().astype(int)
    return [archs[i] for i in places]


def drawn(space: SearchSpace, low: float, high: float, seed: int) -> list[Architecture]:
    """COUNT random ones between two costs."""
    codes = space.sample_choices(np.random.default_rng([seed, 7]), 20_000)
    macs = space.costs(codes)["macs"]
    return space.decode(codes[(macs >= low) & (macs <= high)][:COUNT])


COLUMNS = ("by hand", "winner", "by hand, alone", "winner, alone", "winner, fine-tuned", "retrained, alone")


def print_reference(bench: Bench) -> None:
    """The best in a window below the hand-made net's MACs against that net.

    `winner` is the best by inherited weights. `retrained` is the best on the search split of the CANDIDATES
    best, each trained alone for a while; it is then trained again from another seed, so that no luck of its
    training is counted.
    """
    hand_made = bench.space.architecture(REFERENCE)
    budget, steps = bench.space.cost(hand_made).macs, bench.config.train.steps
    rows = []
    print(f"Budget: {budget:,} MACs; by hand: {hand_made}\n")
    print(f"| seed | winner | retrained | {' | '.join(COLUMNS)} |\n|---|---|---|{'---|' * len(COLUMNS)}")
    for seed in bench.seeds:
        net = bench.supernet(seed)
        search = searched(bench, net, "evolution", seed=seed, window=(WINDOW * budget, budget), costs=False)
        best = sorted(search, key=lambda arch: -search[arch])[:CANDIDATES]
        before = bench.accuracies(net, [hand_made, best[0]], "report")
        screened = {
            arch: bench.alone(from_scratch(net, arch, seed=seed), True, ALONE_STEPS, seed)["search"]
            for arch in best
        }
        chosen = max(screened, key=lambda arch: screened[arch])
        alone = [
            bench.alone(from_scratch(net, arch, seed=other), True, steps, other)["report"]
            for arch, other in ((hand_made, seed), (best[0], seed), (chosen, seed + 100))
        ]
        tuned = bench.alone(inherited(net, best[0]), False, steps // 4, seed)["report"]
        rows.append([before[hand_made], before[best[0]], *alone[:2], tuned, alone[2]])
        cells = " | ".join(f"{100 * value:.1f}" for value in rows[-1])
        print(f"| {seed} | {best[0].key} | {chosen.key} | {cells} |", flush=True)
    percent = 100 * np.array(rows)
    print(f"| mean | | | {' | '.join(cell(column) for column in percent.T)} |\n")
    for column in (3, 4, 5):
        gain = cell(percent[:, column] - percent[:, 2])
        print(f"'{COLUMNS[column]}' minus '{COLUMNS[2]}': {gain} points", flush=True)


def print_steps(rounds: int) -> None:
    """Forward and backward of a batch for several architectures: sliced in turns, masked in one pass."""
    cases = {
        "digit pairs": (search_spaces.get("vit_resnas"), 64, 4),
        "vit_resnas_tiny, 224 px": (search_spaces.get("vit_resnas_tiny", stem_norm="group"), 8, 2),
    }
    print("| space | batch | architectures | masked s | sliced s | ratio |\n|---|---|---|---|---|---|")
    for name, (space, batch, paths) in cases.items():
        net = supernet.build(space).train()
        assert isinstance(net, ViTResNAS)
        x = net.example_input(batch)
        labels = torch.arange(batch) % int(space.options["num_classes"])
        seconds: dict[str, list[float]] = {"masked": [], "sliced": []}
        for turn in range(rounds + 1):  # the first warms up
            archs = MultiArchitectural(paths).draw(space, np.random.default_rng(turn))
            for how, step in {"masked": masked_step, "sliced": sliced_step}.items():
                net.zero_grad(set_to_none=True)
                began = time.process_time()
                step(net, x, labels, archs)
                seconds[how] += [time.process_time() - began] if turn else []
        ratios = np.array(seconds["masked"]) / np.array(seconds["sliced"])
        middle = {how: float(np.median(values)) for how, values in seconds.items()}
        cells = f"{middle['masked']:.3f} | {middle['sliced']:.3f} | {np.median(ratios):.2f}x"
        print(f"| {name} | {batch} | {paths} | {cells} |", flush=True)


def masked_step(net: ViTResNAS, x: Tensor, labels: Tensor, archs: Sequence[Architecture]) -> None:
    F.cross_entropy(masked_forward(net, x, archs), labels).backward()


def sliced_step(net: ViTResNAS, x: Tensor, labels: Tensor, archs: Sequence[Architecture]) -> None:
    for i, arch in enumerate(archs):
        own = slice(i, None, len(archs))
        (F.cross_entropy(net(x[own], arch), labels[own]) / len(archs)).backward()


def cell(values: Sequence[float] | NDArray[np.float64], form: str = ".1f") -> str:
    """Mean with the standard error over the seeds."""
    array = np.asarray(values, dtype=np.float64)
    error = array.std(ddof=1) / np.sqrt(len(array)) if len(array) > 1 else float("nan")
    return f"{array.mean():{form}} ± {error:{form}}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=SECTIONS, action="append")
    parser.add_argument("--weights", type=Path, help="folder that keeps the trained supernets")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing of steps, in turns")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    bench = Bench(args.seeds, args.weights)
    sections: dict[str, Callable[[], None]] = {
        "fronts": lambda: print_fronts(bench),
        "retrained": lambda: print_retrained(bench),
        "reference": lambda: print_reference(bench),
        "steps": lambda: print_steps(args.rounds),
    }
    for name in args.only or SECTIONS:
        print(f"\n## {name}\n", flush=True)
        sections[name]()


if __name__ == "__main__":
    main()
