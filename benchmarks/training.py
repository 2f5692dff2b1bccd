"""What a step of training a subnet inside a supernet takes, beside the same network alone; what workers gain.

    python benchmarks/training.py subnets
    python benchmarks/training.py reduction
    python benchmarks/training.py workers

`subnets`: one step each (forward, backward, clipping, optimiser, average) of the largest, a middle and the
smallest subnet of an elastic ViT, in alternating rounds with timm's network of that size in an ordinary loop
with the same optimiser, and with our trainer on the plain network alone; on one thread of a CPU the time that
the processor worked for it, which is the same beside other processes. `reduction`: forward and backward
with gradients summed in buckets while others are computed, with one sum at the end, and by
DistributedDataParallel. `workers`: steps of one and two processes.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any

import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import search_spaces
import supernet
from search_spaces import Architecture, SearchSpace
from supernet.distribution import Ranks
from supernet.supernet import Supernet
from supernet.training.alone import from_scratch
from supernet.training.recipe import Recipe
from supernet.training.strategies import FixedSubnets, SinglePath
from supernet.training.trainer import Training

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        **{"image_size": (32, 32), "patch_size": 4, "num_classes": 100, "embed_dim": (64, 128, 192)},
        **{"depth": (4, 6, 8), "num_heads": (1, 2, 3), "head_dim": 64, "mlp_ratio": (1, 2, 4)},
    },
    "ffn": {  # nothing but FFNs is elastic
        **{"image_size": (32, 32), "patch_size": 4, "num_classes": 100, "embed_dim": (192,)},
        **{"depth": (8,), "num_heads": (3,), "head_dim": 64, "mlp_ratio": (0.5, 1, 2, 4)},
    },
    "base": {  # ViT-B/16
        **{"image_size": (224, 224), "patch_size": 16, "num_classes": 1000, "embed_dim": (384, 576, 768)},
        **{"depth": (8, 10, 12), "num_heads": (6, 9, 12), "head_dim": 64, "mlp_ratio": (1, 2, 4)},
    },
}
BATCH = {"small": 32, "ffn": 32, "base": 256}
Clock = Callable[[], float]
WARM_UP = 2


def space_of(size: str) -> SearchSpace:
    return search_spaces.get("matformer", stem="patch", in_chans=3, **SIZES[size])


def subnets(space: SearchSpace) -> dict[str, Architecture]:
    smallest, middle, largest = space.uniform(3)
    return {"largest": largest, "middle": middle, "smallest": smallest}


def recipe(args: argparse.Namespace, **options: Any) -> Recipe:
    batch = args.batch or BATCH[args.size]
    fixed = {"steps": 10**6, "warmup": 0, "largest_first": 0.0, "lr": 1e-5, "ema": 0.999}
    return Recipe(**fixed, batch_size=batch, precision="bf16" if args.bf16 else "fp32", **options)


def batch_of(args: argparse.Namespace, space: SearchSpace, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    side, count = SIZES[args.size]["image_size"][0], args.batch or BATCH[args.size]
    x = torch.randn(count, 3, side, side, generator=generator)
    return x.to(device), torch.randint(SIZES[args.size]["num_classes"], (count,), generator=generator).to(
        device
    )


def stepping(training: Training, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """One step of a training, by whoever takes part in it."""

    def part(number: int) -> tuple[Tensor, Tensor]:
        places = training.part(number).places
        mine = slice(places[0], places[-1] + 1)  # nothing is mixed, and one subnet sees all of them
        return batch[0][mine], batch[1][mine]

    def step() -> None:
        for _ in training.run(part, until=training.step + 1):
            pass

    return step


def plain_stepping(model: nn.Module, how: Recipe, batch: tuple[Tensor, Tensor]) -> Callable[[], None]:
    """One step of a module alone as the recipe says, by an ordinary loop: AdamW, clipping, average."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": how.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=how.lr, betas=how.betas, fused=True)
    parameters = [*matrices, *rest]
    average = [p.detach().clone() for p in parameters]
    device = batch[0].device.type
    model.train()

    def step() -> None:
        adamw.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16) if how.precision == "bf16" else nullcontext():
            loss = nn.functional.cross_entropy(
                model(batch[0]).float(), batch[1], label_smoothing=how.label_smoothing
            )
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, how.clip)
        adamw.step()
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - 0.999)
        float(loss.detach())

    return step


