"""Ranks that share each batch end as one process on the whole of it; the sums are those of a fixed order."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from elastic_nets import space
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import search_spaces
import supernet
from search_spaces.errors import UsageError
from supernet.distribution import Part, Ranks, gathered, parts_of, summed
from supernet.supernet import Supernet
from supernet.training.recipe import Recipe, Sampling, Teacher
from supernet.training.strategies import (
    Joint,
    MultiArchitectural,
    ResourceConstrained,
    Sandwich,
    SinglePath,
    Strategy,
    Weighted,
)
from supernet.training.trainer import DivergedError, Training

BATCH, STEPS = 10, 4
BASE: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "lr": 1e-2, "warmup": 1, "largest_first": 0.25}
DISTILLED = Sampling(distill=True, distill_after=0.5)
NORMED: dict[str, Any] = {"name": "vit_resnas", "stem_norm": "batch"}
# What is trained and how; the strategy is made of the space, which no other process can be given.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sandwich": ("sandwich", {"sampling": DISTILLED, "ema": 0.9}),
    "muon": ("single_path", {"optimizer": "muon"}),
    "joint": ("joint", {"accumulate": 3}),
    "weighted": ("weighted", {"drop_path": 0.5}),
    "dropped": ("sandwich", {"drop_path": 0.5, "accumulate": 3}),
    "mixed": ("sandwich", {"mixup": 0.8, "cutmix": 1.0}),
    "taught": ("sandwich", {"teacher": Teacher(timm="none"), "mixup": 0.8}),
    "groups": ("resource_constrained", {"drop_path": 0.3}),
    "sorted": ("multi_architectural", {"widening": 0.5, "sort_every": 1}),
    "patches": ("multi_architectural", {"family": NORMED, "accumulate": 4, "patch_mixup": True}),
}
EXACT: dict[str, Any] = {"ema": 0.9, "drop_path": 0.5, "mixup": 0.8, "optimizer": "muon"}


def strategy(name: str, net: Supernet) -> Strategy:
    if name == "resource_constrained":
        groups = [[net.space.smallest], [net.space.largest]]
        return ResourceConstrained(groups, 2)
    made: dict[str, Strategy] = {
        "sandwich": Sandwich(random=1),
        "single_path": SinglePath(),
        "joint": Joint(2),
        "weighted": Weighted((0.5, 0.5)),
        "multi_architectural": MultiArchitectural(2),
    }
    return made[name]


def fresh(case: str, dtype: torch.dtype = torch.float64) -> Training:
    drawn, options = CASES[case]
    options = dict(options)
    family = options.pop("family", {})
    net = supernet.build(search_spaces.get(**family) if family else space(depth=(1, 2)), seed=0).to(dtype)
    generator = torch.Generator().manual_seed(7)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, 5)).to(dtype)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=dtype))
    recipe = Recipe(**BASE | options)
    taught = None if recipe.teacher is None else teacher
    training = Training(net, strategy(drawn, net), recipe, seed=0, teacher=taught)
    if training._patch_head is not None:
        training._patch_head.to(dtype)
    return training


def batch(training: Training, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    net = training.supernet
    x = torch.randn(BATCH, *net.example_input(1).shape[1:], generator=generator, dtype=torch.float64)
    classes = 19 if net.space.family == "vit_resnas" else 5
    labels = torch.randint(classes, (BATCH,), generator=generator)
    return x.to(next(net.parameters()).dtype), labels


def part(training: Training, step: int) -> tuple[Tensor, Tensor]:
    """What this process is given of a batch."""
    places = list(training.part(step).places)
    x, labels = batch(training, step)
    return x[places], labels[places]


def ended(case: str, **given: Any) -> dict[str, Tensor]:
    training = fresh(case, **given)
    *_, last = training.run(lambda step: part(training, step))
    return training.state() | {"loss": torch.tensor(last["loss"], dtype=torch.float64)}


def resumed(case: str) -> dict[str, Tensor]:
    """Cut off after two steps, on all ranks, when one of them is told to stop."""
    training = fresh(case)
    stop = iter([False, dist.get_rank() == 1])
    list(training.run(lambda step: part(training, step), stop=lambda: next(stop)))
    assert training.step == 2
    again = fresh(case)
    again.load_state(training.state())
    *_, last = again.run(lambda step: part(again, step))
    return again.state() | {"loss": torch.tensor(last["loss"], dtype=torch.float64)}


def train_rank(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    for case in CASES:
        save_file(ended(case), f"{folder}/{case}.{rank}.safetensors")
    for case in ("sandwich", "muon"):
        save_file(resumed(case), f"{folder}/{case}.{rank}.resumed.safetensors")
    CASES["exact"] = ("single_path", EXACT | {"accumulate": ranks})
    save_file(ended("exact", dtype=torch.float32), f"{folder}/exact.{rank}.safetensors")
    save_file(ended("sandwich", dtype=torch.float32), f"{folder}/rounded.{rank}.safetensors")
    said = gathered(b"a" * (2 - rank) if rank < 2 else "ä".encode())
    assert said == [b"aa", b"a", *["ä".encode()] * (ranks - 2)]
    save_file({"sum": summed(numbers(rank))}, f"{folder}/sum.{rank}.safetensors")
    (folder_of := Path(folder) / f"refusals.{rank}").write_text("\n".join(refusals()))
    assert folder_of.exists()
    dist.destroy_process_group()


def numbers(rank: int) -> Tensor:
    """Such that it matters in which order they are added up."""
    return torch.randn(1003, generator=torch.Generator().manual_seed(rank)) * 10.0 ** (2 * rank)


def refusals() -> Iterator[str]:
    """What is said of batches too small, of statistics of batches, and of losses that are no numbers."""
    CASES["few"] = ("resource_constrained", {"batch_size": 2 * dist.get_world_size() - 1})
    training = fresh("few")
    training.step = 1  # before, the largest subnet is trained alone
    yield sentence(partial(list, training.run(lambda step: part(training, step))))
    CASES["normed"] = ("single_path", {"family": NORMED})
    training = fresh("normed")
    yield sentence(partial(list, training.run(lambda step: part(training, step))))
    training = fresh("muon")
    x, labels = part(training, 0)
    x[0] = torch.nan if dist.get_rank() == 0 else 0.0
    yield sentence(partial(list, training.run(lambda step: (x, labels), until=1)))


def sentence(call: Any) -> str:
    try:
        call()
    except (UsageError, DivergedError) as error:
        return error.message
    return "nothing was refused"


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """How many ranks there were, and what they left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(train_rank, (request.param, str(folder)), nprocs=request.param)
    return request.param, folder


