"""What options of a training's passes cost on the CPU: channels_last, checkpointing, compiling.

    python benchmarks/passes.py

CPU time of forward and backward pass, the least of several, alternating, on one thread.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

import search_spaces
import supernet
from supernet.passes.compiling import Compiler
from supernet.passes.recomputing import recomputed
from supernet.supernet import Supernet

ROUNDS = 5
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


def main() -> None:
    torch.set_num_threads(1)
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