def seconds(step: Callable[[], None], clock: Clock) -> float:
    synchronise()
    began = clock()
    step()
    synchronise()
    return clock() - began


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rounds(
    steps: dict[str, Callable[[], None]], count: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Times of each, taken in turns; the order is reversed in every second round."""
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(count):
        for name in list(steps)[:: -1 if number % 2 else 1]:
            times[name].append(seconds(steps[name], clock))
    return times


def spread(numbers: Sequence[float]) -> str:
    """The median, and the quartiles."""
    ordered = sorted(numbers)
    return f"{median(ordered):.3f} [{ordered[len(ordered) // 4]:.3f}, {ordered[-1 - len(ordered) // 4]:.3f}]"


def compare_subnets(args: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if device.type == "cpu" and args.threads == 1 else time.perf_counter
    space = space_of(args.size)
    batch, how = batch_of(args, space, device), recipe(args)
    print(f"| subnet | parameters | timm, ms | inside / timm | alone / timm | {args.rounds} rounds")
    print("|---|---|---|---|---|")
    for name, arch in subnets(space).items():
        net = supernet.build(space, seed=0).to(device)
        plain: Any = net.plain(arch)
        arguments = plain.timm_arguments()
        model = timm.create_model(arguments.pop("model_name"), **arguments).to(device)
        alone = from_scratch(net, arch, seed=0).to(device)
        times = rounds(
            {
                "inside": stepping(Training(net, FixedSubnets([arch]), how, seed=0), batch),
                "timm": plain_stepping(model, how, batch),
                "alone": stepping(Training(alone, SinglePath(), how, seed=0), batch),
            },
            args.rounds,
            clock,
        )
        ratios = {
            which: spread([a / b for a, b in zip(times[which], times["timm"], strict=True)])
            for which in ("inside", "alone")
        }
        params, ms = space.cost(arch).params, 1000 * median(times["timm"])
        print(f"| {name} | {params:,} | {ms:.1f} | {ratios['inside']} | {ratios['alone']} |", flush=True)


class Called(nn.Module):
    """What DistributedDataParallel wraps: the supernet, whose parameters get gradients by another way."""

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        return self.net(x, arch)


def reduction_rank(rank: int, args: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=args.workers
    )
    space = space_of(args.size)
    archs = [space.largest, *space.uniform(3)[:2]] if args.several else [space.largest]
    x, labels = (part[rank :: args.workers] for part in batch_of(args, space, torch.device("cpu")))
    times = rounds(reductions(supernet.build(space, seed=0).train(), archs, x, labels), args.rounds)
    if rank == 0:
        print("| passes | " + " | ".join(times) + " | ms")
        cells = [spread([1000 * t for t in each]) for each in times.values()]
        print(f"| {len(archs)} | {' | '.join(cells)} |")
    dist.destroy_process_group()


def reductions(
    net: Supernet, archs: Sequence[Architecture], x: Tensor, labels: Tensor
) -> dict[str, Callable[[], None]]:
    """The passes of a step over this rank's examples, with gradients summed in several ways."""
    parameters = list(net.shared.parameters())
    wrapped = DistributedDataParallel(Called(net), find_unused_parameters=True)

    def backward(call: nn.Module, arch: Architecture) -> None:
        nn.functional.cross_entropy(call(x, arch), labels).backward()

    def ours(exchange: Ranks) -> None:
        net.zero_grad()
        for arch in archs[:-1]:
            backward(net, arch)
        with exchange.last_pass():
            backward(net, archs[-1])
        exchange.agreed(stop=False)

    def theirs() -> None:
        net.zero_grad()
        for arch in archs[:-1]:
            with wrapped.no_sync():
                backward(wrapped, arch)
        backward(wrapped, archs[-1])

    def none() -> None:
        net.zero_grad()
        for arch in archs:
            backward(net, arch)

    buckets, at_end = Ranks(parameters), Ranks(parameters, bucket_bytes=2**62)
    return {
        "no sum": none,
        "buckets": partial(ours, buckets),
        "one sum": partial(ours, at_end),
        "DDP": theirs,
    }


def worker_rank(rank: int, args: argparse.Namespace, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=args.workers
    )
    space = space_of(args.size)
    training = Training(supernet.build(space, seed=0), SinglePath(), recipe(args), seed=0)
    batch = batch_of(args, space, torch.device("cpu"))
    step = stepping(training, batch)
    for _ in range(WARM_UP):
        step()
    times = [seconds(step, time.perf_counter) for _ in range(args.rounds)]
    if rank == 0:
        print(f"| {args.workers} | {spread([1000 * t for t in times])} |", flush=True)
    dist.destroy_process_group()


def spawned(run: Callable[..., None], args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, (args, folder), nprocs=args.workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=("subnets", "reduction", "workers"))
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--several", action="store_true", help="three subnets a step, the largest first")
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.what == "subnets":
        compare_subnets(args)
    elif args.what == "reduction":
        spawned(reduction_rank, args)
    else:
        print("| workers | ms a step |")
        print("|---|---|")
        for args.workers in (1, 2):
            spawned(worker_rank, args)


if __name__ == "__main__":
    main()
