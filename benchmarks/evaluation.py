"""Evaluating many subnets together: forward work by count, and CPU time, beside evaluating them one by one.

Random subnets of MatFormers of width 48 with 16 tokens and FFN ratios 0.5, 1, 2 and 4 in every layer, and of
each family's own space. In each round all ways of evaluating take turns on one thread; ratios are medians
over rounds of ratios within a round, so that they hold on a busy machine. `extracted`: the same subnets as
stand-alone networks, their extraction not timed. `one by one`: `scored` for each subnet by itself, timed on
every eighth. `halves`, `siblings`: `scored` for all with steps that are kept, as in the processes of a
search; `anew` makes the steps, too. `forward`: one image through a subnet again and again, inside the
supernet as it is run and with slices taken for every pass as they were before, beside the extracted one.

    python benchmarks/evaluation.py --images 64 --rounds 3
    python benchmarks/evaluation.py --only forward
"""

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from forward_work import ForwardWork, cached_work, forward_work
from torch import Tensor, nn

import search_spaces
import supernet
from search_spaces import Architecture, SearchSpace
from supernet.evaluation.prefix_cache import PrefixCache
from supernet.evaluation.scores import Descent, scored
from supernet.evaluation.steps import shared_steps
from supernet.supernet import Supernet

SETS = ((4, 241), (6, 64), (12, 64))  # depth, subnets
FAMILIES = ("matformer", "autoformer", "vit_resnas", "turbovit_digit_pairs", "stitching")
FORWARD_ROUNDS = 40
PASSES = 10  # in a row: the first finds caches full of what others have done
PARTS = ("sets", "families", "deviations", "cached", "forward")
EIGHTH = 8
MIB = 2**20
Batch = tuple[Tensor, Tensor]


def space_of(depth: int) -> SearchSpace:
    sizes = {"image_size": (8, 8), "patch_size": 2, "in_chans": 1, "num_classes": 10, "stem": "patch"}
    choices = {"embed_dim": (48,), "depth": (depth,), "num_heads": (4,), "mlp_ratio": (0.5, 1, 2, 4)}
    return search_spaces.get("matformer", head_dim=12, **sizes, **choices)


def drawn(space: SearchSpace, count: int, seed: int = 0) -> list[Architecture]:
    """Distinct random subnets, fewer where there are no more."""
    codes = space.sample_choices(np.random.default_rng(seed), 8 * count)
    return list(dict.fromkeys(space.decode(codes)))[:count]


def seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def run_extracted(modules: Sequence[nn.Module], batch: Batch) -> None:
    x, labels = batch
    with torch.inference_mode():
        for module in modules:
            module(x).argmax(dim=-1) == labels  # noqa: B015 - what `scored` does


