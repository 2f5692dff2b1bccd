"""What options of a training's passes cost on the CPU: channels_last, checkpointing, compiling.

    python benchmarks/passes.py
    python benchmarks/passes.py graphs

CPU time of forward and backward pass, the least of several, alternating, on one thread. `graphs`: what torch
records of steps of random architectures, by blocks (`train.compile`) and of the whole supernet, by a backend
that runs graphs as they are; breaks are counted by torch.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

import search_spaces
import supernet
from supernet.passes.compiling import Compiler
from supernet.passes.recomputing import recomputed
from supernet.supernet import Supernet

ROUNDS = 5
ARCHITECTURES = 12
FAMILIES = ("matformer", "autoformer", "vit_resnas", "turbovit_digit_pairs")
Alter = Callable[[nn.Module], AbstractContextManager[object]]


def least(*runs: Callable[[], None]) -> list[float]:
    """CPU seconds of each, the least of ROUNDS after one that does not count."""
    seconds = [float("inf")] * len(runs)
    for number in range(ROUNDS + 1):
        for i, run in enumerate(runs):
            began = time.process_time()
            run()
            if number:
                seconds[i] = min(seconds[i], time.process_time() - began)
    return seconds


def stem_in(layout: torch.memory_format) -> Callable[[], None]:
    """The stem of ViT-ResNAS at 224 pixels with its weights and 8 images in a layout."""
    net = supernet.build(search_spaces.get("vit_resnas_tiny"), seed=0)
    stem = net.shared.get_submodule("patch_embed").to(memory_format=layout).train()
    x = torch.randn(8, 3, 224, 224).to(memory_format=layout)
    return lambda: stem(x).sum().backward()


def step(net: Supernet, batch: int, alter: Alter) -> Callable[[], None]:
    x, arch = net.example_input(batch), net.space.largest

    def run() -> None:
        with net.altered(arch, alter):
            net(x, arch).square().mean().backward()

    return run


def print_graphs() -> None:
    print("| space | architectures | compiled | graphs | by architecture | breaks | left as they are |")
    print("|---|---|---|---|---|---|---|")
    for name in FAMILIES:
        for whole in (False, True):
            torch._dynamo.reset()
            counters.clear()
            backend = CompileCounter()
            left, new = steps_of(name, backend, whole=whole)
            breaks, what = sum(counters["graph_break"].values()), "whole supernet" if whole else "blocks"
            counts = ", ".join(map(str, new))
            print(
                f"| {name} | {len(new)} | {what} | {backend.frame_count} | {counts} | {breaks} | {left} |",
                flush=True,
            )


def steps_of(name: str, backend: CompileCounter, *, whole: bool) -> tuple[int, Sequence[int]]:
    """How many calls ran as they are, and the graphs that were new with each architecture."""
    net = supernet.build(search_spaces.get(name), seed=0).train()
    compiler, x = Compiler(backend), net.example_input(2)
    compiled = torch.compile(net, backend=backend)
    codes, new = net.space.sample_choices(np.random.default_rng(0), ARCHITECTURES), list[int]()
    for arch in net.space.decode(codes):
        before = backend.frame_count
        if whole:
            compiled(x, arch).square().mean().backward()
        else:
            with net.altered(arch, compiler.compiled):
                net(x, arch).square().mean().backward()
        new.append(backend.frame_count - before)
    return sum(not count for count in new) if whole else compiler.left, new


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("costs", "graphs"), default="costs")
    torch.set_num_threads(1)
    print_graphs() if parser.parse_args().what == "graphs" else print_costs()


def print_costs() -> None:
    plain, last = least(stem_in(torch.contiguous_format), stem_in(torch.channels_last))
    print(
        f"stem of vit_resnas_tiny, 8 images: {plain:.3f} s, channels_last {last:.3f} s ({last / plain:.2f})"
    )
    small = {"embed_dim": (64,), "depth": (4,), "num_heads": (8,)}
    large = {
        "embed_dim": (192,),
        "num_heads": (3,),
        "depth": (12,),
        "image_size": (224, 224),
        "patch_size": 16,
    }
    cases = (
        ("digit pairs, 64 images", 64, small),
        ("192 wide, 224 pixels, 4 images", 4, large | {"in_chans": 3}),
    )
    for name, batch, options in cases:
        net = supernet.build(search_spaces.get("matformer", **options), seed=0).train()
        compiler = Compiler()
        alters: tuple[Alter, ...] = (lambda plain: nullcontext(), recomputed, compiler.compiled)
        eager, again, compiled = least(*(step(net, batch, alter) for alter in alters))
        print(
            f"matformer, {name}: {eager:.3f} s, checkpointing {again / eager:.2f}, "
            f"compiled {compiled / eager:.2f} ({compiler.shapes} shapes)"
        )


if __name__ == "__main__":
    main()