def left_by_all(trained: tuple[int, Path], name: str) -> dict[str, Tensor]:
    ranks, folder = trained
    first, *others = (load_file(folder / f"{name.format(rank)}.safetensors") for rank in range(ranks))
    for other in others:
        assert first.keys() == other.keys()
        assert all(
            torch.equal(t, other[n]) for n, t in first.items() if ".norms." not in n or "model" not in n
        )
    return first


@pytest.mark.parametrize("case", CASES)
def test_ranks_are_one_process_on_the_whole_batch(trained: tuple[int, Path], case: str) -> None:
    ranks, alone = left_by_all(trained, case + ".{}"), ended(case)
    begun = fresh(case).state()
    assert ranks.keys() == alone.keys()
    for name, tensor in alone.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            torch.testing.assert_close(ranks[name], tensor, rtol=1e-7, atol=1e-9)
    learnt = [n for n in begun if n.endswith("head.weight")]
    assert learnt
    assert not any(torch.equal(begun[name], ranks[name]) for name in learnt)


def test_parts_that_are_the_ranks_give_the_same_bits(trained: tuple[int, Path]) -> None:
    """In fp32, with one subnet a step and as many parts as ranks."""
    CASES["exact"] = ("single_path", EXACT | {"accumulate": trained[0]})
    try:
        alone = ended("exact", dtype=torch.float32)
    finally:
        del CASES["exact"]
    ranks = left_by_all(trained, "exact.{}")
    del ranks["loss"], alone["loss"]
    assert all(torch.equal(ranks[name], tensor) for name, tensor in alone.items())


