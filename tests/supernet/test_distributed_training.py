"""Two processes that average their gradients end as one process on both their batches."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from elastic_nets import space
from safetensors.torch import load_file, save_file
from torch import Tensor

import supernet
from supernet._recipe import Recipe
from supernet._sampling import Sandwich
from supernet._train import Training

RECIPE = Recipe(steps=4, batch_size=4, lr=1e-2, warmup=1, distill=True, distill_after=0.5, precision="fp32")


def fresh() -> Training:
    elastic = supernet.build(space(depth=(1, 2)), seed=0).double()
    return Training(elastic, Sandwich(random=1), RECIPE, seed=0)


def batch(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(4, 3, 8, 12, generator=generator, dtype=torch.float64)
    return x, torch.randint(5, (4,), generator=generator)


def both(step: int) -> tuple[Tensor, Tensor]:
    parts = [batch(2 * step), batch(2 * step + 1)]
    return torch.cat([x for x, _ in parts]), torch.cat([labels for _, labels in parts])


def train_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    training = fresh()
    list(training.run(batch))
    save_file(training.state(), f"{folder}/{rank}.safetensors")
    dist.destroy_process_group()


def test_two_ranks_are_one_process_on_the_joined_batch(tmp_path: Path):
    mp.spawn(train_rank, (str(tmp_path),), nprocs=2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    alone = fresh()
    start = {name: tensor.clone() for name, tensor in alone.state().items()}
    list(alone.run(both))
    for name, tensor in alone.state().items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-7, atol=1e-9)
    assert not torch.equal(start["model.head.weight"], first["model.head.weight"])