def timed(
    net: Supernet, archs: Sequence[Architecture], batch: Batch, rounds: int
) -> Mapping[str, list[float]]:
    """CPU seconds of each way in each round; one by one, for all as measured on every EIGHTH."""
    modules, steps = [net.extract(arch) for arch in archs], shared_steps(net)
    some = archs[::EIGHTH]
    ways: Mapping[str, Callable[[], object]] = {
        "extracted": lambda: run_extracted(modules, batch),
        "one by one": lambda: [scored(net, [arch], [batch]) for arch in some],
        "anew": lambda: scored(net, archs, [batch]),
        "halves": lambda: scored(net, archs, [batch], steps=steps),
        "siblings": lambda: scored(net, archs, [batch], steps=steps, siblings=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    run_extracted(modules[:2], batch)
    few = batch[0][:2], batch[1][:2]
    scored(net, archs, [few], steps=steps)
    for _ in range(rounds):
        for name, work in ways.items():
            times = len(archs) / len(some) if name == "one by one" else 1
            spent[name].append(times * seconds(work))
    return spent


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return float(np.median(np.array(over) / np.array(under)))


def speedups(spent: Mapping[str, list[float]], way: str, counted: float) -> str:
    """Counted, measured against the extracted ones and what that is of the counted, against one by one."""
    measured = ratio(spent["extracted"], spent[way])
    naive = ratio(spent["one by one"], spent[way])
    return f"{counted:.2f}x | {measured:.2f}x | {measured / counted:.2f} | {naive:.2f}x"


def deviation(net: Supernet, archs: Sequence[Architecture], x: Tensor, *, siblings: bool) -> float:
    """The largest deviation of logits from the extracted networks', of the largest logit."""
    descent = Descent(shared_steps(net), siblings=siblings, cache=None)
    found = []
    with torch.inference_mode():
        for arch, logits in descent.run(x, archs, batch=None):
            alone = net.extract(arch)(x)
            found.append((logits - alone).abs().max() / alone.abs().max())
    return float(torch.stack(found).max())


def row(name: str, net: Supernet, archs: Sequence[Architecture], images: int, rounds: int) -> str:
    batch = net.example_input(images), torch.zeros(images, dtype=torch.long)
    work: ForwardWork = forward_work(net, archs)
    spent = timed(net, archs, batch, rounds)
    halves = speedups(spent, "halves", work.alone / work.halves)
    siblings = speedups(spent, "siblings", work.alone / work.siblings)
    blocks = f"{work.alone / work.blocks:.2f}x | {ratio(spent['extracted'], spent['anew']):.2f}x"
    beside = ratio(spent["siblings"], spent["halves"])
    return f"| {name}, {len(archs)} | {blocks} | {halves} | {siblings} | {beside:.2f} |"


def generations(space: SearchSpace, size: int, count: int, seed: int = 0) -> list[list[Architecture]]:
    """New subnets by generation: two of the last 2 `size` ones joined at a layer, and one option mutated."""
    rng = np.random.default_rng(seed)
    counts = np.array([len(choice.options) for choice in space.choices])
    mutable = np.flatnonzero(counts > 1)
    codes = space.sample_choices(rng, size)
    found = [list(dict.fromkeys(space.decode(codes)))]
    seen = set(found[0])
    for _ in range(count - 1):
        parents = codes[-2 * size :]
        mothers, fathers = (parents[rng.integers(len(parents), size=size)] for _ in range(2))
        cut = rng.integers(1, codes.shape[1], size=(size, 1))
        children = np.where(np.arange(codes.shape[1]) < cut, mothers, fathers)
        where = rng.choice(mutable, size=size)
        children[np.arange(size), where] = rng.integers(counts[where])
        children = space.canonical(children)
        new = [arch for arch in dict.fromkeys(space.decode(children)) if arch not in seen]
        seen.update(new)
        found.append(new)
        codes = np.concatenate([codes, children])
    return found


def print_cached(depth: int, images: int, rounds: int) -> None:
    """A search of many small batches, with caches of several sizes."""
    net = supernet.build(space_of(depth)).eval()
    groups = generations(net.space, 32, 8)
    archs = [arch for group in groups for arch in group]
    batch = net.example_input(images), torch.zeros(images, dtype=torch.long)
    alone, steps = forward_work(net, archs).alone, shared_steps(net)
    modules = [net.extract(arch) for arch in archs]
    extracted = [seconds(lambda: run_extracted(modules, batch)) for _ in range(rounds)]
    for budget in (0, 16 * MIB, 64 * MIB, 256 * MIB):
        cells = []
        for siblings in (False, True):

            def run(on: bool = siblings, budget: int = budget) -> None:
                cache = PrefixCache(budget)
                for group in groups:
                    scored(net, group, [batch], steps=steps, siblings=on, cache=cache, ids=["images"])

            work = cached_work(net, groups, siblings=siblings, budget=budget, images=images)
            measured = ratio(extracted, [seconds(run) for _ in range(rounds)])
            cells.append(f"{alone / work:.2f}x | {measured:.2f}x")
        print(f"| {depth}, {len(archs)} | {budget // MIB} | {' | '.join(cells)} |", flush=True)


def again(work: Callable[[], object]) -> None:
    for _ in range(PASSES):
        work()


def print_forward(images: int = 1, rounds: int = FORWARD_ROUNDS) -> None:
    """CPU time of passes inside the supernet over that of as many of the extracted subnet, with quartiles."""
    print("\n| space, subnet | extracted, ms | slices for every pass | as it is run |\n|---|---|---|---|")
    for name in FAMILIES:
        net = supernet.build(search_spaces.get(name)).eval()
        random = drawn(net.space, 1)[0]
        presets = {"smallest": net.space.smallest, "random": random, "largest": net.space.largest}
        for preset, arch in presets.items():
            module, x = net.extract(arch), net.example_input(images)
            ways = (partial(module, x), partial(Supernet.forward, net, x, arch), partial(net, x, arch))
            with torch.inference_mode():
                for work in ways * 3:
                    work()
                spent = np.array([[seconds(partial(again, work)) for work in ways] for _ in range(rounds)])
            quartiles = np.quantile(spent[:, 1:] / spent[:, :1], (0.25, 0.5, 0.75), axis=0).T
            cells = (f"{median:.2f} [{low:.2f}, {high:.2f}]" for low, median, high in quartiles)
            alone = 1e3 * np.median(spent[:, 0]) / PASSES
            print(f"| {name}, {preset} | {alone:.2f} | {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args(argv)
    asked = PARTS if args.only is None else (args.only,)
    torch.set_num_threads(1)
    print(f"{args.images} images, one CPU thread, {args.rounds} rounds")
    if "sets" in asked:
        print_head("depth, subnets")
        for depth, count in SETS:
            net = supernet.build(space_of(depth)).eval()
            print(row(str(depth), net, drawn(net.space, count), args.images, args.rounds), flush=True)
    nets = {name: supernet.build(search_spaces.get(name)).eval() for name in FAMILIES}
    if "families" in asked:
        print_head("space, subnets")
        for name, net in nets.items():
            print(row(name, net, drawn(net.space, 24), args.images, args.rounds), flush=True)
    if "deviations" in asked:
        print("\n| space | largest deviation of logits, halves | siblings |\n|---|---|---|")
        for name, net in nets.items():
            archs, x = drawn(net.space, 24), net.example_input(8)
            worst = [deviation(net, archs, x, siblings=siblings) for siblings in (False, True)]
            print(f"| {name} | {worst[0]:.0e} | {worst[1]:.0e} |", flush=True)
    if "cached" in asked:
        print("\n| depth, subnets | cache MiB | halves: counted | measured | siblings: counted | measured |")
        print("|---|---|---|---|---|---|")
        print_cached(6, args.images, max(1, args.rounds // 2))
    if "forward" in asked:
        print_forward()


def print_head(first: str) -> None:
    cells = ("counted", "measured", "of counted", "over one by one")
    columns = ["blocks: counted", "anew: measured"]
    columns += [f"{way}: {cell}" for way in ("halves", "siblings") for cell in cells] + ["siblings / halves"]
    print(f"\n| {first} | {' | '.join(columns)} |\n{'|---' * (1 + len(columns))}|")


if __name__ == "__main__":
    main()