def test_losses_in_fp32_differ_by_rounding(trained: tuple[int, Path]) -> None:
    alone = ended("sandwich", dtype=torch.float32)
    ranks = left_by_all(trained, "rounded.{}")
    torch.testing.assert_close(ranks["loss"], alone["loss"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("case", ["sandwich", "muon"])
def test_resumed_ranks_end_as_uninterrupted_ones(trained: tuple[int, Path], case: str) -> None:
    whole, again = left_by_all(trained, case + ".{}"), left_by_all(trained, case + ".{}.resumed")
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())


def test_sums_are_made_in_the_order_of_the_ranks(trained: tuple[int, Path]) -> None:
    ranks, _ = trained
    expected = numbers(0)
    for rank in range(1, ranks):
        expected += numbers(rank)
    assert torch.equal(left_by_all(trained, "sum.{}")["sum"], expected)


def test_every_rank_says_what_it_cannot_do(trained: tuple[int, Path]) -> None:
    ranks, folder = trained
    for rank in range(ranks):
        small, normed, diverged = (folder / f"refusals.{rank}").read_text().splitlines()
        least, all_of_them = ranks - 1, 2 * ranks - 1
        assert small.startswith(f"A subnet sees {least} of the {all_of_them} examples of a batch: too few")
        assert "have statistics of batches" in normed
        assert diverged == "The training loss is nan at step 1 of 4."


def test_the_parts_of_all_ranks_are_all_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("supernet.distribution.world", lambda: 4)
    for count in (4, 7, 64):
        for pieces in (1, 3, 4, 8):
            places: list[int] = []
            for rank in range(4):
                monkeypatch.setattr("supernet.distribution.rank", lambda rank=rank: rank)
                parts = [range(count)[part] for part in parts_of(count, pieces)]
                assert parts, "each has some"
                assert max(map(len, parts)) <= -(-count // pieces)
                places += (place for part in parts for place in part)
            assert places == list(range(count))


@pytest.mark.parametrize("case", CASES)
def test_a_rank_is_given_what_it_sees_and_what_is_mixed_into_that(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, ranks = fresh(case), 4
    assert training.part(3).places == range(BATCH)
    monkeypatch.setattr("supernet.distribution.world", lambda: ranks)
    monkeypatch.setattr("supernet.training.trainer.world", lambda: ranks)
    for step in (0, 3):
        parts = []
        for rank in range(ranks):
            monkeypatch.setattr("supernet.distribution.rank", lambda rank=rank: rank)
            parts.append(training.part(step))
        places = [place for part in parts for place in part.places]
        assert set(places) == set(range(BATCH))
        assert all(list(part.places) == sorted(set(part.places)) for part in parts)
        assert all(part.size == BATCH for part in parts)
        if case not in ("mixed", "taught", "patches"):
            assert len(places) == BATCH, "nobody has what another one sees"
        elif case != "patches":
            assert all({BATCH - 1 - place for place in part.places} == set(part.places) for part in parts)
            assert len(places) == 2 * BATCH


@pytest.mark.parametrize("places", [range(4, 9), [1, 2, 4, 5, 7, 8], [0, 1, 4, 5], [7]])
def test_what_is_seen_of_a_part_is_what_is_seen_of_the_batch(places: Sequence[int]) -> None:
    batch = torch.arange(100, 110)
    part, mine = Part(10, places), batch[list(places)]
    ranges = [
        range(start, stop, step) for start in range(10) for stop in range(start + 1, 11) for step in (1, 2, 3)
    ]
    seen = [wanted for wanted in ranges if set(wanted) <= set(places)]
    assert seen
    for wanted in seen:
        assert torch.equal(mine[part.at(wanted)], batch[list(wanted)])
    assert torch.equal(batch[Part.whole(10).at(range(1, 9, 3))], batch[[1, 4, 7]])


def test_ranks_need_a_group() -> None:
    with pytest.raises(ValueError, match="process group"):
        Ranks([nn.Parameter(torch.zeros(1))])
