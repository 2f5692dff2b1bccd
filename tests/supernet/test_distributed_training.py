"""Two processes that average their gradients end as one process on both their batches."""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from elastic_nets import space
from safetensors.torch import load_file, save_file
from torch import Tensor

import supernet
from supernet.training.recipe import Recipe, Sampling
from supernet.training.strategies import Sandwich
from supernet.training.trainer import Training

SAMPLING = Sampling(distill=True, distill_after=0.5)
RECIPE: dict[str, Any] = {"steps": 4, "batch_size": 4, "lr": 1e-2, "warmup": 1, "largest_first": 0.0}
OPTIMIZERS: tuple[Literal["adamw", "muon"], ...] = ("adamw", "muon")


def fresh(optimizer: Literal["adamw", "muon"]) -> Training:
    elastic = supernet.build(space(depth=(1, 2)), seed=0).double()
    recipe = Recipe(**RECIPE, optimizer=optimizer, sampling=SAMPLING)
    return Training(elastic, Sandwich(random=1), recipe, seed=0)


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
    for optimizer in OPTIMIZERS:
        training = fresh(optimizer)
        list(training.run(batch, until=2))
        resumed = fresh(optimizer)
        resumed.load_state(training.state())
        for one in (training, resumed):
            list(one.run(batch))
        save_file(training.state(), f"{folder}/{optimizer}.{rank}.safetensors")
        save_file(resumed.state(), f"{folder}/{optimizer}.{rank}.resumed.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_rank, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_ranks_are_one_process_on_the_joined_batch(
    trained: Path, optimizer: Literal["adamw", "muon"]
) -> None:
    first, second = (load_file(trained / f"{optimizer}.{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    alone = fresh(optimizer)
    start = {name: tensor.clone() for name, tensor in alone.state().items()}
    list(alone.run(both))
    for name, tensor in alone.state().items():
        torch.testing.assert_close(first[name], tensor, rtol=1e-7, atol=1e-9)
    assert not torch.equal(start["model.head.weight"], first["model.head.weight"])
    assert any("momentum_buffer" in name for name in first) == (optimizer == "muon")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_ranks_end_as_uninterrupted_ones(trained: Path, optimizer: str) -> None:
    for rank in range(2):
        whole = load_file(trained / f"{optimizer}.{rank}.safetensors")
        again = load_file(trained / f"{optimizer}.{rank}.resumed.safetensors")
        assert whole.keys() == again.keys()
        assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
